"""What a fit says of tasks that it has not seen: its values in the same program on other data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pyro
import torch
from numpy.typing import NDArray
from pyro import poutine
from pyro.poutine.messenger import Messenger
from pyro.poutine.subsample_messenger import _Subsample
from torch import Tensor

from likely.envs import DataError
from likely.models._ids import lookup, shown
from likely.models._rows import default_dtype
from likely.models.crowd.annotations import Annotations

if TYPE_CHECKING:
    from likely.models.crowd._program import CrowdProgram

# Plates whose entries have ids.
_NAMED = ("task", "annotator")


def truth_given(program: CrowdProgram, fit: Any, annotations: Annotations, draws: int) -> Tensor:
    """Class probabilities ``[n_tasks, K]``; see `CrowdProgram.predict_truth`."""
    if not isinstance(draws, int | np.integer) or isinstance(draws, bool) or draws < 1:
        raise DataError(f"draws: expected a positive integer, got {draws!r}")
    known = ids_of_fit(fit)
    values = _each_draw(fit.draws, int(draws))
    like = next(iter(values[0].values()))
    with torch.no_grad(), default_dtype(like.dtype), pyro.get_param_store().scope():
        with pyro.validation_enabled():
            program.fixed(values[0])._check(annotations)
        columns = _same_classes(annotations.classes, known["class"])
        data = _in_classes_of_fit(annotations, known["class"], columns)
        data = data.to(like.dtype, like.device)
        places = {
            plate: (torch.from_numpy(lookup(ids, known[plate])).to(like.device), len(known[plate]))
            for plate, ids in (("task", data.tasks), ("annotator", data.annotators))
            if plate in known
        }
        total = like.new_zeros(data.n_tasks, data.n_classes)
        with pyro.validation_enabled(False):
            for value in values:
                at = program.fixed(value)
                with FromFit(at, value, places):
                    site: Any = poutine.trace(at).get_trace(data).nodes["labels"]
                total += site["fn"].latent_posterior(site["value"])
    return (total / len(values))[:, columns.to(total.device)]


class FromFit(Messenger):
    """Give every unknown of a program its value in a fit, entries of plates matched by their ids.

    Parameters
    ----------
    program
        The program, which says what becomes of those whom the fit does not know.
    values
        One draw of the fit's sites.
    places
        Plate to the position in the fit of each of its entries, −1 for an unknown one, and to how
        many the fit has.
    """

    def __init__(
        self,
        program: CrowdProgram,
        values: Mapping[str, Tensor],
        places: Mapping[str, tuple[Tensor, int]],
    ) -> None:
        super().__init__()
        self.program, self.values, self.places = program, values, places

    def _pyro_sample(self, msg: dict[str, Any]) -> None:
        if msg["is_observed"] or isinstance(msg["fn"], _Subsample):
            return
        name = msg["name"]
        if name not in self.values:
            raise DataError(
                f"fit: expected values of '{name}', which this program has; the fit has "
                f"{', '.join(map(repr, self.values))}"
            )
        value = self.values[name]
        shape = list(msg["fn"].batch_shape + msg["fn"].event_shape)
        # Every site here stands in at most one plate, the first of its dimensions.
        plates = [f.name for f in msg["cond_indep_stack"] if f.name in self.places]
        place, count = self.places[plates[0]] if plates else (None, 0)
        expected = shape if place is None else [count, *shape[1:]]
        if list(value.shape) != expected:
            raise DataError(
                f"annotations: with these '{name}' would have shape {expected} in the fit, and it "
                f"has {list(value.shape)}; give data with the features of the fit's"
            )
        if place is not None:
            if bool((place < 0).any()):
                # The position −1 picks the newcomer, put last.
                other = self.program.newcomer(name, self.values)
                value = torch.cat([value, other.unsqueeze(0)])
            value = value[place]
        msg["value"] = value


def ids_of_fit(fit: Any) -> dict[str, NDArray[Any]]:
    """Ids of the tasks, annotators and classes that a fit knows, from its data or from its file.

    Raises
    ------
    DataError
        If it is no fit, or one to something else than `Annotations`.
    """
    if not isinstance(getattr(fit, "draws", None), Mapping) or not hasattr(fit, "program"):
        raise DataError(f"fit: expected what an engine returned, got {type(fit).__name__}")
    reading = fit.program
    if reading is not None:
        for value in (*reading.args, *reading.kwargs.values()):
            if isinstance(value, Annotations):
                return {
                    "task": value.tasks,
                    "annotator": value.annotators,
                    "class": value.classes,
                }
    found: dict[str, NDArray[Any]] = {}
    for group in (getattr(fit, "stored", None) or {}).values():
        for name in ("class", *_NAMED):
            if name in group.coords:
                ids = group.coords[name].to_numpy()
                # Text has one type in NumPy and another in a file.
                found[name] = ids.astype(object) if ids.dtype.kind == "U" else ids
    if "class" not in found:
        raise DataError("fit: expected a fit to Annotations, this one names no classes")
    return found


def _each_draw(draws: Mapping[str, Tensor], most: int) -> list[dict[str, Tensor]]:
    """Values draw by draw, at most so many, evenly spread."""
    flat = {name: value.flatten(0, 1) for name, value in draws.items()}
    n = len(next(iter(flat.values())))
    picked = np.linspace(0, n - 1, min(n, most)).round().astype(int)
    return [{name: value[i] for name, value in flat.items()} for i in picked]


def _same_classes(mine: NDArray[Any], fitted: NDArray[Any]) -> Tensor:
    """Position among the fit's classes of each class; the two must have the same names."""
    where = lookup(mine, fitted)
    if (where < 0).any() or len(mine) != len(fitted):
        raise DataError(
            f"annotations: expected the classes of the fit, {shown(fitted)}, got {shown(mine)}; "
            "pass classes= when building the annotations"
        )
    return torch.from_numpy(where)


def _in_classes_of_fit(
    annotations: Annotations, classes: NDArray[Any], columns: Tensor
) -> Annotations:
    """The same annotations, classes in the order of the fit; a design has no rows."""
    columns = columns.to(annotations.task.device)
    label, truth, rows = annotations.label, annotations.truth, slice(None)
    if label is None:
        label, rows = annotations.task, slice(0)
    else:
        label = columns[label]
    if truth is not None:
        # The −1 of an unknown class picks the −1 put last.
        truth = torch.cat([columns, columns.new_full((1,), -1)])[truth]
    return replace(
        annotations,
        task=annotations.task[rows],
        annotator=annotations.annotator[rows],
        label=label[rows],
        truth=truth,
        classes=classes,
    )
