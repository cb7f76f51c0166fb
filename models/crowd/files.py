"""Tables of labels in files: comma-separated text and Parquet."""

from __future__ import annotations

from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.csv as pc
import pyarrow.dataset as ds
from numpy.typing import NDArray

from likely.envs import DataError
from likely.models._ids import shown

_TABS = (".tsv", ".tab")
_ZIPPED = (".gz", ".bz2", ".lz4", ".zst")


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
    if source.is_dir():
        raise DataError(f"path: expected a file, and {str(source)!r} is a folder")
    if separator is None:
        endings = [ending for ending in source.suffixes if ending not in _ZIPPED]
        separator = "\t" if endings and endings[-1] in _TABS else ","
    names = list(dict.fromkeys(columns))
    # As categories: a million labels hold a few distinct texts each column.
    text = {name: pa.dictionary(pa.int32(), pa.string()) for name in names}
    converting = {"column_types": text, "strings_can_be_null": True, "null_values": [""]}
    try:
        # Arrow refuses rows that are too long or too short; pandas shifts or cuts some of them.
        parsing = pc.ParseOptions(delimiter=separator, newlines_in_values=True)
        with pc.open_csv(source, parse_options=parsing) as reader:
            check_columns(source, columns, reader.schema.names)
        table = pc.read_csv(
            source,
            parse_options=parsing,
            convert_options=pc.ConvertOptions(include_columns=names, **converting),
        )
    except DataError:
        raise
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
    source = _existing(path)
    try:
        table = ds.dataset(source, format="parquet")
        check_columns(source, columns, table.schema.names)
        frame: pd.DataFrame = table.to_table(columns=list(dict.fromkeys(columns))).to_pandas()
    except DataError:
        raise
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"path: cannot read {str(source)!r} as Parquet: {error}") from error
    return frame


def check_columns(path: Path, wanted: list[str], found: list[Any]) -> None:
    """Raise `DataError` if a file lacks a column or has it twice."""
    absent = [name for name in wanted if name not in found]
    if absent:
        raise DataError(f"path: {str(path)!r} has no column {absent}; its columns are {found}")
    twice = [name for name in wanted if found.count(name) > 1]
    if twice:
        raise DataError(f"path: {str(path)!r} has several columns {twice[0]!r}")


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
    if not source.exists():
        raise DataError(f"path: there is no file {str(source)!r}")
    return source
