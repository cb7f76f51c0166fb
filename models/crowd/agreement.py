"""How far annotators agree beyond chance, without a model of the truth."""

from __future__ import annotations

from numbers import Real
from typing import Any, Literal, get_args

import krippendorff
import numpy as np
from numpy.typing import NDArray

from likely.envs import DataError
from likely.models.crowd.annotations import Annotations

Level = Literal["nominal", "ordinal", "interval", "ratio"]
# Entries of the blocks that the package makes, tasks × classes × classes.
_MOST_ENTRIES = 200_000_000


def krippendorff_alpha(annotations: Annotations, level: Level = "nominal") -> float:
    """Krippendorff's alpha: 1 is perfect agreement, 0 what chance would give, below 0 less.

    Any number of annotators may have labelled a task; tasks with a single label say nothing
    (Krippendorff 2011, "Computing Krippendorff's alpha-reliability"). Computed by the
    ``krippendorff`` package from the counts of labels by task and class.

    Parameters
    ----------
    annotations
        The labels.
    level
        What the classes are: ``"nominal"`` (names), ``"ordinal"`` (in the order of
        ``annotations.classes``), ``"interval"`` or ``"ratio"`` (numbers).

    Returns
    -------
    float
        At most 1.

    Raises
    ------
    DataError
        If no task has two labels, all labels that can be compared are equal (alpha is 0/0 then),
        classes are not numbers where the level needs them, or there are too many tasks times
        classes squared.

    Examples
    --------
    >>> crowd = Annotations.from_arrays([0, 0, 1, 1], ["ann", "bo", "ann", "bo"], list("xxyy"))
    >>> krippendorff_alpha(crowd)
    1.0
    """
    counts, domain = _pairable(annotations, level)
    found = krippendorff.alpha(value_counts=counts, value_domain=domain, level_of_measurement=level)
    return float(found)


def alpha_interval(
    annotations: Annotations,
    level: Level = "nominal",
    *,
    draws: int = 1000,
    interval: float = 0.9,
    seed: int = 0,
) -> tuple[float, float]:
    """Bootstrap interval of Krippendorff's alpha: tasks are drawn with replacement.

    Parameters
    ----------
    annotations, level
        As in `krippendorff_alpha`.
    draws
        Number of samples of tasks. Samples in which all labels are equal have no alpha and are
        left out.
    interval
        Probability of the equal-tailed interval.
    seed
        Of the samples.

    Raises
    ------
    DataError
        As `krippendorff_alpha`, and for options out of range.

    Examples
    --------
    >>> task = [i for i in range(20) for _ in range(2)]
    >>> label = [i % 2 for i in range(18) for _ in range(2)] + [0, 1, 0, 1]
    >>> crowd = Annotations.from_arrays(task, [0, 1] * 20, label)
    >>> low, high = alpha_interval(crowd)
    >>> low < krippendorff_alpha(crowd) < high
    True
    """
    number = isinstance(interval, Real) and not isinstance(interval, bool)
    if not number or not 0 < interval < 1:
        raise DataError(f"interval: expected a probability between 0 and 1, got {interval!r}")
    for name, value, least in (("draws", draws, 2), ("seed", seed, 0)):
        if not isinstance(value, int | np.integer) or isinstance(value, bool) or value < least:
            raise DataError(f"{name}: expected an integer of at least {least}, got {value!r}")
    counts, domain = _pairable(annotations, level)
    random = np.random.default_rng(seed)
    found = []
    for _ in range(draws):
        sample = counts[random.integers(len(counts), size=len(counts))]
        if (sample.sum(0) > 0).sum() > 1:
            found.append(
                krippendorff.alpha(
                    value_counts=sample, value_domain=domain, level_of_measurement=level
                )
            )
    if not found:
        raise DataError("annotations: every sample of tasks had equal labels; alpha is undefined")
    low, high = np.quantile(found, [(1 - interval) / 2, (1 + interval) / 2])
    return float(low), float(high)


def _pairable(annotations: Annotations, level: Level) -> tuple[NDArray[np.int64], NDArray[Any]]:
    """Counts ``[n, K]`` of the labels of tasks that have at least two, and the classes' values."""
    if not isinstance(annotations, Annotations) or annotations.label is None:
        raise DataError("annotations: expected Annotations with labels")
    if level not in get_args(Level):
        raise DataError(f"level: expected one of {', '.join(get_args(Level))}, got {level!r}")
    domain = np.arange(annotations.n_classes)
    if level in ("interval", "ratio"):
        try:
            domain = annotations.classes.astype(float)
        except (TypeError, ValueError) as error:
            raise DataError(
                f"level: {level!r} needs classes that are numbers, got "
                f"{annotations.classes.tolist()}"
            ) from error
        if not np.isfinite(domain).all() or (level == "ratio" and (domain < 0).any()):
            least = " of at least 0" if level == "ratio" else ""
            raise DataError(
                f"level: {level!r} needs classes that are finite numbers{least}, got "
                f"{annotations.classes.tolist()}"
            )
    n, k = annotations.n_tasks, annotations.n_classes
    flat = annotations.task.cpu().numpy() * k + annotations.label.cpu().numpy()
    counts = np.bincount(flat, minlength=n * k).reshape(n, k)
    counts = counts[counts.sum(1) > 1]
    if len(counts) * k * k > _MOST_ENTRIES:
        raise DataError(
            f"annotations: alpha of {len(counts)} tasks and {k} classes takes too much memory; "
            "take a sample of the tasks with annotations.subset"
        )
    if len(counts) == 0:
        raise DataError("annotations: expected a task with at least two labels, got none")
    if (counts.sum(0) > 0).sum() < 2:
        raise DataError(
            "annotations: all labels of tasks with two or more are equal; alpha is undefined"
        )
    return counts, domain
