"""What the page is told to show of an item."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from torch import Tensor

from likely.envs import DataError

KINDS = ("image", "text", "table")
_SIGNATURES = {
    b"\x89PNG\r\n\x1a\n": "image/png",
    b"\xff\xd8\xff": "image/jpeg",
    b"GIF8": "image/gif",
}


def rendered(
    item: Any,
    kind: str,
    *,
    image_shape: tuple[int, ...] | None = None,
    columns: Sequence[str] | None = None,
) -> dict[str, Any]:
    """An item as JSON for the page, which puts it in as text and never as markup.

    Parameters
    ----------
    item
        ``"image"``: an array [H, W], [H, W, 3 or 4] or [3 or 4, H, W], the bytes of a PNG, JPEG,
        GIF or WebP file, or the path of one. ``"text"``: a string. ``"table"``: a mapping, a
        pandas row, or a vector.
    kind
        Which of them it is.
    image_shape
        Shape that an image array is given first, for pools of flattened images.
    columns
        Names of the entries of a vector.

    Returns
    -------
    dict
        ``{"source": data URI}``, ``{"text": ...}`` or ``{"rows": [[name, value], ...]}``.

    Raises
    ------
    DataError
        If the item is nothing of the kind.

    Examples
    --------
    >>> rendered({"age": 41, "weight": 70.25}, "table")
    {'rows': [['age', '41'], ['weight', '70.25']]}
    """
    if kind == "text":
        if not isinstance(item, str):
            raise DataError(f"items: expected text, got {type(item).__name__}")
        return {"text": str(item)}
    if kind == "table":
        return {"rows": _rows(item, columns)}
    data = _image_bytes(item, image_shape)
    mime = _mime(data)
    return {"source": f"data:{mime};base64,{base64.b64encode(data).decode()}"}


def _rows(item: Any, columns: Sequence[str] | None) -> list[list[str]]:
    if isinstance(item, pd.Series | Mapping):
        return [[str(name), _written(value)] for name, value in item.items()]
    values = np.asarray(item.detach().cpu() if isinstance(item, Tensor) else item)
    if values.ndim != 1:
        raise DataError(
            f"items: expected a row of a table (a mapping, a pandas row or a vector), got "
            f"{type(item).__name__} of shape {values.shape}"
        )
    names = range(len(values)) if columns is None else columns
    if len(names) != len(values):
        raise DataError(f"columns: expected {len(values)} names, got {len(names)}")
    return [[str(name), _written(value)] for name, value in zip(names, values, strict=True)]


def _written(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float | np.floating) else str(value)


def _image_bytes(item: Any, shape: tuple[int, ...] | None) -> bytes:
    if isinstance(item, str | PathLike):
        try:
            return Path(item).read_bytes()
        except (OSError, ValueError) as error:
            raise DataError(
                f"items: expected the path of an image, got {item!r}; {error}"
            ) from error
    if isinstance(item, bytes | bytearray):
        return bytes(item)
    return _png(pixels(item, shape))


def _mime(data: bytes) -> str:
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "image/webp"
    for signature, mime in _SIGNATURES.items():
        if data.startswith(signature):
            return mime
    raise DataError("items: expected an image in PNG, JPEG, GIF or WebP, got other bytes")


def pixels(item: Any, shape: tuple[int, ...] | None = None) -> NDArray[np.uint8]:
    """An image array as bytes [H, W, 3 or 4].

    Bytes stay as they are, as do floats between 0 and 1 (black to white); any other numbers are
    spread from the least (black) to the greatest (white) of the image.

    Parameters
    ----------
    item
        [H, W], [H, W, 1, 3 or 4] or [1, 3 or 4, H, W].
    shape
        Shape to give it first.

    Raises
    ------
    DataError
        If the shape is none of these, or a number is not finite.
    """
    try:
        values = np.asarray(item.detach().cpu() if isinstance(item, Tensor) else item)
        if shape is not None:
            values = values.reshape(shape)
    except (TypeError, ValueError) as error:
        raise DataError(f"items: expected an image array; {error}") from error
    if values.ndim == 2:
        values = values[..., None]
    if values.ndim == 3 and values.shape[0] in (1, 3, 4) and values.shape[2] not in (1, 3, 4):
        values = np.moveaxis(values, 0, -1)
    if values.ndim != 3 or values.shape[2] not in (1, 3, 4) or not values.size:
        raise DataError(
            f"items: expected an image [H, W] or [H, W, 3 or 4], got {values.dtype} of shape "
            f"{values.shape}; image_shape= gives flat images theirs"
        )
    if values.dtype.kind not in "buif":
        raise DataError(f"items: expected an image of numbers, got {values.dtype}")
    if values.dtype != np.uint8:
        values = _spread(values.astype(np.float64))
    return np.repeat(values, 3, axis=-1) if values.shape[2] == 1 else values


def _spread(values: NDArray[np.float64]) -> NDArray[np.uint8]:
    if not np.isfinite(values).all():
        raise DataError("items: expected an image of finite numbers, got infinite ones or NaN")
    low, high = values.min(), values.max()
    if low < 0 or high > 1:
        values = (values - low) / (high - low) if high > low else np.zeros_like(values)
    return np.rint(255 * values).astype(np.uint8)


def _png(image: NDArray[np.uint8]) -> bytes:
    # Slow to import, and no page of text needs it.
    from matplotlib.image import imsave

    buffer = io.BytesIO()
    imsave(buffer, image, format="png")
    return buffer.getvalue()
