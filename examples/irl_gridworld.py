"""What does somebody want? Rewards from the way they walk.

A walker crosses four rooms with slippery floors: the goal is worth 4, each of two traps costs 4,
and every step a little. We see where it goes, never what it gets. `MaxEntIRL` says that actions
are softly optimal for a reward that has a weight for each cell, and any engine fits it:

* `MLE` finds a reward under which the walk is most probable. Some rewards are never told apart: a
  cell that nobody passes may be worth anything, and a constant can be moved from the steps to the
  ends. With a few hundred walks it also explains noise.
* `Laplace` gives the posterior: its mean is drawn to zero where nothing was seen, and its standard
  deviation says where that is. `SVI` approximates the same posterior otherwise.

Then the rewards are judged by what matters: what the policies they lead to earn under the truth.

    python examples/irl_gridworld.py
"""

import warnings

import numpy as np
import torch
from _figures import canvas, output_folder, save
from pyro.poutine import condition

from likely.envs import GridWorld, evaluate
from likely.inference import MAP, MLE, SVI, ConvergenceWarning, DegenerateWarning, Laplace
from likely.models import MaxEntIRL, Visits

TEMPERATURE, SCALE, EPISODES, STEPS = 0.05, 1.0, 200, 100
folder = output_folder(__doc__)
torch.manual_seed(0)

world = GridWorld(
    slip=0.1,
    rewards={".": -0.05, "S": -0.05, "G": 4.0, "T": -4.0},
    rewarded="departure",
    discount=0.95,
)
mdp = world.mdp
truth = mdp.reward

# -- what is seen ---------------------------------------------------------------------------------

walker = MaxEntIRL(mdp, "state", temperature=TEMPERATURE, prior_scale=SCALE)
expert = walker.policy({"reward_weights": truth[:-1]})
# The program itself, run forward at the truth.
seen = condition(walker, {"reward_weights": truth[:-1]})(episodes=EPISODES, steps=STEPS)
data = Visits.from_trajectories(mdp, seen)
passed = data.counts.sum(-1)[:-1]
print(f"{len(seen)} walks, {seen.n_steps} steps; {int((passed == 0).sum())} of {len(passed)} cells")
print("were never passed.")

# -- rewards --------------------------------------------------------------------------------------

with warnings.catch_warnings():
    # Flat directions, as said above; the size of a reward for a cell nobody passes has no limit.
    warnings.simplefilter("ignore", ConvergenceWarning)
    warnings.simplefilter("ignore", DegenerateWarning)
    fits = {"MLE": MLE().fit(walker, data), "MAP": MAP().fit(walker, data)}
posterior = Laplace(draws=400).fit(walker, data)
start = {"init": fits["MAP"], "learning_rate": 0.02, "max_iter": 1200}
variational = SVI(guide="multivariate", draws=200, **start).fit(walker, data)
draws = posterior.draws["reward_weights"].flatten(0, 1)
mean, sd = draws.mean(0), draws.std(0)

print("\nWhat policies earn under the true reward (softly optimal for each reward):")
best = float(mdp.initial @ evaluate(mdp, expert).value)
rewards = {
    "the walker": {"reward_weights": truth[:-1]},
    "MLE": fits["MLE"].params,
    "MAP": fits["MAP"].params,
    "posterior mean": {"reward_weights": mean},
}
for name, params in rewards.items():
    policy = walker.policy(params)
    value = float(mdp.initial @ evaluate(mdp, policy).value)
    print(f"  {name:15s} {value:7.4f}   {100 * value / best:6.1f} % of the walker's")
for name, fit in {"Laplace": posterior, "SVI": variational}.items():
    chosen = fit.draws["reward_weights"].flatten(0, 1)[:100]
    each = evaluate(mdp, walker.policy({"reward_weights": chosen})).value @ mdp.initial
    low, high = np.quantile(each.numpy(), [0.03, 0.97])
    title = f"{name} draws"
    print(f"  {title:15s} {float(each.mean()):7.4f}   94 % of them from {low:.4f} to {high:.4f}")
print("A cell that nobody goes to may be bad, but not very good: the posterior is lopsided there.")
print("The normal curve of Laplace is not, and a policy sits down where a draw happens to promise")
print("most. SVI avoids what the data exclude, and is too narrow instead.")

inside = ((truth[:-1] - mean).abs() < 1.881 * sd).double().mean()
print(f"\nThe truth lies in the 94 % interval of {100 * float(inside):.0f} % of the cells.")
usual = passed >= passed.median()
print(f"Posterior sd: {float(sd[usual].mean()):.3f} on the half of the cells that is passed most,")
print(f"{float(sd[~usual].mean()):.3f} on the other; the prior's is {SCALE}.")

# -- maps -----------------------------------------------------------------------------------------


def picture(values):
    """Cells of the grid [H, W]; walls are missing."""
    found = np.full((len(world.layout), len(world.layout[0])), np.nan)
    for (row, column), value in zip(world.grid.cells, values.tolist(), strict=True):
        found[row, column] = value
    return found


figure, axes = canvas(4, width=13.0, height=3.7)
shown = [
    ("True reward", truth[:-1], "RdBu", (-2.0, 2.0)),
    ("Maximum likelihood", fits["MLE"].params["reward_weights"], "RdBu", (-2.0, 2.0)),
    ("Posterior mean", mean, "RdBu", (-2.0, 2.0)),
    ("Posterior sd", sd, "viridis", (0.0, SCALE)),
]
for ax, (title, values, colours, limits) in zip(axes, shown, strict=True):
    drawn = ax.imshow(picture(values), cmap=colours, vmin=limits[0], vmax=limits[1])
    ax.set(title=title, xticks=[], yticks=[])
    ax.set_facecolor("0.6")
    for spine in ax.spines.values():
        spine.set_visible(False)
    for mark, cell in zip(world.grid.marks, world.grid.cells, strict=True):
        if mark in "SGT":
            disc = {"boxstyle": "circle,pad=0.12", "facecolor": "white", "linewidth": 0}
            ax.text(*cell[::-1], mark, ha="center", va="center", fontsize=7, bbox=disc)
    ends = "both" if colours == "RdBu" else "neither"
    figure.colorbar(drawn, ax=ax, shrink=0.75, extend=ends, label="reward of a step in the cell")
save(figure, folder, "irl_gridworld")
