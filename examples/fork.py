"""A tree in the road: which divergence imitates an expert who passes it left or right.

Experts steer left of the tree or right of it, equally often, and never straight. Forward KL, which
is maximum likelihood, has to cover both: a policy with one mode then aims in between, at the tree.
Reverse KL keeps to what experts do and may leave some of it out: it settles for one side. A mixture
of two policies, one mode an episode, is both sides.
"""

import numpy as np
import torch
from _figures import COLOURS, canvas, output_folder, save

from likely.envs import fork_expert, rollout
from likely.inference import EM
from likely.inference.imitation import behaviour_cloning, distribution_matching
from likely.models import GaussianPolicy, MixturePolicy

ENV = "likely/Fork-v0"
EPISODES = 500
HALF_WIDTH = 0.75


def main():
    output = output_folder(__doc__)
    demonstrations = rollout(ENV, fork_expert(0), 200, seed=1)
    one_mode = GaussianPolicy(1)
    two_modes = MixturePolicy(GaussianPolicy(1), 2, per="episode")

    forward = distribution_matching(demonstrations, one_mode, "forward")
    mixture = behaviour_cloning(demonstrations, two_modes, EM(restarts=5))
    reverse = [
        distribution_matching(
            demonstrations, one_mode, "reverse", env=ENV, density=mixture,
            iterations=100, episodes=64, radius=0.05, seed=seed,
        )
        for seed in (0, 1)
    ]  # fmt: skip
    policies = {
        "experts": fork_expert(5),
        "forward KL, one mode": forward.policy,
        "reverse KL, one mode": reverse[0].policy,
        "reverse KL, other seed": reverse[1].policy,
        "forward KL, two modes": mixture.policy,
    }
    played = {name: rollout(ENV, policy, EPISODES, 99) for name, policy in policies.items()}
    crashes = {name: float((seen.returns() < 0).double().mean()) for name, seen in played.items()}

    print(f"200 demonstrations, {EPISODES} episodes each:\n")
    print("  policy                    crashes   passes left   passes right")
    for name, seen in played.items():
        offsets = ends(seen)
        left, right = ((sign * offsets >= HALF_WIDTH).mean() for sign in (-1, 1))
        print(f"  {name:24} {crashes[name]:8.1%}   {left:11.1%}   {right:12.1%}")
    print(f"\nLog 2, which leaving out a side costs: {np.log(2):.2f} nats.")
    for number, found in enumerate(reverse):
        cost = -found.history["reward"].tail(10).mean()
        print(f"Reverse KL that was reached, seed {number}: {cost:.2f} nats")

    figure, axes = canvas(4, width=11.0, height=3.7, sharex=True, sharey=True)
    for ax, name in zip(axes, [n for n in played if "other" not in n], strict=True):
        paths = [episode.states.numpy() for episode in played[name][:60]]
        for path in paths:
            colour = COLOURS[1] if abs(path[-1, 1]) < HALF_WIDTH - 1e-6 else COLOURS[0]
            ax.plot(path[:, 1], 1 - path[:, 0], color=colour, lw=0.8, alpha=0.5)
        ax.plot([-HALF_WIDTH, HALF_WIDTH], [1, 1], color=COLOURS[2], lw=7, solid_capstyle="butt")
        ax.set(xlabel="offset", xlim=(-1.3, 1.3), ylim=(-0.03, 1.08))
        ax.set_title(f"{name}\n{crashes[name]:.0%} crash", fontsize=10)
    axes[0].set_ylabel("way to the tree")
    axes[0].text(0, 0.93, "tree", ha="center", va="top", color=COLOURS[2])
    save(figure, output, "fork")


def ends(seen):
    """Offsets at the tree, [episodes]."""
    return torch.cat([episode.states[-1:, 1] for episode in seen]).numpy()


if __name__ == "__main__":
    main()
