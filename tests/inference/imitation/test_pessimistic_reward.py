"""Rewards that are pessimistic where preferences say little: of posteriors and of ensembles."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from likely.inference import MAP, Laplace
from likely.inference.active import Queries
from likely.inference.errors import OptionError
from likely.inference.imitation import (
    CHOICES,
    SimulatedLabeller,
    bootstrap_rewards,
    improve,
    learn_reward,
    pessimistic_reward,
    play,
    rlhf,
)
from likely.models.preference import LinearReward
from small_grid import BETA, EXPERT, GAMMA, MDP, WORLD, candidates, program


def test_pessimism_is_the_posterior() -> None:
    pairs = candidates()
    labels = SimulatedLabeller(pairs, GAMMA, BETA)
    found = learn_reward(pairs, labels, program(), preferences=60, acquisition="random")
    draws = found.draws()
    torch.testing.assert_close(found.pessimistic(2.0), draws.mean(0) - 2 * draws.std(0))
    assert draws.shape == (500, MDP.n_states)
    low = found.pessimistic(quantile=0.1)
    below = (draws < low).double().mean(0)
    # Between two of 500 draws, entry by entry; the sink's draws are all zero.
    torch.testing.assert_close(below[:-1], torch.full_like(below[:-1], 0.1), atol=1 / 500, rtol=0)
    assert bool((low[:-1] < draws.mean(0)[:-1]).all())
    steps = found.steps(pairs.first, 2.0, most=500)
    torch.testing.assert_close(steps, found.pessimistic(2.0)[pairs.first.step_states])
    steps = found.steps(pairs.first, quantile=0.1, most=500)
    torch.testing.assert_close(steps, low[pairs.first.step_states])
    torch.testing.assert_close(found.steps(pairs.first), found.table[pairs.first.step_states])
    for bad, says in (
        ({"sds": -1.0}, "sds"),
        ({"sds": float("nan")}, "sds"),
        ({"quantile": 1.5}, "quantile"),
        ({"sds": 1.0, "quantile": 0.1}, "got both"),
        ({"most": 1}, "most"),
    ):
        with pytest.raises(OptionError, match=says):
            found.pessimistic(**bad)


def test_pipeline_is_pessimistic_on_request() -> None:
    pairs_of = {"preferences": 40, "horizon": 25, "rationality": BETA, "temperature": 0.05}
    options = {**pairs_of, "acquisition": "random", "engine": Laplace(draws=100)}

    def found(**more: Any) -> Any:
        seen, reward = play(MDP, EXPERT, 15, 0, 25), LinearReward(WORLD.features)
        return rlhf(
            MDP, seen, reward, lambda p: SimulatedLabeller(p, GAMMA, BETA), **options, **more
        )

    plain, low = found(), found(quantile=0.1)
    assert torch.equal(plain.reward.table, low.reward.table)
    expected = improve(MDP, low.reward.pessimistic(quantile=0.1), low.base, 0.05).policy
    torch.testing.assert_close(low.table, expected)
    assert not torch.equal(plain.table, low.table)


def test_ensembles_differ_where_data_do() -> None:
    pairs = candidates(100)
    labels = SimulatedLabeller(pairs, GAMMA, BETA)(Queries(np.arange(100), classes=CHOICES))
    fits = bootstrap_rewards(program(), pairs.with_preferred(labels == 0), MAP(), 4)
    tables = torch.stack([program().reward_table(fit.params) for fit in fits])
    assert tables.shape == (4, MDP.n_states)
    assert bool((tables[:, :-1].std(0) > 0).all())
    # They stand for a posterior wherever one is asked for.
    options: dict[str, Any] = {"preferences": 30, "start": 10, "batch": 10, "engine": MAP()}
    oracle = SimulatedLabeller(pairs, GAMMA, BETA)
    found = learn_reward(pairs, oracle, program(), ensemble=4, **options)
    assert len(found.members) == 4
    assert bool((found.history["score"][1:] > 0).all())
    own = torch.stack([program().reward_table(fit.params) for fit in found.members])
    torch.testing.assert_close(found.pessimistic(quantile=0.0), own.min(0).values)
    # An ensemble serves as draws do.
    torch.testing.assert_close(pessimistic_reward(tables, quantile=0.0), tables.min(0).values)
    torch.testing.assert_close(pessimistic_reward(tables), tables.mean(0) - tables.std(0))
    for wrong, says in (
        (tables[:1], "at least two"),
        (tables[:, :0], r"at least two, got \(4, 0\)"),
        ([1.0, 2.0], "got list"),
        (tables.long(), "float64, got torch.int64"),
        (tables.half(), "float64, got torch.float16"),
    ):
        with pytest.raises(OptionError, match=says):
            pessimistic_reward(wrong)  # type: ignore[arg-type]
