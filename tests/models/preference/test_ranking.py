"""Ranks with their uncertainty, matrices of wins, rankings, and figures of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats

from likely.envs import DataError
from likely.inference import MAP, MLE, Fit, FitError, Laplace, plot_intervals, plot_matrix
from likely.models import BradleyTerry, Comparisons, CrowdBradleyTerry, PlackettLuce, Rankings
from likely.models.preference import ability_draws, deviance, ranking, standard_errors, win_matrix


@pytest.fixture(scope="module")
def league() -> Comparisons:
    names = ["ann", "bo", "cy", "dee"]
    first = [a for a in names for b in names if a < b]
    second = [b for a in names for b in names if a < b]
    return Comparisons.from_arrays(
        first, second, [30, 28, 35, 22, 27, 24], [20, 22, 15, 24, 20, 26], [4] * 6, home=1
    )


def test_draws_have_the_standard_errors_of_the_fit(league: Comparisons) -> None:
    program = BradleyTerry(4, ties="davidson", home_advantage=True)
    for engine in (MLE(), MAP()):
        fit = engine.fit(program, league)
        drawn = ability_draws(fit, draws=20_000)
        error = fit.standard_errors()["ability"]
        assert bool(((drawn.std(0) / error - 1).abs() < 4 / (2 * 20_000) ** 0.5).all())
        away = (drawn.mean(0) - fit.params["ability"]).abs()
        assert bool((away < 4 * error / 20_000**0.5).all())


def test_draws_by_the_general_way_agree(league: Comparisons) -> None:
    program = BradleyTerry(4, ties="half")

    class Other(BradleyTerry):
        """Another class, which the fast way does not know."""

    fits = [MLE().fit(kind, league) for kind in (program, Other(4, ties="half"))]
    one, other = (ability_draws(fit, draws=20_000).T.cov() for fit in fits)
    scale = one.diagonal().max()
    assert bool(((one - other).abs() < 6 * scale / 20_000**0.5).all())


def test_two_items_have_the_normal_probability_of_being_best() -> None:
    data = Comparisons.from_arrays(["a"], ["b"], [30], [20])
    fit = MLE().fit(BradleyTerry(2), data)
    table = ranking(fit, draws=40_000)
    z = float(fit.params["ability"][0] / fit.standard_errors()["ability"][0])
    chance = stats.norm.cdf(z)
    assert table.index.tolist() == ["a", "b"]
    assert table["rank"].tolist() == [1, 2]
    assert abs(table.loc["a", "best"] - chance) < 4 * (chance * (1 - chance) / 40_000) ** 0.5
    assert table["best"].sum() == pytest.approx(1.0)
    assert table.loc["a", ["rank_lower", "rank_upper"]].tolist() == [1, 2]


def test_a_posterior_is_ranked_by_its_draws(league: Comparisons) -> None:
    fit = Laplace(draws=3000).fit(BradleyTerry(4, ties="half"), league)
    table = ranking(fit, interval=0.5)
    drawn = fit.draws["ability"].flatten(0, 1)
    best = torch.bincount(drawn.argmax(-1), minlength=4) / len(drawn)
    assert table.loc[league.items.tolist(), "best"].tolist() == pytest.approx(best.tolist())
    assert bool((table["ability_lower"] < table["ability"]).all())
    assert bool((table["rank_lower"] <= table["rank_upper"]).all())
    matrix = win_matrix(fit, draws=3000)
    a, b = matrix.index[0], matrix.index[1]
    places = [league.items.tolist().index(x) for x in (a, b)]
    wanted = torch.sigmoid(drawn[:, places[0]] - drawn[:, places[1]]).mean()
    assert float(matrix.loc[a, b]) == pytest.approx(float(wanted), rel=1e-12)


def test_wins_and_ties_add_to_one(league: Comparisons) -> None:
    fit = MLE().fit(BradleyTerry(4, ties="rao-kupper"), league)
    win, tie, score = (win_matrix(fit, outcome=what) for what in ("win", "tie", "score"))
    total = (win + win.T + tie).to_numpy()
    off = ~np.eye(4, dtype=bool)
    np.testing.assert_allclose(total[off], 1.0, rtol=1e-12)
    np.testing.assert_allclose((score + score.T).to_numpy()[off], 1.0, rtol=1e-12)
    assert bool(np.isnan(np.diag(win)).all())
    assert win.index.tolist() == ranking(fit).index.tolist()


def test_crowds_rankings_and_periods_are_ranked_too() -> None:
    races = Rankings.from_lists([[0, 1, 2], [3, 2, 0], [1, 3], [2, 3, 1]])
    fit = MAP().fit(PlackettLuce(4), races)
    table = ranking(fit)
    errors = fit.standard_errors()["ability"].numpy()
    np.testing.assert_allclose(table["ability_sd"].sort_index(), errors, rtol=4 / 8000**0.5)
    assert win_matrix(fit).shape == (4, 4)
    judged = Comparisons.from_arrays(
        ["a", "a", "b"] * 5, ["b", "c", "c"] * 5, 3, 1, annotator=[0, 1, 2, 3, 4] * 3
    )
    assert len(ranking(MAP().fit(CrowdBradleyTerry(3), judged))) == 3
    games = Comparisons.from_arrays(
        ["a", "b", "a"], ["b", "a", "b"], [5, 5, 2], [3, 2, 6], period=[1, 2, 3]
    )
    fit = MAP().fit(BradleyTerry(2, drift=1.0), games)
    assert ranking(fit, period=1).index[0] == "a"
    assert ranking(fit).index[0] == "b"
    with pytest.raises(DataError, match="period"):
        ranking(fit, period=9)


def test_deviance_of_a_saturated_model_is_zero() -> None:
    data = Comparisons.from_arrays(["a"], ["b"], [7], [4])
    assert deviance(MLE().fit(BradleyTerry(2), data)) == pytest.approx(0.0, abs=1e-10)


def test_bad_arguments_are_refused(league: Comparisons) -> None:
    fit = MLE().fit(BradleyTerry(4, ties="half"), league)
    for call in (
        lambda: ranking(None),
        lambda: ranking(fit, interval=1.0),
        lambda: ranking(fit, draws=1),
        lambda: ranking(fit, period=1),
        lambda: ranking(fit, seed=-1),
        lambda: win_matrix(fit, seed="x"),  # type: ignore[arg-type]
        lambda: win_matrix(fit, outcome="loss"),
        lambda: standard_errors(fit, probes=0),
    ):
        with pytest.raises(DataError):
            call()


def test_figures(league: Comparisons, tmp_path: Path) -> None:
    fit = MLE().fit(BradleyTerry(4, ties="half"), league)
    table = ranking(fit)
    forest = plot_intervals(table, "ability", sort=False)
    names = [label.get_text() for label in forest.axes[0].get_yticklabels()]
    assert names == table.index.tolist()
    heat = plot_matrix(win_matrix(fit), title="wins")
    image = heat.axes[0].images[0].get_array()
    assert image is not None
    np.testing.assert_allclose(np.asarray(image), win_matrix(fit).to_numpy())
    for number, figure in enumerate((forest, heat)):
        figure.savefig(tmp_path / f"{number}.png")
        plt.close(figure)


@pytest.mark.parametrize(
    ("table", "options"),
    [
        (pd.DataFrame(), {}),
        (pd.DataFrame({"a": ["x"]}), {}),
        (pd.DataFrame(np.zeros((200, 2))), {}),
        (pd.DataFrame({"a": [0.1]}), {"limits": (1.0, 0.0)}),
    ],
)
def test_bad_tables_are_refused(table: pd.DataFrame, options: dict[str, Any]) -> None:
    with pytest.raises(FitError):
        plot_matrix(table, **options)


BAD_RANKINGS = [
    ([], {}, "at least one"),
    ([[0]], {}, "two items or more"),
    ([[0, 1, 0]], {}, "comes twice"),
    ([[0, None]], {}, "missing"),
    ([[0, 1]], {"items": [0, 2]}, "not in items"),
    ([[0, 1]], {"depth": 0}, "depth"),
    ([[0, 1]], {"depth": [1, 2]}, "depth"),
    ([[0, 1]], {"depth": 1.5}, "depth"),
    ([0, 1], {}, "expected sequences of ids"),
    (None, {}, "expected sequences of ids"),
    ([[0, 1]], {"decided": "no"}, "decided"),
]


@pytest.mark.parametrize(("lists", "options", "said"), BAD_RANKINGS)
def test_bad_rankings_are_refused(lists: Any, options: dict[str, Any], said: str) -> None:
    with pytest.raises(DataError, match=said):
        Rankings.from_lists(lists, **options)


PLACES = pd.DataFrame({"ranking": [1, 1, 1], "item": list("abc"), "place": [2, 10, 1]})


@pytest.mark.parametrize(
    ("column", "values", "said"),
    [
        ("place", ["2", "10", "1"], "place: expected finite numbers"),
        ("place", [2, -1, 1], "place: expected finite numbers"),
        ("place", [2, np.inf, 1], "place: expected finite numbers"),
        ("place", [2, None, 1], "place: expected a value in every row"),
        ("place", [2, 1, 1], "same place"),
        ("ranking", [1, None, 1], "ranking: expected a value in every row"),
    ],
)
def test_bad_places_are_refused(column: str, values: list[Any], said: str) -> None:
    with pytest.raises(DataError, match=said):
        Rankings.from_frame(PLACES.assign(**{column: values}))


def test_places_are_numbers_and_tensors_hold_ids() -> None:
    assert Rankings.from_frame(PLACES).order.tolist() == [[2, 0, 1]]
    for rows in (torch.tensor([[0, 1], [1, 0]]), [torch.tensor([0, 1]), np.array([1, 0])]):
        data = Rankings.from_lists(rows)
        assert data.items.tolist() == [0, 1]
        assert data.order.tolist() == [[0, 1], [1, 0]]


def test_orders_must_be_of_those_who_take_part() -> None:
    races = Rankings.from_lists([["a", "b", "c"], ["c", "a"]])
    assert races.with_order(torch.tensor([[2, 1, 0], [0, 2, -1]])).order[1].tolist() == [0, 2, -1]
    for order in (torch.zeros(3, 3), torch.tensor([[0, 1, 2], [1, 0, -1]])):
        with pytest.raises(DataError, match="order: expected"):
            races.with_order(order)
    with pytest.raises(DataError, match="depth: expected at most"):
        Rankings(races.order, torch.tensor([3, 3]), races.items)


@pytest.mark.parametrize("unit", ["ns", "us", "D"])
def test_days_as_periods_stay_days(unit: str, tmp_path: Path) -> None:
    days = np.array(["2024-01-01", "2024-01-03"], dtype=f"datetime64[{unit}]")
    data = Comparisons.from_arrays(
        ["a", "a"] * 2, ["b", "b"] * 2, [9, 1] * 2, [2, 8] * 2, period=np.tile(days, 2)
    )
    fit = MAP().fit(BradleyTerry(2, drift=1.0), data)
    fit.save(tmp_path / "fit.nc")
    for found in (fit, Fit.load(tmp_path / "fit.nc")):
        labels = found.to_arviz()["posterior"]["ability"].coords["period"].values
        assert labels.dtype.kind == "M"
        assert (labels == days).all()
    assert ranking(fit, period=pd.Timestamp("2024-01-01")).index.tolist() == ["a", "b"]
    assert ranking(fit, period=days[1]).index.tolist() == ["b", "a"]
    with pytest.raises(DataError, match="period: expected one of"):
        ranking(fit, period=pd.Timestamp("2024-01-02"))


def test_rankings_of_two_are_comparisons() -> None:
    source = np.random.default_rng(0)
    first = source.integers(0, 5, 200)
    second = (first + source.integers(1, 5, 200)) % 5
    races = Rankings.from_lists(np.stack([first, second], -1).tolist())
    games = Comparisons.from_arrays(first, second)
    one = MLE().fit(PlackettLuce(5), races)
    other = MLE().fit(BradleyTerry(5), games)
    assert torch.allclose(one.params["ability"], other.params["ability"], atol=1e-6)
    errors = [fit.standard_errors()["ability"] for fit in (one, other)]
    assert torch.allclose(*errors, rtol=1e-5)
