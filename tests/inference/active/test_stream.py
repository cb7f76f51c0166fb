"""Points that come one by one, and points that are made up."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from likely.envs import DataError
from likely.inference import MAP, Laplace, OptionError
from likely.inference.active import (
    ActiveLearner,
    Ascent,
    Budget,
    FunctionOracle,
    LabellingStopped,
    Threshold,
    ascend,
    stream,
    synthesise,
)
from likely.models import LogisticRegression, SoftmaxRegression

X = torch.from_numpy(np.random.default_rng(0).normal(size=(400, 2)))


def label(queries: Any) -> Any:
    return (torch.as_tensor(queries.points)[:, 0] > 0.5).long()


LABELS = (X[:, 0] > 0.5).long()
QUICK = Ascent(starts=16, steps=25, step_size=0.1)


def learner(**options: Any) -> ActiveLearner:
    defaults: dict[str, Any] = {
        "program": LogisticRegression(),
        "engine": MAP(),
        "acquisition": "margin",
        "oracle": FunctionOracle(label),
    }
    return ActiveLearner(**{**defaults, **options})


class TestStream:
    def test_spending_stays_within_the_budget(self) -> None:
        own = Threshold(0.1, window=50)
        found = stream(learner(), X[:200], threshold=own, refit_every=5, test=(X, LABELS))
        history = found.history
        assert len(history) == 200
        assert found.stopped == "the stream ended"
        # The recent share may pass the budget by the one question that takes it there.
        assert history["spending"].max() <= 0.1 + 1 / 50 + 1e-12
        assert history["asked"].mean() <= 0.1 + 0.05
        assert len(found.points) == len(found.labelled) == history["asked"].sum()
        assert history["metric"].dropna().iloc[-1] > 0.93

    def test_the_threshold_follows_the_rule(self) -> None:
        own = Threshold(0.2, step=0.05, window=40)
        history = stream(learner(), X[:150], threshold=own, refit_every=4).history
        warm = history[history["score"].notna()]
        level, asked = warm["threshold"].to_numpy(), warm["asked"].to_numpy()
        before = history["spending"].shift(1, fill_value=0.0).loc[warm.index]
        # Where the budget is spent nothing is decided, and the threshold stays.
        free = before.to_numpy() < 0.2
        assert 0.1 < free.mean() < 0.9
        factor = np.where(asked, 1.05, np.where(free, 0.95, 1.0))
        np.testing.assert_allclose(level[1:], (level * factor)[:-1], rtol=1e-12)
        wanted = (warm["score"] >= warm["threshold"]) & (before < 0.2)
        assert (wanted == warm["asked"]).all()
        u = history["spending"].to_numpy() * 40
        recursion = np.concatenate([[0.0], u[:-1]]) * 39 / 40 + history["asked"]
        np.testing.assert_allclose(u, recursion, rtol=1e-9)

    def test_it_asks_about_uncertain_points(self) -> None:
        own = Threshold(0.1)
        history = stream(learner(), X, threshold=own, refit_every=5).history.iloc[100:]
        # A threshold that fell while the budget is spent would let everything through: 1.0.
        asked = history.loc[history["asked"], "score"].mean()
        assert asked > 1.3 * history["score"].mean()

    def test_jitter_gives_every_point_a_chance_and_the_seed_decides(self) -> None:
        own = Threshold(0.3, jitter=1.0)
        first, second = (
            stream(learner(seed=1), X[:60], threshold=own, refit_every=5).history for _ in range(2)
        )
        assert first["asked"].equals(second["asked"])
        other = stream(learner(seed=2), X[:60], threshold=own, refit_every=5).history
        assert not first["asked"].equals(other["asked"])
        warm = first[first["score"].notna()]
        assert (warm["asked"] & (warm["score"] < warm["threshold"])).any()

    def test_it_takes_any_iterable_and_ends_with_the_budget(self) -> None:
        seen = []

        def points() -> Any:
            for x in X:
                seen.append(x)
                yield x

        found = stream(learner(stopping=Budget(12)), points(), threshold=Threshold(0.5))
        assert found.stopped == "budget of 12 answers is spent"
        assert len(found.labelled) == 12
        assert len(seen) < 400
        assert found.fits[0].n_observations == 12

    def test_refits_may_be_rarer(self) -> None:
        found = stream(
            learner(), X[:150], threshold=Threshold(0.2), refit_every=5, test=(X, LABELS)
        ).history
        assert found["metric"].notna().sum() <= found["asked"].sum() / 5

    def test_the_oracle_may_stop(self) -> None:
        calls = []

        def oracle(queries: Any) -> Any:
            calls.append(1)
            if len(calls) > 6:
                raise LabellingStopped([-1])
            return label(queries)

        found = stream(learner(oracle=oracle), X)
        assert found.stopped == "the oracle stopped"
        assert len(found.labelled) == 6

    def test_bad_options_are_named(self) -> None:
        with pytest.raises(OptionError, match="'core_set' chooses from a pool"):
            stream(learner(acquisition="core_set"), X)
        with pytest.raises(OptionError, match="share must be at most 1"):
            Threshold(1.5)
        with pytest.raises(OptionError, match="step must be below 1"):
            Threshold(step=1.0)
        with pytest.raises(OptionError, match="refit_every must be"):
            stream(learner(), X, refit_every=0)
        with pytest.raises(DataError, match="the stream is empty"):
            stream(learner(), [])


class TestSynthesis:
    def test_ascent_finds_the_maximum_inside_the_bounds(self) -> None:
        low, high = torch.tensor([-2.0, 0.0]).double(), torch.tensor([2.0, 1.0]).double()
        top = torch.tensor([1.3, 5.0]).double()
        points, scores = ascend(lambda x: -((x - top) ** 2).sum(-1), (low, high))
        # The second coordinate wants to leave the box.
        np.testing.assert_allclose(points[0], [1.3, 1.0], atol=1e-2)
        assert bool((scores[:-1] >= scores[1:]).all())
        assert bool(((points >= low) & (points <= high)).all())

    def test_ascent_never_loses_what_it_had(self) -> None:
        box = (torch.zeros(1).double(), torch.ones(1).double())

        def rugged(x: torch.Tensor) -> torch.Tensor:
            return torch.sin(200 * x[:, 0])

        start, steps = Ascent(starts=8, steps=0), Ascent(starts=8, steps=50, step_size=0.3)
        _, before = ascend(rugged, box, options=start, seed=1)
        _, after = ascend(rugged, box, options=steps, seed=1)
        assert bool((after >= before).all())

    @pytest.mark.parametrize("acquisition", ["entropy", "margin", "least_confident"])
    def test_made_up_points_close_in_on_the_boundary(self, acquisition: str) -> None:
        found = synthesise(
            learner(acquisition=acquisition),
            ([-3.0, -3.0], [3.0, 3.0]),
            queries=14,
            test=(X, LABELS),
            ascent=QUICK,
        )
        assert found.stopped == "14 questions were asked"
        assert len(found.points) == len(found.labelled) == 14
        assert bool((found.points.abs() <= 3.0).all())
        assert found.history["metric"].iloc[-1] > 0.95
        last = found.points[-5:]
        assert float((last[:, 0] - 0.5).abs().mean()) < 0.5

    def test_disagreement_of_draws_is_climbed_too(self) -> None:
        found = synthesise(
            learner(acquisition="bald", engine=Laplace(draws=8)),
            (-3.0, [3.0, 3.0]),
            queries=5,
            ascent=QUICK,
        )
        assert len(found.labelled) == 5
        gain = found.history["gain"].dropna()
        assert (gain > 0).all()

    def test_the_score_climbed_is_that_of_the_point_asked(self) -> None:
        own = learner(acquisition="entropy", program=SoftmaxRegression(2))
        known = torch.tensor([[-1.0, 0.0], [2.0, 0.5], [0.0, 1.0]]).double()
        found = synthesise(own, ([-3.0, -3.0], [3.0, 3.0]), queries=1, initial=(known, [0, 1, 0]))
        fit = MAP().fit(SoftmaxRegression(2), known, torch.tensor([0, 1, 0]))
        logits = fit.params["intercept"] + found.points[-1] @ fit.params["coefficients"].T
        p = logits.softmax(-1)
        assert found.history["gain"].iloc[0] == pytest.approx(float(-(p * p.log()).sum()), abs=1e-6)
        # Two classes: no point can be less certain.
        assert found.history["gain"].iloc[0] == pytest.approx(np.log(2), abs=1e-3)

    def test_a_generator_makes_the_points(self) -> None:
        def circle(z: torch.Tensor) -> torch.Tensor:
            return torch.cat([torch.cos(z), torch.sin(z)], -1)

        found = synthesise(learner(), (0.0, 2 * np.pi), queries=12, generator=circle, ascent=QUICK)
        np.testing.assert_allclose(found.points.norm(dim=-1), 1.0, rtol=1e-9)
        # The boundary x = .5 cuts the circle at ± 60 degrees.
        angles = torch.atan2(found.points[-4:, 1], found.points[-4:, 0]).abs()
        np.testing.assert_allclose(angles, np.pi / 3, atol=0.4)

    def test_the_same_seed_makes_the_same_points(self) -> None:
        box = ([-3.0, -3.0], [3.0, 3.0])
        first, second = (
            synthesise(learner(seed=5), box, queries=5, ascent=QUICK).points for _ in range(2)
        )
        assert torch.equal(first, second)

    def test_rules_and_budgets_hold(self) -> None:
        found = synthesise(learner(stopping=Budget(4)), (-3.0, [3.0, 3.0]), queries=9)
        assert found.stopped == "budget of 4 answers is spent"

    @pytest.mark.parametrize(
        ("bounds", "message"),
        [
            (([0.0], [0.0]), "low below high"),
            (([0.0], [float("inf")]), "bounds must be finite"),
            (([0.0, 1.0], [1.0, 2.0, 3.0]), "bounds must have one length"),
            ((1.0,), r"bounds must be \(low, high\)"),
        ],
    )
    def test_bad_bounds_are_named(self, bounds: Any, message: str) -> None:
        with pytest.raises(OptionError, match=message):
            synthesise(learner(), bounds, queries=1)

    def test_what_cannot_be_climbed_is_said(self) -> None:
        with pytest.raises(OptionError, match="'random' chooses from a pool"):
            synthesise(learner(acquisition="random"), (-1.0, [1.0, 1.0]), queries=3)

        def cut(z: torch.Tensor) -> torch.Tensor:
            return z.detach()

        with pytest.raises(OptionError, match="do not depend on the points differentiably"):
            synthesise(learner(), (-3.0, [3.0, 3.0]), queries=9, generator=cut)
