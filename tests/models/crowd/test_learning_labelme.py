"""A classifier learnt from a published crowd."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from likely.inference import EM
from likely.models import Annotations, LearningFromCrowds, SoftmaxRegression

ROOT = Path(__file__).parents[3]
DATA = Path(os.environ.get("LIKELY_DATA", ROOT.parent / "shared" / "data"))
pytestmark = pytest.mark.usefixtures("in_double")


def test_labelme_is_learnt_better_than_from_votes() -> None:
    folder = DATA / "crowd" / "labelme"
    if not (folder / "features.npz").is_file():
        pytest.skip(f"no features.npz in {folder}; set LIKELY_DATA")
    with np.load(folder / "features.npz") as data:
        train, test = data["X_train"].astype(float), data["X_test"].astype(float)
        truth = torch.from_numpy(data["y_test"])
    mean, spread = train.mean(0), train.std(0) + 1e-9
    crowd = Annotations.from_frame(
        pd.read_csv(folder / "labels.csv"),
        annotator="worker",
        tasks=range(1000),
        features=(train - mean) / spread,
    )
    program = LearningFromCrowds(8, SoftmaxRegression(8, coefficients_scale=0.1))
    fit = EM(objective="posterior", tol=1e-6).fit(program, crowd)
    guess = program.predict_proba(fit.params, (test - mean) / spread).argmax(-1)
    # Two stages, votes and then softmax regression, reach 0.822.
    assert (guess == truth).double().mean() >= 0.84
