"""``likely crowd``: true classes of tasks and the quality of annotators, from a file of labels."""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from likely.envs import DataError
from likely.inference.cli import crowd_input, crowd_output
from likely.inference.cli.errors import BadInputError, plain_errors, plain_warnings
from likely.inference.engines import ENGINES, fit
from likely.inference.errors import FitError
from likely.inference.fit import Fit
from likely.models.crowd import (
    GLAD,
    MACE,
    Annotations,
    DawidSkene,
    HierarchicalDawidSkene,
    OneCoin,
    PooledMultinomial,
    krippendorff_alpha,
    truth_table,
)

# Programs by name: each is called with the number of classes.
MODELS: dict[str, Any] = {
    "dawid-skene": DawidSkene,
    "glad": GLAD,
    "hierarchical": HierarchicalDawidSkene,
    "mace": MACE,
    "one-coin": OneCoin,
    "pooled": PooledMultinomial,
}

# Programs whose annotators have numbers in place of confusion tables.
WITHOUT_TABLES = ("glad",)

_EPILOG = """
\b
Files in DIR:
  truth.csv        task, most probable class, its probability, number of labels,
                   and the probability p_<class> of every class
  annotators.csv   annotator, number of labels, accuracy, spammer score (0 spammer,
                   1 perfect) and costs; intervals with engines that have draws
  next.csv         with --next: tasks for which another label is worth most (the least
                   certain ones where the model has no confusion tables, as glad)
  fit.nc           the fit; likely.inference.Fit.load and ArviZ read it
  *.png            annotators, truth, confusion tables
\b
Exit codes: 0 done; 1 the fit failed; 2 a file or an option cannot be used. Ctrl-C ends
the fit where it is, and what it has reached is written.
\b
Examples:
  likely crowd labels.csv --out results
  likely crowd labels.csv --annotator worker --gold truth.csv --gold-use score
  likely crowd labels.parquet --engine svi --threshold 0.1 -O draws=2000
  likely crowd today.csv --start results/fit.nc --out results-today
  likely crowd labels.txt --separator ";" --classes "no,yes,do not know"
"""


@click.command(epilog=_EPILOG)
@click.argument("labels", type=click.Path(path_type=Path))
@click.option("--task", default="task", show_default=True, help="Column of task ids.")
@click.option(
    "--annotator", default="annotator", show_default=True, help="Column of annotator ids."
)
@click.option("--label", default="label", show_default=True, help="Column of reported classes.")
@click.option(
    "--separator",
    metavar="CHARACTER",
    help="What stands between fields of text files [default: a tab in .tsv, else a comma].",
)
@click.option(
    "--classes",
    metavar="NAMES",
    help="All classes in order, with commas between them [default: those reported].",
)
@click.option(
    "--gold",
    metavar="COLUMN|FILE",
    help="True classes of some tasks: a column of LABELS, or a file with the columns of --task "
    "and --gold-label. No entry, or -1 where that is no class, is an unknown one.",
)
@click.option("--gold-label", metavar="COLUMN", help="Class in the gold file [default: --label].")
@click.option(
    "--gold-use",
    type=click.Choice(["fit", "score"]),
    default="fit",
    show_default=True,
    help="Learn from the gold classes, or hide them from the fit and report its accuracy.",
)
@click.option(
    "--model",
    type=click.Choice(list(MODELS)),
    default="dawid-skene",
    show_default=True,
    help="How annotators err: dawid-skene a table each, hierarchical tables around a common one, "
    "pooled one table for all, one-coin one number each, mace a number and a habit of spamming, "
    "glad a number each that counts for more on easy tasks.",
)
@click.option(
    "--engine",
    type=click.Choice(list(ENGINES)),
    default="em",
    show_default=True,
    help="How the model is fitted; svi, laplace, nuts and vbem (for dawid-skene and pooled) give "
    "intervals.",
)
@click.option(
    "-O",
    "--option",
    "options",
    multiple=True,
    metavar="NAME=VALUE",
    help="Option of the engine, such as objective=posterior; may be repeated.",
)
@click.option("--seed", default=0, show_default=True, help="The same seed, the same numbers.")
@click.option(
    "--start", type=click.Path(path_type=Path), help="fit.nc of an earlier run to start from."
)
@click.option(
    "--cost",
    type=click.Path(path_type=Path),
    help="CSV file of costs: true classes in its first column, answers in its header.",
)
@click.option(
    "--threshold",
    type=float,
    help="Spammer score to reach; adds the probability of being below, or without intervals "
    "whether the estimate is.",
)
@click.option(
    "--interval",
    type=float,
    default=0.9,
    show_default=True,
    help="Probability of the intervals.",
)
@click.option(
    "--next",
    "asked",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    help="How many tasks to list that need another label.",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default=Path("likely-crowd"),
    show_default=True,
    metavar="DIR",
    help="Folder for the results; files in it are replaced.",
)
@click.option("--figures/--no-figures", default=True, show_default=True, help="Draw figures.")
@click.option(
    "--progress/--no-progress",
    default=None,
    help="Show a progress bar [default: where standard error is a terminal].",
)
def crowd(
    labels: Path,
    *,
    task: str,
    annotator: str,
    label: str,
    separator: str | None,
    classes: str | None,
    gold: str | None,
    gold_label: str | None,
    gold_use: str,
    model: str,
    engine: str,
    options: tuple[str, ...],
    seed: int,
    start: Path | None,
    cost: Path | None,
    threshold: float | None,
    interval: float,
    asked: int,
    out: Path,
    figures: bool,
    progress: bool | None,
) -> None:
    """Find the true classes of tasks that several annotators labelled, and how good these are.

    LABELS is a table with one row per label: a CSV file with a header (ids are taken as the text
    that stands there), a Parquet file, or a folder of Parquet files.
    """
    with plain_errors():
        made = crowd_input.engine_options(options)
        if separator in ("\\t", "tab"):
            separator = "\t"
        columns = (task, annotator, label)
        levels = crowd_input.class_names(classes)
        gold_file = crowd_input.gold_file(gold, labels, separator)
        _check_gold(gold, gold_file, gold_label, gold_use)
        _check_tables(model, cost=cost, threshold=threshold)
        _check_out(out, (labels, gold_file, cost))
        data = crowd_input.read_labels(
            labels, columns, levels, None if gold_file else gold, separator
        )
        if gold_file is not None:
            data = _with_gold(data, gold_file, (task, gold_label or label), separator)
        if gold is not None and data.n_known == 0:
            raise BadInputError("gold: no task has a known class")
        scored = None
        if gold_use == "score":
            data, scored = replace(data, truth=None), data.truth
        settings = {
            "cost": None if cost is None else crowd_input.read_cost(cost, data),
            "threshold": threshold,
            "interval": interval,
        }
        # Everything that can be wrong with the options is looked at before the fit.
        _check_options(interval, threshold)
        _make(out)
        _describe(data)
        if start is not None:
            made["init"] = _earlier(start)
        made |= {"seed": seed, "progress": sys.stderr.isatty() if progress is None else progress}
        with plain_warnings():
            result = fit(MODELS[model](data.n_classes), data, engine=engine, **made)
        _report(result, model)
        probabilities = result.latent("truth")
        truth = truth_table(data, probabilities)
        quality = crowd_output.quality(result, data, **settings)
        tables = {"truth": truth, "annotators": quality}
        if asked:
            tables["next"] = crowd_output.next_tasks(result, data, probabilities, asked)
        if scored is not None:
            known = scored >= 0
            right = (probabilities.argmax(-1)[known] == scored[known]).double().mean()
            click.echo(f"accuracy on {int(known.sum())} gold tasks: {float(right):.4f}")
        written = crowd_output.write_tables(tables, out)
        result.save(out / "fit.nc", log_likelihood=False)
        written.append("fit.nc")
        if figures:
            with plain_warnings():
                written += crowd_output.write_figures(result, data, quality, out, interval)
        click.echo(f"wrote {', '.join(written)} to {out}")


def _with_gold(
    data: Annotations, path: Path, columns: tuple[str, str], separator: str | None
) -> Annotations:
    found = crowd_input.read_gold(path, columns, data.classes.tolist(), separator)
    known, unused = crowd_input.with_gold(data, found)
    if unused:
        click.echo(f"Warning: gold: {unused} tasks without labels are left out", err=True)
    return known


def _check_gold(gold: str | None, file: Path | None, gold_label: str | None, use: str) -> None:
    if gold is None and use == "score":
        raise BadInputError("gold-use: score needs true classes; give them with --gold")
    if file is None and gold_label is not None:
        raise BadInputError("gold-label: names a column of a gold file, and --gold gives none")


def _check_tables(model: str, **options: Any) -> None:
    given = [name for name, value in options.items() if value is not None]
    if given and model in WITHOUT_TABLES:
        raise BadInputError(f"{given[0]}: needs confusion tables, and model {model!r} has none")


def _check_out(out: Path, read: tuple[Path | None, ...]) -> None:
    """Nothing that is read may be written over, nor a folder stand where a file goes."""
    for name in crowd_output.FILES:
        place = out / name
        if place.is_dir():
            raise BadInputError(f"out: cannot write {str(place)!r}, which is a folder")
        for path in read:
            if path is not None and path.exists() and place.exists() and place.samefile(path):
                raise BadInputError(
                    f"out: would write over {str(path)!r}, which is read; choose another folder"
                )


def _make(out: Path) -> None:
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BadInputError(
            f"out: cannot make the folder {str(out)!r}: {error.strerror}"
        ) from error
    if not os.access(out, os.W_OK | os.X_OK):
        raise BadInputError(f"out: no permission to write in the folder {str(out)!r}")


def _earlier(path: Path) -> Fit:
    try:
        return Fit.load(path)
    except FitError as error:
        raise BadInputError(f"start: {error}") from error


def _check_options(interval: float, threshold: float | None) -> None:
    if not 0 < interval < 1:
        raise BadInputError(f"interval: expected a probability between 0 and 1, got {interval}")
    if threshold is not None and not 0 <= threshold <= 1:
        raise BadInputError(f"threshold: expected a score between 0 and 1, got {threshold}")


def _describe(data: Annotations) -> None:
    try:
        alpha = f"{krippendorff_alpha(data):.3f}"
    except DataError as error:
        alpha = f"none ({error})"
    known = f", {data.n_known} with a known class" if data.n_known else ""
    click.echo(
        f"{len(data)} labels, {data.n_tasks} tasks{known}, {data.n_annotators} annotators, "
        f"{data.n_classes} classes"
    )
    click.echo(f"Krippendorff's alpha: {alpha}")


def _report(result: Fit, model: str) -> None:
    state = "converged" if result.converged else "NOT converged"
    click.echo(
        f"{model} by {result.engine}: {state} after {result.n_iter} iterations, "
        f"log-likelihood {result.log_likelihood:.4f}"
    )
