"""Labels, weights and values that naive Bayes is given."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from likely.envs import DataError
from likely.inference import EM
from likely.models import NaiveBayes


@pytest.mark.filterwarnings("ignore::likely.inference.BoundaryWarning")
def test_labels_of_rows_that_are_left_out_do_not_start_the_search() -> None:
    x = torch.tensor([[1, 1, 1, 0], [1, 1, 1, 1], [0, 0, 0, 1], [0, 0, 0, 0]] * 5)
    y = torch.full((20,), -1)
    y[:4] = torch.tensor([0, 0, 1, 1])
    weights = (y < 0).double()
    found = EM().fit(NaiveBayes(2), x, y, weights=weights)
    expected = EM().fit(NaiveBayes(2), x[4:])
    # Equal classes are a saddle point, from which no step leads away.
    assert found.log_likelihood == pytest.approx(expected.log_likelihood, rel=1e-6)


@pytest.mark.parametrize(
    ("change", "features", "message"),
    [
        ({}, 3, r"'feature_probabilities'. must have shape \(2, 3\), got \(2, 4\)"),
        ({"prevalence": None}, 4, "params must hold 'prevalence'"),
        ({"prevalence": [0.2, 0.3, 0.5]}, 4, r"'prevalence'. must have shape \(2,\)"),
        ({"rates": [1.0]}, 4, "params holds 'rates', which the program does not have"),
    ],
)
def test_predictions_with_wrong_values_are_refused(
    change: dict[str, Any], features: int, message: str
) -> None:
    params = {"prevalence": [0.5, 0.5], "feature_probabilities": np.full((2, 4), 0.5), **change}
    params = {name: value for name, value in params.items() if value is not None}
    with pytest.raises(DataError, match=message):
        NaiveBayes(2).predict_proba(params, np.ones((3, features)))


@pytest.mark.filterwarnings("ignore::likely.inference.BoundaryWarning")
def test_masked_labels_are_missing() -> None:
    x = torch.tensor([[1, 1], [1, 0], [0, 0], [0, 1]] * 3)
    y = np.array([0, 0, 1, 1] * 3)
    mask = np.arange(12) >= 8
    found = EM().fit(NaiveBayes(2), x, np.ma.masked_array(y, mask))
    expected = EM().fit(NaiveBayes(2), x, np.where(mask, -1, y))
    assert found.log_likelihood == expected.log_likelihood
