"""Reinforcement learning from human feedback on a grid world, from demonstrations to a policy.

A careless expert shows twenty episodes. Its clone plays two hundred, somebody compares pairs of
them, a reward is learnt from the answers, and the policy that earns most of it near the clone is
found exactly. Then the same with questions that the posterior over rewards chooses. Last, a reward
with a number for every cell: as the penalty for leaving the clone is lifted, the learnt return goes
on rising while the true one collapses, since a cell that is thought a little too good can be stayed
in for ever. A reward that is pessimistic where the posterior is unsure puts this off.
"""

from __future__ import annotations

import numpy as np
import torch
from _figures import COLOURS, canvas, output_folder, save

from likely.envs import GridWorld, objective
from likely.inference import MAP
from likely.inference.imitation import (
    SimulatedLabeller,
    behaviour_cloning,
    candidate_pairs,
    improve,
    learn_reward,
    over_optimisation,
    play,
    rlhf,
)
from likely.models import TabularPolicy, TrajectoryPreference
from likely.models.preference import LinearReward

LAYOUT = ["S.....", "..##..", "..T...", "....#.", "T.....", "...T.G"]
PAID = {"G": 1.0, "T": -1.0, ".": -0.02, "S": -0.02}
FEATURES = ("kind", "distance", "position")
HORIZON, RATIONALITY, TEMPERATURE = 40, 5.0, 0.01
PREFERENCES, SEEDS = 500, 3
ASKED, CURVES = 80, 10
ASKING = {"at random": "random", "by BALD": "bald", "BatchBALD": "batch_bald"}
HEATS = np.geomspace(1.0, 0.004, 24)


def world_of(features):
    """The grid; its reward is paid whenever a step starts in a cell."""
    options = {"slip": 0.1, "discount": 0.95, "rewarded": "departure", "rewards": PAID}
    return GridWorld(LAYOUT, features=features, **options)


def demonstrations(mdp, seed):
    """Twenty episodes of an expert who does anything in three steps of twenty."""
    expert = 0.85 * mdp.soft_value_iteration(0.02).policy + 0.15 / mdp.n_actions
    return play(mdp, expert, 20, seed, HORIZON), float(objective(mdp, expert))


def labeller(mdp, seed):
    """Somebody who prefers the higher return, with the errors of p = sigmoid(β (R − R'))."""
    return lambda pairs: SimulatedLabeller(pairs, mdp.discount, RATIONALITY, seed)


def pipeline(world, seed):
    """Return of the clone, and of the policy from 500 preferences."""
    mdp, reward = world.mdp, LinearReward(world.features, names=world.feature_names)
    seen, _ = demonstrations(mdp, seed)
    options = {"horizon": HORIZON, "preferences": PREFERENCES, "seed": seed}
    options |= {"rationality": RATIONALITY, "temperature": TEMPERATURE, "acquisition": "random"}
    found = rlhf(mdp, seen, reward, labeller(mdp, seed), **options)
    return float(objective(mdp, found.base.table)), float(objective(mdp, found.table)), found


def setting(world, seed, scale=1.0):
    """Clone, candidates and program of one training."""
    mdp = world.mdp
    tables = TabularPolicy(mdp.n_states, mdp.n_actions, concentration=1.5)
    base = behaviour_cloning(demonstrations(mdp, seed)[0], tables, MAP())
    pairs = candidate_pairs(play(mdp, base.policy, 200, seed + 100, HORIZON), 2000, seed)
    program = TrajectoryPreference(LinearReward(world.features, scale), mdp.discount, RATIONALITY)
    return base, pairs, program


def curve(world, seed, acquisition):
    """Share of the best return by the number of preferences, in steps of five."""
    mdp, best, shares = world.mdp, optimum(world), []
    base, pairs, program = setting(world, seed)

    def look(learned):
        policy = improve(mdp, learned.table, base, TEMPERATURE).policy
        shares.append(float(objective(mdp, policy)) / best)

    options = {"start": 5, "batch": 5, "seed": seed, "acquisition": acquisition, "callback": look}
    learn_reward(pairs, labeller(mdp, seed)(pairs), program, preferences=ASKED, **options)
    return shares


def lasting(numbers, shares):
    """Number of preferences from which on the share stays at 95 %."""
    below = np.flatnonzero(shares < 0.95)
    after = below[-1] + 1 if len(below) else 0
    return float(numbers[after]) if after < len(numbers) else float("inf")


def optimum(world):
    """The best return there is."""
    return float(objective(world.mdp, world.mdp.value_iteration().policy))


def main():
    folder = output_folder(__doc__)
    world = world_of(FEATURES)
    best = optimum(world)
    demonstrated = demonstrations(world.mdp, 0)[1]
    print(f"Return of the best policy {best:.3f}, of the demonstrator {demonstrated:.3f}")
    print(f"\n{PREFERENCES} preferences: return of the clone, of the policy, share of the best")
    for seed in range(SEEDS):
        base, earned, found = pipeline(world, seed)
        print(f"seed {seed}: {base:7.3f} {earned:7.3f} {earned / best:7.3f}")
    print("\nThe last one's reward against the true one, by kind of cell")
    states = torch.arange(world.mdp.n_states)
    true = world.mdp.expected_reward[:, 0]
    for value in sorted(set(true[world.mdp.alive > 0].tolist())):
        where = states[(true == value) & (world.mdp.alive > 0)]
        print(f"true {value:6.2f}: learnt {float(found.reward.table[where].mean()):6.2f}")

    print(f"\nMedian share of the best return over {CURVES} seeds, by preferences")
    numbers, shares = np.arange(5, ASKED + 1, 5), {}
    for name, acquisition in ASKING.items():
        shares[name] = np.array([curve(world, seed, acquisition) for seed in range(CURVES)])
        middle = np.median(shares[name], 0)
        reached = [lasting(numbers, row) for row in shares[name]]
        print(f"{name:10}", " ".join(f"{value:5.2f}" for value in middle))
        half, late = np.median(reached), sorted(reached)[-2]
        print(f"{'':10} above 95 % for good from {half:.0f} (median), {late:.0f} (all but one)")

    cells = world_of(("cell",))
    base, pairs, program = setting(cells, 0, 0.5)
    learned = learn_reward(
        pairs, labeller(cells.mdp, 0)(pairs), program, preferences=300, acquisition="random"
    )
    rewards = {"posterior mean": learned.table}
    rewards |= {f"mean − {k} sd": learned.pessimistic(k) for k in (1, 2)}
    rewards["quantile .1"] = learned.pessimistic(quantile=0.1)
    table = over_optimisation(cells.mdp, rewards, base, HEATS)
    print("\nA number for each cell, 300 preferences: gain over the clone, learnt and true")
    for name, rows in table.groupby("reward", sort=False):
        print(name)
        for column in ("kl", "learned", "true"):
            print(f"  {column:8}", " ".join(f"{value:6.2f}" for value in rows[column][::2]))

    figure, axes = canvas(3, width=13.0, height=3.8)
    for (name, rows), colour in zip(shares.items(), COLOURS, strict=False):
        axes[0].plot(numbers, rows.T, color=colour, lw=0.5, alpha=0.4)
        axes[0].plot(numbers, np.median(rows, 0), color=colour, lw=2.0, label=name)
    axes[0].axhline(0.95, color="0.4", lw=1.0, ls=":")
    axes[0].set(ylim=(-1.0, 1.05), xlabel="preferences", ylabel="true return / best return")
    axes[0].set_title("Which pairs to ask about: ten seeds, medians")
    axes[0].legend(frameon=False, loc="lower right")
    for ax, column in zip(axes[1:], ("learned", "true"), strict=True):
        for (name, rows), colour in zip(table.groupby("reward", sort=False), COLOURS, strict=False):
            ax.plot(rows["kl"], rows[column], "o-", ms=3, color=colour, lw=1.5, label=name)
        ax.axhline(0, color="0.4", lw=1.0, ls=":")
        ax.set(xscale="log", xlabel="KL from the clone, nats an episode")
        ax.set_ylabel("gain over the clone")
    axes[1].set_title("A number for each cell: learnt return")
    axes[2].set_title("True return of the same policies")
    axes[1].legend(frameon=False, loc="upper left")
    save(figure, folder, "rlhf_gridworld")


if __name__ == "__main__":
    main()
