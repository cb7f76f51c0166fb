"""Answers on disk: written at once, read back after a crash, refused where they are others'."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from likely.envs import DataError
from likely.inference.active import AnswersWarning
from likely.inference.active.answers_log import AnswersLog, fingerprint

CLASSES = ("cat", 'Ωmega "x"\n', "3")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "answers.jsonl"


def records(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_answers_are_read_back(path: Path) -> None:
    log = AnswersLog(path, CLASSES)
    log.append((3, None), 1)
    log.append((3, 7), 2)
    log.append((4, None), -1)
    log.append((5, None), 0)
    log.append((5, None), 2)
    again = AnswersLog(path, list(CLASSES))
    assert again.entries == log.entries
    keys = [(3, None), (3, 7), (3, 0), (4, None), (5, None)]
    assert [again.label(key) for key in keys] == [1, 2, -1, -1, 2]
    assert [line.get("label") for line in records(path)[1:]] == [
        CLASSES[1],
        "3",
        None,
        "cat",
        "3",
    ]


def test_each_answer_is_on_disk_when_append_returns(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[int] = []
    fsync = os.fsync

    def watched(handle: int) -> None:
        fsync(handle)
        synced.append(len(path.read_bytes().splitlines()))

    monkeypatch.setattr(os, "fsync", watched)
    log = AnswersLog(path, CLASSES)
    for index in range(3):
        log.append((index, None), 0)
    assert synced == [1, 2, 3, 4]


@pytest.mark.parametrize("cut", range(1, 60, 7))
def test_a_crash_while_writing_loses_nothing_before(path: Path, cut: int) -> None:
    log = AnswersLog(path, CLASSES)
    for index in range(3):
        log.append((index, None), index)
    whole = path.read_bytes()
    path.write_bytes(whole[:-cut])
    if cut == 1:  # only the end of the line is missing
        again = AnswersLog(path, CLASSES)
        assert again.entries == log.entries
    else:
        with pytest.warns(AnswersWarning, match="the last line is broken and is dropped"):
            again = AnswersLog(path, CLASSES)
        assert again.entries == {key: log.entries[key] for key in [(0, None), (1, None)]}
    again.append((2, None), 2)
    assert AnswersLog(path, CLASSES).entries == log.entries


def test_zeros_and_half_a_letter_are_a_broken_line(path: Path) -> None:
    AnswersLog(path, CLASSES).append((0, None), 1)
    whole = path.read_bytes()
    half = b'{"index": 1, "annotator": null, "label": "\xce'
    for broken in (b"\0" * 40, half, half + b"\n", b"{}{}\n\n"):
        path.write_bytes(whole + broken)
        with pytest.warns(AnswersWarning, match="broken"):
            assert AnswersLog(path, CLASSES).label((0, None)) == 1
        assert path.read_bytes() == whole


@pytest.mark.parametrize("kept", [0, 1, 20, -1])
def test_a_crash_with_the_first_line_starts_anew(path: Path, kept: int) -> None:
    AnswersLog(path, CLASSES)
    header = path.read_bytes()
    path.write_bytes(header[:kept])
    AnswersLog(path, CLASSES)
    assert path.read_bytes() == header


def test_a_file_for_other_classes_is_refused(path: Path) -> None:
    AnswersLog(path, CLASSES).append((0, None), 1)
    before = path.read_bytes()
    for other in (("cat", "dog"), CLASSES[::-1], CLASSES[:2]):
        with pytest.raises(DataError, match="path: expected answers for the classes"):
            AnswersLog(path, other)
    assert path.read_bytes() == before


@pytest.mark.parametrize("text", ["task,label\n1,2", "notes", "{}\n", "[1]", "\n", "\xff\n"])
def test_other_files_are_refused_and_left_alone(path: Path, text: str) -> None:
    path.write_text(text, encoding="latin-1")
    with pytest.raises(DataError, match="path: expected a new file or one of recorded answers"):
        AnswersLog(path, CLASSES)
    assert path.read_text(encoding="latin-1") == text


@pytest.mark.parametrize(
    "line",
    [
        '{"index": 0, "label": "dog"}',
        '{"index": -1, "label": "cat"}',
        '{"index": true, "label": "cat"}',
        '{"label": "cat"}',
        '{"index": 0, "annotator": "x", "label": "cat"}',
        "[0]",
        "not JSON",
    ],
)
def test_a_wrong_line_in_the_middle_is_named(path: Path, line: str) -> None:
    AnswersLog(path, CLASSES).append((0, None), 1)
    good = path.read_text(encoding="utf-8").splitlines()
    path.write_text("\n".join([good[0], line, good[1], ""]), encoding="utf-8")
    with pytest.raises(DataError, match="path: line 2 of "):
        AnswersLog(path, CLASSES)


def test_a_later_version_is_refused(path: Path) -> None:
    AnswersLog(path, CLASSES)
    path.write_text(path.read_text().replace('"version": 1', '"version": 2'), encoding="utf-8")
    with pytest.raises(DataError, match="path: expected version 1 of recorded answers, got 2"):
        AnswersLog(path, CLASSES)


def test_arguments_are_checked(tmp_path: Path) -> None:
    for wrong in (tmp_path, tmp_path / "none" / "answers.jsonl"):
        with pytest.raises(DataError, match="path: expected a file in an existing folder"):
            AnswersLog(wrong, CLASSES)
    with pytest.raises(DataError, match="path: expected the path of a file or None, got 3"):
        AnswersLog(3, CLASSES)  # type: ignore[arg-type]
    for names in ((1, "1"), ("", "a"), (" ", "a")):
        with pytest.raises(DataError, match="classes: expected different names"):
            AnswersLog(None, names)


def test_without_a_path_answers_stay_in_memory() -> None:
    log = AnswersLog(None, CLASSES)
    log.append((0, None), 2)
    assert log.label((0, None)) == 2


def test_an_answer_to_something_else_does_not_count(path: Path) -> None:
    log = AnswersLog(path, CLASSES)
    log.append((0, None), 1, fingerprint("one text"))
    log.append((1, None), 1, None)
    again = AnswersLog(path, CLASSES)
    assert again.label((0, None), fingerprint("one text")) == 1
    assert again.label((0, None)) == 1
    assert again.label((1, None), fingerprint("any text")) == 1
    with pytest.warns(AnswersWarning, match="point 0 is not what it was"):
        assert again.label((0, None), fingerprint("another text")) == -1


def test_fingerprints_tell_items_apart_and_forgive_rounding() -> None:
    image = np.random.default_rng(0).random((4, 4))
    items = [
        "a",
        "b",
        image,
        image.T,
        image.reshape(2, 8),
        (255 * image).astype(np.uint8),
        {"a": 1, "b": 2},
        {"a": 2, "b": 1},
        {"a": 12},
        pd.Series({"a": 1.5, "b": "x"}),
        3,
        [1, 2],
    ]
    assert len({fingerprint(item) for item in items}) == len(items)
    assert fingerprint(None) is None
    nearly = image * (1 + 1e-15)
    assert not (nearly == image).all()
    assert fingerprint(image) == fingerprint(torch.from_numpy(nearly)) == fingerprint(nearly)
    assert fingerprint(np.array([0.0, 1.0])) == fingerprint(np.array([-0.0, 1.0]))
    assert fingerprint({"a": 0.1}) == fingerprint(pd.Series({"a": np.float32(0.1)}))
