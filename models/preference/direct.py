"""Policies straight from preferences, without a reward between (DPO), as a program."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from torch import Tensor

from likely.envs import DataError
from likely.envs._checks import as_double, as_number, check_distribution
from likely.models._data import as_weights, plate_rows, plate_weights
from likely.models._mixture_policy import MixturePolicy
from likely.models._module_policy import ModulePolicy
from likely.models._policy_base import Policy, Sites, float_like
from likely.models.preference.pairs import PairSteps, TrajectoryPairs
from likely.models.preference.sequences import PreferenceReport, check_dpo
from likely.models.preference.trajectory import check_pairs


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
        π0: a table [S, A]; a policy at its values, which has a method ``distribution(states)``,
        such as the ``policy`` of a cloning's result; a function from states [N, \*state] and
        actions [N, \*action] to log-probabilities [N]; or None, which leaves π0 out.
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
        check_dpo(self.beta, self.label_smoothing)
        as_number(self.discount, "discount", 0.0, 1.0)
        if self.reference is not None and _log_density(self.reference) is None:
            table = as_double(self.reference, "reference").detach()
            if table.dim() != 2:
                raise DataError(f"reference: expected probabilities [S, A], got {self.reference!r}")
            check_distribution(table, "reference", ("state",))
            object.__setattr__(self, "reference", table)

    def __call__(self, pairs: TrajectoryPairs, *, weights: Any = None) -> Tensor:
        """Run the program.

        Parameters
        ----------
        pairs
            What was compared; answers that it lacks are simulated.
        weights
            How often each pair counts, [m].

        Returns
        -------
        Tensor
            ``preferred`` [m], observed or simulated.

        Raises
        ------
        DataError
            If pairs have no actions, do not fit the policy or the reference, or weights do not
            fit the pairs.
        """
        self._check(pairs)
        m, device = len(pairs), pairs.first.states.device
        counted = as_weights(weights, m, float_like(pairs.first.states))
        sites = self.policy.sample_sites(pairs.first.states)
        with pyro.plate("comparison", m, device=str(device)) as index:
            rows = plate_rows(index, m, device)
            part = pairs if isinstance(rows, slice) else pairs[rows]
            h = self._log_odds(sites, part)
            given = None if part.preferred is None else part.preferred.to(h)
            answer, smooth = dist.Bernoulli(logits=h), self.label_smoothing
            with plate_weights(counted, rows):
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
            if steps.states.is_floating_point() or steps.actions.is_floating_point():
                raise DataError("reference: a table is for Discrete states and actions")
            if int(steps.states.max()) >= shape[0] or int(steps.actions.max()) >= shape[1]:
                raise DataError(f"reference: a table {tuple(shape)} lacks states or actions")
            logs = self.reference[steps.states, steps.actions].log()
        else:
            density = _log_density(self.reference)
            assert density is not None
            logs = density(steps.states, steps.actions)
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

    def coords(self, pairs: TrajectoryPairs | None = None, **options: Any) -> dict[str, Any]:
        """Labels of the dimensions."""
        return self.policy.coords(None if pairs is None else pairs.first)

    def initial(self, pairs: TrajectoryPairs, **options: Any) -> Sites:
        """Start where a network is, which is often its reference."""
        if not isinstance(self.policy, ModulePolicy) or pairs.first.actions is None:
            return {}
        return self.policy.initial(*pairs.first.state_action_pairs(), None)

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


def _log_density(reference: Any) -> Callable[[Tensor, Tensor], Any] | None:
    """log π0 of states and actions, from a policy or a function; None for neither."""
    if isinstance(reference, Tensor):
        return None
    if hasattr(reference, "distribution"):
        return lambda states, actions: reference.distribution(states).log_prob(actions)
    return reference if callable(reference) else None
