"""Direct preference optimisation: gradient, identity with RLHF, smoothing, report, and cloning."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from likely.envs import (
    DataError,
    TabularMDP,
    Trajectories,
    rollout_tabular,
    soft_value_iteration,
)
from likely.inference import MAP, MLE, Laplace, Program
from likely.models import (
    MixturePolicy,
    SoftmaxPolicy,
    TabularPolicy,
    TrajectoryModel,
    TrajectoryPairs,
    TrajectoryPreference,
)
from likely.models.preference import (
    DirectPreference,
    TabularReward,
    contrastive_cloning,
    dpo_loss,
)

N, BETA = 3, 0.5
Logs = tuple[Tensor, Tensor, Tensor, Tensor]


def logs(seed: int = 0, count: int = 7) -> Logs:
    """Log-probabilities of chosen and rejected, those of the policy with gradients."""
    source = torch.Generator().manual_seed(seed)
    found = -3 * torch.rand(4, count, dtype=torch.float64, generator=source)
    return found[0].requires_grad_(), found[1].requires_grad_(), found[2], found[3]


def test_gradient_is_the_formula() -> None:
    chosen, rejected, *reference = logs()
    loss = len(chosen) * dpo_loss(chosen, rejected, *reference, beta=BETA)
    up, down = torch.autograd.grad(loss, [chosen, rejected])
    h = BETA * (chosen - rejected - reference[0] + reference[1]).detach()
    force = BETA * (1 - torch.sigmoid(h))
    torch.testing.assert_close(up, -force, atol=1e-10, rtol=0)
    torch.testing.assert_close(down, force, atol=1e-10, rtol=0)


def test_gradient_through_a_policy() -> None:
    """β (1 − p) (∇ log π⁺ − ∇ log π⁻) for parameters that both share."""
    torch.manual_seed(0)
    net = torch.nn.Linear(3, 5).double()
    x = torch.randn(2, 4, 3, dtype=torch.float64)
    tokens = torch.randint(5, (2, 4, 1))

    def scored() -> Tensor:
        return net(x).log_softmax(-1).gather(-1, tokens).sum((1, 2))

    both = scored()
    loss = dpo_loss(both[:1], both[1:], beta=BETA)
    found = torch.autograd.grad(loss, list(net.parameters()))
    chance = torch.sigmoid(BETA * (both[0] - both[1])).detach()
    slopes = [torch.autograd.grad(scored()[k], list(net.parameters())) for k in (0, 1)]
    for got, one, two in zip(found, *slopes, strict=True):
        torch.testing.assert_close(got, -BETA * (1 - chance) * (one - two), atol=1e-10, rtol=0)


def test_smoothing_is_a_mean_of_both_answers() -> None:
    chosen, rejected, *reference = logs()
    plain = dpo_loss(chosen, rejected, *reference, beta=BETA)
    turned = dpo_loss(rejected, chosen, *reversed(reference), beta=BETA)
    smooth = dpo_loss(chosen, rejected, *reference, beta=BETA, label_smoothing=0.2)
    torch.testing.assert_close(smooth, 0.8 * plain + 0.2 * turned, atol=1e-12, rtol=0)


def lattice(slip: float) -> TabularMDP:
    """Paths over a board, right or down, from one corner to the other, where they end."""
    size = N * N
    rows = torch.zeros(size, 2, size, dtype=torch.float64)
    for s in range(size - 1):
        i, j = divmod(s, N)
        right = s + 1 if j + 1 < N else s + N
        down = s + N if i + 1 < N else s + 1
        for action, (there, other) in enumerate(((right, down), (down, right))):
            rows[s, action, there] += 1 - slip
            rows[s, action, other] += slip
    rows[-1, :, -1] = 1
    reward = 2 * torch.randn(size, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    reward[-1] = 0
    return TabularMDP(rows, reward, 1.0, 0, sink=size - 1)


def preferences(mdp: TabularMDP, count: int, seed: int = 0) -> TrajectoryPairs:
    """Pairs of random episodes, preferred by their true returns."""
    base = torch.full((N * N, 2), 0.5, dtype=torch.float64)
    seen = rollout_tabular(mdp, base, 2 * count, 2 * N, seed)
    played = Trajectories.from_padded(
        seen.states, seen.actions, seen.lengths, state_space=N * N, action_space=2
    )
    earned = seen.rewards.sum(-1)
    chance = torch.sigmoid(earned[:count] - earned[count:])
    draws = torch.rand(count, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    places = torch.arange(count)
    return TrajectoryPairs.among(played, places, places + count, draws < chance)


def distances(slip: float, count: int) -> tuple[float, float]:
    """Largest total variation of DPO from RLHF on the same data, and from RLHF on the truth."""
    mdp, heat = lattice(slip), 1.0
    base = torch.full((N * N, 2), 0.5, dtype=torch.float64)
    pairs = preferences(mdp, count)
    direct = DirectPreference(TabularPolicy(N * N, 2, 1.02), base, beta=heat)
    policy = MAP().fit(direct, pairs).params["policy"]
    program = TrajectoryPreference(TabularReward(N * N, 2, prior_scale=30.0))
    table = MAP().fit(program, pairs).params["reward_table"]
    learned = soft_value_iteration(mdp, heat, reward=table, prior=base).policy
    optimum = soft_value_iteration(mdp, heat, prior=base).policy
    far = [(policy - other).abs().sum(-1)[:-1].max() / 2 for other in (learned, optimum)]
    return float(far[0]), float(far[1])


def test_deterministic_dpo_is_rlhf() -> None:
    same, true = distances(0.0, 6000)
    # The priors' pull, 0.02 pseudo-counts and 1 / 900, is all that differs.
    assert same < 1e-3
    # Each of four choices hangs on more than 1000 comparisons: standard errors are about 0.01.
    assert true < 0.04


def test_chance_breaks_the_identity() -> None:
    same, _ = distances(0.4, 6000)
    # More than thirty times what deterministic steps may show, and four standard errors.
    assert same > 0.03


@pytest.mark.parametrize("slip", [0.0, 0.3])
def test_log_ratios_are_returns_but_for_luck(slip: float) -> None:
    """Σ γ^t β log π/π0 = R − V(s_0) + Σ γ^(t+1) (E V(s') − V(s')), path by path."""
    gamma, plain = 0.9, lattice(slip)
    mdp = TabularMDP(plain.transition, plain.reward, gamma, 0, sink=N * N - 1)
    base = torch.tensor([0.3, 0.7], dtype=torch.float64).expand(N * N, 2)
    plan = soft_value_iteration(mdp, BETA, prior=base)
    pairs = preferences(mdp, 30)
    direct = DirectPreference(TabularPolicy(N * N, 2), base, BETA, discount=gamma)
    given = {"policy": plan.policy}
    found = direct.report(given, pairs.with_preferred(torch.ones(30))).log_odds
    ahead = []
    for side in (pairs.first, pairs.second):
        states, actions = side.state_action_pairs()
        expected = (mdp.transition @ plan.value)[states, actions]
        luck = gamma * (expected - plan.value[side.next_states])
        ahead.append(side.with_rewards(plain.reward[states] + luck).returns(gamma))
        assert (slip > 0) == bool((luck.abs() > 1e-9).any())
    torch.testing.assert_close(found, ahead[0] - ahead[1], atol=1e-9, rtol=0)


def as_log_odds(policy: Tensor, pairs: TrajectoryPairs, reference: Tensor | None) -> Tensor:
    found = []
    for side in (pairs.first, pairs.second):
        steps = policy.log() if reference is None else policy.log() - reference.log()
        rows = steps[side.step_states, side.actions]
        found.append(rows.new_zeros(len(side)).index_add(0, side.episode, rows))
    return BETA * (found[0] - found[1])


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("referred", [False, True])
def test_program_is_the_loss(referred: bool, smoothing: float) -> None:
    pairs = preferences(lattice(0.2), 40)
    policy = torch.rand(N * N, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    policy = policy / policy.sum(-1, keepdim=True)
    base = torch.tensor([0.3, 0.7], dtype=torch.float64).expand(N * N, 2)
    tables = TabularPolicy(N * N, 2)
    direct = DirectPreference(tables, base if referred else None, BETA, smoothing)
    program = Program(direct, pairs)
    with program.session(0):
        found = program.density({"policy": policy}).log_likelihood
    h = as_log_odds(policy, pairs, base if referred else None)
    sign = torch.where(pairs.preferred == 1, 1.0, -1.0)
    loss = dpo_loss(sign * h / BETA, torch.zeros_like(h), beta=BETA, label_smoothing=smoothing)
    torch.testing.assert_close(found, -len(pairs) * loss, atol=1e-9, rtol=0)
    report = direct.report({"policy": policy}, pairs)
    torch.testing.assert_close(report.log_odds, sign * h)
    assert report.accuracy == float((sign * h > 0).double().mean())


def test_functions_are_references() -> None:
    pairs = preferences(lattice(0.0), 50)
    base = torch.tensor([0.3, 0.7], dtype=torch.float64).expand(N * N, 2)

    def same(states: Tensor, actions: Tensor) -> Tensor:
        return base[states, actions].log()

    fits = [
        MAP().fit(DirectPreference(TabularPolicy(N * N, 2, 2.0), one, BETA), pairs).params["policy"]
        for one in (base, same)
    ]
    torch.testing.assert_close(*fits)


def test_laplace_of_a_softmax_policy() -> None:
    pairs = preferences(lattice(0.0), 300)
    policy = SoftmaxPolicy(2, torch.eye(N * N)[:, :4], intercept=False, prior_scale=1.0)
    fit = Laplace(draws=200).fit(DirectPreference(policy, beta=1.0), pairs)
    assert fit.draws["coefficients"].shape == (1, 200, 1, 4)


def test_both_log_probabilities_can_fall() -> None:
    """Pairs from the reference: on average both sides lose KL(π0 ‖ π), one of them more."""
    pairs = preferences(lattice(0.0), 2000)
    base = torch.full((N * N, 2), 0.5, dtype=torch.float64)
    direct = DirectPreference(TabularPolicy(N * N, 2, 1.02), base, beta=0.2)
    report = direct.report(MAP().fit(direct, pairs).params, pairs)
    chosen, rejected = report.gains
    assert rejected < chosen < 0
    assert report.accuracy > 0.6


def test_contrastive_cloning_is_signed_cloning() -> None:
    pairs = preferences(lattice(0.2), 30)
    policy = torch.full((N * N, 2), 0.5, dtype=torch.float64)
    policy[:, 0], policy[:, 1] = 0.7, 0.3
    report = DirectPreference(TabularPolicy(N * N, 2)).report({"policy": policy}, pairs)
    loss = contrastive_cloning(report.chosen, report.rejected, weight=0.5)
    both = Trajectories.concat([pairs.chosen, pairs.rejected])
    weights = torch.tensor([1.0] * 30 + [-0.5] * 30)
    model = TrajectoryModel(TabularPolicy(N * N, 2))
    program = Program(model, both, weights=weights, signed=True)
    with program.session(0):
        signed = program.density({"policy": policy}).log_likelihood
    torch.testing.assert_close(-30 * loss, signed, atol=1e-9, rtol=0)


def test_floor_leaves_the_unlikely_alone() -> None:
    chosen, rejected, *_ = logs()
    loss = contrastive_cloning(chosen, rejected, floor=-1.5)
    (slope,) = torch.autograd.grad(loss, [rejected])
    assert torch.equal(slope == 0, rejected < -1.5)
    assert 0 < int((rejected < -1.5).sum()) < len(rejected)


def test_answers_are_simulated() -> None:
    pairs = preferences(lattice(0.0), 20).with_preferred(None)
    answers = DirectPreference(TabularPolicy(N * N, 2))(pairs)
    assert answers.shape == (20,)
    assert set(answers.tolist()) <= {0.0, 1.0}


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: dpo_loss(*logs()[:2], beta=0.0), "beta"),
        (lambda: dpo_loss(*logs()[:2], label_smoothing=0.5), "label_smoothing"),
        (lambda: dpo_loss(*logs()[:3]), "both or neither"),
        (lambda: dpo_loss(logs()[0], torch.zeros(3)), "as many"),
        (lambda: dpo_loss(torch.zeros(2, 2), torch.zeros(2, 2)), r"tensor \[m\]"),
        (lambda: contrastive_cloning(*logs()[:2], weight=-1.0), "weight"),
        (lambda: contrastive_cloning(*logs()[:2], floor=float("nan")), "floor"),
        (lambda: DirectPreference("softmax"), "policy: expected"),
        (lambda: DirectPreference(MixturePolicy(TabularPolicy(2, 2), 2)), "no mixture"),
        (lambda: DirectPreference(TabularPolicy(2, 2), [0.5, 0.5]), "reference"),
        (lambda: DirectPreference(TabularPolicy(2, 2), beta=-1.0), "beta"),
        (lambda: DirectPreference(TabularPolicy(2, 2))(3), "pairs: expected"),
    ],
)
def test_what_cannot_be_used_is_refused(make: Any, says: str) -> None:
    with pytest.raises(DataError, match=says):
        make()


def test_references_that_do_not_fit() -> None:
    pairs, tables = preferences(lattice(0.0), 5), TabularPolicy(N * N, 2)
    for base, says in ((torch.ones(2, 2) / 2, "lacks"), (torch.eye(2)[[0] * 9], "probability 0")):
        with pytest.raises(DataError, match=says):
            DirectPreference(tables, base)(pairs)
    bare = TrajectoryPairs(pairs.first.with_actions(None), pairs.second.with_actions(None))
    with pytest.raises(DataError, match="actions"):
        DirectPreference(tables)(bare)
    policy = {"policy": torch.full((N * N, 2), 0.5)}
    with pytest.raises(DataError, match="nobody was asked"):
        DirectPreference(tables).report(policy, pairs.with_preferred(None))


def test_reference_free_is_a_uniform_reference() -> None:
    pairs = preferences(lattice(0.0), 400)
    uniform = torch.full((N * N, 2), 0.5, dtype=torch.float64)
    tables = TabularPolicy(N * N, 2, 1.1)
    fits = [MAP().fit(DirectPreference(tables, r, 1.0), pairs) for r in (None, uniform)]
    # All episodes are equally long, so that the reference cancels.
    torch.testing.assert_close(fits[0].params["policy"], fits[1].params["policy"])


def test_mle_needs_no_prior() -> None:
    pairs = preferences(lattice(0.0), 400)
    policy = SoftmaxPolicy(2, torch.eye(N * N)[:, :5], intercept=False, prior_scale=None)
    fit = MLE().fit(DirectPreference(policy, beta=1.0), pairs)
    assert fit.converged
