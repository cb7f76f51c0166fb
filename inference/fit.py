"""What every engine returns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from os import PathLike
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch

from likely.inference import quantities
from likely.inference.agreement import (
    align_frames,
    check_attached,
    check_shapes,
    known_classes,
)
from likely.inference.errors import FitError
from likely.inference.program import Program

if TYPE_CHECKING:
    import xarray as xr

    from likely.inference.information import Information

# Engines whose result is a point; the others bring draws from a posterior.
POINT_ENGINES = frozenset(
    {"mle", "map", "em", "policy_gradient", "gail", "airl", "distribution_matching", "rlhf"}
)


@dataclass(eq=False)
class Fit:
    """A fitted program; the same type whatever the engine.

    Attributes
    ----------
    engine : str
        Name of the engine, e.g. ``"em"``.
    options : dict
        Its options.
    params : dict of str to Tensor
        Site to constrained value [*plates, *event]: the optimum, or the posterior mean.
        Deterministic sites are among them.
    draws : dict of str to Tensor
        Site to draws [chain, draw, *plates, *event]; 1 × 1 for a point.
    log_likelihood, log_prior : float
        Log-densities at ``params`` in nats, discrete latents summed out.
    history : DataFrame
        Column ``objective`` by iteration (and more, by engine).
    converged : bool
    n_iter : int
    seconds : float
        Wall time of the fit.
    seed : int
    sample_stats : dict of str to Tensor
        Per-draw statistics of the sampler [chain, draw].
    diagnostics : dict of str to float
        Single numbers such as ``khat`` or ``divergences``.
    program : Program or None
        The program with its data; ``None`` after loading, until `attach`.
    """

    engine: str
    options: dict[str, Any]
    params: dict[str, torch.Tensor]
    draws: dict[str, torch.Tensor]
    log_likelihood: float
    log_prior: float
    history: pd.DataFrame
    converged: bool
    n_iter: int
    seconds: float
    seed: int
    sample_stats: dict[str, torch.Tensor] = field(default_factory=dict)
    diagnostics: dict[str, float] = field(default_factory=dict)
    program: Program | None = field(default=None, repr=False)
    stored: Mapping[str, xr.Dataset] | None = field(default=None, repr=False)

    def __repr__(self) -> str:
        sites = ", ".join(f"{n}{list(v.shape)}" for n, v in self.params.items())
        state = "converged" if self.converged else "not converged"
        return (
            f"Fit(engine={self.engine!r}, {state} after {self.n_iter} iterations, "
            f"log_likelihood={self.log_likelihood:.4f}, sites: {sites})"
        )

    @property
    def is_point(self) -> bool:
        """Whether the fit is a point estimate (one chain of one draw)."""
        return self.engine in POINT_ENGINES

    # -- the program behind the fit ----------------------------------------------------------

    def bound(self, purpose: str) -> Program:
        """The program, or a `FitError` saying that ``purpose`` needs it."""
        if self.program is None:
            raise FitError(
                f"{purpose} needs the program, and this fit was loaded from a file without one; "
                "call fit.attach(program, *data) first"
            )
        return self.program

    def attach(self, program: Any, *args: Any, **kwargs: Any) -> Fit:
        """Give a loaded fit its program and data again; returns the fit itself.

        Raises
        ------
        FitError
            If the program's unknowns are not the fit's, or the log-likelihood at ``params`` is
            another with these data.
        """
        dtype = next(iter(self.params.values())).dtype
        reading = Program(program, *args, dtype=dtype, **kwargs)
        check_attached(reading, self.params, self.log_likelihood)
        self.program = reading
        return self

    def point(self) -> dict[str, torch.Tensor]:
        """``params`` without deterministic sites: values that can be put into the program."""
        program = self.bound("point()")
        return {name: self.params[name] for name in program.sites.unknowns}

    def each_draw(self, most: int | None = None) -> list[dict[str, torch.Tensor]]:
        """Values of the unknowns draw by draw, chains one after another.

        Parameters
        ----------
        most : int, optional
            At most so many, evenly spread over the draws.
        """
        program = self.bound("each_draw()")
        names = list(program.sites.unknowns)
        flat = {name: self.draws[name].flatten(0, 1) for name in names}
        total = len(flat[names[0]])
        picked = range(total)
        if most is not None and most < total:
            picked = np.linspace(0, total - 1, most).round().astype(int)  # type: ignore[assignment]
        return [{name: flat[name][int(i)] for name in names} for i in picked]

    # -- answers -----------------------------------------------------------------------------

    def latent(self, name: str, draws: int = 1000) -> torch.Tensor:
        """Posterior probabilities of a discrete site, [*plates, K].

        Exact at a point fit; averaged over posterior draws otherwise; zeros and ones for a site
        whose values are all known.

        Parameters
        ----------
        name : str
            The discrete site.
        draws : int
            Most posterior draws that are averaged.

        Raises
        ------
        ProgramError
            If the program has no such latent.
        FitError
            If the fit was loaded without its program and does not hold the latent, or ``draws``
            is not a positive integer.
        """
        _check_int("draws", draws, 1)
        if self.program is None and self.stored is not None and "latent_posterior" in self.stored:
            from likely.inference.diagnostics.dimensions import safe_name

            stored = self.stored["latent_posterior"]
            if safe_name(name) in stored:
                return torch.as_tensor(np.array(stored[safe_name(name)].values))
        program = self.bound("latent()")
        if name in program.sites.observed:
            with program.session(self.seed), torch.no_grad():
                known = known_classes(program, self.point(), name)
            if known is not None:
                return known
        quantities.check_latent(program, name)
        with program.session(self.seed), torch.no_grad():
            values = self.each_draw(draws)
            total = sum(quantities.latent_posterior(program, value, name) for value in values)
        return torch.as_tensor(total) / len(values)

    def predict(
        self, *args: Any, draws: int | None = None, seed: int | None = None, **kwargs: Any
    ) -> dict[str, torch.Tensor]:
        """Posterior-predictive draws of the observed sites.

        Parameters
        ----------
        *args, **kwargs
            Arguments of the program, with outcomes left out (``None``) or of the right shape; those
            of the fit when none are given.
        draws : int, optional
            How many; by default one for every posterior draw, and 1000 for a point fit.
        seed : int, optional
            Of the simulation; the fit's by default.

        Returns
        -------
        dict of str to Tensor
            Site to draws [chain, draw, *plates, *event]. One chain unless every posterior draw is
            used.

        Raises
        ------
        FitError
            If new data do not fit the fit's params, a data frame has other columns than the fit's,
            or ``draws`` or ``seed`` cannot be used.
        """
        program = self.bound("predict()")
        if draws is not None:
            _check_int("draws", draws, 1)
        if seed is None:
            seed = self.seed
        _check_int("seed", seed, 0)
        if args or kwargs:
            program = align_frames(program, args, kwargs)
            with program.session(seed), torch.no_grad():
                check_shapes(program, self.point())
        chains, kept = next(iter(self.draws.values())).shape[:2]
        if draws is None and not self.is_point:
            shape: Sequence[int] = (chains, kept)
            values = self.each_draw()
        else:
            count = 1000 if draws is None else int(draws)
            shape = (1, count)
            pool = self.each_draw(count)
            values = [pool[i * len(pool) // count] for i in range(count)]
        with program.session(int(seed)), torch.no_grad():
            runs = [quantities.simulate(program, value) for value in values]
        names = [n for n in runs[0] if n not in program.sites.latents and n in self._observed()]
        stacked = {name: torch.stack([run[name] for run in runs]) for name in names}
        return {n: v.reshape(tuple(shape) + tuple(v.shape[1:])) for n, v in stacked.items()}

    def _observed(self) -> set[str]:
        return set(self.bound("predict()").sites.observed)

    def relabelled(self, reference: Fit | Mapping[str, Any] | None = None) -> Fit:
        """The fit with one labelling of its exchangeable components: a reference's, or its own.

        See `likely.inference.relabel`.
        """
        from likely.inference.relabel import relabel

        return relabel(self, reference)

    def fisher_information(self, kind: str = "observed", **options: Any) -> Information:
        """Fisher information at ``params``: ``"observed"``, or ``"expected"`` by simulation.

        See `likely.inference.information.fisher_information`.
        """
        from likely.inference.information import fisher_information

        return fisher_information(self, kind, **options)

    def standard_errors(
        self, information: str = "observed", **options: Any
    ) -> dict[str, torch.Tensor]:
        """Standard errors from the Fisher information, by site.

        See `likely.inference.information.standard_errors`.
        """
        from likely.inference.information import standard_errors

        return standard_errors(self, information, **options)

    @property
    def n_parameters(self) -> int:
        """Number of free parameters: dimensions of the unconstrained space."""
        unknowns = self.bound("n_parameters").sites.unknowns.values()
        return sum(unknown.unconstrained_shape.numel() for unknown in unknowns)

    @property
    def n_observations(self) -> int:
        """Number of observations that no mask hides; sites in the same plates share theirs."""
        from likely.inference.masks import count_observations

        program = self.bound("n_observations")
        with program.session(self.seed), torch.no_grad():
            return count_observations(program, self.point())

    def aic(self) -> float:
        """Akaike's information criterion, 2k − 2 log L (Akaike 1974); for point fits.

        Raises
        ------
        FitError
            For a posterior, where PSIS-LOO through ArviZ (``az.loo(fit.to_arviz())``) applies.
        """
        self._require_point("aic")
        self.bound("aic()")
        return 2.0 * self.n_parameters - 2.0 * self.log_likelihood

    def bic(self) -> float:
        """Bayesian information criterion, k log n − 2 log L (Schwarz 1978); for point fits.

        Raises
        ------
        FitError
            For a posterior, as in `aic`.
        """
        self._require_point("bic")
        self.bound("bic()")
        return self.n_parameters * float(np.log(self.n_observations)) - 2.0 * self.log_likelihood

    def _require_point(self, criterion: str) -> None:
        if not self.is_point:
            raise FitError(
                f"{criterion}() is for point fits and this is {self.engine!r}; for a posterior use "
                "fit.loo(), PSIS-LOO through ArviZ"
            )

    def loo(self, **options: Any) -> Any:
        """PSIS-LOO of a posterior fit through ``arviz.loo`` (Vehtari et al. 2017).

        Raises
        ------
        FitError
            For a point fit, which has no draws to weigh; use `aic` or `bic`.
        """
        if self.is_point:
            raise FitError(
                f"loo() needs posterior draws and {self.engine!r} gives a point; use aic() or bic()"
            )
        from likely.inference.diagnostics.backend import loo

        return loo(self.to_arviz(), **options)

    # -- ArviZ and files ---------------------------------------------------------------------

    def to_arviz(
        self,
        *,
        predictive: int | bool = False,
        log_likelihood: bool = True,
        coords: Mapping[str, Sequence[Any]] | None = None,
        dims: Mapping[str, Sequence[str]] | None = None,
    ) -> Any:
        """The fit as ArviZ data, ``InferenceData`` or ``DataTree`` by the ArviZ installed.

        Groups: posterior, sample_stats, log_likelihood (per observation, latents summed out),
        observed_data, and posterior_predictive on request. Dimensions are plate names.

        Parameters
        ----------
        predictive : int or bool
            Number of posterior-predictive draws; ``True`` for one per posterior draw.
        log_likelihood : bool
            Whether the group of that name is made, a number for each draw and observation.
        coords : mapping, optional
            Labels by dimension; by default the program's own.
        dims : mapping, optional
            Names of a site's event dimensions; by default the program's own.
        """
        from likely.inference.diagnostics.backend import to_arviz
        from likely.inference.diagnostics.groups import build_groups

        groups = build_groups(
            self, predictive=predictive, log_likelihood=log_likelihood, coords=coords, dims=dims
        )
        return to_arviz(groups)

    def summary(self, **options: Any) -> pd.DataFrame:
        """ArviZ's summary of a posterior; estimates with standard errors for a point fit."""
        from likely.inference.diagnostics.summary import summary

        return summary(self, **options)

    def save(self, path: str | PathLike[str], *, log_likelihood: bool = True) -> None:
        """Write the fit to a netCDF file (no pickle); read it with `Fit.load`.

        Parameters
        ----------
        path : str or path-like
        log_likelihood : bool
            Whether the group of that name goes along, a number for each draw and observation.
        """
        from likely.inference.diagnostics.files import save

        save(self, path, log_likelihood=log_likelihood)

    @classmethod
    def load(cls, path: str | PathLike[str]) -> Fit:
        """Read a fit that `save` wrote.

        The program is not in the file: parameters, draws, history, latent posteriors and ArviZ
        groups are there at once; `attach` brings prediction and standard errors back.
        """
        from likely.inference.diagnostics.files import load

        return load(path)


def _check_int(name: str, value: Any, least: int) -> None:
    whole = isinstance(value, int | np.integer) and not isinstance(value, bool)
    if not whole or value < least:
        raise FitError(f"{name} must be an integer of at least {least}, got {value!r}")
