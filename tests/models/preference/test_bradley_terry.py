"""Bradley and Terry's program: Newton's start, standard errors, ties, drift, and what it says."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from pyro import poutine

from likely.envs import DataError
from likely.inference import (
    EM,
    MAP,
    MLE,
    BoundaryWarning,
    ConvergenceWarning,
    DegenerateWarning,
    Fit,
    FitError,
    Laplace,
    Program,
)
from likely.models import BradleyTerry, Comparisons
from likely.models.preference import _information, standard_errors
from likely.models.preference._newton import Information, Rows, expand


def simulated(n: int, m: int, seed: int = 0, **options: Any) -> tuple[Comparisons, torch.Tensor]:
    """Comparisons of random pairs, and the abilities behind them."""
    source = np.random.default_rng(seed)
    ability = source.normal(size=n)
    ability -= ability.mean()
    first = source.integers(0, n, m)
    second = (first + source.integers(1, n, m)) % n
    won = source.random(m) < 1 / (1 + np.exp(ability[second] - ability[first]))
    data = Comparisons.from_arrays(first, second, won, ~won, items=range(n), **options)
    return data, torch.as_tensor(ability)


def gradient_norm(fit: Fit) -> float:
    """Length of the gradient by abilities at a fit."""
    program = fit.bound("the gradient")
    values = {name: v.clone().requires_grad_(True) for name, v in fit.point().items()}
    with program.session(0):
        density = program.density(values).log_likelihood
    (slope,) = torch.autograd.grad(density, [values["ability"]])
    return float((slope - slope.mean()).norm())


RULES = [None, "davidson", "rao-kupper"]


def with_everything(rule: str | None) -> tuple[BradleyTerry, Comparisons]:
    """A program with home advantage, covariates and ties, and data that it simulated."""
    source = np.random.default_rng(3)
    n, m = 6, 200
    first = source.integers(0, n, m)
    second = (first + source.integers(1, n, m)) % n
    design = Comparisons.from_arrays(
        first,
        second,
        total=3,
        home=source.integers(-1, 2, m),
        covariates=source.normal(size=(m, 2)),
        items=range(n),
    )
    program = BradleyTerry(n, ties=rule, home_advantage=True)
    truth = {
        "ability": torch.linspace(-1, 1, n).double(),
        "home_advantage": torch.tensor(0.3).double(),
        "coefficients": torch.tensor([0.5, -0.4]).double(),
    }
    if rule is not None:
        truth["tie"] = torch.tensor(1.4).double()
    torch.manual_seed(0)
    counts = poutine.condition(program, truth)(design)
    return program, design.with_counts(counts)


@pytest.mark.parametrize("rule", RULES)
def test_the_start_is_the_optimum(rule: str | None) -> None:
    program, data = with_everything(rule)
    start = program.initial(data)
    fit = MLE().fit(program, data)
    assert fit.n_iter == 0
    assert gradient_norm(fit) < 1e-9
    # The engine finds the same from elsewhere, up to what its tolerance leaves.
    elsewhere = {name: torch.zeros_like(value) for name, value in start.items()}
    if rule is not None:
        elsewhere["tie"] = torch.tensor(2.0).double()
    other = MLE(init=elsewhere).fit(program, data)
    assert other.n_iter > 0
    assert other.log_likelihood == pytest.approx(fit.log_likelihood, abs=1e-7)
    for name, value in fit.params.items():
        assert torch.allclose(other.params[name], value, atol=1e-4)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("engine", [MLE(), MAP()])
def test_standard_errors_are_those_of_the_hessian(rule: str | None, engine: Any) -> None:
    program, data = with_everything(rule)
    fit = engine.fit(program, data)
    ours = fit.standard_errors()
    assert ours.keys() == fit.params.keys()

    def plain(comparisons: Comparisons) -> torch.Tensor:
        return program(comparisons)

    generic = engine.__class__(init=fit.params, max_iter=200).fit(plain, data).standard_errors()
    for name, error in ours.items():
        # A search ends a little beside the optimum, and errors differ in the first order.
        np.testing.assert_allclose(error.numpy(), generic[name].numpy(), rtol=1e-4)


@pytest.mark.parametrize("rule", ["davidson", "rao-kupper"])
def test_an_expansion_has_the_derivatives_of_the_density(rule: str) -> None:
    program, data = with_everything(rule)
    rows = _information.rows_of(program, data)
    source = np.random.default_rng(0)
    odds, u, step = source.normal(size=len(data)), 0.3, 1e-5
    at = expand(rows, odds, u)
    ahead, behind = (expand(rows, odds, u + s) for s in (step, -step))
    np.testing.assert_allclose((ahead.by_odds - behind.by_odds) / (2 * step), -at.cross, atol=1e-8)
    assert (ahead.by_tie - behind.by_tie) / (2 * step) == pytest.approx(-at.of_tie, abs=1e-6)
    up, down = expand(rows, odds + step, u), expand(rows, odds - step, u)
    np.testing.assert_allclose((up.by_odds - down.by_odds) / (2 * step), -at.curve, atol=1e-8)


def test_many_items_reach_a_gradient_of_nothing() -> None:
    data, truth = simulated(300, 9_000)
    fit = MLE().fit(BradleyTerry(300), data)
    assert gradient_norm(fit) < 1e-8
    errors = fit.standard_errors()["ability"]
    z = (fit.params["ability"] - truth) / errors
    # 300 nearly independent standard normal numbers.
    assert float(z.square().mean()) == pytest.approx(1.0, abs=4 * (2 / 300) ** 0.5)


def test_probes_estimate_the_standard_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    data, _ = simulated(200, 8_000, home=1)
    fit = MLE().fit(BradleyTerry(200, home_advantage=True), data)
    exact = fit.standard_errors()
    monkeypatch.setattr(_information, "MOST_DENSE", 10)
    estimated = standard_errors(fit, probes=64)
    ratio = estimated["ability"] / exact["ability"]
    degree = 2 * len(data) / 200
    error = 1 / (2 * (degree * 64) ** 0.5)
    assert float(ratio.std()) < 1.5 * error
    assert abs(float(ratio.mean()) - 1) < 4 * error / 200**0.5 + 1e-3
    assert torch.allclose(estimated["home_advantage"], exact["home_advantage"], rtol=1e-6)


def test_conjugate_gradients_solve_what_the_matrix_says() -> None:
    data, _ = simulated(40, 600)
    program = BradleyTerry(40)
    rows = _information.rows_of(program, data)
    at = expand(rows, np.zeros(len(data)), 0.0)
    information = Information.of(rows, at, 0.25, np.zeros(0))
    right = np.random.default_rng(1).normal(size=40)
    right -= right.mean()
    found = information.solve_abilities(right, 1e-12)
    lower = np.tril(information.lower_triangle())
    matrix = lower + np.tril(lower, -1).T
    np.testing.assert_allclose(found, np.linalg.solve(matrix, right), atol=1e-10)
    assert isinstance(rows, Rows)


def test_em_takes_minorise_maximise_steps() -> None:
    data, _ = simulated(5, 200)
    program = BradleyTerry(5)
    zero = {"ability": torch.zeros(5, dtype=torch.float64)}
    fit = EM(init=zero, tol=1e-13).fit(program, data)
    best = MLE().fit(program, data)
    assert fit.n_iter > 3
    assert torch.allclose(fit.params["ability"], best.params["ability"], atol=1e-5)
    assert bool((np.diff(fit.history["objective"]) >= -1e-9).all())
    # Hunter (2004), equation 3, written with worths.
    new = program.m_step({}, zero, data, objective="likelihood")["ability"].exp()
    assert data.counts is not None
    wins, met = np.zeros(5), np.zeros(5)
    for i, j, (w, lost, _) in zip(
        data.first.tolist(), data.second.tolist(), data.counts.tolist(), strict=True
    ):
        wins[[i, j]] += w, lost
        met[[i, j]] += (w + lost) / 2
    worth = wins / met
    np.testing.assert_allclose(new / new.sum(), worth / worth.sum(), rtol=1e-12)


def test_groups_that_never_meet_are_named() -> None:
    data = Comparisons.from_arrays(list("abxy"), list("bayx"), [3, 2, 4, 1])
    with pytest.warns((DegenerateWarning, ConvergenceWarning)) as caught:
        MLE().fit(BradleyTerry(4), data)
    said = " ".join(str(warning.message) for warning in caught)
    assert "{'a', 'b'}; {'x', 'y'}" in said
    assert "flat in 'ability'" in said
    with pytest.warns(DegenerateWarning, match="never meet"):
        fit = MAP().fit(BradleyTerry(4), data)
    # The prior puts both groups at the same mean.
    assert float(fit.params["ability"][:2].sum()) == pytest.approx(0.0, abs=1e-6)


@pytest.mark.parametrize("n", [3, 130])
def test_an_item_that_never_lost_is_named(n: int) -> None:
    data, _ = simulated(n, 20 * n)
    ids = data.items
    keep = (data.first != 0) & (data.second != 0)
    part = data.subset(keep)
    first = ids[part.first.numpy()].tolist() + [0] * (n - 1)
    second = ids[part.second.numpy()].tolist() + list(range(1, n))
    assert part.counts is not None
    wins = part.counts[:, 0].tolist() + [2] * (n - 1)
    losses = part.counts[:, 1].tolist() + [0] * (n - 1)
    won = Comparisons.from_arrays(first, second, wins, losses, items=range(n))
    with pytest.warns((DegenerateWarning, ConvergenceWarning, BoundaryWarning)) as caught:
        MLE().fit(BradleyTerry(n), won)
    said = " ".join(str(warning.message) for warning in caught)
    assert "no item of {0} ever lost" in said
    fit = MAP().fit(BradleyTerry(n), won)
    assert fit.converged
    assert int(fit.params["ability"].argmax()) == 0


def test_a_learnt_spread_and_drift() -> None:
    data, truth = simulated(12, 2_000)
    fit = Laplace(draws=500).fit(BradleyTerry(12, ability_scale=None), data)
    assert 0.5 < float(fit.params["ability_spread"]) < 1.8
    assert float((fit.params["ability"] - truth).abs().max()) < 0.5

    source = np.random.default_rng(5)
    period = np.repeat(np.arange(4), 400)
    rise = np.linspace(-1, 1, 4)[period]
    first, second = np.where(source.random(1600) < 0.5, 0, 1), np.full(1600, 2)
    odds = np.where(first == 0, rise, -rise)
    won = source.random(1600) < 1 / (1 + np.exp(-odds))
    games = Comparisons.from_arrays(first, second, won, ~won, period=period)
    mode = MAP().fit(BradleyTerry(3, drift=1.0), games).params["ability"]
    assert mode.shape == (4, 3)
    assert torch.allclose(mode.sum(-1), torch.zeros(4).double(), atol=1e-12)
    gap = (mode[:, 0] - mode[:, 2]).numpy()
    np.testing.assert_allclose(gap, np.linspace(-1, 1, 4), atol=4 / np.sqrt(200 * 0.2))
    assert bool((np.diff(gap) > 0).all())
    still = MAP().fit(BradleyTerry(3, drift=1e-3), games).params["ability"]
    assert float(still.std(0).max()) < 0.01


def test_counts_and_single_rows_have_the_same_optimum() -> None:
    data, _ = simulated(6, 300)
    source = np.random.default_rng(0)
    ability = source.normal(size=6)
    shifted = {"ability": torch.as_tensor(ability - ability.mean())}
    single = Comparisons.from_arrays(
        *(ids.numpy() for ids in (data.first, data.second)),
        data.outcomes()[:, 0],
        data.outcomes()[:, 1],
        covariates=np.zeros((len(data), 1)),
    )
    both = [Program(BradleyTerry(6), x) for x in (data, single)]
    zero = {"coefficients": torch.zeros(1, dtype=torch.float64)}
    assert float(both[0].log_likelihood(shifted)) == pytest.approx(
        float(both[1].log_likelihood(shifted | zero)), rel=1e-12
    )


BAD = [
    ({"n_items": 1}, "n_items"),
    ({"n_items": 3, "ties": "often"}, "ties must be"),
    ({"n_items": 3, "ability_scale": -1.0}, "ability_scale"),
    ({"n_items": 3, "ability_scale": float("nan")}, "ability_scale"),
    ({"n_items": 3, "drift": 0.0}, "drift"),
    ({"n_items": 3, "drift": np.ones(2)}, "drift"),
    ({"n_items": 3, "home_advantage": 1}, "home_advantage"),
    ({"n_items": 3, "tie_prior": (0.0, -1.0)}, "tie_prior"),
    ({"n_items": 3, "tie_prior": 1.0}, "tie_prior"),
    ({"n_items": 3, "home_scale": float("inf")}, "home_scale"),
]


@pytest.mark.parametrize(("options", "said"), BAD, ids=[f"{o}" for o, _ in BAD])
def test_bad_options_are_refused(options: dict[str, Any], said: str) -> None:
    with pytest.raises(DataError, match=said):
        BradleyTerry(**options)


def test_data_that_do_not_fit_are_refused() -> None:
    data = Comparisons.from_arrays(["a"], ["b"], ties=1)
    with pytest.raises(DataError, match="choose ties="):
        BradleyTerry(2)(data)
    with pytest.raises(DataError, match="expected 3 items, got 2"):
        BradleyTerry(3, ties="half")(data)
    with pytest.raises(DataError, match="home"):
        BradleyTerry(2, ties="half", home_advantage=True)(data)
    with pytest.raises(DataError, match="period"):
        BradleyTerry(2, ties="half", drift=0.1)(data)
    with pytest.raises(DataError, match="expected Comparisons, got list"):
        BradleyTerry(2)([("a", "b")])  # type: ignore[arg-type]


def test_standard_errors_of_a_program_must_be_of_its_unknowns() -> None:
    class Forgetful(BradleyTerry):
        """Forgets the home advantage."""

        def standard_errors(self, *args: Any, **options: Any) -> dict[str, torch.Tensor] | None:
            found = super().standard_errors(*args, **options)
            assert found is not None
            return {"ability": found["ability"]}

    program, data = with_everything(None)
    fit = MLE().fit(Forgetful(program.n_items, home_advantage=True), data)
    with pytest.raises(FitError, match="standard_errors"):
        fit.standard_errors()
