"""A hundred flights and no collision: is the risk zero?

The MLE n / m says so, and warns that this is the edge of what is possible. The likelihood itself
says more: risks up to about 3 / m (the rule of three) would show no collision in one of twenty
such runs. Under a uniform prior the posterior is Beta(1, m + 1), its mean 1 / (m + 2).
"""

import warnings

import numpy as np
import torch
from _figures import COLOURS, canvas, output_folder, save
from scipy import stats
from scipy.optimize import brentq

from likely.inference import MLE, NUTS, BoundaryWarning, Program
from likely.models import BernoulliModel


def upper_bound(flights):
    """Risk at which no collision in so many flights has a probability of 5 %."""
    program = Program(BernoulliModel(), torch.zeros(flights))

    def excess(risk):
        value = torch.tensor(risk, dtype=torch.float64)
        return float(program.log_likelihood({"probability": value})) - np.log(0.05)

    return brentq(excess, 1e-9, 1 - 1e-9)


def main():
    output = output_folder(__doc__)
    sizes = (10, 100, 1000)
    print("No collision in m flights\n")
    print("     m   MLE   posterior mean by NUTS   1/(m+2)   95 % bound     3/m   posterior 95 %")
    bounds, means = [], []
    for flights in sizes:
        data = torch.zeros(flights)
        with warnings.catch_warnings():
            # That the estimate lies on the boundary is what this example is about.
            warnings.simplefilter("ignore", BoundaryWarning)
            risk = float(MLE().fit(BernoulliModel(), data).params["probability"])
        posterior = NUTS(draws=600, warmup=200, chains=2, cores=1).fit(BernoulliModel(), data)
        draws = posterior.draws["probability"].flatten()
        error = float(draws.std()) / posterior.diagnostics["ess_min"] ** 0.5
        means.append((float(draws.mean()), error))
        bounds.append(upper_bound(flights))
        upper = float(draws.quantile(0.95))
        print(
            f"  {flights:4d} {risk:5.1f} {means[-1][0]:13.5f} +- {error:.5f}"
            f"{1 / (flights + 2):10.5f} {bounds[-1]:12.5f} {3 / flights:7.5f} {upper:16.5f}"
        )
    crashed = torch.tensor([1.0] * 2 + [0.0] * 98)
    share = float(MLE().fit(BernoulliModel(), crashed).params["probability"])
    print(f"\nWith 2 collisions in 100 flights the MLE is n / m = {share:.4f}, inside the range.")

    figure, (left, right) = canvas()
    m = np.array(sizes)
    smooth = np.geomspace(8, 1300, 200)
    left.loglog(smooth, 3 / smooth, "--", color=COLOURS[1], lw=1.2, label="rule of three, 3 / m")
    left.plot(m, bounds, "s", color=COLOURS[1], label="95 % bound from the likelihood")
    left.plot(smooth, 1 / (smooth + 2), color=COLOURS[0], lw=1.2, label="1 / (m + 2)")
    centres, errors = np.array(means).T
    left.errorbar(
        m, centres, yerr=2 * errors, fmt="o", color=COLOURS[0], label="posterior mean (NUTS)"
    )
    left.set_xlabel("flights m without a collision")
    left.set_ylabel("risk of a collision by flight")
    left.set_title("The MLE is 0 for every m (off this scale)", loc="left", fontsize=10)
    left.legend(frameon=False, loc="lower left", fontsize=8.5)
    for number, flights in enumerate((10, 30, 100)):
        program = Program(BernoulliModel(), torch.zeros(flights))
        grid = np.linspace(1e-6, 0.4, 300)
        values = [program.log_likelihood({"probability": torch.tensor(p).double()}) for p in grid]
        colour = COLOURS[(0, 2, 3)[number]]
        right.plot(grid, np.exp([float(v) for v in values]), color=colour, label=f"m = {flights}")
        right.plot(upper_bound(flights), 0.05, "s", color=COLOURS[1])
        mean = stats.beta(1, flights + 1).mean()
        right.plot(mean, (1 - mean) ** flights, "o", color=colour)
    right.axhline(0.05, color=COLOURS[1], lw=0.8, ls="--")
    right.annotate("5 %", (0.37, 0.065), color=COLOURS[1])
    right.set_xlabel("risk of a collision by flight (dot: posterior mean)")
    right.set_ylabel("probability of no collision")
    right.set_title("The likelihood does not end at its maximum", loc="left", fontsize=10)
    right.legend(frameon=False)
    save(figure, output, "no_collisions")


if __name__ == "__main__":
    main()
