"""Published comparisons, to the digits that are published."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from likely.inference import EM, MLE, Fit, Program
from likely.models import BradleyTerry, Comparisons, PlackettLuce, Rankings
from likely.models.preference import deviance

DATA = Path(__file__).resolve().parents[4] / "shared" / "data" / "pairs"

pytestmark = pytest.mark.skipif(not DATA.exists(), reason="the published data are not here")


def citations() -> Comparisons:
    table = pd.read_csv(DATA / "citations_stigler" / "citations.csv", index_col=0)
    cited, citing = np.nonzero(~np.eye(len(table), dtype=bool))
    wins = table.to_numpy()[cited, citing]
    return Comparisons.from_arrays(table.index[cited], table.index[citing], wins)


def baseball() -> Comparisons:
    table = pd.read_csv(DATA / "baseball1987" / "baseball1987.csv")
    return Comparisons.from_frame(table, "home_team", "away_team", "home_wins", "away_wins", home=1)


def against(fit: Fit, items: Any, reference: str) -> tuple[dict[str, float], dict[str, float]]:
    """Estimates and standard errors of differences from one item."""
    names = list(items)
    base = names.index(reference)
    ability = fit.params["ability"].numpy()
    # Of sum-zero coordinates the generic information, through the isometry that made them.
    information = fit.fisher_information(prior=False)
    rows = [k for k, label in enumerate(information.labels) if label.startswith("ability")]
    covariance = np.linalg.inv(information.matrix.numpy())[np.ix_(rows, rows)]
    n = len(names)
    basis = np.eye(n, n - 1) - 1 / (np.sqrt(n) * (np.sqrt(n) - 1))
    basis[-1] = 1 / np.sqrt(n)
    full = basis @ covariance @ basis.T
    spread = np.diag(full) + full[base, base] - 2 * full[base]
    estimates = {name: ability[k] - ability[base] for k, name in enumerate(names)}
    return estimates, dict(zip(names, np.sqrt(np.maximum(spread, 0)), strict=True))


def test_citations() -> None:
    data = citations()
    fit = MLE().fit(BradleyTerry(4), data)
    estimates, errors = against(fit, data.items, "Biometrika")
    expected = {
        "Comm Statist": (-2.94907, 0.10255),
        "JASA": (-0.47957, 0.06059),
        "JRSS-B": (0.26895, 0.07083),
    }
    for name, (estimate, error) in expected.items():
        assert abs(estimates[name] - estimate) < 5e-6
        assert abs(errors[name] - error) < 5e-6
    assert deviance(fit) == pytest.approx(4.2934, abs=5e-5)
    assert len(data) - fit.n_parameters == 3


@pytest.mark.parametrize("home", [False, True])
def test_baseball(home: bool) -> None:
    data = baseball()
    assert len(data) == 42
    fit = MLE().fit(BradleyTerry(7, home_advantage=home), data)
    estimates, errors = against(fit, data.items, "Baltimore")
    if home:
        worth = fit.params["ability"].softmax(0).sort().values.numpy()
        np.testing.assert_allclose(
            worth, [0.044, 0.088, 0.137, 0.157, 0.164, 0.190, 0.220], atol=5e-4
        )
        assert float(fit.params["home_advantage"]) == pytest.approx(0.3023, abs=5e-5)
        assert float(fit.standard_errors()["home_advantage"]) == pytest.approx(0.131, abs=5e-4)
        values = [1.1438, 0.7047, 1.4754, 1.6196, 1.2813, 1.3271]
        assert deviance(fit) == pytest.approx(38.643, abs=5e-4)
    else:
        values = [1.1077, 0.6839, 1.4364, 1.5814, 1.2476, 1.2945]
        assert deviance(fit) == pytest.approx(44.053, abs=5e-4)
    names = ["Boston", "Cleveland", "Detroit", "Milwaukee", "New York", "Toronto"]
    np.testing.assert_allclose([estimates[name] for name in names], values, atol=5e-5)
    # "All standard errors are near 0.3" (Agresti 2002, table 10.11).
    assert all(0.3 < errors[name] < 0.37 for name in names)


@pytest.mark.parametrize("name", ["pairwise-1", "pairwise-2"])
@pytest.mark.parametrize("engine", [MLE(), EM()])
def test_choix_pairs(name: str, engine: Any) -> None:
    case = json.loads((DATA / "choix_testcases" / f"{name}.json").read_text())
    winner, loser = zip(*case["data"], strict=True)
    data = Comparisons.from_arrays(winner, loser, items=range(case["n_items"]))
    fit = engine.fit(BradleyTerry(case["n_items"]), data)
    np.testing.assert_allclose(fit.params["ability"].numpy(), case["ml_est"], atol=1e-9)


@pytest.mark.parametrize("name", ["rankings-1", "rankings-2", "top1-1", "top1-2"])
def test_choix_rankings(name: str) -> None:
    case = json.loads((DATA / "choix_testcases" / f"{name}.json").read_text())
    choices = name.startswith("top1")
    lists = [[row[0], *row[1]] if choices else row for row in case["data"]]
    data = Rankings.from_lists(lists, depth=1 if choices else None, items=range(case["n_items"]))
    program = PlackettLuce(case["n_items"])
    fit = MLE().fit(program, data)
    theirs = np.array(case["ml_est"]) - np.mean(case["ml_est"])
    # What is recorded for two of the cases stopped a little before the optimum.
    np.testing.assert_allclose(fit.params["ability"].numpy(), theirs, atol=3e-5)
    there = Program(program, data).log_likelihood({"ability": torch.as_tensor(theirs)})
    assert fit.log_likelihood >= float(there) - 1e-12


@pytest.mark.parametrize(
    ("name", "folder"),
    [("food", "evalica_small"), ("simple", "evalica_small"), ("llmfao", "llmfao")],
)
@pytest.mark.parametrize(("algorithm", "ties"), [("bradley_terry", "half"), ("newman", "davidson")])
def test_evalica_scores(name: str, folder: str, algorithm: str, ties: str) -> None:
    """Newman's (2023) iteration finds the maximum of Davidson's likelihood."""
    table = pd.read_csv(DATA / folder / f"{name}.csv")
    wins, losses, draws = (table["winner"] == what for what in ("left", "right", "tie"))
    data = Comparisons.from_arrays(table["left"], table["right"], wins, losses, draws)
    fit = MLE().fit(BradleyTerry(data.n_items, ties=ties), data)
    golden = pd.read_csv(DATA / folder / f"{name}-golden.csv")
    golden = golden[golden["algorithm"] == algorithm].set_index("item")["score"]
    scores = pd.Series(fit.params["ability"].softmax(0).numpy(), [str(i) for i in data.items])
    expected = golden / golden.sum()
    expected.index = expected.index.astype(str)
    np.testing.assert_allclose(scores[expected.index], expected, rtol=1e-9)
    if algorithm == "bradley_terry":
        assert golden.sum() == pytest.approx(1.0, abs=1e-9)
