"""Two roads to one policy: direct preference optimisation, and a reward with planning after it.

Paths over a board of 4 × 4 cells, right or down, from one corner to the other. Somebody compares
pairs of random paths by their returns. Where every step goes where it is meant to, the policy of
DPO is the KL-regularised optimum of the reward learnt from the same preferences, but for a trace of
prior, and both come to that of the true reward. Where a step may slip, they part: a path's return
is then the policy's doing and luck, R = V(s_0) + Σ β log π/π0 − Σ (E V(s') − V(s')), and DPO, which
sees actions alone, credits the actions with the luck. A reward of cells does not.

The last figure is about the log-probabilities that a fit ends with, by β: from some β on both kinds
of path become less likely than under the reference, the preferred ones as well.
"""

from __future__ import annotations

import numpy as np
import torch
from _figures import COLOURS, canvas, output_folder, save

from likely.envs import TabularMDP, state_occupancy
from likely.inference import MAP
from likely.inference.active import Queries
from likely.inference.imitation import CHOICES, SimulatedLabeller, improve, play
from likely.models import TabularPolicy, TrajectoryPairs, TrajectoryPreference
from likely.models.preference import DirectPreference, TabularReward

SIZE, HEAT = 4, 1.0
SLIPS = (0.0, 0.3)
COUNTS = (300, 1000, 3000, 10000)
BETAS = np.geomspace(30.0, 0.1, 12)
# Hardly a prior: it keeps what no pair tells, such as the last cell's actions, from drifting.
PSEUDO, WIDE = 1.02, 30.0


def lattice(slip):
    """The board; with probability ``slip`` a step goes the other way."""
    last = SIZE * SIZE - 1
    rows = torch.zeros(last + 1, 2, last + 1)
    for s in range(last):
        i, j = divmod(s, SIZE)
        right = s + 1 if j + 1 < SIZE else s + SIZE
        down = s + SIZE if i + 1 < SIZE else s + 1
        for action, (there, other) in enumerate(((right, down), (down, right))):
            rows[s, action, there] += 1 - slip
            rows[s, action, other] += slip
    rows[last, :, last] = 1
    reward = torch.randn(last + 1, generator=torch.Generator().manual_seed(1))
    reward[last] = 0
    return TabularMDP(rows.double(), reward.double(), 1.0, 0, sink=last)


def compared(mdp, count, seed=0):
    """Random paths in pairs, and which of the two was preferred."""
    uniform = torch.full((mdp.n_states, 2), 0.5)
    seen = play(mdp, uniform, 2 * count, seed, 2 * SIZE)
    places = torch.arange(count)
    pairs = TrajectoryPairs.among(seen, places, places + count)
    answers = SimulatedLabeller(pairs, seed=seed)(Queries(np.arange(count), classes=CHOICES))
    return pairs.with_preferred(answers == 0)


def policies(mdp, pairs):
    """DPO; RLHF with rewards of cells and actions, and of cells alone; and the true optimum."""
    n, base = mdp.n_states, torch.full((mdp.n_states, 2), 0.5, dtype=torch.float64)
    direct = DirectPreference(TabularPolicy(n, 2, PSEUDO), base, beta=HEAT)
    found = {"DPO": MAP().fit(direct, pairs).params["policy"]}
    rewards = {
        "RLHF, r(s, a)": TabularReward(n, 2, WIDE),
        "RLHF, r(s)": TabularReward(n, None, WIDE),
    }
    for name, reward in rewards.items():
        fit = MAP().fit(TrajectoryPreference(reward), pairs)
        found[name] = improve(mdp, fit.params["reward_table"], base, HEAT).policy
    return found, improve(mdp, mdp.reward, base, HEAT).policy


def distance(mdp, policy, other):
    """Total variation of two policies' actions, a mean over the cells that the second visits."""
    visits = state_occupancy(mdp, other) * mdp.alive
    return float((visits * (policy - other).abs().sum(-1) / 2).sum() / visits.sum())


def learning(mdp, pairs):
    """Gains in log-probability of preferred and other paths, from a strong to a weak penalty."""
    base, rows = torch.full((mdp.n_states, 2), 0.5, dtype=torch.float64), []
    for beta in BETAS:
        direct = DirectPreference(TabularPolicy(mdp.n_states, 2, PSEUDO), base, beta=float(beta))
        rows.append(direct.report(MAP().fit(direct, pairs).params, pairs).gains)
    return np.array(rows)


def main():
    folder = output_folder(__doc__)
    table = {}
    for slip in SLIPS:
        mdp = lattice(slip)
        print(f"\nA step slips with probability {slip:g}. Total variation from the true optimum")
        print(f"{'pairs':>8} {'DPO':>8} {'r(s, a)':>8} {'r(s)':>8}   DPO from RLHF with r(s, a)")
        for count in COUNTS:
            found, optimum = policies(mdp, compared(mdp, count))
            row = [distance(mdp, policy, optimum) for policy in found.values()]
            same = distance(mdp, found["DPO"], found["RLHF, r(s, a)"])
            table[slip, count] = dict(zip(found, row, strict=True))
            print(f"{count:8} " + " ".join(f"{value:8.4f}" for value in row) + f"   {same:.5f}")
    pairs = compared(lattice(0.0), 1000)
    gains = learning(lattice(0.0), pairs)
    print("\nMean change of log-probability from the reference, 1000 pairs, by beta")
    print("beta     ", " ".join(f"{beta:7.2f}" for beta in BETAS))
    print("preferred", " ".join(f"{value:7.3f}" for value in gains[:, 0]))
    print("other    ", " ".join(f"{value:7.3f}" for value in gains[:, 1]))

    figure, axes = canvas(3, width=13.0, height=3.8)
    for ax, slip in zip(axes[:2], SLIPS, strict=True):
        for (name, style), colour in zip(
            {"DPO": "o-", "RLHF, r(s, a)": "s--", "RLHF, r(s)": "^-"}.items(), COLOURS, strict=False
        ):
            values = [table[slip, count][name] for count in COUNTS]
            ax.loglog(COUNTS, values, style, ms=5, color=colour, label=name)
        ax.axhline(0.02, color="0.4", lw=1.0, ls=":")
        ax.set(ylim=(5e-4, 0.3), xlabel="preferences", ylabel="total variation from the optimum")
    axes[0].set_title("Steps go where they are meant to")
    axes[1].set_title("Steps slip with probability 0.3")
    axes[0].legend(frameon=False, loc="lower left")
    axes[2].plot(BETAS, gains[:, 0], "o-", ms=4, color=COLOURS[0], label="preferred")
    axes[2].plot(BETAS, gains[:, 1], "o-", ms=4, color=COLOURS[1], label="other")
    axes[2].axhline(0, color="0.4", lw=1.0, ls=":")
    axes[2].set(xscale="log", xlabel="β of DPO", ylabel="mean log π − log π0, nats")
    axes[2].invert_xaxis()
    axes[2].set_title("Both become less likely")
    axes[2].legend(frameon=False, loc="lower left")
    save(figure, folder, "dpo_vs_rlhf")


if __name__ == "__main__":
    main()
