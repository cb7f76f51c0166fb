"""Tables of labels in files: comma-separated text and Parquet."""

from __future__ import annotations

from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.csv as pc
from numpy.typing import NDArray

from likely.envs import DataError
from likely.models._ids import shown

_TABS = (".tsv", ".tab")
_ZIPPED = (".gz", ".bz2", ".lz4", ".zst")
# What often stands between fields, where it is no comma.
_SEPARATORS = {";": "';'", "\t": "a tab", "|": "'|'", ",": "a comma"}
# First bytes of files that people take for tables of text.
_STARTS = {
    b"\xff\xfe": "text in UTF-16",
    b"\xfe\xff": "text in UTF-16",
    b"PK\x03\x04": "a zip archive or a spreadsheet",
    b"\xfd7zXZ": "compressed by xz",
    b"PAR1": "a Parquet file",
}
PARQUET = b"PAR1"


def read_csv(
    path: str | PathLike[str], columns: list[str], separator: str | None = None
) -> pd.DataFrame:
    """Columns of a text file with a header, as categories of the texts that stand there.

    ``007`` and ``7`` are different ids, and ``NA`` and ``None`` are ids like any other; only an
    empty field is missing.

    Parameters
    ----------
    path
        Text in UTF-8, or a file of it compressed with gzip, bzip2, LZ4 or Zstandard.
    columns
        Names of the columns to read.
    separator
        What stands between fields; by default a tab for ``.tsv`` and ``.tab``, else a comma.

    Raises
    ------
    DataError
        If there is no such file, it cannot be read as a table, or lacks a column or has it twice.
    """
    source = _existing(path)
    names = list(dict.fromkeys(columns))
    # As categories: a million labels hold a few distinct texts each column.
    text = {name: pa.dictionary(pa.int32(), pa.string()) for name in names}
    converting = {"column_types": text, "strings_can_be_null": True, "null_values": [""]}
    found = column_names(source, separator)
    _check_separator(source, columns, found)
    check_columns(source, columns, found)
    try:
        table = pc.read_csv(
            source,
            parse_options=_parsing(source, separator),
            convert_options=pc.ConvertOptions(include_columns=names, **converting),
        )
    except (OSError, ValueError, TypeError, pa.ArrowException) as error:
        raise DataError(f"path: cannot read {str(source)!r} as a table: {error}") from error
    frame: pd.DataFrame = table.to_pandas()
    return frame


def read_parquet(path: str | PathLike[str], columns: list[str]) -> pd.DataFrame:
    """Columns of a Parquet file, or of a folder of such files, with the types they have there.

    Raises
    ------
    DataError
        If there is no such file, it is not Parquet, or lacks a column.
    """
    # Ten megabytes that only files of this kind need.
    import pyarrow.dataset as ds

    source = _existing(path)
    try:
        table = ds.dataset(source, format="parquet")
        if not table.files:
            raise DataError(f"path: there is no Parquet file in the folder {str(source)!r}")
        check_columns(source, columns, table.schema.names)
        frame: pd.DataFrame = table.to_table(columns=list(dict.fromkeys(columns))).to_pandas()
    except DataError:
        raise
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"path: cannot read {str(source)!r} as Parquet: {error}") from error
    return frame


def column_names(
    path: str | PathLike[str], separator: str | None = None, *, parquet: bool = False
) -> list[str]:
    """Names of the columns of a text file, or of a Parquet file or folder.

    Raises
    ------
    DataError
        As `read_csv` and `read_parquet`.
    """
    source = _existing(path)
    try:
        if parquet:
            import pyarrow.dataset as ds

            return list(ds.dataset(source, format="parquet").schema.names)
        _check_text(source)
        parsing = _parsing(source, separator)
        with pc.open_csv(source, parse_options=parsing) as reader:
            return list(reader.schema.names)
    except DataError:
        raise
    except (OSError, ValueError, TypeError, pa.ArrowException) as error:
        raise DataError(f"path: cannot read {str(source)!r} as a table: {error}") from error


def _parsing(path: Path, separator: str | None) -> pc.ParseOptions:
    if path.is_dir():
        raise DataError(f"path: expected a file, and {str(path)!r} is a folder")
    if separator is None:
        endings = [ending.lower() for ending in path.suffixes]
        endings = [ending for ending in endings if ending not in _ZIPPED]
        separator = "\t" if endings and endings[-1] in _TABS else ","
    # Arrow refuses rows that are too long or too short; pandas shifts or cuts some of them.
    return pc.ParseOptions(delimiter=separator, newlines_in_values=True)


def check_columns(path: Path, wanted: list[str], found: list[Any]) -> None:
    """Raise `DataError` if a file lacks a column or has it twice."""
    absent = [name for name in wanted if name not in found]
    if absent:
        raise DataError(f"path: {str(path)!r} has no column {absent}; its columns are {found}")
    twice = [name for name in wanted if found.count(name) > 1]
    if twice:
        raise DataError(f"path: {str(path)!r} has several columns {twice[0]!r}")


def first_bytes(path: Path) -> bytes:
    """The first few bytes of a file, none where it cannot be read."""
    try:
        with path.open("rb") as file:
            return file.read(8)
    except OSError:
        return b""


def _check_text(path: Path) -> None:
    """Raise `DataError` for files that begin as other things do than text in UTF-8."""
    start = first_bytes(path)
    for sign, what in _STARTS.items():
        if start.startswith(sign):
            raise DataError(
                f"path: expected text in UTF-8 with one row per label, plain or compressed by "
                f"gzip, bzip2, LZ4 or Zstandard, and {str(path)!r} is {what}"
            )


def _check_separator(path: Path, wanted: list[str], found: list[str]) -> None:
    """Raise `DataError` if a header is one field, and would be several with another separator."""
    if len(found) != 1 or found[0] in wanted:
        return
    for separator, name in _SEPARATORS.items():
        if set(wanted) <= set(found[0].split(separator)):
            raise DataError(
                f"path: {str(path)!r} seems to have {name} between fields; its header was read as "
                f"one column {found[0]!r}. Say so with separator="
            )


def known_levels(values: pd.Series, levels: Sequence[Any] | None) -> pd.Series:
    """A column of true classes in the names that the labels have.

    Texts that are no class but the number of exactly one stand for it: a table that holds whole
    numbers and gaps is often written with ``1.0`` in place of ``1``. The text ``-1``, unless it is
    a class, is a gap.

    Parameters
    ----------
    values
        [n] texts, some of which may be missing.
    levels
        The classes, if they are known.

    Returns
    -------
    Series
        [n]: classes, texts that are none, and gaps.
    """
    classes = {str(level) for level in ([] if levels is None else levels)}
    by_number: dict[float, list[str]] = {}
    for text in classes:
        by_number.setdefault(_number(text), []).append(text)
    named: dict[str, str | None] = {}
    for text in values.dropna().unique():
        same = by_number.get(_number(text), [])
        if text not in classes and len(same) == 1:
            named[text] = same[0]
        elif text not in classes and _number(text) == -1:
            named[text] = None
    if not named:
        return values
    return values.astype(object).map(lambda text: named.get(text, text), na_action="ignore")


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return float("nan")


def text_levels(values: pd.Series, name: str, listed: str) -> NDArray[Any]:
    """Distinct texts of a column in order: numbers by their size, else by the alphabet.

    Parameters
    ----------
    values
        [n] texts, some of which may be missing.
    name, listed
        Argument names for error messages: of the column, and of the list of its ids.

    Raises
    ------
    DataError
        If all are numbers and some are negative, which usually marks missing entries.
    """
    levels = np.sort(np.asarray(values.dropna().unique(), dtype=object))
    try:
        numbers = levels.astype(float)
    except ValueError:
        return levels
    if np.isnan(numbers).any():
        return levels
    if (numbers < 0).any():
        raise DataError(
            f"{name}: negative id(s) {shown(levels[numbers < 0])}; these usually mark missing "
            f"entries. Drop the rows, or pass {listed}= with the ids that are meant"
        )
    return levels[np.argsort(numbers, kind="stable")]


def _existing(path: Any) -> Path:
    try:
        source = Path(path)
    except TypeError as error:
        raise DataError(f"path: expected a path, got {path!r}") from error
    try:
        there = source.exists()
    except OSError as error:
        raise DataError(f"path: cannot look for {str(source)[:80]!r}: {error.strerror}") from error
    if not there:
        raise DataError(f"path: there is no file {str(source)!r}")
    return source
