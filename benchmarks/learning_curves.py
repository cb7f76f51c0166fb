"""Learning curves of active learning: what each acquisition makes of the same number of labels.

Three problems: digits (10 classes) and breast cancer (2 classes), answered correctly, and LabelMe
(8 classes), answered by the recorded crowd. Each run starts from nothing, with another seed for the
split, the cold start and the engine. After every batch the accuracy on held-out points is that of
one reference fit to all labels so far, the same for every acquisition: the posterior mode of the
regression (LearningFromCrowds for the crowd). So curves differ by what was asked, not by how well
an engine predicts. Bands are 95 % Student intervals of the mean over seeds.

Finished runs are kept in ``output/learning_curves.json``; a second call goes on from there.
``--draw`` only draws the figure and writes the tables.
"""

from __future__ import annotations

from _common import OUTPUT, arguments

# isort: split
import json
import os
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from scipy import stats
from tqdm import tqdm

from likely.inference import EM, MAP, ConvergenceWarning, Engine, Laplace
from likely.inference.active import (
    ActiveLearner,
    ArrayOracle,
    Budget,
    Committee,
    GainPerCost,
    Joint,
    LabelledSet,
    LeastError,
    PointThenPerson,
    RecordedAnswers,
    batch_bald,
    class_probabilities,
)
from likely.inference.active.training import Trainer
from likely.models import Annotations, LearningFromCrowds, LogisticRegression, SoftmaxRegression

DRAWS = 50


@dataclass(frozen=True)
class Problem:
    """Points, who answers, and what is compared."""

    pool: torch.Tensor
    oracle: Any
    test: tuple[torch.Tensor, torch.Tensor]
    program: Any
    mode: Engine
    batch_size: int
    answers: int
    full: float
    strategies: dict[str, dict[str, Any]] = field(default_factory=dict)


def in_turn(probabilities: torch.Tensor, batch_size: int, seed: int) -> Any:
    return batch_bald(probabilities, batch_size, seed=seed, configurations=2000)


def regression_strategies() -> dict[str, dict[str, Any]]:
    laplace, committee = Laplace(draws=DRAWS), Committee(5)
    return {
        "random": {"acquisition": "random"},
        "entropy": {"acquisition": "entropy"},
        "margin": {"acquisition": "margin"},
        "QBC (vote entropy)": {"acquisition": "vote_entropy", "committee": committee},
        "BALD": {"acquisition": "bald", "engine": laplace},
        "PowerBALD": {"acquisition": "power_bald", "engine": laplace},
        "BatchBALD": {"acquisition": Joint("batch_bald", in_turn, 300), "engine": laplace},
    }


def crowd_strategies() -> dict[str, dict[str, Any]]:
    committee = Committee(5)
    return {
        "random": {"acquisition": "random"},
        "entropy, anybody": {"acquisition": "entropy"},
        "margin, anybody": {"acquisition": "margin"},
        "entropy, least error": {"acquisition": PointThenPerson("entropy", LeastError())},
        "information": {"acquisition": GainPerCost("information"), "relabel": True},
        # The posterior of the joint model is costly to draw from; five bootstraps stand for it.
        "QBC (vote entropy)": {"acquisition": "vote_entropy", "committee": committee},
        "BALD": {"acquisition": "bald", "committee": committee},
        "PowerBALD": {"acquisition": "power_bald", "committee": committee},
        "BatchBALD": {
            "acquisition": Joint("batch_bald", in_turn, 300),
            "committee": committee,
        },
    }


def split(x: Any, y: Any, seed: int, n_test: int) -> tuple[torch.Tensor, ...]:
    order = np.random.default_rng(seed).permutation(len(x))
    test, pool = order[:n_test], order[n_test:]
    x = (x - x[pool].mean(0)) / np.maximum(x[pool].std(0), 1e-3 * x.std())
    return tuple(map(torch.from_numpy, (x[pool], y[pool], x[test], y[test])))


def digits(seed: int) -> Problem:
    from sklearn.datasets import load_digits

    x, y = load_digits(return_X_y=True)
    return gold(x / 16, y, seed, 540, SoftmaxRegression(10, coefficients_scale=0.3), 10, 250)


def breast_cancer(seed: int) -> Problem:
    from sklearn.datasets import load_breast_cancer

    x, y = load_breast_cancer(return_X_y=True)
    return gold(x, y, seed, 170, LogisticRegression(coefficients_scale=1.0), 5, 100)


def gold(x: Any, y: Any, seed: int, n_test: int, program: Any, batch: int, most: int) -> Problem:
    pool, labels, x_test, y_test = split(x, y, seed, n_test)
    fit = MAP().fit(program, pool, labels)
    classes = getattr(program, "n_classes", 2)
    full = accuracy(class_probabilities(fit, x_test, classes)[0], y_test)
    oracle, test = ArrayOracle(labels), (x_test, y_test)
    strategies = regression_strategies()
    return Problem(pool, oracle, test, program, MAP(), batch, most, full, strategies)


@cache
def labelme_data() -> Any:
    from sklearn.decomposition import PCA

    data = Path(os.environ.get("LIKELY_DATA", OUTPUT.parents[2] / "shared" / "data"))
    with np.load(data / "crowd" / "labelme" / "features.npz") as file:
        train, test = file["X_train"].astype(float), file["X_test"].astype(float)
        truth = file["y_test"]
    reduce = PCA(40, svd_solver="full", random_state=0).fit(train)
    train, test = reduce.transform(train), reduce.transform(test)
    spread = train.std()
    frame = pd.read_csv(data / "crowd" / "labelme" / "labels.csv")
    return frame, train / spread, test / spread, truth


def labelme(seed: int) -> Problem:
    frame, train, test, truth = labelme_data()
    crowd = Annotations.from_frame(frame, annotator="worker", tasks=range(1000), features=train)
    program = LearningFromCrowds(8, SoftmaxRegression(8, coefficients_scale=0.5))
    mode = EM(objective="posterior", tol=1e-6)
    fit = mode.fit(program, crowd)
    full = accuracy(program.predict_proba(fit.params, test), torch.from_numpy(truth))
    return Problem(
        torch.from_numpy(train),
        RecordedAnswers(crowd, seed=seed),
        (torch.from_numpy(test), torch.from_numpy(truth)),
        program,
        mode,
        60,
        1200,
        full,
        crowd_strategies(),
    )


PROBLEMS: dict[str, Callable[[int], Problem]] = {
    "digits": digits,
    "breast cancer": breast_cancer,
    "LabelMe": labelme,
}


def accuracy(probabilities: torch.Tensor, labels: torch.Tensor) -> float:
    return float((probabilities.argmax(-1) == labels).double().mean())


def curve(problem: Problem, options: dict[str, Any], seed: int) -> dict[str, list[float]]:
    """Accuracy of the reference fit after each batch."""
    given: dict[str, Any] = {"engine": problem.mode, **options}
    learner = ActiveLearner(
        program=problem.program,
        oracle=problem.oracle,
        batch_size=problem.batch_size,
        stopping=Budget(problem.answers),
        cold_start=problem.batch_size,
        draws=DRAWS,
        seed=seed,
        **given,
    )
    started = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        found = learner.run(problem.pool)
        seconds = time.perf_counter() - started
        curve: dict[str, list[float]] = {"answers": [], "accuracy": [], "seconds": [seconds]}
        classes = learner.K
        trainer = Trainer(problem.program, problem.mode, n_annotators=annotators_of(problem))
        fits: Any = ()
        for n in range(problem.batch_size, len(found.labelled) + 1, problem.batch_size):
            part = first(found.labelled, n)
            fits = trainer.fit(part, problem.pool, 0, fits)
            guess = class_probabilities(fits, problem.test[0], classes)[0]
            curve["answers"].append(n)
            curve["accuracy"].append(accuracy(guess, problem.test[1]))
    return curve


def annotators_of(problem: Problem) -> int | None:
    return getattr(problem.oracle, "n_annotators", None)


def first(labelled: LabelledSet, n: int) -> LabelledSet:
    columns = (labelled.index, labelled.label, labelled.annotator, labelled.round)
    return LabelledSet(*(column[:n] for column in columns), labelled.n_classes)


def main() -> None:
    options = arguments(
        "learning_curves",
        __doc__,
        repeats=5,
        draw={"action": "store_true", "help": "only draw what is recorded"},
        problems={"nargs": "*", "default": list(PROBLEMS), "choices": list(PROBLEMS)},
    )
    record: dict[str, Any] = (
        json.loads(options.output.read_text()) if options.output.is_file() else {}
    )
    for name in [] if options.draw else options.problems:
        for seed in range(options.repeats):
            problem = PROBLEMS[name](seed)
            for strategy, given in tqdm(problem.strategies.items(), desc=f"{name} {seed}"):
                key = f"{name}|{strategy}|{seed}"
                if key in record:
                    continue
                record[key] = {**curve(problem, given, seed), "full": problem.full}
                options.output.parent.mkdir(exist_ok=True)
                options.output.write_text(json.dumps(record))
    print(table(record))
    draw(record)


def mean_and_half(values: np.ndarray[Any, Any]) -> tuple[Any, Any]:
    """Mean over seeds [seeds, n] and the half-width of its 95 % interval."""
    n = len(values)
    half = stats.t.ppf(0.975, n - 1) * values.std(0, ddof=1) / np.sqrt(n) if n > 1 else 0.0
    return values.mean(0), half


def runs_of(record: dict[str, Any], name: str) -> dict[str, list[dict[str, Any]]]:
    found: dict[str, list[dict[str, Any]]] = {}
    for key, run in record.items():
        problem, strategy, _ = key.split("|")
        if problem == name:
            found.setdefault(strategy, []).append(run)
    return found


def table(record: dict[str, Any]) -> str:
    rows = []
    for name in PROBLEMS:
        runs_by = runs_of(record, name)
        # Where labelled points are not asked again, a run ends with the pool.
        n = min((len(run["answers"]) for runs in runs_by.values() for run in runs), default=0)
        for strategy, runs in runs_by.items():
            values = np.array([run["accuracy"][:n] for run in runs])
            answers = np.array(runs[0]["answers"][:n])
            row: dict[str, Any] = {"problem": name, "acquisition": strategy, "seeds": len(runs)}
            for share in (0.25, 0.5, 1.0):
                at = max(0, round(share * len(answers)) - 1)
                mean, half = mean_and_half(values[:, at])
                row[f"at {share:.0%}"] = f"{answers[at]}: {mean:.3f} ± {half:.3f}"
            row["area"] = "{:.3f} ± {:.3f}".format(*mean_and_half(values.mean(1)))
            reached = [
                next((a for a, v in zip(answers, run, strict=True) if v >= 0.95 * r["full"]), None)
                for run, r in zip(values, runs, strict=True)
            ]
            known = [np.inf if r is None else r for r in reached]
            middle = np.median(known)
            row["answers to 95 % of full"] = f"{middle:.0f}" if np.isfinite(middle) else "not met"
            row["seconds"] = f"{np.median([run['seconds'][0] for run in runs]):.0f}"
            rows.append(row)
    frame = pd.DataFrame(rows)
    lines = [" | ".join(map(str, row)) for row in frame.itertuples(index=False)]
    header, rule = " | ".join(frame.columns), " | ".join("---" for _ in frame.columns)
    return "\n".join(f"| {line} |" for line in (header, rule, *lines))


def draw(record: dict[str, Any]) -> None:
    names = [name for name in PROBLEMS if runs_of(record, name)]
    figure, axes = plt.subplots(1, len(names), figsize=(5.4 * len(names), 4.6), squeeze=False)
    for axis, name in zip(axes[0], names, strict=True):
        runs_by = runs_of(record, name)
        for i, (strategy, runs) in enumerate(runs_by.items()):
            mean, half = mean_and_half(np.array([run["accuracy"] for run in runs]))
            answers = runs[0]["answers"]
            colour = "0.35" if strategy == "random" else f"C{i}"
            line = "--" if strategy == "random" else "-"
            axis.plot(answers, mean, line, color=colour, label=strategy, linewidth=1.6)
            axis.fill_between(answers, mean - half, mean + half, color=colour, alpha=0.09, lw=0)
        full = np.mean([run["full"] for runs in runs_by.values() for run in runs])
        axis.axhline(full, color="0.6", linewidth=0.8)
        axis.annotate("all labels", (answers[0], full), ha="left", va="bottom", color="0.3")
        axis.set(title=name, xlabel="answers", ylabel="accuracy on held-out points")
        axis.legend(frameon=False, fontsize=8, loc="lower right")
        lowest = min(min(run["accuracy"][2:]) for runs in runs_by.values() for run in runs)
        axis.set_ylim(max(0.0, lowest - 0.03), min(1.0, full + 0.05))
    figure.suptitle("Mean of 5 seeds; bands are 95 % intervals of the mean", fontsize=10)
    figure.tight_layout()
    path = OUTPUT.parent.parent / "docs" / "figures" / "learning_curves.png"
    figure.savefig(path, dpi=130)
    print(f"figure: {path.relative_to(OUTPUT.parent.parent)}")


if __name__ == "__main__":
    main()
