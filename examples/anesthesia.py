"""Five anaesthetists, forty-five patients: Dawid & Skene's data through every engine.

The program is written down once (`likely.models.DawidSkene`); MLE, MAP, EM, SVI, Laplace and NUTS
learn from it, and the point estimates are laid beside the posteriors. Prints the comparison, the
patients nobody is sure of, and what becomes of the zero cells of the maximum likelihood estimate;
writes figures and the fits to ``examples/output``.
"""

from __future__ import annotations

import argparse
import time
import warnings
from pathlib import Path

import matplotlib as mpl
import pandas as pd
import torch

from likely.inference import (
    EM,
    MAP,
    MLE,
    NUTS,
    SVI,
    BoundaryWarning,
    Fit,
    Laplace,
    compare,
    plot_compare,
    plot_history,
    plot_table,
)
from likely.models import Annotations, DawidSkene

HERE = Path(__file__).resolve().parent


def engines(progress: bool, draws: int) -> dict[str, object]:
    """Each engine by the name it has in the tables."""
    return {
        "EM": EM(progress=progress),
        "MLE": MLE(progress=progress),
        "MAP": MAP(progress=progress),
        "SVI": SVI(progress=progress, max_iter=4000),
        "Laplace": Laplace(progress=progress),
        "NUTS": NUTS(progress=progress, draws=draws, warmup=draws, chains=2),
    }


def fit_all(annotations: Annotations, progress: bool, draws: int) -> dict[str, Fit]:
    """Fit the same program with every engine."""
    program = DawidSkene(n_classes=len(annotations.classes))
    fits = {}
    for name, engine in engines(progress, draws).items():
        with warnings.catch_warnings():
            # The maximum likelihood estimate has zero cells; they are the point of the last table.
            warnings.simplefilter("ignore", BoundaryWarning)
            fits[name] = engine.fit(program, annotations)
    return fits


def overview(fits: dict[str, Fit]) -> pd.DataFrame:
    """One row an engine: how the fit went."""
    rows = [
        {
            "log-likelihood": fit.log_likelihood,
            "log-prior": fit.log_prior,
            "iterations": fit.n_iter,
            "seconds": fit.seconds,
            "converged": fit.converged,
        }
        for fit in fits.values()
    ]
    return pd.DataFrame(rows, index=list(fits))


def uncertain_patients(
    fits: dict[str, Fit], annotations: Annotations, most: int = 6
) -> pd.DataFrame:
    """Patients whose most likely class is least sure under NUTS, and how each engine sees them."""
    beliefs = {name: fit.latent("truth") for name, fit in fits.items()}
    doubt = beliefs["NUTS"].max(-1).values.argsort()[:most]
    rows = {}
    for task in doubt.tolist():
        rows[annotations.tasks[task]] = {
            name: f"{annotations.classes[int(p[task].argmax())]} ({float(p[task].max()):.2f})"
            for name, p in beliefs.items()
        }
    return pd.DataFrame(rows).T.rename_axis("patient")


def zero_cells(fits: dict[str, Fit], annotations: Annotations) -> pd.DataFrame:
    """Where cells that the MLE calls impossible lie in the posterior."""
    mle, draws = fits["MLE"].params["confusion"], fits["NUTS"].draws["confusion"].flatten(0, 1)
    limits = draws.quantile(torch.tensor([0.03, 0.5, 0.97], dtype=draws.dtype), dim=0)
    rows = []
    for annotator, true, label in torch.nonzero(mle == 0).tolist():
        low, median, high = limits[:, annotator, true, label].tolist()
        rows.append(
            {
                "observer": annotations.annotators[annotator],
                "true class": annotations.classes[true],
                "reported": annotations.classes[label],
                "MLE": 0.0,
                "posterior 3%": low,
                "median": median,
                "97%": high,
            }
        )
    return pd.DataFrame(rows).sort_values("median", ascending=False)


def draw_figures(fits: dict[str, Fit], output: Path) -> list[Path]:
    """Forest with point estimates, EM's climb, and confusion matrices with uncertainty."""
    first = {"annotator": 1}
    figures = {
        "forest_prevalence": plot_compare(fits, sites="prevalence"),
        "forest_observer_1": plot_compare(fits, sites="confusion", select=first),
        "em_climb": plot_history({"EM": fits["EM"]}),
        "confusion_nuts": plot_table(fits["NUTS"], "confusion"),
    }
    paths = []
    for name, figure in figures.items():
        paths.append(output / f"{name}.png")
        figure.savefig(paths[-1], dpi=150, bbox_inches="tight")
        mpl.pyplot.close(figure)
    return paths


def main() -> None:
    """Run the example."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=HERE / "output")
    parser.add_argument("--draws", type=int, default=400, help="NUTS draws (and warm-up) a chain")
    parser.add_argument("--no-progress", action="store_true")
    options = parser.parse_args()
    mpl.use("Agg")
    started = time.perf_counter()
    options.output.mkdir(parents=True, exist_ok=True)

    frame = pd.read_csv(HERE / "data" / "anesthesia.csv")
    annotations = Annotations.from_frame(frame)
    print(f"{annotations}\n")
    fits = fit_all(annotations, not options.no_progress, options.draws)

    pd.set_option("display.width", 200, "display.max_columns", 40, "display.max_rows", 80)
    print("\nHow each engine fared (log-densities at its parameters, in nats)\n")
    print(overview(fits).to_string(float_format="{:.2f}".format))

    table = compare(fits, sites=["prevalence", "confusion"], reference="NUTS")
    shown = [row for row in table.index if row.startswith(("prevalence", "confusion[1,"))]
    print("\nPrevalence and observer 1's confusion: point estimates beside the posterior\n")
    estimates = table.loc[shown].xs("estimate", axis=1, level="statistic")
    posterior = table.loc[shown, "NUTS"][["sd", "lower", "upper"]]
    print(estimates.join(posterior.add_prefix("NUTS ")).to_string(float_format="{:.3f}".format))
    print("\nDistance from the posterior mean in posterior sds (outside the 94 % interval: *)\n")
    distance = table.loc[shown].xs("distance", axis=1, level="statistic")
    inside = table.loc[shown].xs("inside", axis=1, level="statistic").astype(bool)
    marked = distance.map("{:.2f}".format) + inside.map(lambda within: " " if within else "*")
    print(marked.to_string())

    print("\nPatients whose class is least sure: most probable class (probability)\n")
    print(uncertain_patients(fits, annotations).to_string())

    cells = zero_cells(fits, annotations)
    print(f"\nThe {len(cells)} cells that the MLE says never happen, in the posterior (first 10)\n")
    print(cells.head(10).to_string(index=False, float_format="{:.3f}".format))

    for name, fit in fits.items():
        fit.save(options.output / f"{name.lower()}.nc")
    print("\nWritten:")
    for path in draw_figures(fits, options.output):
        print(f"  {path.name}")
    print(f"  {', '.join(f'{name.lower()}.nc' for name in fits)}")
    print(f"\nDone in {time.perf_counter() - started:.0f} s; see {options.output.name}/.")


if __name__ == "__main__":
    main()
