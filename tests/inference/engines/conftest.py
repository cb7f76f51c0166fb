"""Fits that the tests of several modules look at."""

from __future__ import annotations

import pytest

from likely.inference import NUTS
from nuts_problems import POINTS, SHORT, line


@pytest.fixture(scope="module")
def short():
    """A short run of NUTS on a line of points."""
    return NUTS(**SHORT).fit(line, POINTS)
