"""Stochastic variational inference."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import pyro
import torch
from pyro import infer
from pyro.optim import PyroOptim

from likely.inference.coordinates import Coordinates, require_finite
from likely.inference.engines import parts
from likely.inference.engines.batches import Batches
from likely.inference.engines.checks import check_choice, check_int, check_positive
from likely.inference.engines.elbo import Drift, elbo, has_settled
from likely.inference.engines.guides import (
    GUIDES,
    BoundGuide,
    TrainedGuide,
    bind,
    check_support,
    remember,
    unmoved,
)
from likely.inference.engines.lockstep import (
    agree_on_noise,
    agree_on_parameters,
    check_guide,
    log_joints,
)
from likely.inference.engines.parameters import Copies
from likely.inference.engines.result import Found, Result, posterior_mean
from likely.inference.engines.resuming import ResumableOptions
from likely.inference.engines.variational_state import VariationalState, follow_schedule
from likely.inference.errors import OptionError, ProgramError
from likely.inference.handlers import set_seed
from likely.inference.program import PROGRAM_FAULTS, Program
from likely.inference.shards import Sharded, has_shards

# The step size holds for this share of a run, and then falls geometrically to that share of itself.
_HOLD, _DECAY = 0.25, 0.001


@dataclass(frozen=True, kw_only=True)
class SVI(ResumableOptions):
    """A variational posterior by stochastic gradients of the ELBO (Hoffman et al. 2013).

    Pyro's guides and optimisers; discrete latents are summed out of the ELBO exactly, so a guide
    draws the continuous unknowns only. Parameters without a prior, modules' among them, are fitted
    along with the guide.
    After the fit, Pareto-smoothed importance weights say how far the guide is from the posterior:
    ``fit.diagnostics["khat"]`` above 0.7 means too far to trust (Yao et al. 2018); a point is no
    posterior, and its k-hat infinite.

    Parameters
    ----------
    guide : {"normal", "multivariate", "lowrank", "flow", "delta"} or callable
        Independent normals; a full, or a low-rank plus diagonal, multivariate normal; an inverse
        autoregressive flow (which has no start, so ``init`` does not reach it); a point, whose
        ELBO is the log joint density that `MAP` and `EM` climb; or a Pyro guide of your own, a
        function or a module, called with the program's arguments. A copy of it is trained;
        `trained_guide` hands it out.
    batch_size : int, optional
        Observations in a mini-batch. The plate around the observed sites is subsampled, so the
        program, and a guide that draws unknowns in this plate, have to index their data with the
        plate's indices; log-densities inside are scaled up and gradients stay unbiased.
    max_iter : int
        Number of gradient steps.
    learning_rate : float
        Of Adam; after a quarter of the run it falls geometrically to a thousandth, which takes
        most of the gradients' noise out of the answer.
    optimizer : PyroOptim, optional
        Instead of Adam with decay. A schedule of `pyro.optim` goes on by one with each step.
    num_particles : int
        Draws in each ELBO estimate.
    draws : int
        Draws kept from the fitted guide.
    **options
        Those of `SearchOptions`, without ``tol``: a run takes ``max_iter`` steps and counts as
        converged if the ELBO of its last quarter is no better than that of the quarter before, and
        the guide's parameters no longer travel one way as fast as their steps allow.

    Examples
    --------
    >>> import pyro, pyro.distributions as dist, torch
    >>> def coin(heads):
    ...     p = pyro.sample("p", dist.Beta(1.0, 1.0))
    ...     with pyro.plate("toss", len(heads)):
    ...         pyro.sample("heads", dist.Bernoulli(p), obs=heads)
    >>> fit = SVI(max_iter=500).fit(coin, torch.tensor([1.0, 1.0, 1.0, 0.0]))
    >>> round(float(fit.params["p"]), 1)  # the posterior is Beta(4, 2), of mean 2/3
    0.7
    """

    name: ClassVar[str] = "svi"
    takes_shards: ClassVar[bool] = True

    max_iter: int = 3000
    guide: str | Callable[..., Any] = "normal"
    learning_rate: float = 0.03
    optimizer: PyroOptim | None = None
    num_particles: int = 1
    batch_size: int | None = None
    draws: int = 1000

    def __post_init__(self) -> None:
        super().__post_init__()
        if isinstance(self.guide, str):
            check_choice("guide", self.guide, tuple(GUIDES))
        elif not callable(self.guide):
            raise OptionError(f"guide must be a name or a Pyro guide, got {self.guide!r}")
        check_positive("learning_rate", self.learning_rate)
        check_int("num_particles", self.num_particles, 1)
        check_int("draws", self.draws, 2)
        if self.batch_size is not None:
            check_int("batch_size", self.batch_size, 1)
        if self.optimizer is not None and not isinstance(self.optimizer, PyroOptim):
            raise OptionError(
                f"optimizer must be a pyro.optim optimiser, got {type(self.optimizer).__name__}"
            )

    def read(
        self, program: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> Program:
        """The program with its arguments, one of which may be `Shards`."""
        if self.batch_size is not None and has_shards(args, kwargs):
            raise OptionError(
                f"batch_size={self.batch_size} is for data in memory, and Shards are gone through "
                "as a whole in every step; leave batch_size out"
            )
        return super().read(program, args, kwargs)

    def _fit(self, program: Program, coordinates: Coordinates) -> Result:
        from likely.inference.diagnostics.backend import psis_khat

        if isinstance(program, Sharded):
            coordinates = Coordinates(program.head)
        found = self.best_of(
            lambda attempt: self._search(program, coordinates, attempt), program.device
        )
        draws = self.labelled(program, found.extra["draws"])
        fixed = found.extra["parameters"]
        weights = found.extra["log_weights"]
        remember(program, found.extra["guide"])
        repeated = {n: v.expand((1, self.draws) + v.shape) for n, v in fixed.items()}
        # Weights of a point are all the same, and say nothing of the posterior around it.
        point = bool(draws) and all(bool((v == v[:, :1]).all()) for v in draws.values())
        return Result.from_found(
            found,
            params=posterior_mean(program, draws) | fixed,
            draws=draws | repeated,
            reason=f"the ELBO was still rising after {found.n_iter} steps; raise max_iter or "
            "learning_rate, or start nearer with init=",
            sample_stats={"log_weight": weights[None]},
            diagnostics={"khat": float("inf") if point else psis_khat(weights)},
        )

    def _search(self, program: Program, coordinates: Coordinates, attempt: int) -> Found:
        pyro.get_param_store().clear()
        with unmoved(program)():
            values = parts.start(program, coordinates, self.start_values(program), attempt)
            memory = self.memory(program, values)
        inside = coordinates.constrain(coordinates.unconstrain(values, edge=3.0))
        own = Copies.of_program(program, inside)
        batches = Batches(program, self.batch_size) if self.batch_size is not None else None
        plate = batches.plate if batches is not None else None
        if plate is not None and program.sites.plates[plate].size == self.batch_size:
            batches = plate = None  # all data in their own order
        guide = bind(self.guide, program, inside, own, plate)
        check_guide(program, guide, self.seed)
        agree_on_parameters(program)
        agree_on_noise(program)

        def loss(*_: Any) -> float:
            indices = batches.draw() if batches is not None else None
            total = 0.0
            for _particle in range(self.num_particles):
                estimate, surrogate = elbo(program, guide, own.values, indices)
                if surrogate.requires_grad:
                    (-surrogate / self.num_particles).backward()
                total += float(estimate.detach()) / self.num_particles
            return -total

        optimizer = self.optimizer or PyroOptim(torch.optim.Adam, {"lr": self.learning_rate})
        stepper = infer.SVI(None, None, optimizer, loss, loss_and_grads=loss)
        drift = Drift(self.max_iter, optimizer)
        with self.monitor(attempt) as monitor:
            run = VariationalState(guide, optimizer, drift, batches, monitor)
            run.restore(memory, self._rate if self.optimizer is None else None)
            for iteration in range(len(monitor.objectives), self.max_iter):
                memory.keep(iteration, run.state)
                if self.optimizer is None:
                    self._slow_down(optimizer, iteration)
                try:
                    bound = -float(stepper.step())
                except PROGRAM_FAULTS as error:
                    raise self._blame(error, iteration, plate) from error
                follow_schedule(optimizer, -bound)
                drift.step(iteration)
                require_finite(bound, "the ELBO", iteration)
                if parts.stops(program, monitor, bound, lambda: guide.median() | own.frozen()):
                    break
        agree_on_parameters(program)
        set_seed(self.seed, program.device)
        with torch.no_grad():
            parameters = own.frozen()
            draws, log_weights = self._draw(program, guide, parameters)
        tail = monitor.objectives[-max(len(monitor.objectives) // 4, 1) :]
        return Found(
            values={},
            objective=sum(tail) / len(tail),
            history=monitor.objectives,
            converged=not monitor.interrupted and has_settled(monitor.objectives, drift),
            n_iter=len(monitor.objectives),
            interrupted=monitor.interrupted,
            extra={
                "draws": draws,
                "log_weights": log_weights,
                "parameters": parameters,
                "guide": TrainedGuide(guide),
            },
        )

    def _slow_down(self, optimizer: PyroOptim, iteration: int) -> None:
        """Set the step size of the coming step."""
        for stepper in optimizer.optim_objs.values():
            for group in stepper.param_groups:
                group["lr"] = self._rate(iteration)

    def _rate(self, iteration: int) -> float:
        over = max((iteration / self.max_iter - _HOLD) / (1.0 - _HOLD), 0.0)
        return self.learning_rate * _DECAY**over

    @staticmethod
    def _blame(error: Exception, iteration: int, plate: str | None) -> Exception:
        if type(error).__module__.startswith("likely."):
            return error
        advice = ""
        if plate is not None:
            advice = (
                f". In mini-batches a guide that draws in plate '{plate}' indexes its data with "
                f"the plate's indices: `with pyro.plate('{plate}', n) as index:`"
            )
        return ProgramError(f"svi failed in step {iteration}: {error}{advice}")

    def _draw(
        self, program: Program, guide: BoundGuide, parameters: dict[str, torch.Tensor]
    ) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
        """Draws [1, draw, *shape] from the guide, and their log importance ratios [draw]."""
        names = [n for n, u in program.sites.unknowns.items() if not u.is_param]
        rows: list[dict[str, torch.Tensor]] = []
        log_q = []
        for _ in range(self.draws):
            trace = guide.trace()
            row = {name: trace.nodes[name]["value"] for name in names}
            for name, value in row.items():
                check_support(name, program.sites.unknowns[name], value)
            log_q.append(float(trace.log_prob_sum()))
            rows.append(row)
        log_p = log_joints(program, [row | parameters for row in rows])
        draws = {name: torch.stack([row[name] for row in rows])[None] for name in names}
        return draws, log_p - torch.tensor(log_q, dtype=torch.float64)
