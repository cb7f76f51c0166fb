"""Policies straight from preferences, without a reward between (DPO), and contrastive cloning."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import pyro
import pyro.distributions as dist
import torch
import torch.nn.functional as F
from pyro import poutine
from torch import Tensor

from likely.envs import DataError
from likely.envs._checks import as_double, as_number
from likely.models._mixture_policy import MixturePolicy
from likely.models._options import check_number
from likely.models._policy_base import Policy, Sites
from likely.models.preference.pairs import PairSteps, TrajectoryPairs
from likely.models.preference.trajectory import check_pairs

Reference = Tensor | Callable[[Tensor, Tensor], Tensor] | None


def dpo_loss(
    chosen_logp: Tensor,
    rejected_logp: Tensor,
    reference_chosen_logp: Tensor | None = None,
    reference_rejected_logp: Tensor | None = None,
    *,
    beta: float = 0.1,
    label_smoothing: float = 0.0,
) -> Tensor:
    r"""Loss of direct preference optimisation, a mean over pairs.

    .. math:: -\log \sigma(h), \qquad h = \beta \left( \log \frac{\pi(y^+)}{\pi_0(y^+)} -
              \log \frac{\pi(y^-)}{\pi_0(y^-)} \right)

    (Rafailov et al. 2023, "Direct preference optimization", equation 7.) With p = σ(h), the
    gradient of a pair's log-likelihood is β (1 − p) (∇ log π(y⁺) − ∇ log π(y⁻)).

    Parameters
    ----------
    chosen_logp, rejected_logp
        Log-probabilities [m] of whole sequences (of actions, of tokens) under the policy, with
        gradients.
    reference_chosen_logp, reference_rejected_logp
        The same under π0, constants; None for no reference, which is a uniform π0 over sequences
        of one length.
    beta
        β, the weight of the KL penalty that DPO stands for.
    label_smoothing
        ε, from 0 to below 1/2: the loss is (1 − ε) times that above plus ε times that of the
        reversed preference (conservative DPO, Mitchell 2023), so that h stays finite.

    Returns
    -------
    Tensor
        A number.

    Raises
    ------
    DataError
        For shapes that differ, one reference of the two, or an option out of range.

    Examples
    --------
    >>> both = torch.zeros(3)
    >>> dpo_loss(both, both, beta=0.5)
    tensor(0.6931)
    """
    _check_options(beta, label_smoothing)
    _check_same(chosen_logp, rejected_logp)
    if (reference_chosen_logp is None) != (reference_rejected_logp is None):
        raise DataError("reference_chosen_logp, reference_rejected_logp: expected both or neither")
    margin = chosen_logp - rejected_logp
    if reference_chosen_logp is not None and reference_rejected_logp is not None:
        _check_same(chosen_logp, reference_chosen_logp)
        _check_same(chosen_logp, reference_rejected_logp)
        margin = margin - (reference_chosen_logp - reference_rejected_logp).detach()
    h = beta * margin
    losses = -(1 - label_smoothing) * F.logsigmoid(h)
    if label_smoothing:
        losses = losses - label_smoothing * F.logsigmoid(-h)
    return losses.mean()


def contrastive_cloning(
    chosen_logp: Tensor, rejected_logp: Tensor, *, weight: float = 1.0, floor: float | None = None
) -> Tensor:
    r"""Loss of cloning the preferred behaviour and un-cloning the other, a mean over pairs.

    .. math:: -\left( \log \pi(\tau^+) - \alpha \max(\log \pi(\tau^-), c) \right)

    Behaviour cloning of what was preferred, minus α times that of what was not: linear in the
    log-probabilities, so that every pair pulls with the same force however well it is told apart
    already. DPO multiplies the same contrast by β (1 − p), which fades. Without a floor c there is
    no minimum as soon as some action was rejected α times as often as it was chosen: its
    probability goes to 0 and the loss to −∞.

    Parameters
    ----------
    chosen_logp, rejected_logp
        Log-probabilities [m] of whole sequences under the policy, with gradients.
    weight
        α, at least 0; 0 is behaviour cloning of the preferred trajectories.
    floor
        c, nats: a rejected sequence less likely than exp(c) is left alone. None for −∞.

    Returns
    -------
    Tensor
        A number.

    Raises
    ------
    DataError
        For shapes that differ, or an option out of range.

    Notes
    -----
    Without a floor it is minus the density of `TrajectoryModel` with ``signed=True`` and weights 1
    and −α, over the number of pairs.

    Examples
    --------
    >>> contrastive_cloning(torch.tensor([-1.0]), torch.tensor([-3.0]), weight=0.5, floor=-2.0)
    tensor(0.)
    """
    _check_same(chosen_logp, rejected_logp)
    as_number(weight, "weight", 0.0)
    if floor is not None:
        check_number(floor, "floor")
        rejected_logp = rejected_logp.clamp_min(floor)
    return (weight * rejected_logp - chosen_logp).mean()


class PreferenceReport(NamedTuple):
    """What a policy makes of pairs.

    Attributes
    ----------
    chosen, rejected
        Log-probabilities [m] of the preferred and the other trajectory.
    reference_chosen, reference_rejected
        The same under π0; zeros without one.
    log_odds
        h [m]: above 0 where the policy agrees with the preference.
    """

    chosen: Tensor
    rejected: Tensor
    reference_chosen: Tensor
    reference_rejected: Tensor
    log_odds: Tensor

    @property
    def accuracy(self) -> float:
        """Share of pairs that the policy orders as they were preferred."""
        return float((self.log_odds > 0).double().mean())

    @property
    def gains(self) -> tuple[float, float]:
        """Mean log π − log π0 of the chosen, and of the rejected; both can be negative."""
        chosen, rejected = self.chosen - self.reference_chosen, self.rejected
        return float(chosen.mean()), float((rejected - self.reference_rejected).mean())


@dataclass(frozen=True, eq=False)
class DirectPreference:
    r"""Direct preference optimisation as a program: a policy that explains preferences.

    .. math:: p(\tau \succ \tau') = \sigma\left( \beta \sum_t \gamma^t \log \frac{\pi(a_t \mid s_t)}
              {\pi_0(a_t \mid s_t)} - \beta \sum_t \gamma^t \log \frac{\pi(a'_t \mid s'_t)}
              {\pi_0(a'_t \mid s'_t)} \right)

    (Rafailov et al. 2023, equation 7, with a step's log-ratio for a token's.) It is
    `TrajectoryPreference` with the reward β log π / π0, whose optimum under a penalty β KL(π ‖ π0)
    is π itself. That another reward R explains the same preferences needs
    Σ γ^t β log π/π0 = R(τ) − V(s_0) + Σ γ^(t+1) (E V(s_(t+1)) − V(s_(t+1))): both sides of a pair
    must begin in one state and run to their end, and where transitions are random, the last sum
    is luck, which DPO takes for preference.

    Parameters
    ----------
    policy
        `TabularPolicy`, `SoftmaxPolicy`, `GaussianPolicy` or `ModulePolicy`.
    reference
        π0: a table [S, A]; a function from states [N, \*state] and actions [N, \*action] to
        log-probabilities [N]; or None, which leaves π0 out.
    beta
        β.
    label_smoothing
        ε of `dpo_loss`: each answer counts 1 − ε times as it is and ε times reversed.
    discount
        γ, of an objective that discounts reward and penalty alike.

    Notes
    -----
    Sites are the policy's, and the observed ``preferred`` [m] in the plate ``comparison``, with
    ``reversed`` beside it where answers are smoothed. Pairs without answers get simulated ones.

    Examples
    --------
    >>> from likely.envs import Trajectories
    >>> from likely.inference import MLE
    >>> from likely.models import TabularPolicy
    >>> seen = Trajectories.from_arrays([[0, 0], [0, 0]], [[0], [1]])
    >>> pairs = TrajectoryPairs.among(seen, [1, 1, 1, 1], [0, 0, 0, 0], [1, 1, 1, 0])
    >>> program = DirectPreference(TabularPolicy(1, 2), beta=1.0)
    >>> MLE().fit(program, pairs).params["policy"][0].round(decimals=4)
    tensor([0.2500, 0.7500], dtype=torch.float64)
    """

    policy: Policy
    reference: Any = None
    beta: float = 0.1
    label_smoothing: float = 0.0
    discount: float = 1.0

    def __post_init__(self) -> None:
        if not isinstance(self.policy, Policy) or isinstance(self.policy, MixturePolicy):
            raise DataError(
                f"policy: expected one of likely.models that is no mixture, got {self.policy!r}"
            )
        _check_options(self.beta, self.label_smoothing)
        as_number(self.discount, "discount", 0.0, 1.0)
        if self.reference is not None and not callable(self.reference):
            table = as_double(self.reference, "reference").detach()
            if table.dim() != 2 or not bool((table >= 0).all()):
                raise DataError(f"reference: expected probabilities [S, A], got {self.reference!r}")
            object.__setattr__(self, "reference", table)

    def __call__(self, pairs: TrajectoryPairs) -> Tensor:
        """Run the program.

        Returns
        -------
        Tensor
            ``preferred`` [m], observed or simulated.

        Raises
        ------
        DataError
            If pairs have no actions, or do not fit the policy or the reference.
        """
        self._check(pairs)
        m, device = len(pairs), pairs.first.states.device
        sites = self.policy.sample_sites(pairs.first.states)
        with pyro.plate("comparison", m, device=str(device)) as index:
            part = pairs if index is None or len(index) == m else pairs[index]
            h = self._log_odds(sites, part)
            given = None if part.preferred is None else part.preferred.to(h)
            answer, smooth = dist.Bernoulli(logits=h), self.label_smoothing
            if given is None or not smooth:
                found: Tensor = pyro.sample("preferred", answer, obs=given)
                return found
            with poutine.scale(scale=1 - smooth):
                pyro.sample("preferred", answer, obs=given)
            with poutine.scale(scale=smooth):
                pyro.sample("reversed", answer, obs=1 - given)
        return given

    def _check(self, pairs: TrajectoryPairs) -> None:
        check_pairs(pairs)
        if pairs.first.actions is None:
            raise DataError("actions: a policy is about them, and these trajectories have none")
        self.policy.check(pairs.first)

    def _log_odds(self, sites: Sites, pairs: TrajectoryPairs) -> Tensor:
        steps = self._steps(pairs)
        assert steps.actions is not None
        logs = self.policy.distribution(sites, steps.states).log_prob(steps.actions)
        return self.beta * (steps.summed(logs, len(pairs)) - self._reference_margin(pairs).to(logs))

    def _steps(self, pairs: TrajectoryPairs) -> PairSteps:
        gamma = float(self.discount)
        found: PairSteps = pairs.remembered(self.policy, gamma, lambda: pairs.steps(gamma))
        return found

    def _reference_margin(self, pairs: TrajectoryPairs) -> Tensor:
        """What the reference makes of the pairs, [m]."""

        def make() -> Tensor:
            steps = self._steps(pairs)
            return steps.summed(self._reference_logs(steps), len(pairs))

        found: Tensor = pairs.remembered(self, float(self.discount), make)
        return found

    def _reference_logs(self, steps: PairSteps) -> Tensor:
        """log π0 of the steps [N]; zeros without one."""
        if self.reference is None:
            return torch.zeros_like(steps.weight)
        assert steps.actions is not None
        if isinstance(self.reference, Tensor):
            shape = self.reference.shape
            if int(steps.states.max()) >= shape[0] or int(steps.actions.max()) >= shape[1]:
                raise DataError(f"reference: a table {tuple(shape)} lacks states or actions")
            logs = self.reference[steps.states, steps.actions].log()
        else:
            logs = self.reference(steps.states, steps.actions)
            if not isinstance(logs, Tensor) or logs.shape != steps.weight.shape:
                got = tuple(logs.shape) if isinstance(logs, Tensor) else type(logs).__name__
                raise DataError(f"reference: expected {tuple(steps.weight.shape)}, got {got}")
        if not bool(torch.isfinite(logs).all()):
            raise DataError("reference: some action that was taken has probability 0 there")
        return logs.detach().double()

    # -- hooks -------------------------------------------------------------------------------

    @property
    def dims(self) -> dict[str, tuple[str, ...]]:
        """Names of the event dimensions."""
        found = self.policy.dims
        return {n: names for n, names in found.items() if not names or not names[0].startswith(n)}

    def coords(self, pairs: TrajectoryPairs | None = None) -> dict[str, Any]:
        """Labels of the dimensions."""
        return self.policy.coords(None if pairs is None else pairs.first)

    # -- after a fit -------------------------------------------------------------------------

    def report(self, params: Mapping[str, Any], pairs: TrajectoryPairs) -> PreferenceReport:
        """Log-probabilities of the preferred and the other trajectories, discounted as in the fit.

        Parameters
        ----------
        params
            Site to value, such as a fit's ``params``.
        pairs
            With answers.
        """
        self._check(pairs)
        sided = TrajectoryPairs(pairs.chosen, pairs.rejected)
        steps = sided.steps(float(self.discount))
        assert steps.actions is not None
        logs = self.policy.at(params, steps.states).log_prob(steps.actions).double()
        own, base = (_sides(steps, x, len(pairs)) for x in (logs, self._reference_logs(steps)))
        h = self.beta * (own[0] - own[1] - base[0] + base[1])
        return PreferenceReport(*own, *base, h)


def _sides(steps: PairSteps, values: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Sums over the first and over the second trajectory, [m] each."""
    first = steps.weight > 0
    given = steps._replace(weight=steps.weight.abs())
    return given.summed(values * first, size), given.summed(values * ~first, size)


def _check_options(beta: Any, label_smoothing: Any) -> None:
    check_number(beta, "beta", positive=True)
    if not 0 <= as_number(label_smoothing, "label_smoothing", 0.0) < 0.5:
        raise DataError(f"label_smoothing must be from 0 to below 1/2, got {label_smoothing!r}")


def _check_same(first: Any, second: Any) -> None:
    for value in (first, second):
        if not isinstance(value, Tensor) or value.dim() != 1 or not len(value):
            got = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
            raise DataError(f"log-probabilities: expected a tensor [m], got {got}")
    if first.shape != second.shape:
        raise DataError(
            f"log-probabilities: expected as many of each, got {len(first)} and {len(second)}"
        )
