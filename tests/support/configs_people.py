"""Programs of what people do: labels of crowds, comparisons, behaviour."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from gymnasium.spaces import Box

from cases import Config
from designs import TRACED, TRACED_SHORT
from likely.envs import TabularMDP, Trajectories
from likely.models import (
    GLAD,
    MACE,
    Annotations,
    BradleyTerry,
    Comparisons,
    CrowdBradleyTerry,
    DawidSkene,
    DirectPreference,
    FeatureDependentCrowd,
    GaussianPolicy,
    HierarchicalDawidSkene,
    LearningFromCrowds,
    MaxEntIRL,
    MixturePolicy,
    OneCoin,
    PlackettLuce,
    PooledMultinomial,
    Rankings,
    SoftmaxRegression,
    TabularPolicy,
    TrajectoryModel,
    TrajectoryPairs,
    TrajectoryPreference,
)
from likely.models.preference import LinearReward


def crowd(tasks: int, annotators: int, classes: int) -> Callable[[], tuple[Annotations]]:
    """Every annotator labels five tasks of six."""

    def design() -> tuple[Annotations]:
        pairs = [(i, a) for i in range(tasks) for a in range(annotators) if (i + a) % 6]
        task, annotator = zip(*pairs, strict=True)
        return (Annotations.from_arrays(task, annotator, None, classes=range(classes)),)

    return design


def described_crowd(tasks: int, annotators: int, classes: int) -> Callable[[], tuple[Annotations]]:
    """The same, with two features of every task."""

    def design() -> tuple[Annotations]:
        (plain,) = crowd(tasks, annotators, classes)()
        return (replace(plain, features=torch.randn(tasks, 2)),)

    return design


def wandering(episodes: int, states: int) -> Callable[[], tuple[Trajectories]]:
    """Episodes of one to nine steps through random states, of which two actions are asked."""

    def design() -> tuple[Trajectories]:
        lengths = torch.arange(episodes) % 9 + 1
        seen = torch.randint(0, states, (int(lengths.sum()) + episodes,))
        spaces = {"state_space": states, "action_space": 2}
        return (Trajectories.from_arrays(seen, None, lengths=lengths, **spaces),)

    return design


def duels(episodes: int, states: int) -> Callable[[], tuple[TrajectoryPairs]]:
    """Every episode of `wandering`, with random actions, beside the next six."""

    def design() -> tuple[TrajectoryPairs]:
        (blank,) = wandering(episodes, states)()
        seen = blank.with_actions(torch.randint(0, 2, (int(blank.lengths.sum()),)))
        first = torch.arange(episodes).repeat(6)
        second = (first + torch.arange(1, 7).repeat_interleave(episodes)) % episodes
        return (TrajectoryPairs.among(seen, first, second),)

    return design


def drifting(episodes: int) -> Callable[[], tuple[Trajectories]]:
    """Episodes of three to seven steps on a line, whose actions are numbers on it."""

    def design() -> tuple[Trajectories]:
        lengths = torch.arange(episodes) % 5 + 3
        seen = torch.randn(int(lengths.sum()) + episodes, 1)
        line = Box(-torch.inf, torch.inf, (1,))
        return (Trajectories.from_arrays(seen, None, lengths=lengths, action_space=line),)

    return design


def league(teams: int, games: int) -> Callable[[], tuple[Comparisons]]:
    """Every team meets every other at home, so many times."""

    def design() -> tuple[Comparisons]:
        pairs = [(i, j) for i in range(teams) for j in range(teams) if i != j]
        first, second = zip(*pairs, strict=True)
        return (Comparisons.from_arrays(first, second, total=games, home=1),)

    return design


def judged(items: int, judges: int, times: int) -> Callable[[], tuple[Comparisons]]:
    """Every judge compares every pair, so many times."""

    def design() -> tuple[Comparisons]:
        rows = [(i, j, k) for i in range(items) for j in range(i) for k in range(judges)]
        first, second, judge = zip(*rows, strict=True)
        return (Comparisons.from_arrays(first, second, total=times, annotator=judge),)

    return design


def races(runners: int, number: int) -> Callable[[], tuple[Rankings]]:
    """Races of three or four runners in turn."""

    def design() -> tuple[Rankings]:
        lists = [[(r + k) % runners for k in range(3 + r % 2)] for r in range(number)]
        return (Rankings.from_lists(lists, items=range(runners), decided=False),)

    return design


def ring(n_states: int) -> TabularMDP:
    """Rooms in a ring: a step leads on or stays, and fails one time in five."""
    stay, on = torch.eye(n_states), torch.eye(n_states).roll(1, 1)
    moves = torch.stack([0.8 * stay + 0.2 * on, 0.2 * stay + 0.8 * on], 1)
    return TabularMDP(moves, torch.zeros(n_states), 0.8, 0)


# All scores of a softmax may move together; a wide prior makes that direction a long one.
UNIT_PRIORS = SoftmaxRegression(2, intercept_scale=1.0, coefficients_scale=1.0)


PEOPLE = [
    Config(
        name="bradley-terry",
        program=BradleyTerry(4, ties="davidson", home_advantage=True),
        truth={"ability": [0.9, 0.2, -0.3, -0.8], "home_advantage": 0.4, "tie": 0.7},
        design=league(4, 40),
        bind=lambda counts, data: (data.with_counts(counts),),
        plate="comparison",
    ),
    Config(
        name="crowd-bradley-terry",
        program=CrowdBradleyTerry(4),
        truth={"ability": [1.5, 0.5, -0.6, -1.4], "reliability": [0.95, 0.9, 0.6]},
        design=judged(4, 3, 400),
        bind=lambda counts, data: (data.with_counts(counts),),
        plate="comparison",
        latents=True,
        options={
            "nuts": {"jit": True, "warmup": 250},
            "svi": {"max_iter": 1500},
        },
    ),
    Config(
        name="plackett-luce",
        program=PlackettLuce(5),
        truth={"ability": [1.0, 0.4, 0.0, -0.5, -0.9]},
        design=races(5, 150),
        bind=lambda order, data: (data.with_order(order),),
        plate="ranking",
    ),
    Config(
        name="dawid-skene",
        program=DawidSkene(2),
        truth={
            "prevalence": [0.4, 0.6],
            "confusion": [
                [[0.9, 0.1], [0.15, 0.85]],
                [[0.8, 0.2], [0.1, 0.9]],
                [[0.85, 0.15], [0.2, 0.8]],
                [[0.88, 0.12], [0.18, 0.82]],
                [[0.8, 0.2], [0.15, 0.85]],
            ],
        },
        design=crowd(160, 5, 2),
        bind=lambda labels, annotations: (annotations.with_labels(labels),),
        plate="task",
        latents=True,
        options={"nuts": {"jit": True, "draws": 150}},
    ),
    Config(
        name="pooled-multinomial",
        program=PooledMultinomial(2),
        truth={"prevalence": [0.4, 0.6], "confusion": [[0.85, 0.15], [0.2, 0.8]]},
        design=crowd(120, 5, 2),
        bind=lambda labels, annotations: (annotations.with_labels(labels),),
        plate="task",
        latents=True,
        options={"nuts": {"jit": True, "draws": 400}},
    ),
    Config(
        name="one-coin",
        program=OneCoin(3),
        truth={"prevalence": [0.3, 0.3, 0.4], "ability": [0.9, 0.8, 0.7, 0.85, 0.6]},
        design=crowd(120, 5, 3),
        bind=lambda labels, annotations: (annotations.with_labels(labels),),
        plate="task",
        latents=True,
        options=TRACED,
    ),
    Config(
        name="mace",
        program=MACE(3),
        truth={
            "prevalence": [0.3, 0.3, 0.4],
            "competence": [0.6, 0.75, 0.5, 0.7, 0.65],
            "spam": [
                [0.2, 0.3, 0.5],
                [0.4, 0.3, 0.3],
                [0.5, 0.2, 0.3],
                [0.3, 0.4, 0.3],
                [0.35, 0.4, 0.25],
            ],
        },
        design=crowd(160, 5, 3),
        bind=lambda labels, annotations: (annotations.with_labels(labels),),
        plate="task",
        latents=True,
        options=TRACED_SHORT,
    ),
    Config(
        name="glad",
        program=GLAD(2, ability_prior=(1.5, 0.5), easiness_prior=(0.0, 0.3)),
        truth={
            "ability": [1.2, 2.0, 0.9, 1.6, 1.4],
            "easiness": [0.8, 1.0, 1.3, 0.9, 1.1, 0.7] * 3,
        },
        design=crowd(18, 5, 2),
        bind=lambda labels, annotations: (annotations.with_labels(labels),),
        latents=True,
        # Twice the abilities and half the easiness are the same likelihood.
        unfit=frozenset({"mle", "em"}),
        options={**TRACED_SHORT, "svi": {"max_iter": 800}},
    ),
    Config(
        name="hierarchical-dawid-skene",
        program=HierarchicalDawidSkene(2, spread_prior=0.5),
        truth={
            "prevalence": [0.4, 0.6],
            "population": [[0.9, 0.1], [0.12, 0.88]],
            "spread": [0.5, 0.4],
            "deviation": [
                [[0.4, -0.3], [-0.5, 0.2]],
                [[-0.6, 0.5], [0.3, -0.2]],
                [[0.2, 0.3], [0.6, 0.1]],
                [[-0.1, -0.4], [-0.3, 0.4]],
            ],
        },
        design=crowd(120, 4, 2),
        bind=lambda labels, annotations: (annotations.with_labels(labels),),
        plate="task",
        latents=True,
        # Any population gives the same tables with other deviations.
        unfit=frozenset({"mle", "em"}),
        options={"nuts": {"jit": True, "draws": 200, "warmup": 200, "target_accept": 0.9}},
    ),
    Config(
        name="learning-from-crowds",
        program=LearningFromCrowds(2, UNIT_PRIORS),
        truth={
            "intercept": [0.2, -0.2],
            "coefficients": [[1.0, -0.5], [-1.0, 0.5]],
            "confusion": [
                [[0.9, 0.1], [0.15, 0.85]],
                [[0.8, 0.2], [0.1, 0.9]],
                [[0.85, 0.15], [0.2, 0.8]],
                [[0.88, 0.12], [0.18, 0.82]],
            ],
        },
        design=described_crowd(150, 4, 2),
        bind=lambda labels, annotations: (annotations.with_labels(labels),),
        plate="task",
        latents=True,
        # The likelihood knows differences between classes alone; NUTS takes minutes.
        unfit=frozenset({"mle", "em", "nuts"}),
    ),
    Config(
        name="feature-dependent-crowd",
        program=FeatureDependentCrowd(2, UNIT_PRIORS),
        truth={
            "intercept": [0.2, -0.2],
            "coefficients": [[1.0, -0.5], [-1.0, 0.5]],
            "expertise_intercept": [1.5, 1.8, 1.2, 2.0],
            "expertise_coefficients": [[1.0, 0.0], [-1.0, 0.3], [0.0, 0.8], [0.5, -0.5]],
        },
        design=described_crowd(150, 4, 2),
        bind=lambda labels, annotations: (annotations.with_labels(labels),),
        plate="task",
        latents=True,
        unfit=frozenset({"mle", "em", "nuts"}),
    ),
    Config(
        name="tabular-policy",
        program=TrajectoryModel(TabularPolicy(3, 2)),
        truth={"policy": [[0.2, 0.8], [0.5, 0.5], [0.7, 0.3]]},
        design=wandering(60, 3),
        bind=lambda actions, trajectories: (trajectories.with_actions(actions),),
        plate="step",
        options=TRACED_SHORT,
    ),
    Config(
        name="maxent-irl",
        # All rooms but one: a constant on all of them changes no policy.
        program=MaxEntIRL(ring(3), torch.eye(3)[:, 1:], horizon=9),
        truth={"reward_weights": [1.0, -0.5]},
        design=wandering(60, 3),
        bind=lambda actions, trajectories: (trajectories.with_actions(actions),),
        plate="step",
        options={"nuts": {"jit": True, "draws": 200}},
    ),
    Config(
        name="trajectory-preference",
        program=TrajectoryPreference(LinearReward(torch.eye(3)[:, 1:]), discount=0.9),
        truth={"reward_weights": [1.0, -0.5]},
        design=duels(60, 3),
        bind=lambda preferred, pairs: (pairs.with_preferred(preferred),),
        plate="comparison",
        options={"nuts": {"jit": True, "warmup": 200}},
    ),
    Config(
        name="direct-preference",
        program=DirectPreference(TabularPolicy(3, 2), beta=1.0),
        truth={"policy": [[0.2, 0.8], [0.5, 0.5], [0.7, 0.3]]},
        design=duels(60, 3),
        bind=lambda preferred, pairs: (pairs.with_preferred(preferred),),
        plate="comparison",
        options=TRACED,
    ),
    Config(
        name="mixture-policy",
        program=TrajectoryModel(MixturePolicy(GaussianPolicy(1), 2, per="episode")),
        truth={
            "mode_weights": [0.4, 0.6],
            "intercept": [[-1.0], [1.5]],
            "coefficients": [[[0.8]], [[-0.5]]],
            "scale": [[0.7], [0.5]],
        },
        design=drifting(50),
        bind=lambda actions, trajectories: (trajectories.with_actions(actions),),
        plate="episode",
        order={"intercept": 0, "mode_weights": 0, "coefficients": 0, "scale": 0},
        latents=True,
        options=TRACED,
    ),
]
