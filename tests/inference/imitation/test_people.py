"""A person as the expert: keys, pictures, answers that are kept, and a wish to stop."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest

from likely.envs import DataError
from likely.inference import OptionError
from likely.inference.active import LabellingStopped, Queries
from likely.inference.imitation import Person, dagger
from likely.inference.imitation.people import Pictures, shown, with_pictures
from likely.models import SoftmaxPolicy, TabularPolicy


class Watcher:
    """An oracle that keeps what it was shown, and answers by the picture."""

    def __init__(self, stop_after: int | None = None) -> None:
        self.items: list[Any] = []
        self.stop_after = stop_after

    def __call__(self, queries: Queries) -> Any:
        labels = np.full(len(queries), -1)
        for i in range(len(queries)):
            if self.stop_after is not None and len(self.items) >= self.stop_after:
                raise LabellingStopped(labels)
            self.items.append(queries.point(i))
            labels[i] = len(self.items) % 2
        return labels


class Lamp(gymnasium.Env[Any, Any]):
    """Six states in a row; the picture has the state in its first pixel."""

    observation_space = gymnasium.spaces.Discrete(6)
    action_space = gymnasium.spaces.Discrete(2)
    render_mode = "rgb_array"

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.place = 0
        return self.place, {}

    def step(self, action: Any) -> Any:
        self.place += 1
        return self.place, float(action), self.place == 5, False, {}

    def render(self) -> Any:
        return np.full((2, 2, 3), self.place, dtype=np.uint8)


def test_key_map_and_names() -> None:
    typed = io.StringIO("d\nleft\na\n\n")
    person = Person({"a": "left", "d": "right"}, stdin=typed, stdout=io.StringIO())
    # "left" begins no name, so the question comes again.
    assert person(np.array([[0.0], [1.0]])).tolist() == [1, 0]
    plain = Person(("left", "right"), stdin=io.StringIO("2\nl\n\n"), stdout=io.StringIO())
    assert plain(np.array([3, 4])).tolist() == [1, 0]


def test_a_state_is_asked_about_once() -> None:
    watcher = Watcher()
    person = Person(("left", "right"), watcher)
    first = person(np.array([7, 8, 7]))
    assert first[0] == first[2]
    assert person(np.array([8, 7])).tolist() == [first[1], first[0]]
    assert person.asked == len(watcher.items) == 2
    assert person.known(np.array([7, 9])).tolist() == [first[0], -1]


def test_pictures_are_those_of_the_states() -> None:
    watcher = Watcher()
    person = Person(("left", "right"), watcher)
    found = dagger(Lamp, TabularPolicy(6, 2, 1.1), person, iterations=2)
    # The first iteration is the person's own: asked while it goes, in order.
    assert [int(item[0, 0, 0]) for item in watcher.items] == [0, 1, 2, 3, 4]
    # Nothing new comes up in the second.
    assert found.history["labels"].tolist() == [5, 10]
    assert found.table[:5].argmax(-1).tolist() == [1, 0, 1, 0, 1]


def test_pictures_of_later_states_are_asked_after_the_episode() -> None:
    watcher = Watcher()
    person = Person(("left", "right"), watcher)
    dagger(Lamp, TabularPolicy(6, 2, 1.1), person, iterations=1, beta=lambda i: 0.0, queries=3)
    pictures = [int(item[0, 0, 0]) for item in watcher.items]
    assert len(pictures) == 3
    assert pictures == sorted(pictures)


def test_cartpole_is_drawn_in_characters() -> None:
    pytest.importorskip("pygame")
    answers = "".join(f"{key}\n" for key in "adadadadadadad" * 40)
    out = io.StringIO()
    person = Person({"a": "left", "d": "right"}, stdin=io.StringIO(answers), stdout=out)
    found = dagger("CartPole-v1", SoftmaxPolicy(2), person, iterations=1, seed=0)
    assert "@" in out.getvalue()
    assert found.history["labels"].iloc[0] == person.asked


def test_own_pictures_and_observations() -> None:
    watcher = Watcher()
    person = Person(("left", "right"), watcher, picture=lambda seen: f"state {seen}")
    person(np.array([3]))
    assert watcher.items == ["state 3"]
    assert not person.renders


def test_stopping_keeps_what_was_answered() -> None:
    person = Person(("left", "right"), Watcher(stop_after=5))
    kept = dagger(Lamp, TabularPolicy(6, 2, 1.1), person, iterations=4)
    # All five states were answered before; nobody needs to be asked again.
    assert len(kept.history) == 4
    early = Person(("left", "right"), picture=lambda seen: str(seen), stdin=io.StringIO("1\nq\n"),
                   stdout=io.StringIO())  # fmt: skip
    found = dagger(
        "CartPole-v1", SoftmaxPolicy(2), early, beta=lambda i: 0.0, queries=5, iterations=3
    )
    assert found.stopped == "the expert stopped"
    assert found.history["labels"].tolist() == [1]
    with pytest.raises(OptionError, match="nothing was answered"):
        dagger(Lamp, TabularPolicy(6, 2), Person(("left", "right"), Watcher(stop_after=0)))


def test_answers_in_a_file_are_not_asked_again(tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"

    def person(typed: str) -> Person:
        return Person(("left", "right"), path=path, stdin=io.StringIO(typed), stdout=io.StringIO())

    first = person("1\n2\n\n")(np.array([4, 5]))
    assert person("")(np.array([4, 5])).tolist() == first.tolist() == [0, 1]


def test_shown() -> None:
    flat = np.zeros((40, 80, 3), dtype=np.uint8)
    flat[:, 40:] = 255
    lines = shown(flat, 20).split("\n")
    assert len(lines) == 5
    assert set(lines) == {" " * 10 + "@" * 10}
    assert shown("a map") == "a map"
    assert shown(np.array([0.5, 2.0])) == "0.5  2"


def test_bad_input() -> None:
    for actions in (("left",), "ab", {"s": "left", "d": "right"}, {"aa": "left", "d": "right"},
                    {"a": "left", "A": "right"}):  # fmt: skip
        with pytest.raises(DataError, match="actions"):
            Person(actions)
    with pytest.raises(DataError, match="oracle"):
        Person(("left", "right"), oracle=3)  # type: ignore[arg-type]
    with pytest.raises(DataError, match="path"):
        Person(("left", "right"), Watcher(), path="answers.jsonl")
    with pytest.raises(DataError, match="picture"):
        Person(("left", "right"), picture=3)  # type: ignore[arg-type]
    with pytest.raises(DataError, match="pictures"):
        Person(("left", "right"), Watcher())(np.array([1, 2]), pictures=[None])
    with pytest.raises(OptionError, match="3 names"):
        dagger(Lamp, TabularPolicy(6, 2), Person(("left", "right", "up"), Watcher()))
    with pytest.raises(OptionError, match="few actions"):
        with_pictures("likely/Fork-v0")
    with pytest.raises(OptionError, match="gymnasium"):
        with_pictures("NoSuch-v0")


def test_forgetting() -> None:
    env = Pictures(Lamp())
    env.reset()
    env.step(0)
    assert [len(episode) for episode in env.episodes] == [2]
    assert int(env.latest[0, 0, 0]) == 1
    env.forget()
    assert env.episodes == []
