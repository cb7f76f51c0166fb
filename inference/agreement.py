"""Whether data that come after a fit agree with those that it learnt from."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping
from typing import Any

import pandas as pd
import torch

from likely.inference.errors import FitError
from likely.inference.program import Program, Values


def align_frames(program: Program, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Program:
    """Bind a program to new arguments, data frames with their columns in the fit's order.

    Parameters
    ----------
    program : Program
        The program with the arguments of the fit.
    args, kwargs
        New arguments.

    Raises
    ------
    FitError
        If a data frame lacks a column of the fit's, or has one more.
    """
    names = _positional(program.source)

    def key(position: int) -> int | str:
        return names[position] if position < len(names) else position

    before = {key(i): value for i, value in enumerate(program.source_args)} | program.source_kwargs
    new_args = [_aligned(before.get(key(i)), value, key(i)) for i, value in enumerate(args)]
    new_kwargs = {name: _aligned(before.get(name), value, name) for name, value in kwargs.items()}
    return program.rebind(*new_args, **new_kwargs)


def _positional(source: Callable[..., Any]) -> list[str]:
    """Names of the arguments that a callable takes by position."""
    try:
        parameters = inspect.signature(source).parameters.values()
    except (TypeError, ValueError):
        return []
    return [p.name for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]


def _aligned(old: Any, new: Any, name: int | str) -> Any:
    if not isinstance(old, pd.DataFrame) or not isinstance(new, pd.DataFrame):
        return new
    if list(old.columns) == list(new.columns):
        return new
    missing = [column for column in old.columns if column not in new.columns]
    unknown = [column for column in new.columns if column not in old.columns]
    if missing or unknown or len(old.columns) != len(new.columns) or not old.columns.is_unique:
        argument = f"argument '{name}'" if isinstance(name, str) else f"argument {name}"
        raise FitError(
            f"{argument}: the data frame must have the columns of the fit's, "
            f"{list(old.columns)}, got {list(new.columns)}"
            + (f"; missing: {missing}" if missing else "")
            + (f"; unknown: {unknown}" if unknown else "")
        )
    return new[old.columns]


def check_shapes(program: Program, values: Values) -> None:
    """Raise a `FitError` if new data ask for unknowns of another shape than the fit has.

    Must be called inside the program's session.

    Parameters
    ----------
    program : Program
        The program, bound to the new data.
    values : mapping of str to Tensor
        Values of the unknowns in the fit.
    """

    def value_of(name: str, msg: dict[str, Any]) -> torch.Tensor | None:
        value = values.get(name)
        if value is not None and msg.get("type") == "sample":
            wanted = torch.Size(msg["fn"].batch_shape) + torch.Size(msg["fn"].event_shape)
            plates = {
                frame.dim - len(msg["fn"].event_shape)
                for frame in msg["cond_indep_stack"]
                if frame.vectorized
            }
            if not _serves(value.shape, wanted, plates):
                raise FitError(
                    f"with these data site '{name}' would have shape {tuple(wanted)}, and the fit "
                    f"has {tuple(value.shape)}; give data with the features and the groups of the "
                    "fit's"
                )
        return value

    program.trace(value_of, enumerate_latents=False)


def _serves(have: torch.Size, want: torch.Size, plates: set[int]) -> bool:
    """Whether a value can stand in for one of another shape: a plate may use some of its rows."""
    if len(have) != len(want):
        return False
    return all(
        have[axis] == want[axis] or (axis in plates and have[axis] > want[axis])
        for axis in range(-len(want), 0)
    )


def check_attached(
    program: Program, params: Mapping[str, torch.Tensor], log_likelihood: float
) -> None:
    """Raise a `FitError` unless a program with its data is the one that a fit was made from.

    Parameters
    ----------
    program : Program
        The program, bound to the data.
    params : mapping of str to Tensor
        Values of the fit's sites, deterministic ones among them.
    log_likelihood : float
        That of the fit at ``params``.
    """
    for name, unknown in program.sites.unknowns.items():
        got = params.get(name)
        if got is None or got.shape != unknown.shape:
            shape = "none of that name" if got is None else f"shape {tuple(got.shape)}"
            raise FitError(
                f"the program has a site '{name}' of shape {tuple(unknown.shape)}; "
                f"the fit has {shape}"
            )
    known = {*program.sites.unknowns, *program.sites.deterministic}
    absent = [name for name in params if name not in known]
    if absent:
        raise FitError(
            f"the fit has {', '.join(map(repr, absent))}, which the program does not have; "
            f"its sites are {', '.join(map(repr, sorted(known)))}"
        )
    with torch.no_grad():
        values = {name: params[name] for name in program.sites.unknowns}
        found = float(program.log_likelihood(values))
    # The same sum may come out differently on another machine.
    tolerance = 1e-6 if program.dtype is torch.float64 else 1e-3
    if not _same(found, log_likelihood, tolerance):
        raise FitError(
            f"the data or the program are not those of the fit: at its params the log-likelihood "
            f"is {found:.10g}, and the fit has {log_likelihood:.10g}"
        )


def _same(found: float, stored: float, tolerance: float) -> bool:
    if not math.isfinite(found) or not math.isfinite(stored):
        return found == stored or (math.isnan(found) and math.isnan(stored))
    return abs(found - stored) <= tolerance * max(1.0, abs(stored))


def known_classes(program: Program, values: Values, name: str) -> torch.Tensor | None:
    """Probabilities of a discrete site whose values are data: one for what was seen, else zero.

    Must be called inside the program's session.

    Returns
    -------
    Tensor, [*plates, K], or None
        ``None`` if the program has no such observed site, or its support cannot be listed.
    """
    site = program.sites.observed.get(name)
    if site is None or site.value is None:
        return None
    node = program.trace(lambda site_name, msg: values.get(site_name)).nodes[name]
    fn, value = node["fn"], node["value"]
    if not getattr(fn, "has_enumerate_support", False):
        return None
    event_dim = len(fn.event_shape)
    support = fn.enumerate_support(expand=False)
    support = support.reshape((support.shape[0],) + tuple(fn.event_shape))
    same = value.unsqueeze(value.dim() - event_dim) == support
    if event_dim:
        same = same.flatten(-event_dim).all(-1)
    return same.to(program.dtype).expand(site.batch_shape + same.shape[-1:])
