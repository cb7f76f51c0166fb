"""Crowd annotations: one row per label that an annotator gave to a task."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from os import PathLike
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from likely.envs import DataError
from likely.models._ids import categories, check_index, column, distinct, encode, read_frame
from likely.models.crowd._rows import joined, positions
from likely.models.crowd._task_data import read_features, read_truth, truth_by_task
from likely.models.crowd.files import known_levels, read_csv, read_parquet, text_levels
from likely.models.crowd.kernels import LabelCounts


@dataclass(frozen=True, eq=False, repr=False)
class Annotations:
    """Ragged crowd labels as index tensors, with the user's own ids beside them.

    Build it with `from_arrays`, `from_frame`, `from_csv` or `from_parquet`. Any task may have any
    number of labels, none included, and an annotator may label a task more than once.

    Attributes
    ----------
    task, annotator
        int64 [n_labels]: positions in ``tasks`` and ``annotators``, one row per label.
    label
        int64 [n_labels]: positions in ``classes``; None for a design, which says who labels what
        and leaves the labels to be simulated.
    tasks, annotators, classes
        [n_tasks], [n_annotators], [n_classes]: the user's own ids in tensor order.
    truth
        int64 [n_tasks]: known true class, −1 where unknown; None where no class is known. Programs
        condition on it: ``dataclasses.replace(annotations, truth=None)`` sets it aside.
    features
        float [n_tasks, d]: what is known about each task, or None.

    Raises
    ------
    DataError
        If tensors disagree in length or point outside their ids.

    Examples
    --------
    >>> crowd = Annotations.from_arrays(["x", "x", "y"], ["ann", "bo", "bo"], ["cat", "dog", "dog"])
    >>> crowd
    Annotations(3 labels, 2 tasks, 2 annotators, 2 classes)
    >>> crowd.label.tolist(), crowd.classes.tolist()
    ([0, 1, 1], ['cat', 'dog'])
    """

    task: Tensor
    annotator: Tensor
    label: Tensor | None
    tasks: NDArray[Any]
    annotators: NDArray[Any]
    classes: NDArray[Any]
    truth: Tensor | None = None
    features: Tensor | None = None

    def __post_init__(self) -> None:
        n_rows = len(self.task)
        for name, sizes in (
            ("task", self.n_tasks),
            ("annotator", self.n_annotators),
            ("label", self.n_classes),
        ):
            check_index(getattr(self, name), name, n_rows, sizes, lowest=0)
        check_index(self.truth, "truth", self.n_tasks, self.n_classes, lowest=-1)
        if self.features is not None and (
            self.features.dim() != 2 or len(self.features) != self.n_tasks
        ):
            shape = tuple(self.features.shape)
            raise DataError(
                f"features: expected shape [{self.n_tasks}, d], one row per task, got {shape}"
            )

    @classmethod
    def from_arrays(
        cls,
        task: Any,
        annotator: Any,
        label: Any,
        *,
        truth: Any = None,
        features: Any = None,
        tasks: Any = None,
        annotators: Any = None,
        classes: Any = None,
    ) -> Annotations:
        """Read three columns of equal length, one row per label.

        Parameters
        ----------
        task, annotator, label
            [n_labels] ids of any hashable kind (arrays, lists, tensors, pandas columns).
            ``label=None`` makes a design to simulate from, and needs ``classes``.
        truth
            True classes: a mapping or pandas series by task id, or [n_tasks] classes in the order
            of ``tasks``; None, NaN or −1 (unless it is a class) say that a class is unknown.
        features
            [n_tasks, d] finite numbers in the order of ``tasks``, or with its ids as pandas index.
        tasks, annotators, classes
            All ids, in the order wanted; they may hold ids without labels. By default those that
            occur, sorted (numbers as numbers), or by first appearance where ids do not compare; for
            ``classes``, the levels of a categorical ``label`` in their own order.

        Raises
        ------
        DataError
            For empty or unequal columns, missing ids, negative ids (unless listed), ids not in a
            given list, and ``truth`` or ``features`` that do not fit the tasks.
        """
        if label is None and classes is None:
            raise DataError("classes: expected the list of classes where label is None, got None")
        task, annotator = column(task, "task"), column(annotator, "annotator")
        lengths = {"task": len(task), "annotator": len(annotator)}
        if label is not None:
            label = column(label, "label")
            lengths["label"] = len(label)
            if classes is None:
                classes = categories(label)
        if len(set(lengths.values())) > 1:
            raise DataError(f"task, annotator, label: expected equal lengths, got {lengths}")
        if 0 in lengths.values():
            raise DataError("task: expected at least one row, got none")
        task_index, task_ids = encode(task, "task", tasks, "tasks")
        annotator_index, annotator_ids = encode(annotator, "annotator", annotators, "annotators")
        if label is None:
            label_index, class_ids = None, distinct(classes, "classes")
        else:
            label_index, class_ids = encode(label, "label", classes, "classes")
        return cls(
            torch.from_numpy(task_index),
            torch.from_numpy(annotator_index),
            None if label_index is None else torch.from_numpy(label_index),
            task_ids,
            annotator_ids,
            class_ids,
            None if truth is None else read_truth(truth, task_ids, class_ids),
            None if features is None else read_features(features, task_ids),
        )

    @classmethod
    def from_frame(
        cls,
        frame: Any,
        task: str = "task",
        annotator: str = "annotator",
        label: str | None = "label",
        *,
        truth: Any = None,
        **options: Any,
    ) -> Annotations:
        """Read a long table, one row per label.

        Parameters
        ----------
        frame
            A pandas data frame, or any table with the data frame interchange protocol.
        task, annotator, label
            Column names; ``label=None`` makes a design.
        truth
            As in `from_arrays`, or the name of a column that holds the task's true class in each of
            the task's rows (missing: unknown).
        **options
            ``features``, ``tasks``, ``annotators``, ``classes`` of `from_arrays`.

        Raises
        ------
        DataError
            For a missing column, for rows that disagree about a task's truth, and as `from_arrays`.
        """
        wanted = [task, annotator] + ([] if label is None else [label])
        if isinstance(truth, str):
            frame = read_frame(frame, [*wanted, truth])
            truth = truth_by_task(frame, task, truth)
        else:
            frame = read_frame(frame, wanted)
        labels = None if label is None else frame[label]
        return cls.from_arrays(frame[task], frame[annotator], labels, truth=truth, **options)

    @classmethod
    def from_csv(
        cls,
        path: str | PathLike[str],
        task: str = "task",
        annotator: str = "annotator",
        label: str | None = "label",
        *,
        truth: Any = None,
        separator: str | None = None,
        **options: Any,
    ) -> Annotations:
        """Read a text file with a header and one row per label.

        All ids are kept as the text that stands in the file: ``007`` and ``7`` are two ids, and
        ``NA`` is one; only an empty field is missing. Ids that all are numbers are put in their
        order. For ids of another type read the file yourself and use `from_frame`.

        Parameters
        ----------
        path, task, annotator, label, truth, **options
            The file, compressed or not; the rest as in `from_frame`, with ids as text.
        separator
            What stands between fields; by default a tab for ``.tsv``, else a comma.

        Raises
        ------
        DataError
            For a file that is not there or not a table, and as `from_frame`.
        """
        wanted = [task, annotator, *([label] if label else [])]
        frame = read_csv(path, wanted + ([truth] if isinstance(truth, str) else []), separator)
        roles = (("task", "tasks"), ("annotator", "annotators"), ("label", "classes"))
        for name, (argument, listed) in zip(wanted, roles, strict=False):
            if options.get(listed) is None:
                options[listed] = text_levels(frame[name], argument, listed)
        if isinstance(truth, str):
            frame[truth] = known_levels(frame[truth], options.get("classes"))
        return cls.from_frame(frame, task, annotator, label, truth=truth, **options)

    @classmethod
    def from_parquet(
        cls,
        path: str | PathLike[str],
        task: str = "task",
        annotator: str = "annotator",
        label: str | None = "label",
        *,
        truth: Any = None,
        **options: Any,
    ) -> Annotations:
        """Read a Parquet file, or a folder of such files, with one row per label.

        Only the columns that are named are read, and ids keep the types they have in the file.

        Parameters
        ----------
        path, task, annotator, label, truth, **options
            The file or folder; the rest as in `from_frame`.

        Raises
        ------
        DataError
            For a file that is not there or not Parquet, and as `from_frame`.
        """
        wanted = [task, annotator, *([label] if label else [])]
        frame = read_parquet(path, wanted + ([truth] if isinstance(truth, str) else []))
        return cls.from_frame(frame, task, annotator, label, truth=truth, **options)

    def concat(self, more: Annotations) -> Annotations:
        """These annotations and more of them, for example those of another day.

        Ids keep their places and new ones follow, so that the params of an earlier fit still fit:
        ``EM(init=fit).fit(program, crowd.concat(more))`` starts from it.

        Parameters
        ----------
        more
            Further labels, with ids of the same types. A task may be in both.

        Raises
        ------
        DataError
            If only one side has labels or features, ids are text on one side only, or the two
            disagree about a task's truth or features.

        Examples
        --------
        >>> monday = Annotations.from_arrays(["x", "y"], ["ann", "bo"], ["cat", "dog"])
        >>> tuesday = Annotations.from_arrays(["w", "x"], ["bo", "cy"], ["dog", "dog"])
        >>> monday.concat(tuesday).tasks.tolist()
        ['x', 'y', 'w']
        """
        return joined(self, more)

    @property
    def n_tasks(self) -> int:
        """Number of tasks, those without labels included."""
        return len(self.tasks)

    @property
    def n_annotators(self) -> int:
        """Number of annotators, those without labels included."""
        return len(self.annotators)

    @property
    def n_classes(self) -> int:
        """Number of classes, those never reported included."""
        return len(self.classes)

    def __len__(self) -> int:
        return len(self.task)

    def __repr__(self) -> str:
        rows = "rows, no labels" if self.label is None else "labels"
        return (
            f"Annotations({len(self)} {rows}, {self.n_tasks} tasks, "
            f"{self.n_annotators} annotators, {self.n_classes} classes)"
        )

    @cached_property
    def n_known(self) -> int:
        """Number of tasks whose true class is known."""
        return 0 if self.truth is None else int((self.truth >= 0).sum())

    @cached_property
    def label_counts(self) -> LabelCounts:
        """Sparse counts tasks × (annotator · class), made once for all density evaluations."""
        shape = (self.n_tasks, self.n_annotators, self.n_classes)
        return LabelCounts.build(self.task, self.annotator, self._labels(), shape)

    def to(
        self, dtype: torch.dtype | None = None, device: torch.device | str | None = None
    ) -> Annotations:
        """The same annotations with ``features`` in ``dtype`` and all tensors on ``device``."""
        tensors: dict[str, Any] = {
            name: value.to(device=device, dtype=dtype if value.is_floating_point() else None)
            for name in ("task", "annotator", "label", "truth", "features")
            if isinstance(value := getattr(self, name), Tensor)
        }
        if all(value is getattr(self, name) for name, value in tensors.items()):
            return self
        moved = replace(self, **tensors)
        if self.label is not None:  # the counts know no dtype or device of their own
            moved.__dict__["label_counts"] = self.label_counts
        return moved

    def subset(self, index: Tensor) -> Annotations:
        """The rows of some tasks, in the order given; annotators and classes stay.

        Parameters
        ----------
        index
            int64 [m]: positions of tasks; or bool [n_tasks]: whether a task is taken.

        Raises
        ------
        DataError
            For positions out of range, and for a mask of another length.
        """
        index = positions(index, self.n_tasks, self.task.device)
        order, start, size = self._rows_by_task
        taken = size[index]
        first = torch.repeat_interleave(start[index] - taken.cumsum(0) + taken, taken)
        rows = order[first + torch.arange(len(first), device=first.device)]
        return replace(
            self,
            task=torch.repeat_interleave(torch.arange(len(index), device=index.device), taken),
            annotator=self.annotator[rows],
            label=None if self.label is None else self.label[rows],
            tasks=self.tasks[index.cpu().numpy()],
            truth=None if self.truth is None else self.truth[index],
            features=None if self.features is None else self.features[index],
        )

    def with_labels(self, label: Tensor) -> Annotations:
        """The same rows with other labels, for example simulated ones.

        Parameters
        ----------
        label
            int64 [n_labels], axes of length one before it allowed: positions in ``classes``.
        """
        return replace(self, label=torch.as_tensor(label).reshape(-1))

    def vote_shares(self) -> Tensor:
        """Share of a task's labels that each class got.

        Returns
        -------
        Tensor
            [n_tasks, n_classes] in the default dtype, rows summing to one; 1 / n_classes throughout
            for a task without labels.
        """
        k, dtype = self.n_classes, torch.get_default_dtype()
        one_each = torch.eye(k, dtype=dtype, device=self.task.device).repeat(self.n_annotators, 1)
        votes = self.label_counts.product(one_each)
        total = votes.sum(-1, keepdim=True)
        return torch.where(total > 0, votes / total.clamp(min=1), 1 / k)

    def _labels(self) -> Tensor:
        if self.label is None:
            raise DataError(
                "label: this design has no labels; simulate them, or give them to with_labels"
            )
        return self.label

    @cached_property
    def _rows_by_task(self) -> tuple[Tensor, Tensor, Tensor]:
        """Row numbers sorted by task, and each task's first place and number of rows in them."""
        size = torch.bincount(self.task, minlength=self.n_tasks)
        return torch.argsort(self.task, stable=True), size.cumsum(0) - size, size
