"""Heads, heads, heads, tails: how plausible is each coin?

The likelihood asks of every possible probability of heads how often it would give just these four
flips. The curve below is read off the program at 201 probabilities; the engine climbs the same
curve and stops at its top.
"""

import numpy as np
import torch
from _figures import COLOURS, canvas, output_folder, save
from scipy.integrate import trapezoid

from likely.inference import MLE, Program
from likely.models import BernoulliModel


def main():
    output = output_folder(__doc__)
    flips = torch.tensor([1.0, 1.0, 1.0, 0.0])  # H, H, H, T
    program = Program(BernoulliModel(), flips)

    def likelihood(probability):
        value = torch.tensor(probability, dtype=torch.float64)
        return float(program.log_likelihood({"probability": value}).exp())

    grid = np.linspace(0.0, 1.0, 201)
    curve = np.array([likelihood(p) for p in grid])
    fit = MLE().fit(BernoulliModel(), flips)
    best = float(fit.params["probability"])
    error = float(fit.standard_errors()["probability"])

    print("Likelihood of H, H, H, T by probability of heads")
    for p in (0.25, 0.5, best, 0.9):
        print(f"  p = {p:.2f}: {likelihood(p):.4f}")
    print(f"\nThe engine's maximum: p = {best:.6f} (three heads of four)")
    print(f"The grid's maximum:   p = {grid[curve.argmax()]:.6f}")
    print(f"Standard error from the curvature at the top: {error:.4f}: four flips say little.")
    print(f"Area under the curve: {trapezoid(curve, grid):.4f}, not 1: it is no density over p.")

    figure, (plain, logs) = canvas(sharex=True)
    # Log 0 at both ends has no place in a figure.
    for ax, values in ((plain, curve), (logs, np.log(curve))):
        ax.plot(grid[1:-1], values[1:-1], color=COLOURS[0])
        ax.axvspan(best - error, best + error, color=COLOURS[0], alpha=0.1, lw=0)
        ax.axvline(best, color=COLOURS[1], lw=1, ls="--")
        ax.set_xlabel("probability of heads p")
    plain.plot(best, likelihood(best), "o", color=COLOURS[1])
    plain.annotate(
        f"MLE {best:.2f}",
        (best, likelihood(best)),
        xytext=(-62, -4),
        textcoords="offset points",
        color=COLOURS[1],
    )
    plain.set_ylim(0.0, 0.115)
    plain.set_ylabel("likelihood P(H, H, H, T | p)")
    plain.set_title("Three heads of four are most probable at p = 0.75", loc="left", fontsize=10)
    logs.plot(best, fit.log_likelihood, "o", color=COLOURS[1])
    # The parabola with the curvature at the top: what the standard error is made of.
    near = grid[np.abs(grid - best) < 0.25]
    bow = fit.log_likelihood - 0.5 * ((near - best) / error) ** 2
    logs.plot(near, bow, color=COLOURS[2], lw=1.2, ls=":", label="parabola at the top")
    logs.set_ylim(-9.0, -1.5)
    logs.set_ylabel("log-likelihood (nats)")
    logs.set_title("Its logarithm has the same top; shaded: ± 1 s.e.", loc="left", fontsize=10)
    logs.legend(frameon=False, loc="upper left")
    save(figure, output, "coin_likelihood")


if __name__ == "__main__":
    main()
