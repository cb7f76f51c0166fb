"""Stochastic variational inference."""

from __future__ import annotations

import copy
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import pyro
import torch
from pyro import infer, poutine
from pyro.infer.autoguide import (
    AutoGuide,
    AutoIAFNormal,
    AutoLowRankMultivariateNormal,
    AutoMultivariateNormal,
    AutoNormal,
    init_to_value,
)
from pyro.optim import ClippedAdam, PyroOptim
from pyro.poutine.messenger import Messenger

from likely.inference.coordinates import Coordinates, require_finite
from likely.inference.engines.base import SearchOptions
from likely.inference.engines.checks import check_choice, check_int, check_positive
from likely.inference.engines.result import Found, Result, posterior_mean
from likely.inference.errors import OptionError, ProgramError
from likely.inference.handlers import ReplaceParameters, Substitute, set_seed
from likely.inference.optimise import settled
from likely.inference.program import PROGRAM_FAULTS, Program

_GUIDES: dict[str, Callable[..., AutoGuide]] = {
    "normal": partial(AutoNormal, init_scale=0.1),
    "multivariate": partial(AutoMultivariateNormal, init_scale=0.1),
    "lowrank": partial(AutoLowRankMultivariateNormal, init_scale=0.1),
    "flow": AutoIAFNormal,
}
# Above this the importance ratios have no finite variance (Vehtari et al. 2024).
KHAT_LIMIT = 0.7
# Before the names of parameters in the scoped store.
_OWN = "likely."
# The step size falls to this share of itself over a run.
_DECAY = 0.03


@dataclass(frozen=True, kw_only=True)
class SVI(SearchOptions):
    """A variational posterior by stochastic gradients of the ELBO (Hoffman et al. 2013).

    Pyro's guides and estimators; discrete latents are summed out of the ELBO (`TraceEnum_ELBO`).
    After the fit, Pareto-smoothed importance weights say how far the guide is from the posterior:
    ``fit.diagnostics["khat"]`` above 0.7 means too far to trust (Yao et al. 2018).

    Parameters
    ----------
    guide : {"normal", "multivariate", "lowrank", "flow"} or callable
        Independent normals; a full, or a low-rank plus diagonal, multivariate normal; an inverse
        autoregressive flow (which has no start, so ``init`` does not reach it); or a Pyro guide of
        your own, called with the program's arguments.
    max_iter : int
        Number of gradient steps.
    learning_rate : float
        Of Adam; it decays to 3 % over the run.
    optimizer : PyroOptim, optional
        Instead of Adam with decay.
    num_particles : int
        Draws in each ELBO estimate.
    draws : int
        Draws kept from the fitted guide.
    **options
        Those of `SearchOptions`, without ``tol``: a run takes ``max_iter`` steps and counts as
        converged if the ELBO of its last quarter is no better than that of the quarter before.
    """

    name: ClassVar[str] = "svi"

    max_iter: int = 3000
    guide: str | Callable[..., Any] = "normal"
    learning_rate: float = 0.03
    optimizer: PyroOptim | None = None
    num_particles: int = 1
    draws: int = 1000

    def __post_init__(self) -> None:
        super().__post_init__()
        if isinstance(self.guide, str):
            check_choice("guide", self.guide, tuple(_GUIDES))
        elif not callable(self.guide):
            raise OptionError(f"guide must be a name or a Pyro guide, got {self.guide!r}")
        check_positive("learning_rate", self.learning_rate)
        check_int("num_particles", self.num_particles, 1)
        check_int("draws", self.draws, 2)
        if self.optimizer is not None and not isinstance(self.optimizer, PyroOptim):
            raise OptionError(
                f"optimizer must be a pyro.optim optimiser, got {type(self.optimizer).__name__}"
            )

    def _fit(self, program: Program, coordinates: Coordinates) -> Result:
        from likely.inference.diagnostics.backend import psis_khat

        found = self.best_of(
            lambda attempt: self._search(program, coordinates, attempt), program.device
        )
        draws, fixed = found.extra["draws"], found.extra["parameters"]
        weights = found.extra["log_weights"]
        repeated = {n: v.expand((1, self.draws) + v.shape) for n, v in fixed.items()}
        return Result.from_found(
            found,
            params=posterior_mean(program, draws) | fixed,
            draws=draws | repeated,
            reason=f"the ELBO was still rising after {found.n_iter} steps; raise max_iter",
            sample_stats={"log_weight": weights[None]},
            diagnostics={"khat": psis_khat(weights)},
        )

    def _search(self, program: Program, coordinates: Coordinates, attempt: int) -> Found:
        pyro.get_param_store().clear()
        values = coordinates.start(self.start_values(program), attempt)
        inside = coordinates.constrain(coordinates.unconstrain(values, edge=3.0))
        _register_parameters(program, inside)
        model, guide = _enumerated(program), self._make_guide(program, inside)
        nesting = program.sites.max_plate_nesting
        elbo: Any = infer.Trace_ELBO(num_particles=self.num_particles)
        if program.sites.latents:
            elbo = infer.TraceEnum_ELBO(num_particles=self.num_particles, max_plate_nesting=nesting)
        decay = _DECAY ** (1.0 / self.max_iter)
        optimizer = self.optimizer or ClippedAdam({"lr": self.learning_rate, "lrd": decay})
        stepper = infer.SVI(model, guide, optimizer, elbo)
        with self.monitor(attempt) as monitor:
            for iteration in range(self.max_iter):
                try:
                    loss = float(stepper.step(*program.args, **program.kwargs))
                except PROGRAM_FAULTS as error:
                    if type(error).__module__.startswith("likely."):
                        raise
                    raise ProgramError(f"svi failed in step {iteration}: {error}") from error
                require_finite(loss, "the ELBO", iteration)
                if monitor.step(-loss, lambda: _median(guide, program)):
                    break
        set_seed(self.seed, program.device)
        with torch.no_grad():
            draws, log_weights = self._draw(program, guide)
            parameters = {n: v.detach().clone() for n, v in _parameters(program).items()}
        tail = monitor.objectives[-max(len(monitor.objectives) // 4, 1) :]
        return Found(
            values={},
            objective=sum(tail) / len(tail),
            history=monitor.objectives,
            converged=not monitor.interrupted and settled([-v for v in monitor.objectives]),
            n_iter=len(monitor.objectives),
            interrupted=monitor.interrupted,
            extra={"draws": draws, "log_weights": log_weights, "parameters": parameters},
        )

    def _make_guide(self, program: Program, values: dict[str, torch.Tensor]) -> Any:
        if not isinstance(self.guide, str):
            # A copy is trained, so that the same engine gives the same numbers again.
            return _copied(self.guide)
        moving = [name for name, unknown in program.sites.unknowns.items() if not unknown.static]
        if moving:
            raise ProgramError(
                f"the support of {', '.join(map(repr, moving))} depends on other sites, which "
                "Pyro's automatic guides cannot follow; give a guide of your own, reparametrise, "
                "or use NUTS"
            )
        hidden = poutine.block(_plain(program), hide=list(program.sites.latents))
        if self.guide == "flow":  # starts at its own base distribution
            return _GUIDES[self.guide](hidden)
        return _GUIDES[self.guide](hidden, init_loc_fn=init_to_value(values=values))

    def _draw(self, program: Program, guide: Any) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
        """Draws [1, draw, *shape] from the guide, and their log importance ratios [draw]."""
        names = [n for n, u in program.sites.unknowns.items() if not u.is_param]
        fixed = _parameters(program)
        rows: list[dict[str, torch.Tensor]] = []
        ratios = []
        for _ in range(self.draws):
            with poutine.trace() as tracer:
                guide(*program.args, **program.kwargs)
            nodes: dict[str, Any] = tracer.trace.nodes
            missing = [name for name in names if name not in nodes]
            if missing:
                raise ProgramError(
                    f"the guide has no site {', '.join(map(repr, missing))}; a guide must draw "
                    "every unknown of the program"
                )
            row = {name: nodes[name]["value"] for name in names}
            density = program.density({**row, **fixed})
            log_q = float(tracer.trace.log_prob_sum())
            ratios.append(float(density.log_likelihood + density.log_prior) - log_q)
            rows.append(row)
        draws = {name: torch.stack([row[name] for row in rows])[None] for name in names}
        return draws, torch.tensor(ratios, dtype=torch.float64)


def _copied(guide: Callable[..., Any]) -> Callable[..., Any]:
    """A guide with parameters of its own, for the same program."""
    if not isinstance(guide, AutoGuide):
        return copy.deepcopy(guide)
    # Copying takes the program out of Pyro's guides, out of the original as well.
    originals = [module for module in guide.modules() if isinstance(module, AutoGuide)]
    held = [(original._model, original.master) for original in originals]
    clone = copy.deepcopy(guide)
    copies = [module for module in clone.modules() if isinstance(module, AutoGuide)]
    for original, own, (model, master) in zip(originals, copies, held, strict=True):
        original._model = own._model = model
        original.master = master
    return clone


def _register_parameters(program: Program, values: dict[str, torch.Tensor]) -> None:
    """Put copies of the program's parameters into the (scoped) store, under names of our own."""
    for name, unknown in program.sites.unknowns.items():
        if unknown.is_param:
            pyro.param(_OWN + name, values[name].detach().clone(), constraint=unknown.support)


def _parameters(program: Program) -> dict[str, torch.Tensor]:
    """Current values of the program's parameters."""
    unknowns = program.sites.unknowns.values()
    names = [u.name for u in unknowns if u.is_param]
    values: dict[str, Any] = {name: pyro.param(_OWN + name) for name in names}
    return values


class _Redirect(Messenger):
    """Answers the program's ``param`` statements from the copies.

    The statement itself is hidden from the optimiser, which sees the copy's; a module's own
    parameters are never written to.
    """

    def __init__(self, names: frozenset[str]) -> None:
        super().__init__()
        self._names = names

    def _pyro_param(self, msg: dict[str, Any]) -> None:
        if msg["name"] in self._names:
            msg["value"] = pyro.param(_OWN + msg["name"])
            msg["done"] = msg["stop"] = True


def _plain(program: Program) -> Callable[..., None]:
    """The program reading its parameters from the store."""
    names = frozenset(n for n, u in program.sites.unknowns.items() if u.is_param)
    objects = program.sites.parameter_objects

    def model(*args: Any, **kwargs: Any) -> None:
        with ExitStack() as stack:
            if names:
                stack.enter_context(_Redirect(names))
            if objects:
                swap = {id(p): pyro.param(_OWN + name) for name, p in objects.items()}
                stack.enter_context(ReplaceParameters(swap))
            program.source(*args, **kwargs)

    return model


def _enumerated(program: Program) -> Callable[..., None]:
    """The program with its discrete latents marked for enumeration."""
    plain = _plain(program)

    def model(*args: Any, **kwargs: Any) -> None:
        with Substitute(lambda name, msg: None):
            plain(*args, **kwargs)

    return model


def _median(guide: Any, program: Program) -> dict[str, torch.Tensor]:
    """The guide's centre, for callbacks; empty for a guide that has none."""
    if not hasattr(guide, "median"):
        return {}
    with torch.no_grad():
        return dict(guide.median(*program.args, **program.kwargs))
