"""The textbook run: EM finds two bells that were mixed, in twenty iterations.

Four hundred points come from two normal distributions whose parameters are known here and unknown
to the program. Prints the parameters by iteration and beside the truth; draws the mixture as it
evolves, the path of every parameter, and an animation.
"""

import argparse
import warnings
from pathlib import Path

import matplotlib as mpl
import matplotlib.pyplot as plt
import pandas as pd
import pyro
import pyro.distributions as dist
import torch

from likely.inference import (
    EM,
    ConvergenceWarning,
    Laplace,
    ParameterPath,
    animate_em,
    compare,
    plot_em_path,
    plot_em_steps,
    plot_mixture,
)

TRUTH = {"weights": [0.4, 0.6], "loc": [-1.0, 2.5], "scale": [0.8, 1.2]}
START = {"weights": [0.5, 0.5], "loc": [0.0, 1.0], "scale": [1.0, 1.0]}


def two_bells(x):
    weights = pyro.sample("weights", dist.Dirichlet(2 * torch.ones(2)))
    with pyro.plate("bell", 2):
        loc = pyro.sample("loc", dist.Normal(0.0, 10.0))
        scale = pyro.sample("scale", dist.LogNormal(0.0, 1.0))
    with pyro.plate("point", len(x)):
        z = pyro.sample("z", dist.Categorical(weights))
        pyro.sample("x", dist.Normal(loc[z], scale[z]), obs=x)


# Which bell comes first is a matter of taste, and draws from the posterior need one taste.
two_bells.dims = {"weights": ("bell",)}
two_bells.exchangeable = ("bell",)


def draw_points(n=400, seed=5):
    generator = torch.Generator().manual_seed(seed)
    bell = torch.multinomial(torch.tensor(TRUTH["weights"]), n, True, generator=generator)
    noise = torch.randn(n, generator=generator)
    return torch.tensor(TRUTH["loc"])[bell] + torch.tensor(TRUTH["scale"])[bell] * noise


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "output")
    output = parser.parse_args().output
    output.mkdir(parents=True, exist_ok=True)
    mpl.use("Agg")

    x, path = draw_points(), ParameterPath()
    with warnings.catch_warnings():
        # Twenty iterations are what is shown, whether or not that is convergence.
        warnings.simplefilter("ignore", ConvergenceWarning)
        em = EM(init=START, max_iter=20, tol=1e-15, callback=path).fit(two_bells, x)

    shown = [0, 1, 2, 3, 5, 10, 20]
    rows = {
        site: [", ".join(f"{v:.3f}" for v in path.values(site)[i].tolist()) for i in shown]
        for site in TRUTH
    }
    table = pd.DataFrame({"log-likelihood": path.objective[shown], **rows}, index=shown)
    print(table.rename_axis("iteration").to_string(float_format="{:.4f}".format))
    print(f"\ntruth: {TRUTH}\n")

    posterior = Laplace(draws=1000, init=em).fit(two_bells, x).relabelled(em)
    print("Twenty iterations beside a posterior (Laplace): is the estimate in its 94 % interval?\n")
    print(compare({"EM": em, "Laplace": posterior}).round(3).to_string())

    names = {"locs": "loc", "scales": "scale"}
    figures = {
        "two_bells_steps": plot_em_steps(path, em, iterations=[0, 1, 2, 5, 10, 20], **names),
        "two_bells_path": plot_em_path(path, em, truth=TRUTH),
        "two_bells_posterior": plot_mixture(posterior, **names),
    }
    for name, figure in figures.items():
        figure.savefig(output / f"{name}.png", dpi=150)
        plt.close(figure)
    film = animate_em(path, em, output / "two_bells.gif", **names)
    print(f"\nFigures: {', '.join(f'{name}.png' for name in figures)}, {film.name}")


if __name__ == "__main__":
    main()
