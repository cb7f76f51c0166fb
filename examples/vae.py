"""A variational auto-encoder: EM's bound, climbed by gradients, on 8 × 8 pictures of digits.

For any density q over the latents, log p(x | θ) = ELBO(q, θ) + KL(q ‖ p(z | x, θ)). EM climbs the
ELBO in turns: its E-step sets q to the exact posterior, so that the bound touches the
log-likelihood, and its M-step moves θ. Where the decoder is a neural network the exact posterior
is out of reach. A variational auto-encoder (Kingma & Welling 2014) keeps the bound and gives up
the turns: q is a normal whose mean and spread an encoder network reads off each picture, and both
networks follow the gradient of the same ELBO on mini-batches.

Prints the ELBO per picture before and after, and the reconstruction error on pictures that were
not trained on, beside that of a PCA with as many dimensions; writes figures and the fit to
``examples/output``.
"""

from __future__ import annotations

import argparse
import time
import warnings
from pathlib import Path

import matplotlib as mpl
import matplotlib.patheffects
import matplotlib.pyplot as plt
import numpy as np
import pyro
import pyro.distributions as dist
import torch
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA
from torch import nn

from likely.inference import SVI, ConvergenceWarning, Fit, trained_guide

HERE = Path(__file__).resolve().parent
PIXELS, HELD_OUT, BATCH = 64, 297, 100


def make_networks(latent_dim: int, hidden: int = 128) -> tuple[nn.Module, nn.Module]:
    """Decoder (code to grey values) and encoder (grey values to mean and log scale)."""
    torch.manual_seed(0)
    decoder = nn.Sequential(
        nn.Linear(latent_dim, hidden), nn.Tanh(), nn.Linear(hidden, PIXELS), nn.Sigmoid()
    )
    encoder = nn.Sequential(nn.Linear(PIXELS, hidden), nn.Tanh(), nn.Linear(hidden, 2 * latent_dim))
    return decoder, encoder


def make_program(decoder: nn.Module, latent_dim: int):
    """How pictures come about: a code, drawn from a normal, that the decoder turns into pixels."""

    def pictures(x):
        pyro.module("decoder", decoder)
        noise = pyro.param("noise", torch.tensor(0.3), constraint=dist.constraints.positive)
        with pyro.plate("picture", len(x)) as index:
            code = dist.Normal(torch.zeros(latent_dim), 1.0).to_event(1)
            z = pyro.sample("z", code)
            ink = dist.Normal(decoder(z), noise).to_event(1)
            pyro.sample("x", ink, obs=x[index])

    return pictures


def make_guide(encoder: nn.Module):
    """The encoder's normal for each picture: an amortised E-step."""

    def encode(x):
        pyro.module("encoder", encoder)
        with pyro.plate("picture", len(x)) as index:
            loc, log_scale = encoder(x[index]).chunk(2, -1)
            pyro.sample("z", dist.Normal(loc, log_scale.exp()).to_event(1))
        return loc

    return encode


def decode(decoder: nn.Module, fit: Fit, z: torch.Tensor) -> torch.Tensor:
    """Expected grey values [n, 64] of codes [n, latent_dim], by the fitted decoder."""
    prefix = "decoder$$$"
    weights = {n.removeprefix(prefix): v for n, v in fit.params.items() if n.startswith(prefix)}
    return torch.func.functional_call(decoder, weights, (z,)).detach()


def squared_error(x: torch.Tensor, reconstruction: torch.Tensor) -> float:
    """Mean squared error of a pixel."""
    return float((x - reconstruction).square().mean())


def plot_elbo(fit: Fit, pictures: int) -> plt.Figure:
    """The bound by step, in nats a picture; the steps as they are, and their running mean."""
    per_picture = fit.history["objective"] / pictures
    figure, axes = plt.subplots(figsize=(6, 3.5), layout="constrained")
    axes.plot(per_picture, color="0.8", linewidth=0.8, label="one mini-batch")
    axes.plot(per_picture.rolling(50, center=True).mean(), color="C0", label="mean of 50 steps")
    axes.set_xlabel("gradient step")
    axes.set_ylabel("ELBO per picture (nats)")
    axes.set_title("The bound rises like EM's, only noisily")
    axes.set_ylim(bottom=np.quantile(per_picture, 0.02))
    axes.legend(loc="lower right", frameon=False)
    return figure


def plot_reconstructions(rows: dict[str, torch.Tensor], size: int) -> plt.Figure:
    """Pictures [n, 64] under each other, row by row."""
    columns = len(next(iter(rows.values())))
    figure, grid = plt.subplots(
        len(rows), columns, figsize=(0.8 * columns + 1, 0.9 * len(rows)), layout="constrained"
    )
    for axes, (label, pictures) in zip(grid, rows.items(), strict=True):
        for cell, picture in zip(axes, pictures, strict=True):
            cell.imshow(picture.reshape(8, 8), cmap="gray_r", vmin=0.0, vmax=1.0)
            cell.set_xticks([])
            cell.set_yticks([])
        axes[0].set_ylabel(label, rotation=0, ha="right", va="center")
    figure.suptitle(f"Held-out pictures, and the same rebuilt from {size} numbers each")
    return figure


def plot_codes(codes: torch.Tensor, labels: np.ndarray) -> plt.Figure:
    """The encoder's map of held-out pictures [n, 2], which never saw a label."""
    figure, axes = plt.subplots(figsize=(5.5, 5), layout="constrained")
    for digit in range(10):
        chosen = codes[labels == digit]
        colour = mpl.colormaps["tab10"](digit)
        axes.scatter(*chosen.T, s=12, color=colour, alpha=0.5)
        centre = chosen.median(0).values
        axes.annotate(
            str(digit),
            centre.tolist(),
            color=colour,
            ha="center",
            va="center",
            fontsize=14,
            fontweight="bold",
            path_effects=[mpl.patheffects.withStroke(linewidth=3, foreground="white")],
        )
    axes.set_xlabel("$z_1$")
    axes.set_ylabel("$z_2$")
    axes.set_aspect("equal")
    axes.set_title("Codes of held-out pictures, coloured by digit")
    return figure


def main() -> None:
    """Run the example."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=HERE / "output")
    parser.add_argument("--epochs", type=int, default=300)
    parser.add_argument("--latent-dim", type=int, default=2)
    parser.add_argument("--no-progress", action="store_true")
    options = parser.parse_args()
    mpl.use("Agg")
    started = time.perf_counter()
    options.output.mkdir(parents=True, exist_ok=True)
    size = options.latent_dim

    images, labels = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(images))
    pictures = torch.tensor(images[order] / 16.0)
    held_out, train = pictures[:HELD_OUT], pictures[HELD_OUT:]
    held_labels = labels[order][:HELD_OUT]

    decoder, encoder = make_networks(size)
    engine = SVI(
        guide=make_guide(encoder),
        batch_size=BATCH,
        max_iter=options.epochs * len(train) // BATCH,
        learning_rate=0.003,
        draws=20,
        progress=not options.no_progress,
    )
    with warnings.catch_warnings():
        # Networks go on improving for as long as anybody waits; the first figure shows how far.
        warnings.simplefilter("ignore", ConvergenceWarning)
        fit = engine.fit(make_program(decoder, size), train)

    encode = trained_guide(fit)
    codes = encode(held_out).detach()
    reconstructed = decode(decoder, fit, codes)
    pca = PCA(size).fit(train.numpy())
    by_pca = torch.tensor(pca.inverse_transform(pca.transform(held_out.numpy())))
    elbo = fit.history["objective"] / len(train)
    print(
        f"{len(train)} pictures of digits, {PIXELS} pixels each, {size} numbers to keep of them\n"
    )
    print(
        "EM: q = exact posterior, then a better decoder, in turns: the ELBO is log p(x | decoder)."
    )
    print(
        "VAE: q = the encoder's normal, one gradient for both networks: the ELBO lies below it.\n"
    )
    print(f"ELBO per picture, before:  {elbo.iloc[0]:9.2f} nats")
    print(f"ELBO per picture, after:   {elbo.iloc[-len(train) // BATCH :].mean():9.2f} nats")
    print(f"noise of a pixel:          {float(fit.params['noise']):9.3f}\n")
    print("Mean squared error of a pixel in held-out pictures")
    print(f"  mean picture      {squared_error(held_out, train.mean(0)):.4f}")
    print(f"  PCA, {size} numbers    {squared_error(held_out, by_pca):.4f}")
    print(f"  VAE, {size} numbers    {squared_error(held_out, reconstructed):.4f}")

    figures = {"vae_elbo": plot_elbo(fit, len(train))}
    shown = [int(np.flatnonzero(held_labels == digit)[0]) for digit in range(10)]
    rows = {"original": held_out[shown], "VAE": reconstructed[shown], "PCA": by_pca[shown]}
    figures["vae_reconstructions"] = plot_reconstructions(rows, size)
    if size == 2:
        figures["vae_codes"] = plot_codes(codes, held_labels)
    for name, figure in figures.items():
        figure.savefig(options.output / f"{name}.png", dpi=150)
        plt.close(figure)
    fit.save(options.output / "vae.nc", log_likelihood=False)
    print(f"\nWritten: {', '.join(f'{name}.png' for name in figures)}, vae.nc")
    print(f"Done in {time.perf_counter() - started:.0f} s; see {options.output.name}/.")


if __name__ == "__main__":
    main()
