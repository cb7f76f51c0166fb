"""Fisher information, observed and expected, and standard errors."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pandas as pd
import torch

from likely.inference.charts import Charts
from likely.inference.curvature import flat_sites, hessian
from likely.inference.errors import BoundaryWarning, ConvergenceWarning, FitError
from likely.inference.handlers import Observe
from likely.inference.program import Program
from likely.inference.quantities import simulate
from likely.inference.streams import parts_of

if TYPE_CHECKING:
    from likely.inference.fit import Fit


@dataclass(frozen=True, eq=False)
class Information:
    """A Fisher information matrix.

    Attributes
    ----------
    matrix : Tensor, [n, n]
        In the units of the sites' elements.
    labels : list of str
        What each row is: an element of a site, or a direction of one whose elements are not free
        to move one by one.
    error : Tensor, [n, n]
        Monte-Carlo standard error of each entry; zero where nothing was simulated.
    kind : str
        ``"observed"`` or ``"expected"``.
    draws : int
        Simulated data sets, 0 for the observed information.
    """

    matrix: torch.Tensor
    labels: list[str]
    error: torch.Tensor
    kind: str
    draws: int

    def to_frame(self) -> pd.DataFrame:
        """The matrix with its labels."""
        return pd.DataFrame(self.matrix.cpu().numpy(), index=self.labels, columns=self.labels)


def fisher_information(
    fit: Fit,
    kind: str = "observed",
    *,
    prior: bool | None = None,
    draws: int = 100,
    seed: int | None = None,
) -> Information:
    """Fisher information at a fit's ``params``.

    Parameters
    ----------
    fit : Fit
        A fit with its program.
    kind : {"observed", "expected"}
        Minus the Hessian of the log-likelihood at the data, or its mean over data that are
        simulated from the program at ``params``, with what the program is called with (covariates,
        the design) held fixed. The two agree where the Hessian does not depend on the outcomes, as
        in a regression with canonical link (Efron & Hinkley 1978).
    prior : bool, optional
        Whether minus the Hessian of the log-prior is added; by default if the fit maximised it.
    draws : int
        Simulated data sets for the expected information.
    seed : int, optional
        Of the simulation; the fit's by default.

    Returns
    -------
    Information
        By element of the sites. A row of probabilities moves along the orthonormal directions that
        keep its sum, and a Cholesky factor of correlations in its unconstrained coordinates;
        elements on the boundary of their support are left out.

    Raises
    ------
    FitError
        If ``kind``, ``draws`` or ``seed`` cannot be used, or the fit was loaded without its
        program.

    Examples
    --------
    >>> import torch
    >>> from likely.inference import MLE
    >>> import pyro, pyro.distributions as dist
    >>> def calls(count):
    ...     rate = pyro.sample("rate", dist.Exponential(0.1))
    ...     with pyro.plate("hour", len(count)):
    ...         pyro.sample("count", dist.Poisson(rate), obs=count)
    >>> fit = MLE().fit(calls, torch.tensor([3.0, 1.0, 4.0, 0.0]))
    >>> fit.fisher_information().to_frame().round(6)
          rate
    rate   2.0
    """
    program = fit.bound("fisher_information()")
    settings = _checked(fit, kind, prior, draws, seed)
    with program.session(settings.seed):
        charts = Charts(program, fit.point(), straight=True)
        matrix, error = _information(charts, settings)
        labels: list[str] = []
        for name, own in charts.slices.items():
            if name in charts.straight:
                places = torch.nonzero(~charts.boundary[name]).tolist()
                labels += [_element(name, place) for place in places]
            else:
                labels += [f"{name}: direction {i}" for i in range(own.stop - own.start)]
        return Information(matrix, labels, error, kind, settings.draws)


def _element(name: str, place: list[int]) -> str:
    return f"{name}[{', '.join(map(str, place))}]" if place else name


@dataclass(frozen=True)
class _Settings:
    """Which information: ``draws`` is 0 for the observed one."""

    draws: int
    seed: int
    prior: bool


def _checked(fit: Fit, kind: Any, prior: bool | None, draws: Any, seed: Any) -> _Settings:
    if kind not in ("observed", "expected"):
        raise FitError(f"the kind of information is 'observed' or 'expected', got {kind!r}")
    for name, value, least in (
        ("draws", draws, 2),
        ("seed", fit.seed if seed is None else seed, 0),
    ):
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            raise FitError(f"{name} must be an integer of at least {least}, got {value!r}")
    maximised = fit.engine == "map" or fit.options.get("objective") == "posterior"
    return _Settings(
        draws=draws if kind == "expected" else 0,
        seed=fit.seed if seed is None else seed,
        prior=maximised if prior is None else prior,
    )


def _information(charts: Charts, settings: _Settings) -> tuple[torch.Tensor, torch.Tensor]:
    """Information [n, n] in free coordinates, and the standard error of each entry."""
    like = next(iter(charts.values.values()))
    total = torch.zeros(charts.size, charts.size, dtype=like.dtype, device=like.device)
    variance = torch.zeros_like(total)
    for number, part in enumerate(parts_of(charts.program)):
        own = settings.prior and number == 0
        if not settings.draws:
            total = total + _curvature(part, charts, own)
            continue
        runs = []
        for _ in range(settings.draws):
            with torch.no_grad():
                drawn = simulate(part, charts.values)
            with Observe(drawn):
                runs.append(_curvature(part, charts, own))
        stacked = torch.stack(runs)
        total = total + stacked.mean(0)
        variance = variance + stacked.var(0) / settings.draws
    return total, variance.sqrt()


def _curvature(program: Program, charts: Charts, with_prior: bool) -> torch.Tensor:
    """Minus the Hessian [n, n] of a program's log-likelihood, or of that and the log-prior."""

    def negative(t: torch.Tensor) -> torch.Tensor:
        density = program.density(charts.at(t))
        total = density.log_likelihood
        return -(total + density.log_prior if with_prior else total)

    return hessian(negative, torch.zeros(charts.size, dtype=program.dtype, device=program.device))


def standard_errors(
    fit: Fit,
    information: str = "observed",
    *,
    draws: int = 100,
    seed: int | None = None,
) -> dict[str, torch.Tensor]:
    """Standard errors of a fit's unknowns, by site and in the constrained space.

    The inverse of the Fisher information (of the log-likelihood, plus the log-prior for `MAP` and
    ``EM(objective="posterior")``) in free coordinates, carried to the constrained space by the
    delta method. The observed information is the better measure of what these data say (Efron &
    Hinkley 1978); the expected one is the Cramér-Rao bound at ``params``. For posterior fits the
    log-likelihood's curvature at ``params`` is used.

    Parameters
    ----------
    fit : Fit
        A fit with its program.
    information : {"observed", "expected"}
        As in `fisher_information`, as are ``draws`` and ``seed``.

    Returns
    -------
    dict of str to Tensor
        Shaped like ``fit.params``. ``nan`` for elements on the boundary of their support, where
        the likelihood has no quadratic expansion, and for directions the data say nothing about.

    Raises
    ------
    FitError
        If an argument cannot be used, or the fit was loaded without its program.

    Warns
    -----
    BoundaryWarning
        Where an element lies on a boundary.
    ConvergenceWarning
        Where the information is not positive definite.
    """
    program = fit.bound("standard_errors()")
    settings = _checked(fit, information, None, draws, seed)
    with program.session(settings.seed):
        own = _declared(program, fit.point(), settings)
        if own is not None:
            _warn_of_boundary([name for name, error in own.items() if bool(error.isnan().any())])
            return own
        charts = Charts(program, fit.point())
        matrix, _ = _information(charts, settings)
        at_edge = [name for name, mask in charts.boundary.items() if bool(mask.any())]
        _warn_of_boundary(at_edge)
        sites = flat_sites(matrix, charts.slices) if charts.size else []
        if sites:
            warnings.warn(
                "the information is not positive definite in a direction made of "
                f"{', '.join(map(repr, sites))}: the data do not identify it (or the fit is not at "
                "an optimum); its standard errors are nan",
                ConvergenceWarning,
                stacklevel=3,
            )
            covariance = torch.full_like(matrix, float("nan"))
        else:
            covariance = torch.linalg.inv(matrix) if charts.size else matrix
        errors = {}
        for name, value in charts.values.items():
            errors[name] = _delta(charts, covariance, name).reshape(value.shape)
            errors[name] = torch.where(
                charts.boundary[name], torch.full_like(value, float("nan")), errors[name]
            )
        return errors


def _warn_of_boundary(sites: list[str]) -> None:
    if sites:
        warnings.warn(
            f"standard errors are not defined on the boundary of the support: "
            f"{', '.join(map(repr, sites))} have elements there, given as nan",
            BoundaryWarning,
            stacklevel=4,
        )


def _declared(
    program: Program, values: dict[str, torch.Tensor], settings: _Settings
) -> dict[str, torch.Tensor] | None:
    """Standard errors by the program's own ``standard_errors``, if it has any for these values."""
    hook = program.hook("standard_errors")
    if settings.draws or not callable(hook):
        return None
    found = hook(values, *program.args, prior=settings.prior, **program.kwargs)
    if found is not None and found.keys() != values.keys():
        raise FitError(
            f"the program's standard_errors() gives {sorted(found)}, and its unknowns are "
            f"{sorted(values)}"
        )
    return found


def _delta(charts: Charts, covariance: torch.Tensor, name: str) -> torch.Tensor:
    """Standard deviations [numel] of one site's elements by the delta method."""
    own = charts.slices[name]
    if own.stop == own.start:
        return torch.full_like(charts.values[name], float("nan")).reshape(-1)
    jacobian, block = charts.jacobian(name), covariance[own, own]
    return torch.einsum("ij,jk,ik->i", jacobian, block, jacobian).clamp_min(0.0).sqrt()
