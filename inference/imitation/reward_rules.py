"""How a reward is fitted to an expert's features, given those of the policies tried so far."""

from __future__ import annotations

import math
import warnings
from abc import ABC, abstractmethod
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from scipy.optimize import nnls
from torch import Tensor

from likely.inference.checkpoints import options_of, rounded
from likely.inference.engines.mle import MLE
from likely.inference.errors import ConvergenceWarning, DegenerateWarning
from likely.inference.fit import Fit
from likely.inference.imitation.demonstrations import FeatureMatching
from likely.models.maxent import MaxEntIRL, Visits

# Gains below this share of the features' size are rounding.
_ROUNDING = 1e-12


class Verdict(NamedTuple):
    """What the comparison with the expert says.

    Attributes
    ----------
    mixture
        Shares [K] of the policies so far.
    row
        Columns of the history.
    done, stopped
        Whether the search is at its end, and, if not at its goal, why.
    """

    mixture: Tensor
    row: dict[str, float]
    done: bool
    stopped: str = ""


class RewardRule(ABC):
    """Steps one and three of the loop: fit a reward, and compare."""

    name: ClassVar[str]

    @abstractmethod
    def weights(self, problem: FeatureMatching, met: Tensor) -> Tensor:
        """Weights [F] of the next reward, from the features [K, F] of the policies so far."""

    @abstractmethod
    def compare(self, problem: FeatureMatching, met: Tensor) -> Verdict:
        """Judge all policies, the new one last: [K, F]."""

    def plan(self, problem: FeatureMatching, weights: Tensor) -> Tensor:
        """A policy for the reward; an optimal one."""
        return problem.plan(weights)

    def reward(self, problem: FeatureMatching, weights: Tensor) -> Tensor:
        """The reward as a table."""
        return problem.reward(weights)

    @property
    def fit(self) -> Fit | None:
        """The fit of the program behind the rule, if there is one."""
        return None

    # -- runs that go on ---------------------------------------------------------------------

    def described(self) -> dict[str, Any]:
        """Options that a run which goes on must share: name to plain value."""
        return {}

    def memory(self) -> dict[str, Any]:
        """What the next round depends on beside features: tensors and plain values."""
        return {}

    def recall(self, memory: dict[str, Any]) -> None:
        """Take over the memory of an earlier run."""
        for name, value in memory.items():
            setattr(self, name, value)


def nearest_mixture(met: Tensor, target: Tensor) -> Tensor:
    r"""The convex combination of points that comes nearest to a target.

    .. math:: \arg\min_{\alpha \ge 0, \sum \alpha = 1} \Vert \textstyle\sum_k \alpha_k \mu_k - \mu_E
              \Vert_2

    This quadratic program is the dual of the margin's (Abbeel & Ng 2004, equation 11):
    max t with wᵀμ_E ≥ wᵀμ_k + t and ‖w‖ ≤ 1 has the optimum w ∝ μ_E − Σ α μ, t = ‖μ_E − Σ α μ‖.
    It is solved exactly as non-negative least squares with one more row of ones (Lawson & Hanson
    1974, "Solving least squares problems", chapter 23), by SciPy's active-set method.

    Parameters
    ----------
    met
        μ: [K, F].
    target
        μ_E: [F].

    Returns
    -------
    Tensor
        α: [K].

    Examples
    --------
    >>> corners = torch.tensor([[0.0, 0.0], [2.0, 0.0], [0.0, 2.0]]).double()
    >>> nearest_mixture(corners, torch.tensor([0.5, 1.0]).double())
    tensor([0.2500, 0.2500, 0.5000], dtype=torch.float64)
    """
    away = (met - target).numpy()
    # The row of ones must weigh like the others, or rounding would decide.
    scale = float(np.abs(away).max()) or 1.0
    system = np.vstack([away.T / scale, np.ones(len(away))])
    right = np.zeros(len(system))
    right[-1] = 1.0
    found, _ = nnls(system, right)
    return torch.from_numpy(found / found.sum())


@dataclass
class MaxMargin(RewardRule):
    """The reward under which the expert beats every policy so far by most.

    Abbeel & Ng 2004, "Apprenticeship learning via inverse reinforcement learning", section 3. With
    ``projection`` the quadratic program is replaced by one step towards the newest policy
    (section 3.1).

    Parameters
    ----------
    tol
        ε: margin at which the mixture is as good as the expert.
    projection
        Which of the two.
    """

    tol: float
    projection: bool = False
    name: ClassVar[str] = "apprenticeship"
    mixture: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.float64), init=False)

    def described(self) -> dict[str, Any]:
        """ε and the kind of step."""
        return {"tol": self.tol, "projection": self.projection}

    def memory(self) -> dict[str, Any]:
        """The shares."""
        return {"mixture": self.mixture}

    def weights(self, problem: FeatureMatching, met: Tensor) -> Tensor:
        """(μ_E − μ̄) / ‖μ_E − μ̄‖; zero before there is a policy."""
        if len(met) == 0:
            return torch.zeros_like(problem.expected)
        away = problem.expected - self.mixture @ met
        return away / torch.linalg.vector_norm(away)

    def compare(self, problem: FeatureMatching, met: Tensor) -> Verdict:
        """The margin that is left, t = ‖μ_E − μ̄‖."""
        before, new = met[:-1], met[-1]
        gain = math.inf
        if len(before):
            # What the new policy gains under the reward it was planned for.
            away = problem.expected - self.mixture @ before
            gain = float((away / torch.linalg.vector_norm(away)) @ (new - self.mixture @ before))
        if self.projection:
            self.mixture = _projected(self.mixture, met, problem.expected)
        else:
            self.mixture = nearest_mixture(met, problem.expected)
        left = problem.expected - self.mixture @ met
        margin = float(torch.linalg.vector_norm(left))
        row = {"gap": float(left.abs().max()), "margin": margin, "bound": _most(met, problem)}
        reached = margin <= self.tol
        size = float(met.abs().max()) + float(problem.expected.abs().max())
        if not reached and gain <= _ROUNDING * max(size, 1.0):
            why = f"no policy comes nearer to the expert than {margin:.3g}"
            return Verdict(self.mixture, row, True, why)
        return Verdict(self.mixture, row, reached)


def _most(met: Tensor, problem: FeatureMatching) -> float:
    """The largest margin that exact steps can leave, (Σ_k 1 / ‖μ_k − μ_E‖²)^(−1/2).

    An optimal policy is seen from the mixture at no less than a right angle to the expert, so that
    a step towards it adds that much to 1 / margin² (Abbeel & Ng 2004, lemma 3).
    """
    away = (met - problem.expected).square().sum(-1)
    return float(away.reciprocal().sum().rsqrt())


def _projected(mixture: Tensor, met: Tensor, target: Tensor) -> Tensor:
    """The mixture after a step towards the newest policy, no further than that policy."""
    if len(met) == 1:
        return torch.ones(1, dtype=torch.float64)
    here = mixture @ met[:-1]
    way = met[-1] - here
    length = float(way @ way)
    step = min(max(float(way @ (target - here)) / length, 0.0), 1.0) if length > 0 else 0.0
    return torch.cat([(1 - step) * mixture, torch.tensor([step], dtype=torch.float64)])


@dataclass
class MultiplicativeWeights(RewardRule):
    r"""The game in which a policy meets the reward that favours the expert most.

    .. math:: \max_\pi \min_{w \in \Delta} \; w^\top (\mu(\pi) - \mu_E)

    (Syed & Schapire 2007, "A game-theoretic approach to apprenticeship learning", algorithm MWAL.)
    Weights fall where policies already beat the expert. With losses scaled into [0, 1] the mean
    regret of the weights after t rounds is at most

    .. math:: \frac{\ln(1/\beta)}{1 - \beta} - 1 + \frac{\ln F}{(1 - \beta) t}, \qquad
              \beta = \Big(1 + \sqrt{2 \ln F / T}\Big)^{-1}

    (Freund & Schapire 1999, "Adaptive game playing using multiplicative weights", theorem 1), and
    the mixture of the policies loses to the expert by no more than that under any such reward.

    Parameters
    ----------
    rounds
        T.
    """

    rounds: int
    name: ClassVar[str] = "mwal"
    played: list[Tensor] = field(default_factory=list, init=False)

    def described(self) -> dict[str, Any]:
        """T."""
        return {"rounds": self.rounds}

    def memory(self) -> dict[str, Any]:
        """All weights so far."""
        return {"played": list(self.played)}

    def _beta(self, n_features: int) -> float:
        return 1 / (1 + math.sqrt(2 * math.log(n_features) / self.rounds))

    def weights(self, problem: FeatureMatching, met: Tensor) -> Tensor:
        """w ∝ β^(losses so far)."""
        lost = self._losses(problem, met).sum(0)
        beta = self._beta(len(problem.expected))
        self.played.append(torch.softmax(math.log(beta) * lost, -1))
        return self.played[-1]

    def _unit(self, problem: FeatureMatching) -> float:
        """What a loss of 1 is worth: twice the largest difference of feature expectations."""
        low, high = problem.bounds
        return 2 * (high - low) or 1.0

    def _losses(self, problem: FeatureMatching, met: Tensor) -> Tensor:
        """(μ − μ_E) / unit + ½, in [0, 1]: [K, F]."""
        return (met - problem.expected) / self._unit(problem) + 0.5

    def compare(self, problem: FeatureMatching, met: Tensor) -> Verdict:
        """The mixture's worst case against the expert, regret, and its bound."""
        count, width = met.shape
        ahead = met - problem.expected
        worst = float(ahead.mean(0).min())
        earned = float((torch.stack(self.played) * ahead).sum(-1).mean())
        beta = self._beta(width)
        factor = math.log(1 / beta) / (1 - beta) - 1 if beta < 1 else 0.0
        rest = math.log(width) / ((1 - beta) * count) if beta < 1 else 0.0
        row = {
            "gap": float(ahead.mean(0).abs().max()),
            "advantage": worst,
            "regret": earned - worst,
            "bound": self._unit(problem) * (factor + rest),
        }
        even = torch.full((count,), 1 / count, dtype=torch.float64)
        return Verdict(even, row, count == self.rounds)


@dataclass
class MaxEntropy(RewardRule):
    """The reward under which the expert's actions are most probable for a soft optimum.

    Parameters
    ----------
    program
        `MaxEntIRL`.
    data
        What the expert did.
    engine
        Finds the weights; a posterior engine's mean is used.
    tol
        Largest difference of features at which the search is at its end.
    """

    program: MaxEntIRL
    data: Visits
    engine: Any = field(default_factory=MLE)
    tol: float = 1e-6
    name: ClassVar[str] = "maxent"
    found: Fit | None = field(default=None, init=False)

    def described(self) -> dict[str, Any]:
        """The engine and the program, with their options."""
        program = self.program
        given = {"known": program.known, "base_policy": program.base_policy}
        return {
            "tol": self.tol,
            "engine": self.engine.name,
            "options": options_of(self.engine),
            "temperature": float(program.temperature),
            "prior_scale": program.reward_part.scale,
            "sites": sorted(program.reward_part.shapes),
            **{n: None if one is None else rounded(one) for n, one in given.items()},
        }

    def memory(self) -> dict[str, Any]:
        """The last fit, as the bytes of its file."""
        if self.found is None:
            return {}
        with TemporaryDirectory() as folder:
            self.found.save(Path(folder) / "fit.nc", log_likelihood=False)
            content = (Path(folder) / "fit.nc").read_bytes()
        return {"fit": torch.frombuffer(bytearray(content), dtype=torch.uint8)}

    def recall(self, memory: dict[str, Any]) -> None:
        """Read the last fit."""
        if "fit" not in memory:
            return
        with TemporaryDirectory() as folder:
            (Path(folder) / "fit.nc").write_bytes(memory["fit"].numpy().tobytes())
            self.found = Fit.load(Path(folder) / "fit.nc").attach(self.program, self.data)

    def weights(self, problem: FeatureMatching, met: Tensor) -> Tensor:
        """Fit the program, from where the last round ended."""
        engine = self.engine
        with warnings.catch_warnings():
            # Rewards that no behaviour tells apart are flat directions; the gap is what counts.
            warnings.simplefilter("ignore", ConvergenceWarning)
            warnings.simplefilter("ignore", DegenerateWarning)
            if self.found is None:
                self.found = engine.fit(self.program, self.data)
            else:
                self.found = replace(engine, init=self.found).fit(self.program, self.data)
        weights = self.found.params.get("reward_weights")
        return torch.zeros(0, dtype=torch.float64) if weights is None else weights.double()

    def plan(self, problem: FeatureMatching, weights: Tensor) -> Tensor:
        """The soft optimum."""
        assert self.found is not None
        return self.program.policy(self.found.params)

    def reward(self, problem: FeatureMatching, weights: Tensor) -> Tensor:
        """The program's reward, with what was known of it."""
        assert self.found is not None
        return self.program.reward(self.found.params)

    def compare(self, problem: FeatureMatching, met: Tensor) -> Verdict:
        """Largest difference of feature expectations; the last policy is the one."""
        assert self.found is not None
        last = torch.zeros(len(met), dtype=torch.float64)
        last[-1] = 1.0
        gap = float((met[-1] - problem.expected).abs().max())
        row = {"gap": gap, "log_likelihood": self.found.log_likelihood}
        if gap <= self.tol:
            return Verdict(last, row, True)
        settled = self.found.converged
        if len(met) > 1:
            settled = settled or float((met[-1] - met[-2]).abs().max()) <= 1e-3 * gap
        why = f"the likelihood has its maximum at a gap of {gap:.3g}" if settled else ""
        return Verdict(last, row, settled, why)

    @property
    def fit(self) -> Fit | None:
        """The last fit."""
        return self.found
