from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch

from likely.inference import EM, MLE, NUTS, Fit, Laplace

CLASSES = ["healthy", "mild", "severe"]
ANNOTATORS = ["Ann", "Bo"]


class Crowd:
    """Two annotators' labels of tasks in three classes; names and labels of the dimensions."""

    dims = {"prevalence": ("class",), "confusion": ("reported",), "truth": ("class",)}  # noqa: RUF012

    def __call__(self, answers: torch.Tensor) -> None:
        prevalence = pyro.sample("prevalence", dist.Dirichlet(torch.ones(3)))
        pyro.deterministic("odds", prevalence[1:] / prevalence[0])
        with pyro.plate("annotator", 2, dim=-2), pyro.plate("class", 3, dim=-1):
            confusion = pyro.sample("confusion", dist.Dirichlet(torch.ones(3) + 2 * torch.eye(3)))
        with pyro.plate("task", answers.shape[1], dim=-1):
            truth = pyro.sample("truth", dist.Categorical(prevalence))
            with pyro.plate("rater", 2, dim=-2) as rater:
                table = confusion[rater.unsqueeze(-1), truth]
                pyro.sample("answer", dist.Categorical(table), obs=answers)

    def coords(self, answers: torch.Tensor) -> dict[str, Any]:
        return {
            "annotator": ANNOTATORS,
            "class": CLASSES,
            "reported": CLASSES,
            "task": [f"t{i}" for i in range(answers.shape[1])],
        }


def line(x: torch.Tensor, y: torch.Tensor) -> None:
    """A line with noise: scalars, and a vector without a name for its dimension."""
    coefficients = pyro.sample("coefficients", dist.Normal(0.0, 10.0).expand([2]).to_event(1))
    scale = pyro.sample("scale", dist.LogNormal(0.0, 1.0))
    with pyro.plate("point", len(x)):
        pyro.sample("y", dist.Normal(coefficients[0] + coefficients[1] * x, scale), obs=y)


@pytest.fixture(scope="session")
def answers() -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    truth = torch.randint(3, (40,), generator=generator)
    noise = torch.randint(3, (2, 40), generator=generator)
    return torch.where(torch.rand(2, 40, generator=generator) < 0.7, truth, noise)


@pytest.fixture(scope="session")
def line_data() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(2)
    x = torch.linspace(-1, 1, 30, dtype=torch.float64)
    return x, 1.0 + 2.0 * x + 0.5 * torch.randn(30, generator=generator, dtype=torch.float64)


@pytest.fixture(scope="session")
def crowd() -> Crowd:
    return Crowd()


@pytest.fixture(scope="session")
def em(crowd: Crowd, answers: torch.Tensor) -> Fit:
    return EM(objective="posterior").fit(crowd, answers)


@pytest.fixture(scope="session")
def laplace(crowd: Crowd, answers: torch.Tensor) -> Fit:
    return Laplace(draws=200).fit(crowd, answers)


@pytest.fixture(scope="session")
def mle_line(line_data: tuple[torch.Tensor, torch.Tensor]) -> Fit:
    return MLE().fit(line, *line_data)


@pytest.fixture(scope="session")
def nuts_line(line_data: tuple[torch.Tensor, torch.Tensor]) -> Fit:
    return NUTS(draws=100, warmup=150, chains=2, cores=1).fit(line, *line_data)


@pytest.fixture(scope="session")
def line_program() -> Callable[..., None]:
    return line


@pytest.fixture(scope="session")
def sampled(laplace: Fit) -> Fit:
    """The Laplace draws of the crowd as if a sampler had made them in four chains."""
    draws = {name: value.reshape(4, 50, *value.shape[2:]) for name, value in laplace.draws.items()}
    stats = {"diverging": torch.zeros(4, 50, dtype=torch.bool)}
    return replace(laplace, engine="nuts", draws=draws, sample_stats=stats)


@pytest.fixture(autouse=True)
def _close_figures() -> Iterator[None]:
    import matplotlib.pyplot as plt

    yield
    plt.close("all")
