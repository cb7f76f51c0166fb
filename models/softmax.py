"""Program of classes that depend linearly on covariates."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import pyro
import pyro.distributions as dist
from pyro.poutine.util import is_validation_enabled
from torch import Tensor

from likely.models._data import as_matrix, as_outcomes, check_outcomes
from likely.models._linear import Regression, coefficient_prior
from likely.models._options import check_count
from likely.models._outcomes import observation_plate


@dataclass(frozen=True)
class SoftmaxRegression(Regression):
    r"""Outcomes in one of K classes whose log-odds are linear in the covariates.

    .. math:: y_i \sim \mathrm{Categorical}(\mathrm{softmax}(\text{intercept} +
              \text{coefficients} \, x_i))

    Parameters
    ----------
    n_classes : int
        Number of classes K, at least 2.
    intercept : bool
        Whether there is one for each class.
    intercept_scale : float or None
        Standard deviation of their normal priors, which are centred at 0. None makes these
        flat (improper); all intercepts may then move together without a change.
    prior : {"normal", "laplace"}
        Prior of each coefficient, centred at 0.
    coefficients_scale : float or None
        Its scale: the standard deviation of the normal, the mean absolute value of the
        Laplace distribution. None makes it flat.

    Notes
    -----
    Sites ``intercept`` ``[K]``, ``coefficients`` ``[K, d]`` and, observed, ``y`` ``[n]``;
    plate ``observation``. The likelihood depends on differences between classes alone; the
    priors centre what is left. MLE therefore has no single answer: use MAP or a posterior.

    Examples
    --------
    >>> import pyro, torch
    >>> pyro.set_rng_seed(0)
    >>> SoftmaxRegression(3)(torch.ones(5, 2)).shape
    torch.Size([5])
    """

    n_classes: int
    dims: ClassVar[dict[str, tuple[str, ...]]] = {
        "intercept": ("class",),
        "coefficients": ("class", "feature"),
    }

    def __post_init__(self) -> None:
        super().__post_init__()
        check_count(self.n_classes, "n_classes", 2)

    def __call__(self, x: Any, y: Any = None, *, weights: Any = None) -> Tensor:
        """Run the program.

        Parameters
        ----------
        x
            Covariates ``[n, d]``.
        y
            Classes ``[n]``, integers from 0 to K - 1; missing to simulate them.
        weights
            How often each observation counts, ``[n]`` numbers of at least 0; once by default.

        Returns
        -------
        Tensor
            The classes ``[n]``, given or simulated, as ``int64``.

        Raises
        ------
        DataError
            If ``x`` is not a matrix, ``y`` or ``weights`` not a vector of its length or,
            looked at while Pyro validates, ``x`` holds NaN or infinite entries, ``y``
            anything but the classes or ``weights`` negative entries.
        """
        x = as_matrix(x, "x")
        classes = None
        if y is not None:
            y = as_outcomes(y, "y", len(x), like=x)
            if is_validation_enabled():
                valid = (y >= 0) & (y < self.n_classes) & (y == y.floor())
                check_outcomes(valid, y, "y", f"classes 0, ..., {self.n_classes - 1}")
            classes = y.long()
        k, d = self.n_classes, x.shape[1]
        intercept = None
        if self.intercept:
            prior = coefficient_prior("normal", self.intercept_scale, x)
            intercept = pyro.sample("intercept", prior.expand([k]).to_event(1))
        prior = coefficient_prior(self.prior, self.coefficients_scale, x)
        coefficients = pyro.sample("coefficients", prior.expand([k, d]).to_event(2))
        with observation_plate(len(x), x, weights) as rows:
            # Plates outside that vectorise the program leave the rows' dimension at one.
            if coefficients.dim() > 2:
                coefficients = coefficients.squeeze(-3)
            logits = x[rows] @ coefficients.mT
            logits = logits if intercept is None else logits + intercept
            obs = None if classes is None else classes[rows]
            return pyro.sample("y", dist.Categorical(logits=logits), obs=obs)

    def coords(self, x: Any, y: Any = None, *, weights: Any = None) -> dict[str, Sequence[Any]]:
        """Labels of the dimensions: numbered classes, the columns and index of data frames."""
        return {"class": range(self.n_classes), **super().coords(x, y)}

    def initial(self, x: Any, y: Any = None, *, weights: Any = None) -> dict[str, Tensor]:
        """Start where all classes are equally likely, which nothing can make infinite."""
        if y is None:
            return {}
        x = as_matrix(x, "x")
        start = {"coefficients": x.new_zeros(self.n_classes, x.shape[1])}
        return {**start, "intercept": x.new_zeros(self.n_classes)} if self.intercept else start
