"""What tests of crowd programs share: crowds, densities, and sums of one label at a time."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyro
import pytest
import torch
from pyro import poutine
from scipy.special import logsumexp
from torch import Tensor

from likely.models import Annotations

ROOT = Path(__file__).parents[3]
DATA = Path(os.environ.get("LIKELY_DATA", ROOT.parent / "shared" / "data"))


# -- densities -----------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def density() -> Callable[..., Tensor]:
    """Log-density of every task's labels, classes summed out by the program."""

    def of_labels(program: Any, annotations: Annotations, values: Any) -> Tensor:
        trace = poutine.trace(poutine.condition(program, values)).get_trace(annotations)
        site: Any = trace.nodes["labels"]
        found: Tensor = site["fn"].log_prob(site["value"])
        return found

    return of_labels


@pytest.fixture(scope="session")
def evidence(density: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Log-density of all labels."""
    return lambda *given: density(*given).sum()


@pytest.fixture(scope="session")
def check_particles(density: Callable[..., Tensor]) -> Callable[..., None]:
    """Check a program in a plate outside, as many values at once, against one at a time.

    ``outside`` names the sites that stand in no other plate.
    """

    def check(program: Any, annotations: Annotations, each: Any, outside: Any) -> None:
        stacked = {name: torch.stack([values[name] for values in each]) for name in each[0]}
        for name in outside:
            stacked[name] = stacked[name].unsqueeze(1)

        def particles(annotations: Annotations) -> Tensor:
            with pyro.plate("particle", len(each), dim=-2):
                labels: Tensor = program(annotations)
            return labels

        found = density(particles, annotations, stacked)
        assert found.shape == (len(each), annotations.n_tasks)
        one_by_one = [density(program, annotations, values) for values in each]
        torch.testing.assert_close(found, torch.stack(one_by_one))

    return check


@pytest.fixture(scope="session")
def by_hand() -> Callable[..., float]:
    """The same in NumPy, one label at a time.

    ``prior`` holds probabilities [n_tasks, K] or [K], ``chance(i, who, label)`` those of a label
    by true class, [K].
    """

    def total(annotations: Annotations, prior: Any, chance: Any) -> float:
        prior = np.broadcast_to(np.asarray(prior), (annotations.n_tasks, annotations.n_classes))
        joint = np.log(prior)
        for row in zip(*_rows(annotations), strict=True):
            joint[row[0]] += np.log(np.asarray(chance(*row)))
        if annotations.truth is not None:
            for i, known in enumerate(annotations.truth.tolist()):
                if known >= 0:
                    joint[i, np.arange(annotations.n_classes) != known] = -np.inf
        return float(logsumexp(joint, axis=1).sum())

    return total


def _rows(annotations: Annotations) -> list[list[int]]:
    assert annotations.label is not None
    return [x.tolist() for x in (annotations.task, annotations.annotator, annotations.label)]


# -- crowds --------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def small() -> Callable[..., Annotations]:
    """Random labels of three classes; with ``dim`` features of every task."""

    def crowd(
        seed: int = 0, n: int = 60, tasks: int = 12, dim: int | None = None, **options: Any
    ) -> Annotations:
        generator = np.random.default_rng(seed)
        if dim is not None:
            options = {"features": generator.normal(size=(tasks, dim)), **options}
        return Annotations.from_arrays(
            generator.integers(0, tasks, n),
            generator.integers(0, 4, n),
            generator.integers(0, 3, n),
            tasks=range(tasks),
            annotators=range(4),
            classes=range(3),
            **options,
        )

    return crowd


@pytest.fixture(scope="session")
def described_design() -> Callable[..., Annotations]:
    """Some annotators drawn at random are to label each task, which has two features."""

    def design(tasks: int, per_task: int, annotators: int) -> Annotations:
        asked = torch.rand(tasks, annotators).argsort(-1)[:, :per_task]
        return Annotations.from_arrays(
            torch.arange(tasks).repeat_interleave(per_task),
            asked.flatten(),
            None,
            annotators=range(annotators),
            classes=range(3),
            features=torch.randn(tasks, 2),
        )

    return design


DEGENERATE = {
    "one label": (([0], [0], [1]), {"classes": [0, 1]}),
    "one annotator": (([0, 1, 2], [0, 0, 0], [0, 1, 1]), {}),
    "one label each": (([0, 0, 0], [0, 1, 2], [0, 1, 1]), {}),
    "one class reported": (([0, 0], [0, 1], [1, 1]), {"classes": [0, 1]}),
    "idle": (([0, 1], [0, 1], [0, 1]), {"tasks": range(9), "annotators": range(5)}),
}


@pytest.fixture(params=DEGENERATE)
def degenerate_crowd(request: pytest.FixtureRequest) -> Annotations:
    """Crowds of two classes of which little is to be learnt."""
    columns, options = DEGENERATE[request.param]
    return Annotations.from_arrays(*columns, **options)


@pytest.fixture(scope="session")
def anesthesia() -> Annotations:
    """The data of Dawid & Skene (1979)."""
    return Annotations.from_frame(pd.read_csv(ROOT / "examples" / "data" / "anesthesia.csv"))


@dataclass(frozen=True, eq=False)
class Published:
    """A published crowd, and the share of tasks with known class that an answer gets right."""

    crowd: Annotations
    gold: dict[Any, Any]
    folder: Path

    def accuracy(self, truth: Tensor) -> float:
        guess = self.crowd.classes[truth.argmax(-1).numpy()]
        tasks = enumerate(self.crowd.tasks.tolist())
        return float(np.mean([guess[i] == self.gold[t] for i, t in tasks if t in self.gold]))


@cache
def _published(name: str) -> Published | None:
    folder = DATA / "crowd" / name
    if not folder.is_dir():
        return None
    crowd = Annotations.from_frame(pd.read_csv(folder / "labels.csv"), annotator="worker")
    gold = pd.read_csv(folder / "truth.csv").set_index("task")["label"]
    return Published(crowd, gold.to_dict(), folder)


@pytest.fixture(scope="session")
def published() -> Callable[[str], Published]:
    """A published crowd by name; the test is skipped where its data are not."""

    def load(name: str) -> Published:
        found = _published(name)
        if found is None:
            pytest.skip(f"no data in {DATA / 'crowd' / name}; set LIKELY_DATA")
        return found

    return load
