"""A product of likelihoods vanishes; a sum of log-likelihoods does not.

Every flip multiplies the likelihood by a number below one. A 64-bit float holds nothing below
exp(-745), a 32-bit float nothing below exp(-103.9); after that many nats the product is exactly
zero, for every parameter alike, and no search can climb on it. The engines add logarithms.
"""

import numpy as np
import torch
from _figures import COLOURS, canvas, output_folder, save

from likely.inference import MLE, Program
from likely.models import BernoulliModel

FLOATS = {"float32": np.float32, "float64": np.float64}


def vanishes_after(factors, dtype):
    """Number of factors after which their product is exactly zero."""
    return int((np.cumprod(factors.astype(dtype)) == 0).argmax()) + 1


def factors_of(probability, flips):
    """Likelihood of a head and of a tail by the program, laid out flip by flip."""
    value = torch.tensor(probability, dtype=torch.float64)
    program = {side: Program(BernoulliModel(), torch.tensor([side])) for side in (0.0, 1.0)}
    log = {s: float(p.log_likelihood({"probability": value})) for s, p in program.items()}
    return np.exp(np.where(flips == 1, log[1.0], log[0.0]))


def main():
    output = output_folder(__doc__)
    flips = np.arange(3000) % 2  # heads and tails in turn: as fair as can be
    print("Flips of a fair coin after which the product of likelihoods is exactly 0\n")
    print("  evaluated at p     float32   float64   nats by flip")
    for p in (0.5, 0.3, 0.165, 0.05):
        factors = factors_of(p, flips)
        ends = [vanishes_after(factors, dtype) for dtype in FLOATS.values()]
        nats = -np.log(factors).mean()
        print(f"  {p:14.3f} {ends[0]:11d} {ends[1]:9d} {nats:14.3f}")
    print("\nIt is 745 nats that end float64: 1075 flips at the best p, fewer at any other.")

    rng = np.random.default_rng(0)
    data = torch.as_tensor(rng.random(3000) < 0.6, dtype=torch.float64)
    program = Program(BernoulliModel(), data)
    grid = np.linspace(0.5, 0.7, 81)
    logs = np.array(
        [float(program.log_likelihood({"probability": data.new_tensor(p)})) for p in grid]
    )
    products = np.array([np.prod(factors_of(p, data.numpy())) for p in grid])
    share = float(data.mean())
    fits = {name: MLE(dtype=getattr(torch, name)).fit(BernoulliModel(), data) for name in FLOATS}
    print(f"\n3000 flips, {share:.4f} of them heads, probabilities from 0.5 to 0.7:")
    print(f"  products that are not zero: {(products > 0).sum()} of {len(grid)}")
    print(f"  sums of logs that are finite: {np.isfinite(logs).sum()} of {len(grid)}")
    for name, fit in fits.items():
        p, total = float(fit.params["probability"]), fit.log_likelihood
        print(f"  MLE in {name}: p = {p:.4f}, log-likelihood {total:.2f} nats")

    figure, (left, right) = canvas()
    factors, count = factors_of(0.5, flips)[:1600], np.arange(1, 1601)
    left.plot(count, np.log10(factors).cumsum(), color=COLOURS[2], lw=1)
    for number, (name, dtype) in enumerate(FLOATS.items()):
        end = vanishes_after(factors, dtype)
        product = np.cumprod(factors.astype(dtype))[: end - 1]
        shift, colour = 4 - 2 * number, COLOURS[1 - number]
        left.plot(count[: end - 1], np.log10(product.astype(float)), color=colour, lw=shift)
        left.plot(end - 1, np.log10(float(product[-1])), "X", ms=9, color=colour)
        left.annotate(
            f"{name}:\n0 from flip {end} on",
            (end - 1, np.log10(float(product[-1]))),
            xytext=(14, 0),
            textcoords="offset points",
            color=colour,
        )
    left.annotate("sum of logarithms", (1500, -452), xytext=(640, -455), color=COLOURS[2])
    left.set_xlim(-60, 1900)
    left.set_xlabel("number of flips (p = 0.5)")
    left.set_ylabel("log10 of the likelihood")
    left.set_title("The product stops existing; the sum goes on", loc="left", fontsize=10)
    right.plot(grid, logs, color=COLOURS[2])
    right.plot(share, fits["float64"].log_likelihood, "o", color=COLOURS[2])
    right.set_ylabel("log-likelihood (nats)", color=COLOURS[2])
    right.set_xlabel("probability of heads p")
    right.set_title("3000 flips: only the logarithm has a top", loc="left", fontsize=10)
    other = right.twinx()
    other.spines["top"].set_visible(False)
    other.plot(grid, products, color=COLOURS[0], lw=2)
    other.set_ylim(-0.05, 1.0)
    other.set_ylabel("product of likelihoods (float64)", color=COLOURS[0])
    save(figure, output, "underflow")


if __name__ == "__main__":
    main()
