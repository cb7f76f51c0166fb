"""Files are there whole or not at all, and belong to one run."""

from __future__ import annotations

import os
from pathlib import Path
from typing import BinaryIO

import pytest
import torch

from likely.inference import FitError
from likely.inference.checkpoints import STATE, Checkpoint, check_belongs, seed_of, write_whole


def test_a_crash_on_the_way_leaves_the_file_before(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_whole(path, lambda file: file.write(b"first"))

    def fail(file: object) -> None:
        raise OSError("no space left")

    with pytest.raises(OSError, match="no space left"):
        write_whole(path, fail)
    assert path.read_bytes() == b"first"
    write_whole(path, lambda file: file.write(b"second"))
    assert path.read_bytes() == b"second"
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


def test_of_two_writers_the_later_ones_file_stays_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file"

    def slowly(file: BinaryIO) -> None:
        file.write(b"one, ")
        with monkeypatch.context() as patch:
            patch.setattr(os, "getpid", lambda: -1)
            write_whole(path, lambda other: other.write(b"the other"))
        file.write(b"two")

    write_whole(path, slowly)
    assert path.read_bytes() == b"one, two"
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


def test_a_folder_that_cannot_be_written_to_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(number: int) -> None:
        raise OSError(28, "No space left on device")

    kept = Checkpoint(tmp_path)
    kept.save({"n": 1})
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(FitError, match=r"cannot write to .*No space left"):
            kept.save({"n": 2})
    assert kept.load() == {"n": 1}
    assert [entry.name for entry in tmp_path.iterdir()] == [STATE]
    (tmp_path / "file").write_text("")
    with pytest.raises(FitError, match="cannot write to"):
        Checkpoint(tmp_path / "file").load()


def test_state_comes_back_as_it_was(tmp_path: Path) -> None:
    kept = Checkpoint(tmp_path / "a" / "b", {"seed": 3})
    assert kept.load() is None
    state = {"x": torch.rand(3, dtype=torch.float64), "rows": [{"return": 0.1}], "n": 2, "no": None}
    kept.save(state)
    back = kept.load()
    assert back is not None
    assert torch.equal(back.pop("x"), state.pop("x"))  # type: ignore[arg-type]
    assert back == state
    assert Checkpoint(None).load() is None


def test_other_runs_and_damaged_files_are_refused(tmp_path: Path) -> None:
    Checkpoint(tmp_path, {"seed": 3}).save({"n": 1})
    with pytest.raises(FitError, match="seed = 3, and this one has 4"):
        Checkpoint(tmp_path, {"seed": 4}).load()
    with pytest.raises(FitError, match="size = None"):
        Checkpoint(tmp_path, {"size": 1}).load()
    whole = (tmp_path / STATE).read_bytes()
    for content in (b"", whole[: len(whole) // 2], b"{}"):
        (tmp_path / STATE).write_bytes(content)
        with pytest.raises(FitError, match="is not the state of a run"):
            Checkpoint(tmp_path, {"seed": 3}).load()
    torch.save({"version": 99, "about": {}, "state": {}}, tmp_path / STATE)
    with pytest.raises(FitError, match="layout 99"):
        Checkpoint(tmp_path).load()
    check_belongs({"a": 1, "b": 2}, {"a": 1}, tmp_path)


def test_rounds_have_seeds_of_their_own() -> None:
    seeds = {seed_of(seed, number) for seed in range(20) for number in range(200)}
    assert len(seeds) == 20 * 200
    assert max(seeds) < 2**31
