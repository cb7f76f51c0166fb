"""What crowd programs are compared with: votes, and classifiers that take labels at their word."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from likely.envs import DataError
from likely.models._data import as_floating, as_matrix
from likely.models._ids import shown
from likely.models.crowd._classifier import features_of
from likely.models.crowd.annotations import Annotations


class Votes(NamedTuple):
    """The outcome of a vote.

    Attributes
    ----------
    shares : Tensor
        ``[n_tasks, K]``: share of each class in a task's votes; 1 / K for a task without votes.
    labels : Tensor
        int64 ``[n_tasks]``: position of the class with most votes, the first of several; −1 for a
        task without votes.
    tied : Tensor
        bool ``[n_tasks]``: whether several classes had most votes.
    """

    shares: Tensor
    labels: Tensor
    tied: Tensor


class Observations(NamedTuple):
    """Rows for a regression: ``program(x, y, weights=weights)``.

    Attributes
    ----------
    x : Tensor
        Features ``[n, d]``.
    y : Tensor
        int64 ``[n]``: positions of classes.
    weights : Tensor
        How often each row counts, ``[n]``.
    """

    x: Tensor
    y: Tensor
    weights: Tensor


def majority_vote(annotations: Annotations) -> Votes:
    """Let the labels of each task vote.

    Parameters
    ----------
    annotations
        Labels; a repeated label counts again.

    Returns
    -------
    Votes

    Raises
    ------
    DataError
        If the annotations have no labels.

    Examples
    --------
    >>> crowd = Annotations.from_arrays(["x", "x", "y"], ["ann", "bo", "bo"], [0, 1, 1])
    >>> votes = majority_vote(crowd)
    >>> votes.labels.tolist(), votes.tied.tolist()
    ([0, 1], [True, False])
    """
    labels_of(annotations)
    return weighted_vote(annotations, torch.ones(annotations.n_annotators))


def weighted_vote(annotations: Annotations, weights: Any) -> Votes:
    """Let the labels of each task vote, each with the weight of its annotator.

    Parameters
    ----------
    annotations
        Labels.
    weights
        ``[L]`` numbers of at least zero, in the order of ``annotations.annotators``; or by
        annotator, as a mapping or a pandas series with their ids as its index. A task whose votes
        all have weight zero is one without votes.

    Returns
    -------
    Votes

    Raises
    ------
    DataError
        If the annotations have no labels, or ``weights`` are not as described.

    Examples
    --------
    >>> crowd = Annotations.from_arrays(["x", "x", "y"], ["ann", "bo", "bo"], [0, 1, 1])
    >>> weighted_vote(crowd, [1.0, 3.0]).shares
    tensor([[0.2500, 0.7500],
            [0.0000, 1.0000]])
    """
    labels = labels_of(annotations)
    by_annotator = _annotator_weights(weights, annotations)
    n, k = annotations.n_tasks, annotations.n_classes
    votes = by_annotator.new_zeros(n * k)
    votes = votes.index_add(
        0, annotations.task * k + labels, by_annotator[annotations.annotator]
    ).reshape(n, k)
    total = votes.sum(-1, keepdim=True)
    voted = total > 0
    shares = torch.where(voted, votes / torch.where(voted, total, 1.0), 1 / k)
    most = votes.amax(-1, keepdim=True)
    # Sums of the same weights in another order differ in their last digits.
    close = votes >= most * (1 - 8 * torch.finfo(votes.dtype).eps)
    first = close.to(torch.int64).argmax(-1)
    answered = voted.squeeze(-1)
    return Votes(shares, torch.where(answered, first, -1), (close.sum(-1) > 1) & answered)


def each_label(annotations: Annotations, weights: Any = None) -> Observations:
    """Take each label for an observation of its task's class.

    ``SoftmaxRegression(K)`` on these rows learns from all labels alike, or with ``weights`` from
    some annotators more than from others: what a classifier makes of a crowd that nobody models.

    Parameters
    ----------
    annotations
        Labels of tasks with features.
    weights
        As in `weighted_vote`; ones by default.

    Returns
    -------
    Observations
        One row per label.

    Raises
    ------
    DataError
        If the annotations have no labels or no features, or ``weights`` are not as described.

    Examples
    --------
    >>> crowd = Annotations.from_arrays([0, 0, 1], [0, 1, 1], [0, 1, 1], features=[[5.0], [7.0]])
    >>> each_label(crowd, weights=[2, 1]).weights.tolist()
    [2.0, 1.0, 1.0]
    """
    labels, features = labels_of(annotations), features_of(annotations)
    by_annotator = (
        features.new_ones(annotations.n_annotators)
        if weights is None
        else _annotator_weights(weights, annotations).to(features)
    )
    return Observations(features[annotations.task], labels, by_annotator[annotations.annotator])


def each_class(x: Any, probabilities: Any) -> Observations:
    """Take each class of a task for an observation that counts with its probability.

    The log-likelihood of these rows is Σ_i Σ_k p_ik log q_k(x_i): training on soft labels, such as
    vote shares or a fit's ``latent("truth")``.

    Parameters
    ----------
    x
        Features ``[n, d]``.
    probabilities
        Of the classes, ``[n, K]`` numbers of at least zero.

    Returns
    -------
    Observations
        One row per task and class of a probability above zero.

    Raises
    ------
    DataError
        If the arguments are no matrices of equally many rows, or ``probabilities`` has negative or
        not finite entries.

    Examples
    --------
    >>> rows = each_class([[5.0], [7.0]], [[1.0, 0.0], [0.25, 0.75]])
    >>> rows.x.tolist(), rows.y.tolist(), rows.weights.tolist()
    ([[5.0], [7.0], [7.0]], [0, 0, 1], [1.0, 0.25, 0.75])
    """
    x, p = as_matrix(x, "x"), as_matrix(probabilities, "probabilities")
    if len(x) != len(p):
        raise DataError(f"probabilities: expected {len(x)} rows, as x has, got {len(p)}")
    if not bool(((p >= 0) & torch.isfinite(p)).all()):
        raise DataError("probabilities: expected finite numbers of at least 0")
    row, y = (p > 0).nonzero(as_tuple=True)
    return Observations(x[row], y, p[row, y].to(x))


def labels_of(annotations: Annotations) -> Tensor:
    """Labels ``[n_labels]`` of annotations that must have them.

    Raises
    ------
    DataError
        If these are a design without labels, or no `Annotations`.
    """
    if not isinstance(annotations, Annotations):
        raise DataError(
            f"annotations: expected Annotations, got {type(annotations).__name__}; make them "
            "with Annotations.from_frame or Annotations.from_arrays"
        )
    if annotations.label is None:
        raise DataError("annotations: expected labels, got a design without them")
    return annotations.label


def _annotator_weights(weights: Any, annotations: Annotations) -> Tensor:
    weights = _in_order(weights, annotations.annotators)
    values = as_floating(weights, "weights").to(annotations.task.device)
    if values.shape != (annotations.n_annotators,):
        raise DataError(
            f"weights: expected shape [{annotations.n_annotators}], one for each annotator, got "
            f"{list(values.shape)}"
        )
    if not bool(((values >= 0) & torch.isfinite(values)).all()):
        raise DataError("weights: expected finite numbers of at least 0")
    return values


def _in_order(weights: Any, annotators: NDArray[Any]) -> Any:
    """Weights that name their annotators, in the order of these; others as they are."""
    if isinstance(weights, Mapping):
        weights = pd.Series(list(weights.values()), index=_index(list(weights)))
    elif not isinstance(weights, pd.Series) or isinstance(weights.index, pd.RangeIndex):
        return weights
    place = weights.index.get_indexer(_index(annotators)) if weights.index.is_unique else None
    if place is None or len(weights) != len(annotators) or (place < 0).any():
        raise DataError(
            f"weights: expected one for each of the annotators {shown(annotators)}, got some for "
            f"{shown(weights.index.to_numpy())}; without ids, pass an array in the order of "
            "annotations.annotators"
        )
    return weights.to_numpy()[place]


def _index(ids: Any) -> pd.Index:
    return pd.Index(ids, tupleize_cols=False)
