"""A classifier from a crowd's labels: first infer the truth and then train, or both at once.

Two stages end in softmax regression on soft labels, from vote shares or from Dawid & Skene's model
(without and with its prior), or on every label as it came. The joint model
(`likely.models.LearningFromCrowds`; Raykar et al. 2010) learns the classifier together with how
each annotator errs. First on simulated crowds with few labels a task, then on photographs of eight
kinds of scenery that 59 people labelled (LabelMe; Rodrigues & Pereira 2018), where those data are
to be had: in ``crowd/labelme`` below the folder that the environment variable LIKELY_DATA names.
Prints accuracies on tasks that nobody labelled.
"""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pyro
import torch
from _figures import COLOURS, canvas, output_folder, save
from pyro import poutine

from likely.inference import EM, MAP
from likely.inference.diagnostics.style import MARKERS
from likely.models import (
    Annotations,
    DawidSkene,
    LearningFromCrowds,
    SoftmaxRegression,
    each_class,
    each_label,
)

HERE = Path(__file__).resolve().parent
DATA = Path(os.environ.get("LIKELY_DATA", HERE.parents[1] / "shared" / "data"))
PER_TASK = (1, 2, 3, 5)
SEEDS = 3
METHODS = (
    "every label",
    "votes, then train",
    "Dawid–Skene MLE, then train",
    "Dawid–Skene MAP, then train",
    "joint",
)


def simulated_crowd(per_task, seed, tasks=200, annotators=20, dim=5):
    """A crowd of three careful annotators and many careless ones, and how to tell their classes."""
    pyro.set_rng_seed(seed)
    asked = torch.rand(tasks, annotators).argsort(-1)[:, :per_task]
    design = Annotations.from_arrays(
        torch.arange(tasks).repeat_interleave(per_task),
        asked.flatten(),
        None,
        annotators=range(annotators),
        classes=range(3),
        features=torch.randn(tasks, dim),
    )
    right = torch.full((annotators, 1, 1), 0.45)
    right[:3] = 0.95
    eye = torch.eye(3)
    values = {
        "intercept": torch.zeros(3),
        "coefficients": 1.5 * torch.randn(3, dim),
        "confusion": right * eye + (1 - right) / 2 * (1 - eye),
    }
    labels = poutine.condition(LearningFromCrowds(3), values)(design)
    x = torch.randn(4000, dim)
    return design.with_labels(labels), x, (x @ values["coefficients"].T).argmax(-1)


def accuracies(crowd, x, truth, scale, starts=1):
    """Share of new tasks that each method gets right; the joint model's mean over its starts."""
    classifier = SoftmaxRegression(crowd.n_classes, coefficients_scale=scale)

    def trained(rows):
        fit = MAP().fit(classifier, rows.x, rows.y, weights=rows.weights)
        return fit.params

    engine = EM(objective="posterior", tol=1e-7)
    annotators = DawidSkene(crowd.n_classes)
    inferred = [
        e.fit(annotators, crowd).latent("truth")
        for e in (replace(engine, objective="likelihood"), engine)
    ]
    joint = LearningFromCrowds(crowd.n_classes, classifier)
    found = {
        METHODS[0]: [trained(each_label(crowd))],
        METHODS[1]: [trained(each_class(crowd.features, crowd.vote_shares()))],
        METHODS[2]: [trained(each_class(crowd.features, inferred[0]))],
        METHODS[3]: [trained(each_class(crowd.features, inferred[1]))],
        METHODS[4]: [],
    }
    for seed in range(starts):
        generator = torch.Generator().manual_seed(seed)
        shape = crowd.n_classes, crowd.features.shape[1]
        # The first start makes no use of features; the others begin with a random classifier.
        moved = (seed > 0) * 0.1 * scale * torch.randn(shape, generator=generator)
        fit = replace(engine, init={"coefficients": moved}).fit(joint, crowd)
        found[METHODS[4]].append(fit.params)
    return {
        name: [
            float((joint.predict_proba(params, x).argmax(-1) == truth).double().mean())
            for params in each
        ]
        for name, each in found.items()
    }


def on_simulated_crowds():
    """Mean accuracy by method and number of labels a task."""
    rows = {name: [] for name in METHODS}
    for per_task in PER_TASK:
        runs = [accuracies(*simulated_crowd(per_task, seed), scale=1.0) for seed in range(SEEDS)]
        for name in METHODS:
            rows[name].append(np.mean([run[name] for run in runs]))
    return pd.DataFrame(rows, index=pd.Index(PER_TASK, name="labels a task")).T


def on_labelme(folder):
    """Accuracy by method on the test pictures; with the true labels of the training pictures."""
    with np.load(folder / "features.npz") as data:
        train, test = data["X_train"].astype(float), data["X_test"].astype(float)
        gold, truth = torch.from_numpy(data["y_train"]), torch.from_numpy(data["y_test"])
    mean, spread = train.mean(0), train.std(0) + 1e-9
    train, test = (
        torch.from_numpy((train - mean) / spread),
        torch.from_numpy((test - mean) / spread),
    )
    crowd = Annotations.from_frame(
        pd.read_csv(folder / "labels.csv"), annotator="worker", tasks=range(1000), features=train
    )
    result = accuracies(crowd, test, truth, scale=0.1, starts=SEEDS)
    classifier = SoftmaxRegression(8, coefficients_scale=0.1)
    params = MAP().fit(classifier, train, gold).params
    guess = LearningFromCrowds(8, classifier).predict_proba(params, test).argmax(-1)
    return {**result, "true labels": [float((guess == truth).double().mean())]}


def draw(simulated, labelme, folder):
    """Accuracy against the number of labels; and on the photographs."""
    figure, axes = canvas(1 if labelme is None else 2, height=4.2)
    for number, name in enumerate(METHODS):
        # Two methods all but coincide: open markers and dashes let the lower one be seen.
        axes[0].plot(
            PER_TASK,
            simulated.loc[name],
            "--" if number == 1 else "-",
            marker=MARKERS[number],
            mfc="none",
            color=COLOURS[number],
            label=name,
        )
    axes[0].set(xlabel="labels a task", ylabel="accuracy on new tasks", title="Simulated crowds")
    axes[0].set_xticks(PER_TASK)
    if labelme is not None:
        names = list(labelme)
        for place, name in enumerate(names):
            mean = np.mean(labelme[name])
            known = METHODS.index(name) if name in METHODS else None
            look = ("0.3", "*") if known is None else (COLOURS[known], MARKERS[known])
            axes[1].plot(mean, place, color=look[0], marker=look[1], mfc="none", ls="none", ms=8)
            axes[1].annotate(
                f"{mean:.3f}", (mean, place), (9, 0), textcoords="offset points", va="center"
            )
        axes[1].set_yticks(range(len(names)), names)
        axes[1].set(xlim=(0.78, 0.97), ylim=(len(names) - 0.5, -0.5))
        axes[1].set(xlabel="accuracy on test pictures", title="LabelMe")
        axes[1].grid(axis="y", lw=0.4, alpha=0.5)
    figure.legend(loc="outside lower center", ncols=3, frameon=False)
    save(figure, folder, "crowd_classifier")


def main():
    folder = output_folder(__doc__)
    simulated = on_simulated_crowds()
    print(f"Simulated crowds, 200 tasks, accuracy on new tasks, mean of {SEEDS} crowds")
    print(simulated.to_string(float_format="{:.3f}".format))
    ahead = simulated.loc["joint"] > simulated.drop(index="joint").max()
    print(f"The joint model is ahead of the others at: {ahead.index[ahead].tolist()} labels a task")

    source, labelme = DATA / "crowd" / "labelme", None
    if (source / "features.npz").is_file():
        labelme = on_labelme(source)
        print(f"\nLabelMe, 1000 pictures, 2547 labels; joint: mean of {SEEDS} starts")
        for name, values in labelme.items():
            every = ", ".join(f"{value:.4f}" for value in values) if len(values) > 1 else ""
            print(f"{name:28} {np.mean(values):.4f}  {every}".rstrip())
    else:
        print("\nLabelMe: left out, there is no crowd/labelme/features.npz below LIKELY_DATA.")
    draw(simulated, labelme, folder)


if __name__ == "__main__":
    main()
