"""One head, and the coin can never show tails: the boundary, log 0, and two ways out.

After one head the likelihood is greatest at p = 1. That estimate calls the next tail impossible,
and no later data can be more wrong than that: log 0. A Beta(2, 2) prior (one head and one tail
imagined before) moves the mode to 2/3; the whole posterior, not its mode, predicts.
"""

import warnings

import numpy as np
import torch
from _figures import COLOURS, canvas, output_folder, save
from scipy import stats

from likely.inference import MAP, MLE, NUTS, BoundaryWarning, Program
from likely.models import BernoulliModel


def main():
    output = output_folder(__doc__)
    head = torch.tensor([1.0])
    prior = BernoulliModel(alpha=2.0, beta=2.0)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        mle = MLE().fit(BernoulliModel(), head)
    said = next(w.message for w in caught if issubclass(w.category, BoundaryWarning))
    mode = MAP().fit(prior, head)
    posterior = NUTS(draws=1500, warmup=300, chains=2, cores=1).fit(prior, head)
    draws = posterior.draws["probability"].flatten().numpy()
    exact = stats.beta(3, 2)  # Beta(2 + 1, 2)
    estimates = {
        "MLE": float(mle.params["probability"]),
        "MAP, Beta(2, 2)": float(mode.params["probability"]),
        "posterior mean": float(posterior.params["probability"]),
    }
    print("One head. The engine says of the MLE:")
    print(f"  BoundaryWarning: {said}\n")
    print("  estimate           p(head)   log p of the next flip being a tail")
    scores = {name: float(stats.bernoulli(p).logpmf(0)) for name, p in estimates.items()}
    for name, p in estimates.items():
        print(f"  {name:16} {p:9.4f}   {scores[name]:9.4f}")
    error = draws.std() / posterior.diagnostics["ess_min"] ** 0.5
    low, high = np.quantile(draws, [0.03, 0.97])
    print("\nThe posterior is Beta(3, 2), its mean 3/5 and its mode 2/3 exactly.")
    print(f"NUTS: mean within 4 Monte Carlo errors of 3/5: {abs(draws.mean() - 0.6) < 4 * error};")
    print(f"  94 % of its draws lie between {low:.2f} and {high:.2f}")
    certain = {"probability": torch.tensor(1.0, dtype=torch.float64)}
    clamped = float(Program(BernoulliModel(), torch.tensor([0.0])).log_likelihood(certain))
    print(
        f"\ntorch's Bernoulli says {clamped:.2f} for a tail at p = 1: it keeps p an epsilon off the"
    )
    print("edge, so that training goes on. The number is the epsilon's, not the data's.")

    figure, (left, right) = canvas()
    grid = np.linspace(0.0, 1.0, 201)
    left.plot(grid, 2 * grid, color=COLOURS[1], label="likelihood of one head (× 2)")
    left.plot(1, 2, "o", color=COLOURS[1], clip_on=False, zorder=5)
    left.hist(
        draws, np.linspace(0, 1, 26), density=True, color=COLOURS[0], alpha=0.25, label="NUTS draws"
    )
    left.plot(grid, exact.pdf(grid), color=COLOURS[0], label="posterior, Beta(3, 2)")
    for p, style, name in ((2 / 3, "--", "MAP 2/3"), (3 / 5, ":", "posterior mean 3/5")):
        left.plot([p, p], [0.0, exact.pdf(p)], color=COLOURS[2], ls=style, label=name)
    left.set_ylim(0.0, 3.3)
    left.set_xlabel("probability of heads p")
    left.set_ylabel("density")
    left.set_title("The likelihood has its maximum at the edge", loc="left", fontsize=10)
    left.legend(frameon=False, loc="upper left", fontsize=8)
    tails = np.arange(0, 4)
    for (name, p), colour, mark in zip(
        estimates.items(), (COLOURS[1], COLOURS[2], COLOURS[0]), "osD", strict=True
    ):
        with np.errstate(divide="ignore"):
            # Three flips in a given order, k of them tails.
            values = [stats.bernoulli(p).logpmf([1] * (3 - k) + [0] * k).sum() for k in tails]
        finite = np.isfinite(values)
        right.plot(tails[finite], np.array(values)[finite], marker=mark, color=colour, label=name)
    right.annotate("MLE: −∞ as soon as\nthere is one tail", (0.45, -4.6), color=COLOURS[1])
    arrow = {"arrowstyle": "->", "color": COLOURS[1]}
    right.annotate("", (0.35, -4.9), (0.02, -0.05), arrowprops=arrow)
    right.set_ylim(-5.0, 0.3)
    right.set_xticks(tails)
    right.set_xlabel("tails among the next three flips")
    right.set_ylabel("log-likelihood of the next flips (nats)")
    right.set_title("One later tail costs the MLE everything", loc="left", fontsize=10)
    right.legend(frameon=False, loc="upper right")
    save(figure, output, "one_head")


if __name__ == "__main__":
    main()
