"""Maximum likelihood thinks small samples are calmer than they are.

The MLE of a variance divides by N, and is too small by the factor (N - 1) / N on average, because
the mean was fitted to the same points. Bessel's N - 1 mends it. So does a prior: under a flat prior
of the mean and a prior of the scale that is proportional to the scale, the mode of the joint
density is Bessel's variance (and the mode of the scale's likelihood with the mean integrated out is
the same). Gamma(2, 1e-6) is that prior, made proper by an end far away.
"""

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from _figures import COLOURS, canvas, output_folder, save

from likely.inference import MAP, MLE
from likely.models import GaussianModel

SAMPLES, SIZES, TRUTH = 300, (2, 3, 5, 10), 4.0


def growing_prior(y):
    """Normal outcomes under priors whose mode is Bessel's variance."""
    loc = pyro.sample("loc", dist.Normal(0.0, 1e6))
    scale = pyro.sample("scale", dist.Gamma(2.0, 1e-6))
    with pyro.plate("observation", len(y)):
        pyro.sample("y", dist.Normal(loc, scale), obs=y)


def variances(y):
    """Variance by maximum likelihood and under the growing prior."""
    likelihood = MLE().fit(GaussianModel(), y)
    start = {"loc": y.mean(), "scale": y.std()}
    posterior = MAP(init=start).fit(growing_prior, y)
    return [float(fit.params["scale"]) ** 2 for fit in (likelihood, posterior)]


def main():
    output = output_folder(__doc__)
    drones = torch.tensor([10.1, 9.8, 10.2], dtype=torch.float64)
    mean = float(MLE().fit(GaussianModel(), drones).params["loc"])
    biased, bessel = variances(drones)
    print(f"Three drones at 10.1, 9.8 and 10.2 m: mean {mean:.7f} m")
    print(f"  variance by N:     {biased:.6f} m^2 (MLE)")
    print(f"  variance by N - 1: {bessel:.6f} m^2 (MAP, scale ~ Gamma(2, 1e-6))")

    generator = torch.Generator().manual_seed(0)
    found = {}
    print(f"\nMean of {SAMPLES} estimates over the true variance, +- its Monte Carlo error\n")
    print("    N            MLE   (N-1)/N            MAP   samples whose MLE is too small")
    for size in SIZES:
        draws = torch.randn(SAMPLES, size, generator=generator, dtype=torch.float64)
        found[size] = np.array([variances(2.0 * y) for y in draws]) / TRUTH
        mean, error = found[size].mean(0), found[size].std(0) / SAMPLES**0.5
        low = (found[size][:, 0] < 1).mean()
        cells = [f"{m:.3f} +- {e:.3f}" for m, e in zip(mean, error, strict=True)]
        print(f"  {size:3d} {cells[0]:>14} {(size - 1) / size:9.3f} {cells[1]:>14} {low:12.0%}")

    figure, (left, right) = canvas()
    sizes = np.array(SIZES)
    smooth = np.linspace(2, 10, 200)
    left.plot(smooth, (smooth - 1) / smooth, color=COLOURS[1], lw=1, label="(N − 1) / N")
    left.axhline(1.0, color="grey", lw=1, ls=":", label="truth")
    names = ("MLE, divides by N", "MAP, p(scale) ∝ scale: by N − 1")
    for column, (name, colour) in enumerate(zip(names, (COLOURS[1], COLOURS[0]), strict=True)):
        means = np.array([found[n][:, column].mean() for n in SIZES])
        errors = np.array([found[n][:, column].std() for n in SIZES]) / SAMPLES**0.5
        bars = {"yerr": 2 * errors, "fmt": "o", "capsize": 2}
        left.errorbar(sizes, means, color=colour, label=name, **bars)
    left.set_xscale("log")
    left.set_xticks(SIZES, [str(n) for n in SIZES])
    left.minorticks_off()
    left.set_ylim(0.3, 1.75)
    left.set_xlabel("sample size N")
    left.set_ylabel("mean estimated / true variance")
    left.set_title("The MLE is too small by (N − 1) / N on average", loc="left", fontsize=10)
    left.legend(frameon=False, loc="upper right", fontsize=8.5)
    bins = np.linspace(0, 3.5, 29)
    for column, name, colour in ((0, "MLE", COLOURS[1]), (1, "MAP", COLOURS[0])):
        values = found[5][:, column]
        right.hist(values, bins, histtype="step", lw=1.6, color=colour, label=name)
        right.axvline(values.mean(), color=colour, ls="--", lw=1)
    right.axvline(1.0, color="grey", ls=":", lw=1)
    right.set_xlabel("estimated / true variance, N = 5 (dashed: mean)")
    right.set_ylabel(f"samples of {SAMPLES}")
    right.set_title("Right on average is still wide: five points are few", loc="left", fontsize=10)
    right.legend(frameon=False)
    save(figure, output, "small_samples")


if __name__ == "__main__":
    main()
