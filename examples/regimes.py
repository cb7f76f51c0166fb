"""Quiet and active decades: a hidden Markov model of a century of major earthquakes.

Numbers of major earthquakes (magnitude 7 or greater) in the world, 1900–2006, as in Zucchini &
MacDonald (2009, "Hidden Markov Models for Time Series", table 1.1). Poisson counts vary more than
one rate allows and are alike in neighbouring years; a chain of hidden regimes explains both. EM
fits one to four regimes and the BIC chooses; Laplace says how sure we are; the forecast goes back
to the long-run mixture of regimes as the present is forgotten.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch

from likely.inference import EM, Fit, Laplace
from likely.inference.diagnostics.style import COLOURS
from likely.models import HiddenMarkovModel, Sequences

HERE = Path(__file__).resolve().parent
AHEAD = 15


def choose(counts: Sequences) -> tuple[dict[int, Fit], pd.DataFrame]:
    """EM with one to four regimes; the BIC counts the years as observations."""
    fits, rows = {}, {}
    for regimes in (1, 2, 3, 4):
        program = HiddenMarkovModel(regimes, "poisson")
        fit = EM(restarts=5, tol=1e-10, max_iter=1000).fit(program, counts)
        free = regimes + regimes * (regimes - 1) + (regimes - 1)
        bic = free * np.log(counts.n_steps) - 2 * fit.log_likelihood
        fits[regimes] = fit
        rows[regimes] = {
            "log-likelihood": fit.log_likelihood,
            "parameters": free,
            "BIC": bic,
            "rates": ", ".join(f"{r:.1f}" for r in fit.params["rates"].flatten().sort().values),
        }
    return fits, pd.DataFrame(rows).T.rename_axis("regimes")


def ranked(fit: Fit) -> list[int]:
    """The regimes by their rates: labels are arbitrary."""
    order: list[int] = fit.params["rates"].flatten().argsort().tolist()
    return order


def plot_states(ax: plt.Axes, years: np.ndarray, counts: Sequences, fit: Fit) -> None:
    """Counts, the rate that the smoothed regimes expect, and the most probable regime's years."""
    program: HiddenMarkovModel = fit.program.source
    smoothed = fit.latent("state")[0]
    path = program.viterbi(fit.params, counts)[0]
    rates = fit.params["rates"].flatten()
    for place, state in enumerate(ranked(fit)):
        inside = (path == state).numpy()
        ax.bar(
            years[inside],
            1,
            width=1.0,
            transform=ax.get_xaxis_transform(),
            color=COLOURS[place],
            alpha=0.15,
            linewidth=0,
            label=f"regime of {rates[state]:.1f} a year",
        )
    ax.plot(years, counts.x[:, 0], ".", color="black", markersize=4, label="earthquakes")
    expected = smoothed @ rates
    ax.plot(years, expected, color=COLOURS[1], linewidth=1.5, label="expected, all years known")
    ax.set_ylim(0, None)
    ax.set_title("Years shaded by the most probable regime", loc="left")


def plot_forecast(
    ax: plt.Axes, years: np.ndarray, counts: Sequences, fans: dict[str, torch.Tensor]
) -> None:
    """The last decades and where the next years may lie."""
    recent = slice(-30, None)
    ax.plot(years[recent], counts.x[recent, 0], ".-", color="black", markersize=4, linewidth=0.6)
    future = years[-1] + 1 + np.arange(AHEAD)
    draws = fans["posterior"]
    for level, alpha in ((0.95, 0.2), (0.8, 0.3), (0.5, 0.4)):
        low, high = np.quantile(draws, [(1 - level) / 2, (1 + level) / 2], axis=0)
        ax.fill_between(
            future, low, high, color=COLOURS[0], alpha=alpha, linewidth=0, label=f"{level:.0%}"
        )
    ax.plot(future, draws.mean(0), color=COLOURS[0], label="mean")
    ax.set_ylim(0, None)
    ax.set_title("The forecast forgets the present", loc="left")


def draw(
    years: np.ndarray, counts: Sequences, fit: Fit, fans: dict[str, torch.Tensor], output: Path
) -> None:
    """One figure: the century and the years to come."""
    figure, (left, right) = plt.subplots(
        1, 2, figsize=(10, 3.9), layout="constrained", width_ratios=(2, 1), sharey=True
    )
    plot_states(left, years, counts, fit)
    plot_forecast(right, years, counts, fans)
    left.set_ylabel("major earthquakes a year")
    for ax in (left, right):
        ax.set_xlabel("year")
        ax.spines[["top", "right"]].set_visible(False)
    left.legend(frameon=False, ncols=2, fontsize=8, loc="upper left")
    right.legend(frameon=False, fontsize=8, ncols=4, loc="upper left", handlelength=1.2)
    left.set_ylim(0, 56)
    figure.savefig(output / "regimes.png", dpi=150)
    plt.close(figure)


def main() -> None:
    """Run the example."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=HERE / "output")
    options = parser.parse_args()
    mpl.use("Agg")
    options.output.mkdir(parents=True, exist_ok=True)

    frame = pd.read_csv(HERE / "data" / "earthquakes.csv", dtype={"count": float})
    years = frame["year"].to_numpy()
    counts = Sequences.from_frame(frame, columns="count")
    fits, table = choose(counts)
    print("How many regimes? (rates in earthquakes a year)\n")
    print(table.to_string(float_format="{:.2f}".format))
    best = int(table["BIC"].astype(float).idxmin())
    fit = fits[best]
    print(f"\nThe BIC takes {best} regimes. They last, on average:")
    for state in ranked(fit):
        stay = float(fit.params["transition"][state, state])
        print(f"  rate {float(fit.params['rates'][state, 0]):5.1f}: {1 / (1 - stay):5.1f} years")

    # A Gaussian around one mode has one labelling to begin with.
    engine = Laplace(draws=400, init=fit, relabel=False)
    posterior = engine.fit(fit.program.source, counts)
    spread = posterior.draws["rates"].std((0, 1)).flatten()
    centre = posterior.params["rates"].flatten()
    print("\nRates and their posterior standard deviations (Laplace):")
    for state in ranked(posterior):
        print(f"  {centre[state]:5.1f} ± {spread[state]:.1f}")

    program: HiddenMarkovModel = fit.program.source
    fans = {
        name: program.forecast(values, counts, AHEAD, draws=4000)[0][:, 0, :, 0]
        for name, values in (("point", fit.params), ("posterior", posterior.draws))
    }
    print(f"\nEarthquakes in {years[-1] + 1} and {years[-1] + AHEAD}: mean, 95 % interval")
    for name, fan in fans.items():
        for ahead in (0, AHEAD - 1):
            low, high = fan[:, ahead].quantile(torch.tensor([0.025, 0.975], dtype=fan.dtype))
            mean = float(fan[:, ahead].mean())
            print(f"  {years[-1] + 1 + ahead}, {name:9}: {mean:4.1f}, {low:.0f} to {high:.0f}")
    draw(years, counts, fit, fans, options.output)
    print("\nFigure: regimes.png")


if __name__ == "__main__":
    main()
