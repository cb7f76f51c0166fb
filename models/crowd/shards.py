"""Labels in files larger than memory, as parts that hold all labels of their tasks."""

from __future__ import annotations

import shutil
import tempfile
import weakref
from collections.abc import Iterator
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import torch
from numpy.typing import NDArray

from likely.envs import DataError
from likely.models._ids import encode
from likely.models.crowd.annotations import Annotations
from likely.models.crowd.files import check_columns

if TYPE_CHECKING:
    import pyarrow.dataset as ds

# Labels that one part holds, unless said otherwise.
_ROWS = 1_000_000
# Files that are open at a time: systems allow about a thousand.
_OPEN = 256


@dataclass(frozen=True, eq=False, repr=False)
class AnnotationShards:
    """Annotations in parts that are read from disk one at a time.

    Every part is an `Annotations` of some tasks with all their labels; annotators and classes are
    the same in all parts. Going through it costs the memory of one part, and can be done as often
    as wanted, so ``EM().fit(program, Shards(parts))`` fits a file larger than memory.

    Attributes
    ----------
    annotators, classes
        [n_annotators], [n_classes]: the user's own ids in tensor order.
    sizes
        Number of labels in each part that this process holds.
    n_labels
        Number of labels in the whole file.

    Examples
    --------
    >>> import pandas as pd, tempfile, pathlib
    >>> rows = {"task": [1, 2, 3, 1, 2], "annotator": list("abaca"), "label": [0, 1, 1, 0, 1]}
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = pathlib.Path(folder) / "labels.parquet"
    ...     pd.DataFrame(rows).to_parquet(path)
    ...     parts = AnnotationShards.from_parquet(path, rows=3)
    >>> parts, sum(len(part) for part in parts)
    (AnnotationShards(5 labels in 2 parts, 3 annotators, 2 classes), 5)
    """

    annotators: NDArray[Any]
    classes: NDArray[Any]
    sizes: tuple[int, ...]
    n_labels: int
    _stems: tuple[Path, ...]
    _folder: _Folder

    @classmethod
    def from_parquet(
        cls,
        path: str | PathLike[str],
        task: str = "task",
        annotator: str = "annotator",
        label: str = "label",
        *,
        truth: str | None = None,
        annotators: Any = None,
        classes: Any = None,
        rows: int = _ROWS,
        rank: int = 0,
        ranks: int = 1,
        folder: str | PathLike[str] | None = None,
    ) -> AnnotationShards:
        """Divide a Parquet file, or a folder of such files, by task.

        The rows of a task may stand anywhere in the file. A first pass finds the ids of annotators
        and classes, a second writes the rows into one temporary file for each part, by a hash of
        the task's id; the files are as large as the columns read, and are removed with the object.

        Parameters
        ----------
        path, task, annotator, label
            As in `Annotations.from_parquet`.
        truth
            Name of a column with the task's true class in each of its rows (missing: unknown).
        annotators, classes
            All ids, in the order wanted; by default those in the file, sorted.
        rows
            How many labels a part holds, on average.
        rank, ranks
            The number of this process, and how many there are: it gets the parts ``rank``,
            ``rank + ranks``, ...
        folder
            Where the temporary files go; by default where the system puts its own.

        Raises
        ------
        DataError
            For a file that is not there, not Parquet or empty, a missing column, missing ids,
            negative ids (unless listed), ids that are not in a given list, rows that disagree about
            a task's truth, and numbers out of range.
        """
        for name, value, least in (("rows", rows, 1), ("ranks", ranks, 1), ("rank", rank, 0)):
            if not isinstance(value, int | np.integer) or isinstance(value, bool) or value < least:
                raise DataError(f"{name}: expected an integer of at least {least}, got {value!r}")
        if rank >= ranks:
            raise DataError(f"rank: expected at most {ranks - 1}, one of {ranks}, got {rank}")
        file = _Columns.of(path, [task, annotator, label] + ([] if truth is None else [truth]))
        n_labels, levels = file.levels({"annotator": annotator, "label": label, "task": task})
        _, annotator_ids = encode(levels["annotator"], "annotator", annotators, "annotators")
        _, class_ids = encode(levels["label"], "label", classes, "classes")
        scratch = _Folder(folder)
        n_parts = -(-n_labels // int(rows))
        own = range(int(rank), n_parts, int(ranks))
        stems, sizes = [], []
        for first in range(0, len(own), _OPEN):
            for raw in file.divide(task, n_parts, own[first : first + _OPEN], scratch.path):
                frame = _read_table(raw).to_pandas()
                raw.unlink()
                part = Annotations.from_frame(
                    frame,
                    task,
                    annotator,
                    label,
                    truth=truth,
                    annotators=annotator_ids,
                    classes=class_ids,
                )
                stems.append(raw.with_suffix(""))
                sizes.append(len(part))
                _store(part, stems[-1])
        return cls(annotator_ids, class_ids, tuple(sizes), n_labels, tuple(stems), scratch)

    def __len__(self) -> int:
        return len(self._stems)

    def __iter__(self) -> Iterator[Annotations]:
        for stem in self._stems:
            yield _load(stem, self.annotators, self.classes)

    def __repr__(self) -> str:
        return (
            f"AnnotationShards({self.n_labels} labels in {len(self)} parts, "
            f"{len(self.annotators)} annotators, {len(self.classes)} classes)"
        )


class _Folder:
    """A temporary folder that is removed when nobody needs it any more."""

    def __init__(self, parent: str | PathLike[str] | None) -> None:
        self.path = Path(tempfile.mkdtemp(prefix="likely-", dir=parent))
        weakref.finalize(self, shutil.rmtree, self.path, ignore_errors=True)


@dataclass(frozen=True)
class _Columns:
    """Some columns of a Parquet file, read a batch at a time."""

    path: str
    table: ds.Dataset
    names: list[str]

    @classmethod
    def of(cls, path: Any, names: list[str]) -> _Columns:
        # Ten megabytes that only files of this kind need.
        import pyarrow.dataset as ds

        try:
            source = Path(path)
        except TypeError as error:
            raise DataError(f"path: expected a path, got {path!r}") from error
        if not source.exists():
            raise DataError(f"path: there is no file {str(source)!r}")
        names = list(dict.fromkeys(names))
        try:
            table = ds.dataset(source, format="parquet")
        except (OSError, pa.ArrowException) as error:
            raise DataError(f"path: cannot read {str(source)!r} as Parquet: {error}") from error
        check_columns(source, names, table.schema.names)
        return cls(str(source), table, names)

    def batches(self) -> Iterator[pa.RecordBatch]:
        """Batches of rows; codes of categorical columns are replaced by their values."""
        try:
            for batch in self.table.to_batches(columns=self.names):
                yield pa.RecordBatch.from_arrays([_decoded(c) for c in batch.columns], self.names)
        except (OSError, pa.ArrowException) as error:
            raise DataError(f"path: cannot read {self.path!r} as Parquet: {error}") from error

    def levels(self, roles: dict[str, str]) -> tuple[int, dict[str, Any]]:
        """Number of rows, and the distinct values of columns, by the argument that names them.

        Those of tasks may be too many to be kept together, and are left out.
        """
        n_rows = 0
        found: dict[str, pa.Array] = {}
        for batch in self.batches():
            for argument, name in roles.items():
                values = batch.column(name)
                if values.null_count:
                    row = n_rows + int(np.flatnonzero(values.is_null().to_numpy(False))[0])
                    raise DataError(
                        f"{argument}: missing value (null) in row {row} of {self.path!r}; drop "
                        "such rows"
                    )
                if argument != "task":
                    some = pc.unique(values)
                    if argument in found:
                        some = pc.unique(pa.concat_arrays([found[argument], some]))
                    found[argument] = some
            n_rows += batch.num_rows
        if n_rows == 0:
            raise DataError(f"path: expected at least one row in {self.path!r}, got none")
        return n_rows, {argument: ids.to_pandas() for argument, ids in found.items()}

    def divide(self, task: str, n_parts: int, numbers: range, folder: Path) -> list[Path]:
        """Write the rows of some parts to a file each; a part may have no task, and no file."""
        writers: dict[int, pa.RecordBatchStreamWriter] = {}
        files: dict[int, Path] = {}
        try:
            for batch in self.batches():
                ids = batch.column(task).to_pandas()
                place = (pd.util.hash_pandas_object(ids, index=False).to_numpy() % n_parts).astype(
                    int
                )
                order = np.argsort(place, kind="stable")
                ends = np.searchsorted(place[order], np.arange(n_parts + 1))
                sorted_rows = batch.take(pa.array(order))
                for number in numbers:
                    start, stop = int(ends[number]), int(ends[number + 1])
                    if start == stop:
                        continue
                    if number not in writers:
                        files[number] = folder / f"{number}.arrow"
                        writers[number] = pa.ipc.new_stream(str(files[number]), batch.schema)
                    writers[number].write_batch(sorted_rows.slice(start, stop - start))
        finally:
            for writer in writers.values():
                writer.close()
        return [files[number] for number in sorted(files)]


def _decoded(values: pa.Array) -> pa.Array:
    return values.dictionary_decode() if isinstance(values, pa.DictionaryArray) else values


def _read_table(file: Path) -> pa.Table:
    with pa.OSFile(str(file)) as source, pa.ipc.open_stream(source) as reader:
        return reader.read_all()


def _store(part: Annotations, stem: Path) -> None:
    """Write a part as it is in memory: index tensors, and the ids of its tasks."""
    rows = torch.stack([part.task, part.annotator, part._labels()])
    np.save(stem.with_suffix(".npy"), rows.numpy())
    known = torch.full((part.n_tasks,), -1) if part.truth is None else part.truth
    table = pa.table({"task": pa.array(part.tasks), "truth": pa.array(known.numpy())})
    with pa.ipc.new_stream(str(stem.with_suffix(".tasks")), table.schema) as writer:
        writer.write_table(table)


def _load(stem: Path, annotators: NDArray[Any], classes: NDArray[Any]) -> Annotations:
    task, annotator, label = torch.from_numpy(np.load(stem.with_suffix(".npy"))).unbind()
    table = _read_table(stem.with_suffix(".tasks"))
    truth = torch.from_numpy(table["truth"].to_numpy().copy())
    known = bool((truth >= 0).any())
    return Annotations(
        task,
        annotator,
        label,
        np.asarray(table["task"].to_pandas()),
        annotators,
        classes,
        truth if known else None,
    )
