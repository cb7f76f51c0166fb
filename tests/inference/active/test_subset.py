"""Sparse subsets and core sets, against published picks and definitions."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from sklearn.datasets import load_iris
from torch import Tensor

from likely.envs import DataError
from likely.inference import OptionError
from likely.inference.active import (
    core_set,
    entropy,
    frank_wolfe,
    likelihood_projections,
    sparse_subset,
)


def normal(*shape: int, seed: int = 0) -> Tensor:
    source = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=source, dtype=torch.float64)


# -- sparse subset -------------------------------------------------------------------------------


@pytest.mark.parametrize("case", range(3))
def test_published_steps(case: int, published: Any) -> None:
    known = published("acs_fw.json")["cases"][case]
    projections = torch.tensor(known["projections_N_J"], dtype=torch.float64)
    found = frank_wolfe(projections, known["steps"])
    weights = torch.tensor(known["weights"], dtype=torch.float64)
    norms = torch.tensor(known["residual_norm_per_step"], dtype=torch.float64)
    torch.testing.assert_close(found.weights, weights, rtol=0, atol=1e-9)
    torch.testing.assert_close(found.residual_norms, norms, rtol=0, atol=1e-9)
    batch = found.weights.nonzero()[:, 0].tolist()
    assert batch == known["batch"]
    # Steps come back to points: a batch of as many points takes no more of them ...
    same = sparse_subset(projections, len(batch))
    assert sorted(same.indices.tolist()) == batch
    # ... and a larger one goes on.
    larger = sparse_subset(projections, 15)
    assert len(set(larger.indices.tolist())) == 15
    assert set(batch) <= set(larger.indices.tolist())
    assert (larger.scores > 0).all()


def test_steps_keep_the_constraint_and_come_nearer() -> None:
    vectors = normal(80, 6) + 0.5
    found = frank_wolfe(vectors, 60)
    assert (found.weights >= 0).all()
    assert (found.residual_norms.diff() <= 1e-12).all()
    residual = (vectors.sum(0) - found.weights @ vectors).norm()
    assert float(residual) == pytest.approx(float(found.residual_norms[-1]), abs=1e-10)
    assert found.residual_norms[-1] < 0.1 * found.residual_norms[0]


def test_a_batch_is_filled_with_those_that_agree_most() -> None:
    # One direction: the first step is exact and no other one moves.
    vectors = torch.tensor([[1.0], [3.0], [2.0], [-1.0]], dtype=torch.float64)
    found = sparse_subset(vectors, 3)
    assert len(set(found.indices.tolist())) == 3
    assert (found.scores > 0).sum() < 3
    # Few steps leave places that the criterion of a step fills, all at once.
    vectors = normal(30, 5, seed=1)
    few = sparse_subset(vectors, 6, max_steps=2)
    path = frank_wolfe(vectors, 2)
    assert few.indices[:2].tolist() == path.picked.tolist()
    left = vectors.sum(0) - path.weights @ vectors
    agreement = (vectors @ left) / (vectors.square().sum(1) + 1e-6).sqrt()
    agreement[path.picked] = -math.inf
    assert few.indices[2:].tolist() == agreement.topk(4).indices.tolist()
    assert few.scores[2:].tolist() == [0.0] * 4
    everything = sparse_subset(vectors, 30)
    assert sorted(everything.indices.tolist()) == list(range(30))


def test_equal_points_are_taken_from_the_front() -> None:
    vectors = torch.ones(6, 3, dtype=torch.float64)
    assert sparse_subset(vectors, 3).indices.tolist() == [0, 1, 2]
    assert sparse_subset(torch.zeros(4, 2), 2).indices.tolist() == [0, 1]


def test_projections_are_expected_log_likelihoods() -> None:
    probs = normal(7, 9, 4).softmax(-1)
    mean = probs.mean(0)
    found = likelihood_projections(probs)
    assert found.shape == (9, 7)
    for n in range(9):
        for s in range(7):
            expected = float((mean[n] * probs[s, n].log()).sum() + entropy(mean)[n])
            assert float(found[n, s]) == pytest.approx(expected / math.sqrt(7), abs=1e-13)
    # Draws that agree tell nothing.
    assert likelihood_projections(probs[:1].expand(5, -1, -1)).abs().max() < 1e-14
    sure = torch.eye(3, dtype=torch.float64)[torch.tensor([[0, 1], [2, 1]])]
    assert likelihood_projections(sure).isfinite().all()


# -- core set ------------------------------------------------------------------------------------


def test_published_centres(published: Any) -> None:
    known = published("coreset_iris.json")
    features = torch.as_tensor(load_iris().data)
    found = core_set(features, 6, labelled=features[known["labelled"]])
    assert found.indices.tolist() == known["selected"]
    distances = torch.tensor(known["min_dist_at_pick"], dtype=torch.float64)
    torch.testing.assert_close(found.scores, distances, rtol=0, atol=1e-9)


def test_each_centre_is_the_farthest_and_the_first_of_equals() -> None:
    source = torch.Generator().manual_seed(0)
    features = torch.randint(0, 4, (40, 2), generator=source).double()
    found = core_set(features, 25)
    nearest_to_mean = (features - features.mean(0)).norm(dim=1)
    assert int(found.indices[0]) == int(nearest_to_mean.argmin())
    assert float(found.scores[0]) == math.inf
    for step in range(1, 25):
        centres = features[found.indices[:step]]
        distance = torch.cdist(features, centres).amin(1)
        assert float(found.scores[step]) == pytest.approx(float(distance.max()), abs=1e-12)
        free = distance.clone()
        free[found.indices[:step]] = -1
        assert int(found.indices[step]) == int(free.argmax())
    # Sixteen places hold all points; the rest is filled with others at no distance.
    assert len(set(found.indices.tolist())) == 25
    assert found.scores[16:].tolist() == [0.0] * 9


def test_no_labelled_points_are_none() -> None:
    features = normal(10, 3)
    for none in (None, features[:0]):
        assert torch.equal(
            core_set(features, 3, labelled=none).indices, core_set(features, 3).indices
        )


# -- bad input -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "wrong",
    [
        torch.tensor([[1.0, math.nan]]),
        torch.tensor([[1.0, math.inf]]),
        torch.ones(3),
        torch.ones(0, 2),
        torch.ones(2, 0),
        torch.ones(2, 2, dtype=torch.int64),
        [[1.0]],
    ],
    ids=["nan", "inf", "vector", "empty", "no-columns", "integers", "list"],
)
def test_matrices_are_checked(wrong: Any) -> None:
    for call in (frank_wolfe, sparse_subset):
        with pytest.raises(DataError, match="projections"):
            call(wrong, 1)
    with pytest.raises(DataError, match="features"):
        core_set(wrong, 1)
    if not isinstance(wrong, Tensor) or len(wrong):
        with pytest.raises(DataError, match="labelled"):
            core_set(normal(4, 2), 1, labelled=wrong)


def test_options_are_checked() -> None:
    vectors = normal(4, 2)
    for size in (0, 5, 1.5, True):
        for call in (sparse_subset, core_set):
            with pytest.raises(OptionError, match="batch_size"):
                call(vectors, size)
    with pytest.raises(OptionError, match="steps"):
        frank_wolfe(vectors, 0)
    with pytest.raises(OptionError, match="max_steps"):
        sparse_subset(vectors, 2, max_steps=0)
    with pytest.raises(OptionError, match="budget"):
        core_set(vectors, 2, budget=8)
    with pytest.raises(DataError, match="labelled must have the 2 columns"):
        core_set(vectors, 2, labelled=normal(3, 3))
    with pytest.raises(DataError, match="probs"):
        likelihood_projections(vectors)
