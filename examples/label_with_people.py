"""A person labels handwritten digits, and a learner chooses which.

Is it a 3, an 8 or a 9? 400 pictures wait, and a person should not look at all of them. The learner
fits a softmax regression to the answers so far and asks about the pictures that it is least sure
of: at the terminal, or on a page in the browser (``--page``), which only this machine can open.
Every answer is on disk before the next question; stop when you like (q), and the same command
goes on from there. ``--simulate`` answers by itself.

Prints accuracy on pictures that are never asked about; draws the learning curve, beside that of
pictures asked at random, and the pictures that were asked.
"""

import argparse
import warnings
from pathlib import Path

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import torch
from sklearn.datasets import load_digits

from likely.inference import MAP, ConvergenceWarning
from likely.inference.active import (
    ActiveLearner,
    ArrayOracle,
    Budget,
    TerminalOracle,
    WebOracle,
)
from likely.inference.diagnostics.style import bare
from likely.models import SoftmaxRegression

NAMES = ("three", "eight", "nine")
SHADES = " .:-=+*#%@"


def data():
    """Pictures [n, 64] from 0 to 1 and their classes, for the pool and for the test."""
    x, y = load_digits(return_X_y=True)
    kept = np.isin(y, (3, 8, 9))
    x, y = x[kept] / 16, np.searchsorted((3, 8, 9), y[kept])
    order = np.random.default_rng(0).permutation(len(x))
    pool, test = order[:400], order[400:]
    return tuple(torch.from_numpy(part) for part in (x[pool], y[pool], x[test], y[test]))


def program(x, y=None, *, weights=None):
    """The class depends linearly on how each pixel differs from grey."""
    return SoftmaxRegression(3)(x - 0.5, y, weights=weights)


def as_characters(picture):
    """A picture for the terminal: two characters a pixel, the darker the denser."""
    rows = np.asarray(picture).reshape(8, 8)
    return "\n".join("".join(2 * SHADES[int(9 * v)] for v in row) for row in rows)


def learner(oracle, acquisition, options):
    return ActiveLearner(
        program=program,
        n_classes=3,
        engine=MAP(),
        acquisition=acquisition,
        oracle=oracle,
        classes=NAMES,
        batch_size=options.batch,
        stopping=Budget(options.budget),
        cold_start=2 * options.batch,
    )


def person(options, labels):
    """Whoever answers."""
    if options.simulate:
        return ArrayOracle(labels)
    answers = options.output / "label_with_people.jsonl"
    if options.page:
        return WebOracle(
            NAMES,
            "image",
            path=answers,
            question="Which digit is this?",
            image_shape=(8, 8),
            open_browser=options.open,
        )
    return TerminalOracle(NAMES, path=answers, show=as_characters)


def main():
    options = parsed()
    options.output.mkdir(parents=True, exist_ok=True)
    pool, labels, x_test, y_test = data()
    oracle = person(options, labels)
    try:
        found = learner(oracle, "margin", options).run(pool, test=(x_test, y_test))
    finally:
        getattr(oracle, "close", lambda: None)()
    print(f"\n{found.stopped}; {len(found.labelled)} of {len(pool)} pictures were labelled")
    if not found.fits:
        print("Too few answers for a fit.")
        return
    history = found.history[["n_answers", "metric"]].dropna()
    print(history.rename(columns={"metric": "accuracy"}).to_string(index=False))
    asked, given = found.labelled.index, found.labelled.label
    wrong = int((given != labels.numpy()[asked]).sum())
    print(f"{wrong} of {len(given)} answers differ from the record")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        chance = learner(ArrayOracle(labels), "random", options).run(pool, test=(x_test, y_test))
    draw(found, chance.history, pool, options.output / "label_with_people.png")


def draw(found, chance, pool, path):
    figure = plt.figure(figsize=(9.6, 4.4), layout="constrained")
    left, right = figure.subfigures(1, 2, width_ratios=[1.1, 1])
    ax = left.subplots()
    bare(ax)
    ax.plot(chance["n_answers"], chance["metric"], "--", color="0.5", label="asked at random")
    history = found.history
    ax.plot(history["n_answers"], history["metric"], "o-", ms=4, label="asked where unsure")
    ax.set(xlabel="answers", ylabel="accuracy on 137 other pictures")
    ax.legend(frameon=False, loc="lower right")
    shown = found.labelled.index[:30]
    right.suptitle("The pictures that were asked, and the answers", fontsize=10)
    grid = right.subplots(5, 6, squeeze=False).ravel()
    for cell in grid:
        cell.axis("off")
    for cell, index, label in zip(grid, shown, found.labelled.label, strict=False):
        cell.imshow(pool[index].reshape(8, 8), cmap="gray_r", interpolation="nearest")
        cell.set_title(NAMES[label], fontsize=8, pad=2)
    figure.savefig(path, dpi=150)
    print(f"\nFigure: {path.name}")


def parsed():
    parser = argparse.ArgumentParser(description=__doc__.strip().splitlines()[0])
    parser.add_argument("--page", action="store_true", help="ask in the browser")
    parser.add_argument("--open", action="store_true", help="with --page: open the browser")
    parser.add_argument("--simulate", action="store_true", help="answer from the record")
    parser.add_argument("--budget", type=int, default=40, help="most answers")
    parser.add_argument("--batch", type=int, default=5, help="questions between fits")
    default = Path(__file__).resolve().parent / "output"
    parser.add_argument("--output", type=Path, default=default, help="folder for figure, answers")
    mpl.use("Agg")
    return parser.parse_args()


if __name__ == "__main__":
    main()
