"""Minari data sets hold trajectories and give them back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Dict, Discrete

from likely.envs import DataError, Trajectories, cartpole_expert, rollout

minari = pytest.importorskip("minari")
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:minari")

NAME = "tests/random-v0"


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Data sets of a test lie in a folder of its own, and nowhere else."""
    home, data = tmp_path / "home", tmp_path / "data"
    home.mkdir()
    data.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(data))
    yield
    assert not list(home.iterdir())


def numbers(box: bool = False, **changes: Any) -> Trajectories:
    """Four episodes with rewards, one for each way to end."""
    rng = np.random.default_rng(0)
    lengths = [3, 1, 4, 2]
    n, e = sum(lengths), len(lengths)
    spaces = {} if box else {"state_space": 7, "action_space": 4}
    arguments: dict[str, Any] = {
        "states": rng.normal(size=(n + e, 3)) if box else rng.integers(0, 7, n + e),
        "actions": rng.normal(size=(n, 2)) if box else rng.integers(0, 4, n),
        "rewards": rng.normal(size=n),
        "terminated": [True, False, True, False],
        "truncated": [False, True, True, False],
        **spaces,
    }
    return Trajectories.from_arrays(lengths=lengths, **{**arguments, **changes})


def assert_same(left: Trajectories, right: Trajectories) -> None:
    for name in Trajectories.__dataclass_fields__:
        one, other = getattr(left, name), getattr(right, name)
        if isinstance(one, torch.Tensor):
            assert torch.equal(one, other), name
        elif name == "episodes":
            assert one.tolist() == other.tolist()
        else:
            assert one == other, name


@pytest.mark.parametrize("box", [True, False], ids=["box", "discrete"])
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"rewards": None},
        {"terminated": None, "truncated": None},
        {"episodes": ["d", "a", "c", "b"]},
        {"episodes": [7, 3, 5, 1]},
        {"episodes": [0.5, "a", 3, -1]},
    ],
    ids=["plain", "no rewards", "no ends", "text ids", "number ids", "mixed ids"],
)
def test_a_data_set_keeps_the_trajectories(box: bool, changes: dict[str, Any]) -> None:
    data = numbers(box, **changes)
    written = data.to_minari(NAME, description="random numbers")
    assert_same(Trajectories.from_minari(written), data)
    assert_same(Trajectories.from_minari(NAME), data)


def test_ids_that_are_neither_numbers_nor_text_become_positions() -> None:
    data = numbers(episodes=[("a", 1), ("a", 2), ("b", 1), ("b", 2)])
    assert Trajectories.from_minari(data.to_minari(NAME)).episodes.tolist() == [0, 1, 2, 3]


def test_what_was_played_is_kept_in_single_precision() -> None:
    played = rollout("CartPole-v1", cartpole_expert, 3, seed=0, max_steps=20)
    found = Trajectories.from_minari(played.to_minari(NAME, author="me"))
    assert_same(found, played)
    assert found.state_space.dtype == np.float32


def test_pictures_come_back_unchanged() -> None:
    space = Box(0, 255, (8, 8, 3), np.uint8)
    pictures = np.random.default_rng(0).integers(0, 256, (5, 8, 8, 3), dtype=np.uint8)
    data = Trajectories.from_arrays([pictures], [[0, 1, 0, 1]], state_space=space)
    assert_same(Trajectories.from_minari(data.to_minari(NAME)), data)


def test_some_episodes_of_a_data_set_keep_their_ids() -> None:
    data = numbers(episodes=["d", "a", "c", "b"])
    written = data.to_minari(NAME)
    some = written.filter_episodes(lambda episode: len(episode) > 1)
    assert_same(Trajectories.from_minari(some), data[[0, 2, 3]])
    # Those that others add have no ids of ours.
    buffer = minari.data_collector.EpisodeBuffer(
        observations=np.array([0, 1]),
        actions=np.array([1]),
        rewards=np.ones(1),
        terminations=np.array([True]),
        truncations=np.array([False]),
        infos={},
    )
    written.update_dataset_from_buffer([buffer])
    assert Trajectories.from_minari(written).episodes.tolist() == [0, 1, 2, 3, 4]


def foreign(steps: list[int], **spaces: Any) -> Any:
    """A data set that another program wrote."""
    buffers = [
        minari.data_collector.EpisodeBuffer(
            observations=np.zeros(n + 1, dtype=np.int64),
            actions=np.ones(n, dtype=np.int64),
            rewards=np.arange(n) / 2,
            terminations=np.arange(n) == n - 1,
            truncations=np.zeros(n, dtype=bool),
            infos={},
        )
        for n in steps
    ]
    spaces = {"observation_space": Discrete(3), "action_space": Discrete(2), **spaces}
    return minari.create_dataset_from_buffers("tests/foreign-v0", buffers, **spaces)


def test_data_sets_of_others_are_read() -> None:
    found = Trajectories.from_minari(foreign([2, 3]))
    assert found.lengths.tolist() == [2, 3]
    assert found.rewards is not None
    assert found.rewards.tolist() == [0.0, 0.5, 0.0, 0.5, 1.0]
    assert found.terminated.all()
    assert not found.truncated.any()
    assert found.episodes.tolist() == [0, 1]


def test_data_sets_that_hold_no_trajectories_are_refused() -> None:
    whole = foreign([2, 3])
    with pytest.raises(DataError, match="dataset: expected at least one episode, got none"):
        Trajectories.from_minari(whole.filter_episodes(lambda episode: False))
    with pytest.raises(DataError, match="dataset: expected a Minari data set or its name, got int"):
        Trajectories.from_minari(3)
    with pytest.raises(DataError, match=r"'tests/absent-v0' cannot be loaded.*list_local_datasets"):
        Trajectories.from_minari("tests/absent-v0")


def test_other_spaces_and_empty_episodes_are_refused() -> None:
    class Part:
        id = 0
        observations, actions = np.zeros(1), np.zeros(0)
        rewards = terminations = truncations = np.zeros(0)

    class Storage:
        metadata: dict[str, Any] = {}  # noqa: RUF012

    class Dataset:
        storage = Storage
        action_space = Discrete(2)

        def __init__(self, space: Any) -> None:
            self.observation_space = space

        def iterate_episodes(self) -> Any:
            return iter([Part])

    with pytest.raises(DataError, match="observation_space: expected a Discrete or a Box"):
        Trajectories.from_minari(Dataset(Dict({"a": Discrete(2)})))
    with pytest.raises(DataError, match=r"states\[0\]: expected at least two.*drop empty episodes"):
        Trajectories.from_minari(Dataset(Discrete(2)))


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        (NAME, {}, "already exists"),
        ("a name, with spaces", {}, "does not write"),
        ("tests/other-v0", {"no_such": 1}, "no_such"),
        ("tests/other-v0", {"data_format": "paper"}, "paper"),
        (3, {}, "does not write 3"),
    ],
)
def test_what_minari_refuses_is_said(name: Any, options: dict[str, Any], message: str) -> None:
    data = numbers()
    data.to_minari(NAME)
    with pytest.raises(DataError, match=message):
        data.to_minari(name, **options)


def test_a_data_set_needs_actions() -> None:
    with pytest.raises(DataError, match="actions: these trajectories have none"):
        numbers().with_actions(None).to_minari(NAME)


def test_without_minari_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    data = numbers()

    def refuse(name: str) -> Any:
        raise ImportError(f"no {name} here")

    monkeypatch.setattr("importlib.import_module", refuse)
    with pytest.raises(DataError, match=r'pip install "likely\[minari\]"'):
        data.to_minari(NAME)
    with pytest.raises(DataError, match=r'pip install "likely\[minari\]"'):
        Trajectories.from_minari(NAME)
