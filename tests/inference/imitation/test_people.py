"""A person as the expert: keys, pictures, answers that are kept, and a wish to stop."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pandas as pd
import pytest

from alike import alike
from likely.envs import DataError, TabularMDP
from likely.inference import OptionError
from likely.inference.active import LabellingStopped, Queries
from likely.inference.imitation import Person, dagger
from likely.inference.imitation.pictures import with_pictures
from likely.models import SoftmaxPolicy, TabularPolicy


class Watcher:
    """An oracle that keeps what it was shown, and answers by the picture or in turn."""

    def __init__(self, stop_after: int | None = None, answer: Any = None) -> None:
        self.items: list[Any] = []
        self.stop_after, self.answer = stop_after, answer

    def __call__(self, queries: Queries) -> Any:
        labels = np.full(len(queries), -1)
        for i in range(len(queries)):
            if self.stop_after is not None and len(self.items) >= self.stop_after:
                raise LabellingStopped(labels)
            item = queries.point(i)
            self.items.append(item)
            labels[i] = len(self.items) % 2 if self.answer is None else self.answer(item)
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
    found = dagger("CartPole-v1", SoftmaxPolicy(2), early, beta="never", queries=5, iterations=3)
    assert found.stopped == "the expert stopped"
    assert found.history["labels"].tolist() == [1]
    with pytest.raises(OptionError, match="nothing was answered"):
        dagger(Lamp, TabularPolicy(6, 2), Person(("left", "right"), Watcher(stop_after=0)))


def test_quitting_in_the_middle_of_an_episode_keeps_what_was_answered() -> None:
    person = Person(("left", "right"), Watcher(stop_after=3))
    found = dagger(Lamp, TabularPolicy(6, 2, 1.1), person, iterations=4)
    assert found.stopped == "the expert stopped"
    assert found.history["labels"].tolist() == [3]
    # The answers are 1, 0, 1; of the other two states nothing is known.
    assert found.table[:3].argmax(-1).tolist() == [1, 0, 1]
    assert found.table[3].tolist() == [0.5, 0.5]


def test_quitting_counts_what_was_played_also_where_few_states_are_drawn() -> None:
    person = Person(("left", "right"), Watcher(stop_after=2))
    found = dagger(Lamp, TabularPolicy(6, 2, 1.1), person, iterations=4, queries=2, seed=3)
    assert found.history["labels"].tolist() == [2]


@pytest.mark.parametrize("stop_after", [3, 10])
@pytest.mark.parametrize("queries", [None, 4])
def test_a_run_goes_on_where_the_person_stopped(
    tmp_path: Path, stop_after: int, queries: int | None
) -> None:
    pytest.importorskip("pygame")

    def run(folder: str, stop_after: int | None = None) -> tuple[Any, int]:
        watcher = Watcher(stop_after, lambda picture: int(picture.astype(int).sum() % 2))
        found = dagger(
            "CartPole-v1", SoftmaxPolicy(2), Person(("left", "right"), watcher), iterations=3,
            horizon=8, beta=0.5, seed=2, queries=queries, path=tmp_path / folder,
        )  # fmt: skip
        return found, len(watcher.items)

    whole, asked = run("whole")
    assert asked > stop_after
    stopped, _ = run("broken", stop_after)
    assert stopped.stopped == "the expert stopped"
    # A new person without a file of answers: the folder has them.
    found, again = run("broken")
    assert again == asked - stop_after
    columns = ["iteration", "beta", "labels", "acted", "return", "disagreement"]
    pd.testing.assert_frame_equal(found.history[columns], whole.history[columns])
    for site, value in whole.params.items():
        assert alike(found.params[site], value)


def test_what_was_skipped_is_not_asked_again() -> None:
    watcher = Watcher(answer=lambda picture: -1)
    person = Person(("left", "right"), watcher)
    with pytest.raises(OptionError, match="no state was answered"):
        dagger(Lamp, TabularPolicy(6, 2), person, iterations=2)
    assert len(watcher.items) == 5


def test_answers_in_a_file_belong_to_their_states(tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"

    def person(typed: str) -> Person:
        return Person(("left", "right"), path=path, stdin=io.StringIO(typed), stdout=io.StringIO())

    person("2\n1\n\n")(np.array([[0.5], [0.0]]))
    again = person("2\n")
    # Another state comes first, and there are other pictures.
    pictures = [np.zeros((2, 2), dtype=np.uint8)] * 3
    assert again(np.array([[0.25], [-0.0], [0.5]]), pictures).tolist() == [1, 0, 1]
    assert again.asked == 1


def test_the_person_is_not_troubled_where_the_policy_does_not_fit() -> None:
    watcher = Watcher()
    with pytest.raises(DataError, match=r"Discrete\(7\)"):
        dagger(Lamp, TabularPolicy(7, 2), Person(("left", "right"), watcher))
    assert watcher.items == []


def test_in_a_process_a_person_is_asked_and_does_not_play() -> None:
    mdp = TabularMDP.from_gymnasium("FrozenLake-v1", discount=1)
    names = ("left", "down", "right", "up")
    person = Person(names, Watcher(answer=lambda state: 1))
    with pytest.raises(OptionError, match="beta"):
        dagger(mdp, TabularPolicy(17, 4, 1.1), person, horizon=10)
    with pytest.raises(OptionError, match="beta"):
        dagger(mdp, TabularPolicy(17, 4, 1.1), person, horizon=10, beta=lambda i: i / 10)
    assert person.asked == 0
    found = dagger(mdp, TabularPolicy(17, 4, 1.1), person, horizon=10, iterations=2, beta="never")
    assert found.history["acted"].tolist() == [0, 0]
    assert person.asked == len(person.oracle.items)  # type: ignore[attr-defined]


def test_answers_in_a_file_are_not_asked_again(tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"

    def person(typed: str) -> Person:
        return Person(("left", "right"), path=path, stdin=io.StringIO(typed), stdout=io.StringIO())

    first = person("1\n2\n\n")(np.array([4, 5]))
    assert person("")(np.array([4, 5])).tolist() == first.tolist() == [0, 1]


def test_bad_input() -> None:
    for actions in (("left",), "ab", {"s": "left", "d": "right"}, {"aa": "left", "d": "right"},
                    {"a": "left", "A": "right"}, ("left", "left"), 3, None,
                    {1: "left", 2: "right"}, {"a": "left"}):  # fmt: skip
        with pytest.raises(DataError, match="actions"):
            Person(actions)  # type: ignore[arg-type]
    with pytest.raises(DataError, match="oracle"):
        Person(("left", "right"), oracle=3)  # type: ignore[arg-type]
    with pytest.raises(DataError, match="path"):
        Person(("left", "right"), Watcher(), path="answers.jsonl")
    with pytest.raises(DataError, match="key map"):
        Person({"a": "left", "d": "right"}, Watcher())
    with pytest.raises(DataError, match="terminal, browser"):
        Person(("left", "right"), "phone")
    for trail in (-1, 0.5, True, "1"):
        with pytest.raises(DataError, match="trail"):
            Person(("left", "right"), trail=trail)  # type: ignore[arg-type]
    with pytest.raises(DataError, match="picture"):
        Person(("left", "right"), picture=3)  # type: ignore[arg-type]
    with pytest.raises(DataError, match="pictures"):
        Person(("left", "right"), Watcher())(np.array([1, 2]), pictures=[None])
    for wrong in (np.float64(1.0), {"a": 1}):
        with pytest.raises(DataError, match="observations: expected numbers"):
            Person(("left", "right"), Watcher())(wrong)
    with pytest.raises(OptionError, match="3 names"):
        dagger(Lamp, TabularPolicy(6, 2), Person(("left", "right", "up"), Watcher()))
    with pytest.raises(OptionError, match="few actions"):
        with_pictures("likely/Fork-v0")
    with pytest.raises(OptionError, match="gymnasium"):
        with_pictures("NoSuch-v0")
