"""Priors of crowd programs: what may be asked for, and the tensors that it stands for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

from likely.envs import DataError
from likely.models.crowd._program import CrowdProgram
from likely.models.crowd.annotations import Annotations

# A shape that an argument may have; −1 is one entry for each annotator.
Shape = tuple[int, ...]


class WithPrevalence(CrowdProgram):
    """Tasks of one prevalence, with its prior."""

    prevalence_prior: float | Tensor | None

    def _check_priors(self, **shapes: Sequence[Shape]) -> None:
        """Check the number of classes, and put priors in their checked form.

        Parameters
        ----------
        **shapes
            For the name of each Dirichlet prior beside ``prevalence_prior`` the shapes that it may
            have. None is kept where it is the default.
        """
        check_classes(self.n_classes)
        for name, allowed in {"prevalence_prior": ((), (self.n_classes,)), **shapes}.items():
            value = getattr(self, name)
            if value is not None or getattr(type(self), name, 0) is not None:
                object.__setattr__(self, name, checked_prior(value, name, allowed))

    def _check_beta(self, name: str) -> None:
        """Put the parameters (α, β) of a Beta prior in their checked form."""
        prior = checked_prior(getattr(self, name), name, ((2,),), "two numbers")
        object.__setattr__(self, name, tuple(torch.as_tensor(prior).tolist()))

    def _sample_prevalence(self, annotations: Annotations) -> Tensor:
        """Sample ``prevalence`` [K]; it is even, and no unknown, where it has no prior."""
        k = self.n_classes
        if self.prevalence_prior is None:
            even = filled_prior(1 / k, (k,), annotations)
            fixed: Tensor = pyro.deterministic("prevalence", even, event_dim=1)
            return fixed
        prior = filled_prior(self.prevalence_prior, (k,), annotations)
        found: Tensor = pyro.sample("prevalence", dist.Dirichlet(prior))
        return found


def checked_prior(
    value: Any, name: str, shapes: Sequence[Shape], expected: str | None = None
) -> float | Tensor:
    """A prior's concentrations as a number or a tensor.

    Parameters
    ----------
    value
        What was given.
    name
        Name of the argument.
    shapes
        Shapes that it may have.
    expected
        The same in words; by default made of ``shapes``.

    Raises
    ------
    DataError
        If they are not positive numbers in one of the shapes.
    """
    try:
        prior = value if isinstance(value, Tensor) else torch.as_tensor(np.array(value, float))
    except (TypeError, ValueError) as error:
        raise DataError(f"{name}: expected numbers, got {value!r}; {error}") from error
    if not any(_fits(prior.shape, shape) for shape in shapes):
        expected = expected or " or ".join(map(_in_words, shapes))
        raise DataError(f"{name}: expected {expected}, got shape {list(prior.shape)}")
    if not bool(((prior > 0) & torch.isfinite(prior)).all()):
        raise DataError(f"{name}: expected positive finite concentrations, got {value}")
    return prior if prior.dim() else float(prior)


def _fits(shape: Shape, allowed: Shape) -> bool:
    return len(shape) == len(allowed) and all(
        want in (-1, have) for have, want in zip(shape, allowed, strict=True)
    )


def _in_words(shape: Shape) -> str:
    sizes = ", ".join("L" if size == -1 else str(size) for size in shape)
    return f"[{sizes}]" if shape else "a number"


def checked_normal(value: Any, name: str) -> tuple[float, float]:
    """Mean and standard deviation of a normal prior.

    Raises
    ------
    DataError
        If they are not two finite numbers, the second one positive.
    """
    try:
        numbers = torch.as_tensor(value, dtype=torch.float64)
    except (TypeError, ValueError, RuntimeError) as error:
        raise DataError(f"{name}: expected two numbers, got {value!r}; {error}") from error
    if numbers.shape != (2,):
        raise DataError(f"{name}: expected two numbers, got shape {list(numbers.shape)}")
    mean, sd = numbers.tolist()
    if not bool(torch.isfinite(numbers).all()) or sd <= 0:
        raise DataError(
            f"{name}: expected a finite mean and a positive finite standard deviation, got {value}"
        )
    return mean, sd


def filled_prior(prior: float | Tensor, shape: Shape, annotations: Annotations) -> Tensor:
    """A prior's concentrations as a tensor, in the dtype of the fit and where the data are."""
    dtype, device = torch.get_default_dtype(), annotations.task.device
    if isinstance(prior, Tensor) and prior.dim():
        return prior.to(dtype=dtype, device=device)
    return torch.full(shape, float(prior), dtype=dtype, device=device)


def table_prior(prior: float | Tensor | None, k: int, annotations: Annotations) -> Tensor:
    """Concentrations of tables, ``[K, K]`` or ``[L, K, K]``.

    Where none were given, 3 + 1/K on the diagonal and 1 + 1/K off it.
    """
    if prior is None:
        return filled_prior(1 + 1 / k, (k, k), annotations) + 2 * torch.eye(
            k, dtype=torch.get_default_dtype(), device=annotations.task.device
        )
    return filled_prior(prior, (k, k), annotations)


def check_classes(k: Any) -> None:
    """Raise `DataError` unless ``k`` is an integer of at least 2."""
    if not isinstance(k, int | np.integer) or isinstance(k, bool) or k < 2:
        raise DataError(f"n_classes: expected an integer of at least 2, got {k!r}")
