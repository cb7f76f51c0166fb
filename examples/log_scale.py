"""A scale wants to be searched on the log scale.

Deviations of heights from a known mean, in metres, in centimetres and in millimetres: the only
unknown is their scale. One program has it as a bare number, the other as a positive one, which the
engines search as its logarithm. Both get the same plain gradient descent, its step size tuned to
the centimetres.
"""

import warnings
from functools import partial

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from _figures import COLOURS, canvas, output_folder, save
from pyro.distributions import constraints

from likely.inference import MLE, ConvergenceWarning, NonFiniteError, Program

UNITS = {"metres": 0.01, "centimetres": 1.0, "millimetres": 10.0}
STEPS = 300


def bare_scale(y, start):
    scale = pyro.param("scale", start)
    with pyro.plate("person", len(y)):
        pyro.sample("y", dist.Normal(0.0, scale), obs=y)


def positive_scale(y, start):
    scale = pyro.param("scale", start, constraint=constraints.positive)
    with pyro.plate("person", len(y)):
        pyro.sample("y", dist.Normal(0.0, scale), obs=y)


def descend(program, y, best, learning_rate):
    """Path of the scale, in units of the best one, and how the search ended."""
    path = []

    def watch(step):
        path.append(float(step.params()["scale"]) / best)

    engine = MLE(
        optimizer=partial(torch.optim.SGD, lr=learning_rate), max_iter=STEPS, callback=watch
    )
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", ConvergenceWarning)
        try:
            # The start is three times too wide, in each unit.
            fit = engine.fit(program, y, torch.tensor(3.0 * best))
        except NonFiniteError as error:
            return path, f"{type(error).__name__}: {str(error).split('.')[0]}"
    reached = float(fit.params["scale"])
    if any(issubclass(w.category, ConvergenceWarning) for w in caught):
        return path, f"not there after {STEPS} steps: {reached:.4g}, wanted {best:.4g}"
    return path, f"converged after {fit.n_iter} steps: {reached:.4g}"


def first_step(y, best, learning_rate):
    """Where the first step on the bare scale leads, in units of the best one."""
    start = torch.tensor(3.0 * best, dtype=y.dtype, requires_grad=True)
    log_likelihood = Program(bare_scale, y, start.detach()).log_likelihood({"scale": start})
    (slope,) = torch.autograd.grad(log_likelihood, start)
    return float(start.detach() + learning_rate * slope) / best


def main():
    output = output_folder(__doc__)
    rng = np.random.default_rng(3)
    centimetres = torch.as_tensor(rng.normal(0.0, 7.0, 50))
    best = float(centimetres.square().mean().sqrt())
    print(f"Fifty deviations; the best scale is their root mean square, {best:.4f} cm\n")
    # Half a Newton step at the optimum: the curvature is 2n / scale^2, or 2n for its logarithm.
    rates = {"scale itself": 0.5 * best**2 / 100, "log of the scale": 0.5 / 100}
    paths = {}
    for route, rate in rates.items():
        program = bare_scale if route == "scale itself" else positive_scale
        print(f"{route}, step size {rate:.4g}:")
        for unit, factor in UNITS.items():
            y = centimetres * factor
            paths[route, unit], end = descend(program, y, best * factor, rate)
            print(f"  in {unit + ':':13}{end}")
    leap = first_step(centimetres * 0.01, best * 0.01, rates["scale itself"])
    print(f"\nIn metres the first step leads from 3 to {leap:.0f} times the best scale: no scale.")
    lbfgs = MLE().fit(positive_scale, centimetres, torch.tensor(3.0 * best))
    print(f"The default engine: {float(lbfgs.params['scale']):.4f} cm, {lbfgs.n_iter} iterations")

    figure, axes = canvas(sharey=True)
    for ax, route in zip(axes, rates, strict=True):
        for number, unit in enumerate(UNITS):
            path, style = paths[route, unit], ("-", "--", ":")[number]
            ax.plot(path, color=COLOURS[number], lw=3.2 - number, ls=style, label=f"in {unit}")
        ax.axhline(1.0, color="grey", lw=0.8, zorder=0)
        ax.set_xscale("symlog", linthresh=1)
        ax.set(xlim=(-0.05, 1.2 * STEPS), ylim=(0.4, 3.2), xticks=(0, 1, 10, 100))
        ax.set_xticklabels(["0", "1", "10", "100"])
        ax.set_xlabel("step of gradient descent")
    arrow = {"arrowstyle": "->", "color": COLOURS[0], "lw": 2}
    axes[0].annotate("", (0.35, 0.4), (0.0, 3.0), arrowprops=arrow)
    axes[0].annotate(f"in metres: to {leap:.0f}, then NaN", (0.45, 0.55), color=COLOURS[0])
    axes[0].annotate("in centimetres: arrives", (0.4, 1.6), color=COLOURS[1])
    axes[0].annotate("in millimetres: crawls", (10, 3.05), color=COLOURS[2])
    axes[0].set_ylabel("scale / best scale")
    axes[0].set_title("Descent on the scale depends on the unit", loc="left", fontsize=10)
    axes[1].set_title("Descent on its logarithm does not", loc="left", fontsize=10)
    axes[1].legend(frameon=False, loc="upper right")
    save(figure, output, "log_scale")


if __name__ == "__main__":
    main()
