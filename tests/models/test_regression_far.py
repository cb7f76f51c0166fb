"""Regressions on covariates that lie far from zero: years, altitudes, postcodes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from likely.inference import MLE
from likely.inference.optimise import hidden_gain
from likely.models import LogisticRegression, PoissonRegression


@pytest.mark.parametrize("program", [LogisticRegression(), PoissonRegression()], ids=str)
@pytest.mark.parametrize("offset", [1e3, 1e6])
def test_covariates_far_from_zero_have_the_same_optimum(program: Any, offset: float) -> None:
    generator = np.random.default_rng(0)
    x = torch.as_tensor(generator.normal(size=(300, 2)))
    u = 0.5 + x.numpy() @ [0.5, -0.8]
    drawn = {
        LogisticRegression: generator.random(300) < 1 / (1 + np.exp(-u)),
        PoissonRegression: generator.poisson(np.exp(u)),
    }
    y = torch.as_tensor(drawn[type(program)]).double()
    near, far = MLE().fit(program, x, y), MLE().fit(program, x + offset, y)
    assert far.converged
    # The gain that the search leaves behind, 1e-8 of the value, is a distance of its root.
    assert far.log_likelihood == pytest.approx(near.log_likelihood, rel=1e-8)
    torch.testing.assert_close(
        far.params["coefficients"], near.params["coefficients"], atol=3e-4, rtol=0.0
    )


def test_a_slope_where_curvature_is_lost_in_rounding_is_no_end() -> None:
    # Of two covariates that far away only the sum shows in the Hessian.
    matrix, level = torch.ones(2, 2).double(), torch.ones(2).double()
    assert hidden_gain(matrix, level) < 1e-15
    assert hidden_gain(matrix, level + torch.tensor([1e-6, -1e-6])) == pytest.approx(5.0)
