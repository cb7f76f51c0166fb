"""A river that dropped: a hidden Markov model of a century of the Nile's annual flow.

Annual flow of the Nile at Aswan, 1871–1970, in 10⁸ m³ (Cobb 1978, "The problem of the Nile",
Biometrika 65(2)); the data come with statsmodels. EM fits one to four Gaussian regimes and the BIC
chooses two, one before and one after 1898. The likelihood thinks the drop is for good, as it never
saw a return; a posterior leaves a return possible, and the forecast shows how much that matters.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from statsmodels.datasets import nile

from likely.inference import EM, Fit, Laplace
from likely.inference.diagnostics.style import COLOURS
from likely.models import HiddenMarkovModel, Sequences

HERE = Path(__file__).resolve().parent
AHEAD = 30
# Priors in the units of the data; maximum likelihood does not look at them.
PRIORS = {"loc_mean": 1000.0, "loc_scale": 500.0, "scale_median": 150.0}


def choose(flow: Sequences) -> tuple[dict[int, Fit], pd.DataFrame]:
    """EM with one to four regimes; the BIC counts the years as observations."""
    fits, rows = {}, {}
    for regimes in (1, 2, 3, 4):
        program = HiddenMarkovModel(regimes, options=PRIORS)
        fit = EM(restarts=5, tol=1e-10, max_iter=1000).fit(program, flow)
        # A mean and a standard deviation each, the moves between them, and where they begin.
        free = 2 * regimes + regimes * (regimes - 1) + (regimes - 1)
        fits[regimes] = fit
        rows[regimes] = {
            "log-likelihood": fit.log_likelihood,
            "parameters": free,
            "BIC": free * np.log(flow.n_steps) - 2 * fit.log_likelihood,
            "means": ", ".join(f"{m:.0f}" for m in fit.params["locs"].flatten().sort().values),
        }
    return fits, pd.DataFrame(rows).T.rename_axis("regimes")


def ranked(fit: Fit) -> list[int]:
    """The regimes by their means: labels are arbitrary."""
    order: list[int] = fit.params["locs"].flatten().argsort().tolist()
    return order


def plot_states(ax: plt.Axes, years: np.ndarray, flow: Sequences, fit: Fit) -> None:
    """Flow, the mean that the smoothed regimes expect, and the most probable regime's years."""
    program: HiddenMarkovModel = fit.program.source
    smoothed = fit.latent("state")[0]
    path = program.viterbi(fit.params, flow)[0]
    means = fit.params["locs"].flatten()
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
            label=f"regime of mean {means[state]:.0f}",
        )
    ax.plot(years, flow.x[:, 0], ".", color="black", markersize=4, label="flow")
    ax.plot(
        years, smoothed @ means, color="black", linewidth=1.5, label="expected, all years known"
    )
    ax.set_title("Years shaded by the most probable regime", loc="left")


def plot_forecast(
    ax: plt.Axes, years: np.ndarray, flow: Sequences, fans: dict[str, torch.Tensor]
) -> None:
    """The last decades and where the next years may lie."""
    recent = slice(-30, None)
    ax.plot(years[recent], flow.x[recent, 0], ".-", color="black", markersize=4, linewidth=0.6)
    future = years[-1] + 1 + np.arange(AHEAD)
    draws = fans["posterior"]
    for level, alpha in ((0.95, 0.2), (0.5, 0.4)):
        low, high = np.quantile(draws, [(1 - level) / 2, (1 + level) / 2], axis=0)
        ax.fill_between(
            future, low, high, color=COLOURS[0], alpha=alpha, linewidth=0, label=f"{level:.0%}"
        )
    for (name, fan), style in zip(fans.items(), ("--", "-"), strict=True):
        ax.plot(future, fan.mean(0), color=COLOURS[0], linestyle=style, label=f"by {name}")
    ax.set_title("The drop need not last", loc="left")


def draw(
    years: np.ndarray, flow: Sequences, fit: Fit, fans: dict[str, torch.Tensor], output: Path
) -> None:
    """One figure: the century and the years to come."""
    figure, (left, right) = plt.subplots(
        1, 2, figsize=(10, 3.9), layout="constrained", width_ratios=(2, 1), sharey=True
    )
    plot_states(left, years, flow, fit)
    plot_forecast(right, years, flow, fans)
    left.set_ylabel("annual flow (10⁸ m³)")
    for ax in (left, right):
        ax.set_xlabel("year")
        ax.spines[["top", "right"]].set_visible(False)
    left.legend(frameon=False, ncols=2, fontsize=8, loc="upper right")
    right.legend(frameon=False, fontsize=8, ncols=2, loc="upper left", handlelength=1.6)
    left.set_ylim(400, 1700)
    figure.savefig(output / "regimes.png", dpi=150)
    plt.close(figure)


def main() -> None:
    """Run the example."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=HERE / "output")
    options = parser.parse_args()
    mpl.use("Agg")
    options.output.mkdir(parents=True, exist_ok=True)

    frame = nile.load_pandas().data
    years = frame["year"].to_numpy(dtype=int)
    flow = Sequences.from_frame(frame, columns="volume")
    fits, table = choose(flow)
    print("How many regimes? (means in 10⁸ m³ a year)\n")
    print(table.to_string(float_format="{:.2f}".format))
    best = int(table["BIC"].astype(float).idxmin())
    fit = fits[best]
    low, *_, high = ranked(fit)
    means, scales = (fit.params[name].flatten() for name in ("locs", "scales"))
    print(
        f"\nThe BIC takes {best} regimes: {means[high]:.0f} ± {scales[high]:.0f} falls to "
        f"{means[low]:.0f} ± {scales[low]:.0f}. When?"
    )
    is_low = fit.latent("state")[0, :, low]
    for year in range(1896, 1902):
        at = year - years[0]
        print(f"  {year}: flow {flow.x[at, 0]:4.0f}, already low with probability {is_low[at]:.3f}")
    path = fit.program.source.viterbi(fit.params, flow)[0]
    print(f"On the most probable path {years[int((path == low).nonzero()[0])]} is the first.")
    back = float(fit.params["transition"][low, high])
    print(f"\nProbability of going back up within a year: {back:.3f} by maximum likelihood,")

    # A Gaussian around one mode has one labelling to begin with.
    posterior = Laplace(draws=400, init=fit, relabel=False).fit(fit.program.source, flow)
    returns = posterior.draws["transition"][..., low, high].flatten()
    upper = float(returns.quantile(0.95))
    print(f"{float(returns.mean()):.3f} by the posterior (Laplace), below {upper:.3f} at 95 %.")

    program: HiddenMarkovModel = fit.program.source
    fans = {
        name: program.forecast(values, flow, AHEAD, draws=4000)[0][:, 0, :, 0]
        for name, values in (("likelihood", fit.params), ("posterior", posterior.draws))
    }
    print(f"\nFlow in {years[-1] + 1} and {years[-1] + AHEAD}: mean, 95 % interval")
    for name, fan in fans.items():
        for ahead in (0, AHEAD - 1):
            below, above = fan[:, ahead].quantile(torch.tensor([0.025, 0.975], dtype=fan.dtype))
            mean = float(fan[:, ahead].mean())
            print(f"  {years[-1] + 1 + ahead}, {name:10}: {mean:4.0f}, {below:.0f} to {above:.0f}")
    draw(years, flow, fit, fans, options.output)
    print("\nFigure: regimes.png")


if __name__ == "__main__":
    main()
