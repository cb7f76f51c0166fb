"""People who compare episodes: what they are shown, at a terminal and in the browser."""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch

from likely.envs import GridWorld, Trajectories, cartpole_expert, rollout
from likely.inference import MAP, Laplace
from likely.inference.active import TerminalOracle, WebOracle
from likely.inference.errors import OptionError
from likely.inference.imitation import (
    CHOICES,
    Filmed,
    PolicyGradient,
    candidate_pairs,
    pair_pictures,
    pair_texts,
    path_texts,
    play,
    rlhf,
)
from likely.models import SoftmaxPolicy, TrajectoryPairs
from likely.models.preference import LinearReward

LINES = ["S...", ".#T.", "...G"]
WORLD = GridWorld(LINES, slip=0.1, rewarded="departure")
MDP = WORLD.mdp
WALKER = 0.7 * MDP.soft_value_iteration(0.03).policy + 0.3 / 4


def walks(count: int = 12) -> Trajectories:
    return play(MDP, WALKER, count, 0, 25)


def two_paths() -> TrajectoryPairs:
    """Around the wall to the goal, and into the trap: right is 1, down is 2."""
    cells = {cell: s for s, cell in enumerate(WORLD.grid.cells)}
    places = [(0, 0), (1, 0), (2, 0), (2, 1), (2, 2), (2, 3)], [(0, 0), (0, 1), (0, 2), (1, 2)]
    states = [[cells[place] for place in path] for path in places]
    seen = Trajectories.from_arrays(
        states, [[2, 2, 1, 1, 1], [1, 1, 2]], state_space=MDP.n_states, action_space=4
    )
    return TrajectoryPairs.among(seen, [0, 1], [1, 0])


def test_paths_in_characters() -> None:
    told = path_texts(two_paths(), WORLD)
    assert told[0].splitlines() == [
        "first     second",
        "↓ · · ·   → → ↓ ·",
        "↓ # T ·   · # ◆ ·",
        "→ → → ◆   · · · G",
        "5 steps   3 steps",
    ]
    assert told[1].splitlines()[1] == "→ → ↓ ·   ↓ · · ·"


def changed(picture: Any) -> Any:
    """Where a picture's pixels are more colourful than grey, as paths are."""
    wide = picture.astype(int)
    return (wide.max(-1) - wide.min(-1)) > 60


def test_paths_on_boards() -> None:
    pairs = two_paths()
    pictures = pair_pictures(pairs, WORLD)
    assert len(pictures) == 2
    one, turned = pictures[0], pictures[1]
    assert one.dtype == np.uint8
    assert one.ndim == 3
    assert np.array_equal(one, pictures[0])
    middle = one.shape[1] // 2
    # The turned pair is the same two boards in each other's place, but for their titles.
    height = slice(70, None)
    ink = [
        int(changed(p[height, s]).sum())
        for p in (one, turned)
        for s in (slice(None, middle), slice(middle, None))
    ]
    assert ink[0] != ink[1]
    assert ink[0] == pytest.approx(ink[3], rel=0.02)
    assert ink[1] == pytest.approx(ink[2], rel=0.02)
    # Ink is where the path went: the cell right of the start for the second, not for the first.
    bare = pair_pictures(TrajectoryPairs.among(pairs.first[[1, 1]], [0], [0]), WORLD)[0]
    assert not np.array_equal(bare, one)
    assert [picture.shape for picture in pictures[:5]] == [one.shape, turned.shape]
    with pytest.raises(IndexError):
        pictures[2]


class Ramp(gymnasium.Env[Any, Any]):
    """Its state is the time, which it renders as a shade of grey; it ends at 21."""

    render_mode = "rgb_array"
    observation_space = gymnasium.spaces.Box(0.0, 100.0, (1,), np.float64)
    action_space = gymnasium.spaces.Discrete(2)

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.time = 0
        return np.zeros(1), {}

    def step(self, action: Any) -> Any:
        self.time += 1
        return np.full(1, float(self.time)), 1.0, self.time == 21, False, {}

    def render(self) -> Any:
        return np.full((40, 60, 3), 10 * self.time, dtype=np.uint8)


def test_films_hold_moments_of_the_whole_episode() -> None:
    env = Filmed(Ramp(), frames=6, height=20)
    rollout(env, lambda observations: np.zeros(len(observations), dtype=int), 3, 0)
    assert len(env.films) == 3
    for film in env.films:
        times = [time for time, _ in film]
        assert times == [0, 4, 8, 12, 16, 20, 21]
        assert [int(frame[0, 0, 0]) for _, frame in film] == [10 * time for time in times]
        assert film[0][1].shape == (20, 30, 3)
    env.forget()
    assert env.films == []


def test_films_are_found_by_their_episode() -> None:
    env = Filmed(Ramp, frames=4)
    act = lambda observations: np.zeros(len(observations), dtype=int)  # noqa: E731
    seen = rollout(env, act, 3, 0, max_steps=9)
    pairs = candidate_pairs(seen, 3)
    pictures = pair_pictures(pairs, env)
    assert [pictures[i].shape[-1] for i in range(3)] == [3, 3, 3]
    with pytest.raises(OptionError, match=r"3 films, and none of episode [345]"):
        pair_pictures(candidate_pairs(rollout(Ramp, act, 6, 0, max_steps=9), 15), env)
    env.forget()
    with pytest.raises(OptionError, match="0 films"):
        pair_pictures(pairs, env)


def test_what_cannot_be_shown_is_refused() -> None:
    real = rollout("CartPole-v1", cartpole_expert, 2, 0, max_steps=5)
    with pytest.raises(OptionError, match="world's 11 cells"):
        pair_pictures(candidate_pairs(real, 1), WORLD)
    with pytest.raises(OptionError, match="a GridWorld or a Filmed"):
        pair_pictures(two_paths(), "board")
    bare = walks().with_actions(None)
    with pytest.raises(OptionError, match="with their actions"):
        path_texts(candidate_pairs(bare, 1), WORLD)
    with pytest.raises(OptionError, match="text is for Discrete states"):
        pair_texts(candidate_pairs(real, 1))
    with pytest.raises(OptionError, match="states: expected 12 names, got 3"):
        pair_texts(two_paths(), "abc")
    with pytest.raises(OptionError, match="rgb_array"):
        Filmed("CartPole-v1", render_mode=None)
    with pytest.raises(OptionError, match="cannot make 'Nowhere-v0'"):
        Filmed("Nowhere-v0")
    with pytest.raises(OptionError, match="frames"):
        Filmed("CartPole-v1", frames=1)


# -- in the browser ------------------------------------------------------------------------------


@pytest.mark.slow
def test_paths_compared_in_the_browser(request: pytest.FixtureRequest, tmp_path: Path) -> None:
    browser = pytest.importorskip("browser")
    if not (browser.BROWSER and browser.DRIVER):
        pytest.skip("needs Chromium and its driver")
    pytest.importorskip("flask")
    chromium = request.getfixturevalue("chromium")
    shown: list[TrajectoryPairs] = []
    options = {"path": tmp_path / "answers.jsonl", "question": "Which of the two is better?"}
    oracle = WebOracle(CHOICES, "image", stream=io.StringIO(), **options)

    def labeller(pairs: TrajectoryPairs) -> WebOracle:
        shown.append(pairs)
        oracle.items = pair_pictures(pairs, WORLD)
        return oracle

    def work() -> Any:
        return rlhf(
            MDP,
            walks(),
            LinearReward(WORLD.features),
            labeller,
            **{"horizon": 25, "episodes": 20, "candidates": 40},
            **{"preferences": 4, "start": 2, "batch": 2},
            engine=Laplace(draws=50),
            path=tmp_path / "run",
        )

    viewer = browser.Viewer(chromium, oracle, work)
    viewer.sees("Which of the two is better?")
    image = viewer.find("#item img")
    size = pair_pictures(shown[0], WORLD)[0].shape
    viewer.until(lambda: viewer.script("return arguments[0].naturalWidth", image) == size[1])
    # The whole of it is in sight, in its own proportions.
    assert image.size["width"] / image.size["height"] == pytest.approx(size[1] / size[0], rel=0.02)
    assert image.size["width"] > 400
    viewer.types("1", "2", browser.Keys.ENTER)
    viewer.reach("asking")
    viewer.types("1", "1", browser.Keys.ENTER)
    viewer.sees("All done, thank you")
    viewer.end()
    assert oracle.url is None
    assert viewer.result.reward.pairs.preferred.tolist() == [1.0, 0.0, 1.0, 1.0]
    assert len((tmp_path / "answers.jsonl").read_text().splitlines()) == 5


def test_films_of_an_environment(tmp_path: Path) -> None:
    """The episodes of π0 are filmed, from the first; those of the policy gradient are not."""
    env = Filmed("CartPole-v1", frames=3, height=40)
    env.reset(seed=0)
    seen: list[Any] = []

    def labeller(pairs: TrajectoryPairs) -> Any:
        assert len(env.films) == 5
        pictures = pair_pictures(pairs, env)
        seen.append(pictures[0].shape)
        texts = ["which?"] * len(pairs)
        typed, out = io.StringIO("first\n" * 4 + "\n"), io.StringIO()
        return TerminalOracle(CHOICES, path=None, items=texts, stdin=typed, stdout=out)

    found = rlhf(
        env,
        rollout("CartPole-v1", cartpole_expert, 2, 0, max_steps=20),
        LinearReward(lambda states: states**2),
        labeller,
        policy=SoftmaxPolicy(2, prior_scale=1.0),
        cloning=MAP(),
        **{"horizon": 15, "episodes": 5, "candidates": 4, "preferences": 4},
        acquisition="random",
        gradient=PolicyGradient(iterations=1, episodes=2, horizon=15),
    )
    assert len(seen) == 1
    assert len(found.reward.pairs) == 4
    assert len(env.films) == 5


def test_films_may_be_dropped_within_an_episode() -> None:
    env = Filmed("CartPole-v1", frames=2)
    env.reset(seed=0)
    env.forget()
    env.step(0)
    assert env.films == []
    env.reset(seed=0)
    env.step(0)
    assert [t for t, _ in env.films[0]] == [0, 1]


# -- at a terminal -------------------------------------------------------------------------------


def test_paths_compared_at_a_terminal(tmp_path: Path) -> None:
    people = pytest.importorskip("pseudo_terminal")

    def talk(*keys: str) -> tuple[Any, str]:
        with people.typist(*keys) as (person, terminal):

            def labeller(pairs: TrajectoryPairs) -> TerminalOracle:
                own = {"path": tmp_path / "answers.jsonl", "items": path_texts(pairs, WORLD)}
                return TerminalOracle(CHOICES, stdin=terminal, stdout=terminal, **own)

            found = rlhf(
                MDP,
                walks(),
                LinearReward(WORLD.features),
                labeller,
                **{"horizon": 25, "episodes": 10, "candidates": 20, "preferences": 3},
                acquisition="random",
                engine=MAP(),
            )
        return found, person.words

    found, said = talk("1\n", "q\n")
    assert "[1 of 3]" in said
    assert re.search("first +second", said)
    assert "1 first  2 second" in said
    assert found.reward.pairs.preferred.tolist() == [1.0]
    assert found.stopped == "labelling was stopped"
    # What was answered is not asked again.
    found, said = talk("2\n", "1\n", "\n")
    assert "[1 of 2]" in said
    assert found.reward.pairs.preferred.tolist() == [1.0, 0.0, 1.0]
    assert found.stopped == ""
    assert "3 preferences" in repr(found)


def test_arrows_are_the_last_actions() -> None:
    states, actions = [0, 1, 0, 0], [1, 3, 3]
    seen = Trajectories.from_arrays(
        [states, states], [actions, actions], state_space=MDP.n_states, action_space=4
    )
    (told,) = path_texts(TrajectoryPairs.among(seen, [0], [1]), WORLD)
    assert told.splitlines()[1].startswith("◆ ← · ·")
    assert torch.equal(seen.lengths, torch.tensor([3, 3]))
