"""Spreads and drifts that are unknowns: two forms of one model, held against an exact posterior."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from likely.envs import DataError
from likely.inference import EM, MAP, MLE, NUTS, DegenerateWarning, Laplace, Program
from likely.models import BradleyTerry, Comparisons, CrowdBradleyTerry, PlackettLuce, Rankings
from likely.models.preference import ability_draws, ranking, win_matrix

WINS, LOSSES = np.array([3, 2, 4, 1, 5, 6]), np.array([2, 3, 3, 2, 2, 1])


def seasons() -> Comparisons:
    """Two items in six periods."""
    return Comparisons.from_arrays(["a"] * 6, ["b"] * 6, WINS, LOSSES, period=range(6))


def games(**options: Any) -> Comparisons:
    first, second = list("aabbcc"), list("bccaab")
    return Comparisons.from_arrays(
        first, second, [5, 4, 3, 2, 1, 3], [2, 1, 2, 2, 2, 1], period=[1, 2] * 3, **options
    )


def exact_posterior(taus: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Weights [k] of drifts, and mean and standard deviation [6] of the difference of two items.

    By forward and backward sums on a grid of the difference, of variance 2 · 2² at first and
    2 τ² in each step, with a half-normal prior of scale 0.5 on τ.
    """
    grid = np.linspace(-8, 8, 801)
    chances = [
        np.exp(-w * np.logaddexp(0, -grid) - lost * np.logaddexp(0, grid))
        for w, lost in zip(WINS, LOSSES, strict=True)
    ]
    evidence, moments = [], []
    for tau in taus:
        step = np.exp(-0.25 * ((grid[:, None] - grid) / tau) ** 2)
        step /= step.sum(1, keepdims=True)
        ahead = [np.exp(-0.25 * (grid / 2.0) ** 2) * chances[0]]
        for chance in chances[1:]:
            ahead.append((ahead[-1] @ step) * chance)
        behind = [np.ones_like(grid)]
        for chance in chances[:0:-1]:
            behind.insert(0, step @ (chance * behind[0]))
        mass = np.stack(ahead) * np.stack(behind) / ahead[-1].sum()
        evidence.append(ahead[-1].sum())
        moments.append([mass @ grid, mass @ grid**2])
    weight = np.array(evidence) * np.exp(-0.5 * (taus / 0.5) ** 2)
    weight /= weight.sum()
    first, second = np.einsum("k,kjt->jt", weight, np.array(moments))
    return weight, first, np.sqrt(second - first**2)


@pytest.mark.slow
def test_draws_in_units_of_the_drift_are_those_of_the_exact_posterior() -> None:
    taus = np.linspace(0.0125, 2.5, 200)
    weight, mean, spread = exact_posterior(taus)
    program = BradleyTerry(2, drift="unknown", centred=False)
    fit = NUTS(draws=300, warmup=200, chains=2, cores=1).fit(program, seasons())
    # Nothing diverges where the centred form loses one draw in fifteen; no warning came.
    drift = fit.draws["drift"].flatten().numpy()
    ability = fit.draws["ability"].flatten(0, 1)
    gap = (ability[..., 0] - ability[..., 1]).numpy()
    # At least some 120 of 600 draws are effective.
    np.testing.assert_array_less(np.abs(gap.mean(0) - mean), 4 * spread / 120**0.5)
    np.testing.assert_allclose(gap.std(0), spread, rtol=4 / (2 * 120) ** 0.5)
    for share in (0.25, 0.5, 0.75):
        limit = taus[np.searchsorted(np.cumsum(weight), share)]
        below = weight[taus <= limit].sum()
        assert abs((drift <= limit).mean() - below) < 4 * (share * (1 - share) / 120) ** 0.5


@pytest.mark.parametrize("drift", [None, 0.3, "unknown"])
def test_both_forms_are_one_model(drift: Any) -> None:
    data = games()
    options = {"ability_scale": None, "drift": drift}
    direct, made = (
        Program(BradleyTerry(3, centred=centred, **options), data) for centred in (True, False)
    )
    assert "deviation" in made.sites.unknowns
    assert "ability" not in made.sites.unknowns
    with made.session(3):
        values = {name: unknown.start for name, unknown in made.sites.unknowns.items()}
        scale = values["ability_spread"]
        ability = scale * values["deviation"]
        factor = 2 * scale.log()
        if drift is not None:
            step = values["drift"] if drift == "unknown" else torch.tensor(drift).double()
            ability = torch.stack([ability[0], ability[0] + step * values["deviation"][1]])
            factor = factor + 2 * step.log()
    other = {name: value for name, value in values.items() if name != "deviation"}
    found = [
        program.density(x)
        for program, x in ((direct, other | {"ability": ability}), (made, values))
    ]
    assert torch.allclose(found[0].log_likelihood, found[1].log_likelihood, rtol=1e-12)
    # Densities differ by the volume that one unit has.
    assert torch.allclose(found[0].log_prior + factor, found[1].log_prior, rtol=1e-12)


def test_both_forms_start_at_the_same_abilities() -> None:
    data = games()
    for drift in (None, "unknown"):
        direct, made = (
            BradleyTerry(3, ability_scale=None, drift=drift, centred=centred).initial(data)
            for centred in (True, False)
        )
        moves = made["ability_spread"] * made["deviation"]
        ability = moves if drift is None else moves.cumsum(0)
        assert torch.allclose(ability, direct["ability"])


def test_every_program_of_abilities_has_the_second_form() -> None:
    judged = games(annotator=list("xxyyzz"))
    races = Rankings.from_lists([[0, 1, 2], [1, 0, 2], [2, 1, 0]] * 4)
    programs = (
        (BradleyTerry(3, drift="unknown", centred=False), judged),
        (CrowdBradleyTerry(3, ability_scale=None, centred=False), judged),
        (PlackettLuce(3, ability_scale=None, centred=False), races),
    )
    for program, data in programs:
        fit = Laplace(draws=60).fit(program, data)
        assert float(ranking(fit)["best"].sum()) == pytest.approx(1.0)
        assert win_matrix(fit).shape == (3, 3)


def test_points_in_units_of_a_spread_have_no_normal_approximation() -> None:
    fit = MAP().fit(BradleyTerry(3, ability_scale=None, centred=False), games())
    assert fit.params["ability"].shape == (3,)
    with pytest.raises(DataError, match="posterior engine"):
        ability_draws(fit)


@pytest.mark.parametrize("engine", [MLE(), EM(max_iter=30)], ids=["mle", "em"])
@pytest.mark.parametrize(
    ("options", "site"),
    [({"ability_scale": None}, "ability_spread"), ({"drift": "unknown"}, "drift")],
)
def test_maximum_likelihood_says_that_it_knows_no_spread(
    options: dict[str, Any], site: str, engine: Any
) -> None:
    program = BradleyTerry(3, centred=False, **options)
    with pytest.warns(DegenerateWarning, match=f"nothing of '{site}'"):
        engine.fit(program, games())
    assert BradleyTerry(3, centred=False).left_open({"ability": torch.zeros(3)}) == []


@pytest.mark.parametrize("kind", [BradleyTerry, PlackettLuce])
def test_the_form_is_true_or_false(kind: Any) -> None:
    with pytest.raises(DataError, match="centred"):
        kind(3, centred=1)
