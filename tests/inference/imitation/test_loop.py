"""Rounds: their history, how they end early, and how they go on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from likely.inference import FitError, OptionError
from likely.inference.imitation._loop import Rounds


class Sum:
    """A run whose state is a number."""

    def __init__(self) -> None:
        self.total = 0

    def step(self, number: int) -> dict[str, Any]:
        self.total += number
        return {"total": self.total}

    def state(self) -> dict[str, Any]:
        return {"total": self.total}

    def run(self, most: int, path: Path | None = None, **options: Any) -> Rounds:
        reached = options.pop("reached", None)
        rounds = Rounds("adding_up", most, path, {"seed": options.pop("seed", 0)}, **options)
        if (state := rounds.resume()) is not None:
            assert set(state) == {"total"}
            self.total = state["total"]
        rounds.go(self.step, self.state, reached)
        return rounds


def test_rows_are_numbered_and_timed() -> None:
    rounds = Sum().run(4)
    history = rounds.history(("iteration", "total", "seconds"))
    assert history["total"].tolist() == [0, 1, 3, 6]
    assert history["iteration"].tolist() == [0, 1, 2, 3]
    assert 0 <= history["seconds"].sum() <= rounds.seconds
    assert rounds.stopped == ""
    empty = Rounds("nothing", 3).history(("iteration", "total"))
    assert list(empty) == ["iteration", "total"]


def test_a_run_in_parts_is_the_run_in_one(tmp_path: Path) -> None:
    first = Sum().run(2, tmp_path)
    second = Sum().run(5, tmp_path)
    assert [row["total"] for row in second.rows] == [0, 1, 3, 6, 10]
    assert second.seconds > first.rows[0]["seconds"] + first.rows[1]["seconds"]
    with pytest.raises(FitError, match="seed"):
        Sum().run(5, tmp_path, seed=1)


def test_early_ends(tmp_path: Path) -> None:
    seen: list[dict[str, Any]] = []

    def callback(row: dict[str, Any]) -> bool:
        seen.append(row)
        row["total"] = -1  # a copy
        return len(seen) == 2

    rounds = Sum().run(9, callback=callback)
    assert rounds.stopped == "the callback said so"
    assert [row["total"] for row in rounds.rows] == [0, 1]
    rounds = Sum().run(9, reached=lambda rows: "enough" if len(rows) == 3 else "")
    assert (rounds.stopped, len(rounds.rows)) == ("enough", 3)

    class Stopped(Sum):
        def step(self, number: int) -> dict[str, Any]:
            if number == 3:
                raise KeyboardInterrupt
            return super().step(number)

    rounds = Stopped().run(9, tmp_path)
    assert (rounds.stopped, len(rounds.rows)) == ("interrupted", 3)
    assert [row["total"] for row in Sum().run(5, tmp_path).rows] == [0, 1, 3, 6, 10]


@pytest.mark.parametrize("answer", [np.True_, torch.tensor(True)])
def test_true_is_true_in_numpy_and_torch(answer: Any) -> None:
    rounds = Sum().run(9, callback=lambda row: answer)
    assert (rounds.stopped, len(rounds.rows)) == ("the callback said so", 1)
    # Neither is one: other values say nothing.
    assert len(Sum().run(3, callback=lambda row: 1).rows) == 3


def test_a_number_is_no_folder() -> None:
    with pytest.raises(OptionError, match="path: expected a folder, got 3"):
        Rounds("adding_up", 3, path=3)


def test_what_cannot_be_called_is_no_callback() -> None:
    with pytest.raises(OptionError, match="callback"):
        Rounds("adding_up", 3, callback=3)  # type: ignore[arg-type]


def test_the_bar_shows_a_column(capsys: pytest.CaptureFixture[str]) -> None:
    Sum().run(3, progress=True, shown="total")
    assert "adding up" in (shown := capsys.readouterr().err)
    assert "total 3" in shown
    Sum().run(3, shown="total")
    assert capsys.readouterr().err == ""
