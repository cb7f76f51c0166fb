"""A classifier learnt from a published crowd."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from likely.inference import EM
from likely.models import LearningFromCrowds, SoftmaxRegression

pytestmark = pytest.mark.usefixtures("in_double")


def test_labelme_is_learnt_better_than_from_votes(published: Any) -> None:
    data = published("labelme")
    path = data.folder / "features.npz"
    if not path.is_file():
        pytest.skip(f"no {path}; set LIKELY_DATA")
    with np.load(path) as arrays:
        train, test = arrays["X_train"].astype(float), arrays["X_test"].astype(float)
        truth = torch.from_numpy(arrays["y_test"])
    mean, spread = train.mean(0), train.std(0) + 1e-9
    # Tasks are numbers of rows.
    features = torch.from_numpy((train - mean) / spread)[data.crowd.tasks]
    program = LearningFromCrowds(8, SoftmaxRegression(8, coefficients_scale=0.1))
    fit = EM(objective="posterior", tol=1e-6).fit(program, replace(data.crowd, features=features))
    guess = program.predict_proba(fit.params, (test - mean) / spread).argmax(-1)
    # Two stages, votes and then softmax regression, reach 0.822.
    assert (guess == truth).double().mean() >= 0.84
