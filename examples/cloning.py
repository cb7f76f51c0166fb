"""Behaviour cloning: how well an expert is copied, how errors compound, what is not known yet.

First CartPole's scripted expert, from ten of its steps to 50 episodes; the clone is a softmax
regression of its actions on the cart's state. Then two tightropes, walked by clones that take one
false step in a thousand: where a fall costs the rest of the episode, the gap to the expert grows
like the square of the horizon, and where the walker gets up again, like the horizon (Ross & Bagnell
2010). Last a grid world, and the posterior over policies after twelve episodes: the map shows how
much the expert's next action would tell, which is much where no demonstration went. REINFORCE,
the same program weighted by returns, then starts at the clone and goes where it earns more.
"""

from __future__ import annotations

import numpy as np
import torch
from _figures import COLOURS, canvas, output_folder, save

from likely.envs import GridWorld, TabularMDP, cartpole_expert, rollout
from likely.inference import MAP, VBEM
from likely.inference.imitation import (
    behaviour_cloning,
    cloning_gap,
    compounding,
    coverage,
    evaluate_returns,
    play,
    plot_compounding,
    plot_uncertainty,
    policy_gradient,
    policy_uncertainty,
)
from likely.models import SoftmaxPolicy, TabularPolicy

# Steps of an episode, and how many episodes.
DEMONSTRATIONS = ((10, 1), (30, 1), (100, 1), (500, 1), (500, 50))
SEEDS = 5
HORIZONS = (5, 10, 20, 50, 100, 200, 500)
ROPE = 10
WORLD = ["S......", "..##...", "..#....", "....#..", "......G"]


def cartpole():
    """Mean returns of the clones of five sets of demonstrations, by their number of steps."""
    rows = []
    for steps, count in DEMONSTRATIONS:
        clones = []
        for seed in range(SEEDS):
            seen = rollout("CartPole-v1", cartpole_expert, count, seed, max_steps=steps)
            # A wide prior: the demonstrations are separable, and the likelihood has no maximum.
            clones.append(behaviour_cloning(seen, SoftmaxPolicy(2, prior_scale=100.0), MAP()))
        earned = evaluate_returns("CartPole-v1", clones, episodes=20, seed=100)
        rows.append((steps * count, earned.returns.mean(-1).numpy()))
    return rows


def tightrope(recovers):
    """A rope on which action 0 goes on and action 1 falls; who lies on the ground earns nothing."""
    rows = torch.zeros(ROPE + 1, 2, ROPE + 1)
    places = torch.arange(ROPE)
    rows[places, 0, (places + 1) % ROPE] = 1
    rows[places, 1, ROPE] = 1
    rows[ROPE, :, 0 if recovers else ROPE] = 1
    reward = torch.ones(ROPE + 1)
    reward[ROPE] = 0
    return TabularMDP(rows, reward, 1.0, 0)


def tightropes():
    """Gaps by horizon of a clone with one false step in a thousand."""
    expert = torch.tensor([1.0, 0.0]).expand(ROPE + 1, 2)
    clone = torch.tensor([0.999, 0.001]).expand(ROPE + 1, 2)
    names = {"a fall is the end": False, "gets up again": True}
    return {
        name: compounding(tightrope(back), clone, expert, HORIZONS) for name, back in names.items()
    }


def gridworld():
    """The clone's posterior, and its uncertainty by cell."""
    world = GridWorld(WORLD, slip=0.1, discount=0.95)
    mdp = world.mdp
    expert = mdp.soft_value_iteration(0.02).policy
    seen = play(mdp, expert, 12, 0, 40)
    clone = behaviour_cloning(seen, TabularPolicy(mdp.n_states, mdp.n_actions), VBEM(draws=1000))
    unsure = policy_uncertainty(clone, torch.arange(mdp.n_states), draws=1000)
    states, _ = seen.state_action_pairs()
    visits = torch.bincount(states, minlength=mdp.n_states)
    return world, expert, seen, clone, unsure, visits


def main():
    folder = output_folder(__doc__)
    print(f"CartPole-v1, mean return of {SEEDS} clones")
    earned = cartpole()
    for steps, returns in earned:
        print(f"{steps:6} steps: {' '.join(f'{value:5.0f}' for value in returns)}")

    print("\nGap after T steps, one false step in a thousand")
    gaps = tightropes()
    for name, table in gaps.items():
        last = table[table["horizon"].between(10, 100)]
        slope = np.polyfit(np.log(last["horizon"]), np.log(last["gap"]), 1)[0]
        shown = ", ".join(f"{gap:.3g}" for gap in table["gap"])
        print(f"{name:18} {shown}; grows like T^{slope:.1f}")

    world, expert, seen, clone, unsure, visits = gridworld()
    mdp = world.mdp
    gap = cloning_gap(mdp, clone, expert)
    print(
        f"\nGrid world: disagreement {gap.disagreement:.3f}, gap {gap.gap:.3f}, at most "
        f"{gap.bound:.0f}"
    )
    shares = coverage(mdp, seen, expert, clone)
    print("visits to cells with a demonstration: expert {:.3f}, clone {:.3f}".format(*shares))
    known, new = visits >= 8, (visits == 0) & (mdp.alive > 0)
    print(
        f"information in the expert's next action: {float(unsure.policy[known].mean()):.2f} nats "
        f"where it was seen 8 times, {float(unsure.policy[new].mean()):.2f} where never"
    )
    better = policy_gradient(
        mdp,
        clone.policy.policy,
        init=clone,
        iterations=60,
        episodes=50,
        horizon=60,
        learning_rate=0.1,
    )
    after = cloning_gap(mdp, better, expert)
    ahead = "better" if after.gap < 0 else "worse"
    print(f"after 60 policy gradient steps it is {abs(after.gap):.3f} {ahead} than the expert")

    figure, axes = canvas(3, width=13.0, height=4.0)
    for steps, returns in earned:
        axes[0].plot([steps] * SEEDS, returns, "o", mfc="none", color=COLOURS[0])
    axes[0].plot([n for n, _ in earned], [np.mean(r) for _, r in earned], color=COLOURS[0], lw=1.0)
    axes[0].axhline(500, color="0.4", lw=1.0, ls=":")
    axes[0].set(xscale="log", ylim=(0, 520), xlabel="demonstrated steps", ylabel="return")
    axes[0].set_title("Clones of a CartPole expert")
    plot_compounding(gaps, axes=axes[1])
    axes[1].set_title("One false step in a thousand")
    cells = torch.tensor([*world.grid.cells, (-1, -1)])
    plot_uncertainty(
        unsure.policy,
        cells,
        label="information in the next action, nats",
        visits=visits,
        axes=axes[2],
    )
    axes[2].set_title("What the posterior over policies lacks")
    axes[2].set_xlabel("numbers: demonstrated steps in the cell")
    save(figure, folder, "cloning")


if __name__ == "__main__":
    main()
