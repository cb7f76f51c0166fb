"""The No-U-Turn sampler."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from pyro.infer import mcmc
from pyro.ops.stats import effective_sample_size, split_gelman_rubin

from likely.inference.coordinates import Coordinates
from likely.inference.engines.base import EngineOptions
from likely.inference.engines.chains import Chain, ChainInterruptedError, Report, run_chains
from likely.inference.engines.checks import check_bool, check_choice, check_int, check_positive
from likely.inference.engines.laplace import unconstrained_log_joint
from likely.inference.engines.result import Result, posterior_mean
from likely.inference.engines.warm import values_from
from likely.inference.errors import OptionError
from likely.inference.fit import Fit
from likely.inference.handlers import set_seed
from likely.inference.monitor import Step, is_true
from likely.inference.program import Program

# Split R-hat above this, or fewer effective draws than that, says the chains have not mixed.
RHAT_LIMIT = 1.05
ESS_LIMIT = 100.0
# Spread, in unconstrained coordinates, of the chains' starts.
_SPREAD = 0.1


@dataclass(frozen=True, kw_only=True)
class NUTS(EngineOptions):
    """Posterior draws by the No-U-Turn sampler (Hoffman & Gelman 2014; Betancourt 2017).

    Discrete latents are summed out. Pyro's sampler by default, nutpie's (faster adaptation, in
    Rust) on request. Divergences, R-hat above 1.05 and fewer than 100 effective draws raise a
    `ConvergenceWarning` and mark the fit as not converged.

    Parameters
    ----------
    draws, warmup : int
        Kept and adaptation draws of each chain.
    chains : int
        Number of chains.
    cores : int, optional
        Chains that run at the same time, each in its own process; by default as many as there are
        processors. CUDA programs run one chain after another.
    backend : {"pyro", "nutpie"}
        Sampler. nutpie is the extra ``likely[fast]``.
    target_accept : float
        Mean acceptance probability that step sizes are adapted to.
    max_tree_depth : int
        A trajectory has at most 2**max_tree_depth steps.
    dense_mass : bool
        Adapt a full mass matrix instead of a diagonal one (Pyro only).
    jit : bool
        Trace the density with ``torch.jit.trace``: fewer seconds a step for small programs, but
        torch deprecates it, and a program whose control flow or custom kernels depend on values
        cannot be traced.
    **options
        Those of `EngineOptions`. With ``init`` another fit, chains start at its draws. The
        callback sees every draw of the first chain, when chains run one after another.
    """

    name: ClassVar[str] = "nuts"
    needs_priors: ClassVar[bool] = True

    draws: int = 500
    warmup: int = 500
    chains: int = 4
    cores: int | None = None
    backend: str = "pyro"
    target_accept: float = 0.8
    max_tree_depth: int = 10
    dense_mass: bool = False
    jit: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        check_int("draws", self.draws, 4)
        check_int("warmup", self.warmup, 1)
        check_int("chains", self.chains, 1)
        check_int("max_tree_depth", self.max_tree_depth, 1)
        if self.cores is not None:
            check_int("cores", self.cores, 1)
        check_choice("backend", self.backend, ("pyro", "nutpie"))
        if self.backend == "nutpie":
            for option in ("callback", "dense_mass"):
                if getattr(self, option):
                    raise OptionError(f"{option} needs backend='pyro'; nutpie has none")
        for option in ("dense_mass", "jit"):
            check_bool(option, getattr(self, option))
        check_positive("target_accept", self.target_accept)
        if not self.target_accept < 1.0:
            raise OptionError(f"target_accept must lie in (0, 1), got {self.target_accept!r}")

    def check_available(self) -> None:
        """Raise an `OptionError` if the device or the backend is not there."""
        super().check_available()
        if self.backend == "nutpie":
            from likely.inference.engines.nutpie import require_nutpie

            require_nutpie()

    def _fit(self, program: Program, coordinates: Coordinates) -> Result:
        starts = self._starts(program, coordinates)
        if self.backend == "nutpie":
            from likely.inference.engines.nutpie import sample

            chains = sample(self, self._potential(program, coordinates, starts[0]), starts)
        else:
            chains = self._run(program, coordinates, starts)
        kept = min(len(chain.draws) for chain in chains)
        flat = torch.as_tensor(np.stack([c.draws[:kept] for c in chains]), dtype=self.dtype)
        draws = coordinates.constrain_draws(flat.to(starts[0].device))
        stats = {
            name: torch.as_tensor(np.stack([chain.stats[name][:kept] for chain in chains]))
            for name in chains[0].stats
        }
        draws = self.labelled(program, draws, stats["lp"])
        diagnostics = {"divergences": float(stats["diverging"].sum()), **mixing(draws)}
        interrupted = any(chain.interrupted for chain in chains)
        reason = "interrupted" if interrupted else _complaint(diagnostics, kept * len(chains))
        return Result(
            params=posterior_mean(program, draws),
            draws=draws,
            history=stats["lp"].mean(0).tolist(),
            converged=not reason,
            n_iter=self.warmup + kept,
            reason=reason,
            sample_stats=stats,
            diagnostics=diagnostics,
        )

    def _starts(self, program: Program, coordinates: Coordinates) -> list[torch.Tensor]:
        """Flat starts, one for each chain."""
        given = self.start_values(program)
        if isinstance(self.init, Fit) and not self.init.is_point and given:
            flat = {n: v.flatten(0, 1) for n, v in self.init.draws.items() if n in (given or {})}
            total = len(next(iter(flat.values())))
            picked = torch.randperm(total)[: self.chains].tolist()
            draws = [{n: v[i] for n, v in flat.items()} for i in picked]
            rows = [coordinates.start(values_from(self.init, program, draw)) for draw in draws]
        elif program.sites.latents:
            # Modes that only exchange the latent's labels: all chains start in the same one.
            rows = [coordinates.start(given)]
        else:
            rows = [coordinates.start(given) for _ in range(self.chains)]
        starts = []
        for chain in range(self.chains):
            x = coordinates.unconstrain(rows[chain % len(rows)], edge=3.0)
            starts.append(x + _SPREAD * torch.randn_like(x))
        return starts

    def _potential(
        self, program: Program, coordinates: Coordinates, example: torch.Tensor
    ) -> Callable[[torch.Tensor], torch.Tensor]:
        """Negative log-density of a flat unconstrained point, traced on request."""

        def potential(x: torch.Tensor) -> torch.Tensor:
            density = program.density(coordinates.split(x), unconstrained=True)
            return -unconstrained_log_joint(density)

        if not self.jit:
            return potential
        with warnings.catch_warnings():
            # torch.jit says that it is deprecated and that constants are constants.
            warnings.simplefilter("ignore")
            traced: Callable[[torch.Tensor], torch.Tensor] = torch.jit.trace(
                potential, (example.detach().clone(),), check_trace=False
            )
        return traced

    def _run(
        self, program: Program, coordinates: Coordinates, starts: list[torch.Tensor]
    ) -> list[Chain]:
        on_cuda = starts[0].device.type == "cuda"
        cores = 1 if on_cuda or self.callback else (self.cores or os.cpu_count() or 1)

        def run(chain: int, report: Report) -> Chain:
            set_seed(self.seed + 7919 * (chain + 1), program.device)
            return self._chain(program, coordinates, starts[chain], report, chain)

        return run_chains(
            run,
            self.chains,
            cores=cores,
            total=self.warmup + self.draws,
            progress=self.progress,
            label=self.name,
        )

    def _chain(
        self,
        program: Program,
        coordinates: Coordinates,
        start: torch.Tensor,
        report: Report,
        chain: int,
    ) -> Chain:
        potential = self._potential(program, coordinates, start)
        evaluations = 0

        def counted(values: dict[str, torch.Tensor]) -> torch.Tensor:
            nonlocal evaluations
            evaluations += 1
            return potential(values["x"])

        kernel = mcmc.NUTS(
            potential_fn=counted,
            target_accept_prob=self.target_accept,
            max_tree_depth=self.max_tree_depth,
            full_mass=self.dense_mass,
        )
        kernel.initial_params = {"x": start}
        kernel.setup(self.warmup)
        params = kernel.initial_params
        kept: list[np.ndarray] = []
        rows: list[tuple[float, float, int, float]] = []
        interrupted = False
        try:
            for iteration in range(self.warmup + self.draws):
                before, mean = evaluations, kernel._mean_accept_prob
                params = kernel.sample(params)
                report(1)
                number = iteration - self.warmup
                if number < 0:
                    continue
                accept = (
                    (number + 1) * kernel._mean_accept_prob - number * mean
                    if number
                    else (kernel._mean_accept_prob)
                )
                lp = -float(kernel._potential_energy_last)  # type: ignore[arg-type]
                kept.append(params["x"].detach().cpu().numpy().copy())
                # Taken back out of a running mean, it may leave [0, 1] by rounding.
                accept = min(max(accept, 0.0), 1.0)
                rows.append((lp, accept, evaluations - before, float(kernel.step_size)))
                if self.callback is not None and chain == 0:
                    step = Step(number, lp, 0, lambda p=params: coordinates.constrain(p["x"]))  # type: ignore[misc]
                    if is_true(self.callback(step)):
                        interrupted = True
                        break
        except KeyboardInterrupt:
            interrupted = True
        if len(kept) < 4:
            raise ChainInterruptedError(
                "nuts was stopped before it had four draws; nothing to return"
            )
        diverging = np.zeros(len(kept), dtype=bool)
        diverging[[i for i in kernel._divergences if i < len(kept)]] = True
        table = np.array(rows)
        stats = {
            "lp": table[:, 0],
            "acceptance_rate": table[:, 1],
            "n_steps": table[:, 2].astype(np.int64),
            "step_size": table[:, 3],
            "diverging": diverging,
        }
        return Chain(np.stack(kept), stats, interrupted)


def mixing(draws: Mapping[str, torch.Tensor]) -> dict[str, float]:
    """Smallest effective sample size and largest split R-hat over all elements.

    Parameters
    ----------
    draws : mapping of str to Tensor
        Site to draws [chain, draw, *shape].
    """
    worst_ess, worst_rhat = float("inf"), 1.0
    stuck = True
    for value in draws.values():
        chains, kept = value.shape[:2]
        elements = value.reshape(chains, kept, -1).cpu()
        # A cell that never moves (a fixed diagonal, say) has no mixing to judge.
        moving = elements.flatten(0, 1).std(0) > 1e-12 * elements.abs().amax((0, 1))
        if not bool(moving.any()):
            continue
        stuck = False
        elements = elements[:, :, moving]
        worst_ess = min(worst_ess, float(effective_sample_size(elements).min()))
        worst_rhat = max(worst_rhat, float(split_gelman_rubin(elements).max()))
    return {
        # A sampler that never moved has seen nothing.
        "ess_min": 0.0 if stuck else max(worst_ess, 0.0),
        "rhat_max": float("inf") if stuck else worst_rhat,
    }


def _complaint(diagnostics: dict[str, float], total: int) -> str:
    """What is wrong with the draws, or nothing."""
    found = []
    if diagnostics["divergences"]:
        found.append(
            f"{int(diagnostics['divergences'])} of {total} draws diverged (raise target_accept, or "
            "reparametrise)"
        )
    if not diagnostics["rhat_max"] <= RHAT_LIMIT:
        found.append(f"split R-hat is {diagnostics['rhat_max']:.3f}, above {RHAT_LIMIT}")
    if not diagnostics["ess_min"] >= min(ESS_LIMIT, total / 2):
        found.append(f"only {diagnostics['ess_min']:.0f} effective draws; take more")
    return "; ".join(found)
