"""Soft and hard assignments: EM beside k-means on the same clouds of points.

Three round clouds of different sizes and shares. Hard assignments (classification EM) give every
point to one cluster, and with equal weights and one variance that is k-means; soft ones share a
point out. Prints the centres beside the truth and beside scikit-learn's k-means; draws all three.
"""

import argparse
from pathlib import Path

import matplotlib as mpl
import matplotlib.pyplot as plt
import pandas as pd
import sklearn.cluster
import torch

from likely.inference import EM, plot_mixture
from likely.models import GaussianMixture

TRUTH = {
    "weights": [0.7, 0.2, 0.1],
    "locs": [[0.0, 0.0], [3.2, 0.0], [1.8, 2.4]],
    "scales": [1.2, 0.5, 0.3],
}


def draw_points(n=600, seed=2):
    generator = torch.Generator().manual_seed(seed)
    cloud = torch.multinomial(torch.tensor(TRUTH["weights"]), n, True, generator=generator)
    noise = torch.randn(n, 2, generator=generator)
    points = torch.tensor(TRUTH["locs"])[cloud] + torch.tensor(TRUTH["scales"])[cloud, None] * noise
    return points.double(), cloud


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "output")
    output = parser.parse_args().output
    output.mkdir(parents=True, exist_ok=True)
    mpl.use("Agg")

    x, cloud = draw_points()
    spherical = GaussianMixture(3, covariance="spherical")
    fits = {
        "soft": EM(restarts=5).fit(spherical, x),
        "hard": EM(restarts=5, hard=True).fit(spherical, x),
        "k-means": EM(restarts=5, hard=True).fit(GaussianMixture.k_means(3), x),
    }
    fits = {name: fit.relabelled({"locs": TRUTH["locs"]}) for name, fit in fits.items()}

    rows = {}
    for name, fit in fits.items():
        belief = fit.latent("component")
        rows[name] = {
            "distance of centres": float(
                (fit.params["locs"] - torch.tensor(TRUTH["locs"])).norm(dim=-1).mean()
            ),
            "cloud recovered": float((belief.argmax(-1) == cloud).double().mean()),
        }
    print(pd.DataFrame(rows).T.to_string(float_format="{:.3f}".format))
    doubt = float((fits["soft"].latent("component").max(-1).values < 0.9).double().mean())
    print("\n(mean distance to the true centres; share of points whose cluster is their cloud)")
    print(f"Soft assignments leave {doubt:.0%} of the points in doubt: no cluster has 0.9.\n")

    peer = sklearn.cluster.KMeans(3, n_init=10, random_state=0).fit(x.numpy())
    nearest = torch.cdist(x, fits["k-means"].params["locs"]).min(-1).values
    print(f"k-means, sum of squared distances: ours {float(nearest.square().sum()):.4f}, ", end="")
    print(f"scikit-learn {peer.inertia_:.4f}")

    figure, axes = plt.subplots(1, 3, figsize=(11.0, 4.0), layout="constrained")
    for ax, (name, fit) in zip(axes, fits.items(), strict=True):
        plot_mixture(fit, axes=ax)
        ax.set_title(name, loc="left")
        ax.set_aspect("equal")
        ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.18), ncols=2, frameon=False)
    figure.savefig(output / "k_means.png", dpi=150)
    print("\nFigure: k_means.png")


if __name__ == "__main__":
    main()
