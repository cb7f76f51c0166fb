"""What the labelling page is told to show, and what it refuses."""

from __future__ import annotations

import base64
import importlib.util
import io
from pathlib import Path
from typing import Any

import matplotlib.image
import numpy as np
import pandas as pd
import pytest
import torch

from likely.envs import DataError
from likely.inference import OptionError
from likely.inference.active import WebOracle, label_in_browser
from likely.inference.active.web.rendering import pixels, rendered

RNG = np.random.default_rng(0)
GREY = RNG.integers(0, 256, (5, 7), dtype=np.uint8)
COLOUR = RNG.integers(0, 256, (5, 7, 3), dtype=np.uint8)


def decoded(source: str) -> Any:
    """The pixels behind a data URI of a PNG."""
    head, data = source.split(",")
    assert head == "data:image/png;base64"
    image = matplotlib.image.imread(io.BytesIO(base64.b64decode(data)))
    return np.rint(255 * image).astype(np.uint8)


@pytest.mark.parametrize(
    ("item", "expected"),
    [
        (GREY, GREY[..., None].repeat(3, -1)),
        (GREY[..., None], GREY[..., None].repeat(3, -1)),
        (GREY / 255, GREY[..., None].repeat(3, -1)),
        (COLOUR, COLOUR),
        (COLOUR.transpose(2, 0, 1), COLOUR),
        (torch.from_numpy(COLOUR.transpose(2, 0, 1).astype(np.float32) / 255), COLOUR),
    ],
    ids=["grey", "grey with a channel", "floats", "colour", "channels first", "tensor"],
)
def test_images_arrive_pixel_by_pixel(item: Any, expected: Any) -> None:
    shown = decoded(rendered(item, "image")["source"])
    assert (shown[..., :3] == expected).all()
    if shown.shape[-1] == 4:
        assert (shown[..., 3] == 255).all()


def test_transparency_stays() -> None:
    image = np.dstack([COLOUR, GREY])
    assert (decoded(rendered(image, "image")["source"]) == image).all()


def test_other_numbers_are_spread_over_all_greys() -> None:
    image = np.array([[0.0, 8.0], [16.0, 4.0]])
    assert pixels(image)[..., 0].tolist() == [[0, 128], [255, 64]]
    assert pixels(image.ravel(), (2, 2))[..., 0].tolist() == [[0, 128], [255, 64]]
    assert pixels(np.array([[-3, 7], [7, 7]]))[..., 0].tolist() == [[0, 255], [255, 255]]
    assert pixels(np.full((2, 2), 9.0)).max() == 0
    assert pixels(np.eye(2, dtype=bool))[..., 0].tolist() == [[255, 0], [0, 255]]


def test_files_are_sent_as_they_are(tmp_path: Path) -> None:
    path = tmp_path / "image.png"
    matplotlib.image.imsave(path, COLOUR)
    data = path.read_bytes()
    for item in (path, str(path), data):
        source = rendered(item, "image")["source"]
        assert source == f"data:image/png;base64,{base64.b64encode(data).decode()}"
    for head, mime in (
        (b"\xff\xd8\xff\xe0", "image/jpeg"),
        (b"GIF89a", "image/gif"),
        (b"RIFF\0\0\0\0WEBP", "image/webp"),
    ):
        assert rendered(head, "image")["source"].startswith(f"data:{mime};")


@pytest.mark.parametrize(
    ("item", "message"),
    [
        (np.zeros(16), "expected an image .* of shape .16,.; image_shape= gives"),
        (np.zeros((2, 2, 2)), "expected an image .H, W."),
        (np.zeros((0, 4)), "expected an image .H, W."),
        (np.full((2, 2), np.nan), "expected an image of finite numbers"),
        (np.array([[np.inf, 0.0], [0.0, 0.0]]), "expected an image of finite numbers"),
        (np.array([["a", "b"]]), "expected an image of numbers"),
        (np.zeros((2, 2), dtype=complex), "expected an image of numbers"),
        (None, "expected an image"),
        ("none.png", "expected the path of an image"),
        ("a\0b", "expected the path of an image"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "expected an image in PNG"),
        (b"", "expected an image in PNG"),
    ],
)
def test_what_is_no_image_is_refused(item: Any, message: str) -> None:
    with pytest.raises(DataError, match=f"items: {message}"):
        rendered(item, "image")


def test_flat_images_need_the_right_shape() -> None:
    with pytest.raises(DataError, match="items: expected an image array; cannot reshape"):
        rendered(np.zeros(15), "image", image_shape=(4, 4))


@pytest.mark.parametrize(
    ("item", "rows"),
    [
        ({"a": 1, 2: "x"}, [["a", "1"], ["2", "x"]]),
        (pd.Series({"a": 1 / 3, "b": None}), [["a", "0.333333"], ["b", "nan"]]),
        (np.array([0.1, 1e9]), [["u", "0.1"], ["v", "1e+09"]]),
        (torch.tensor([1, 2]), [["u", "1"], ["v", "2"]]),
        (["<b>", 3], [["u", "<b>"], ["v", "3"]]),
    ],
)
def test_rows_of_tables(item: Any, rows: list[list[str]]) -> None:
    assert rendered(item, "table", columns=("u", "v")) == {"rows": rows}


def test_vectors_without_names_are_numbered() -> None:
    assert rendered([5, 6], "table") == {"rows": [["0", "5"], ["1", "6"]]}


@pytest.mark.parametrize("item", ["text", 3, np.zeros((2, 2)), None])
def test_what_is_no_row_is_refused(item: Any) -> None:
    with pytest.raises(DataError, match="items: expected a row of a table"):
        rendered(item, "table")


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(DataError, match="columns: expected 2 names, got 1"):
        rendered([5, 6], "table", columns=["u"])
    for item in (3, b"bytes", None, ["text"]):
        with pytest.raises(DataError, match="items: expected text"):
            rendered(item, "text")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kind": "sound"}, "kind must be one of 'image', 'text', 'table', got 'sound'"),
        ({"port": -1}, "port must be an integer from 0 to 65535"),
        ({"port": 65536}, "port must be an integer"),
        ({"port": "80"}, "port must be an integer"),
        ({"image_shape": 28}, "image_shape must be a shape such as"),
        ({"image_shape": (28, -1)}, "image_shape must be a shape such as"),
        ({"open_browser": 1}, "open_browser must be True or False"),
        ({"review": "no"}, "review must be True or False"),
    ],
)
def test_options_are_checked(options: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        WebOracle(("a", "b"), **{"kind": "text", "path": None, **options})


def test_classes_files_and_points_are_checked(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="classes: expected at least two"):
        WebOracle(("a",), "text", path=None)
    with pytest.raises(DataError, match="path: expected a file in an existing folder"):
        WebOracle(("a", "b"), "text", path=tmp_path)
    for points in ([], "text", 3):
        with pytest.raises(DataError, match="points: expected at least one thing to label"):
            label_in_browser(points, ("a", "b"), "text", path=None)


def test_without_flask_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(OptionError, match=r"pip install 'likely\[web\]'"):
        WebOracle(("a", "b"), "text", path=None)
