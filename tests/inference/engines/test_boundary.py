"""Optima and starts on the boundary of a support."""

from __future__ import annotations

import math

import pytest
import torch

from likely.inference import MAP, SVI, BoundaryWarning, ConvergenceWarning, Program
from likely.inference.coordinates import Coordinates
from likely.models import Annotations, OneCoin

pytestmark = pytest.mark.usefixtures("in_double")


def each_another(classes, labels=(0, 1, 2, 3)):
    """Four tasks of one label each, and every label another class."""
    return Annotations.from_arrays([0, 1, 2, 3], ["a", "b"] * 2, labels, classes=range(classes))


# -- where a search starts -----------------------------------------------------------------------


@pytest.mark.parametrize("labels", [(0, 1, 2, 3), (0, 9, 20, 29), (26, 27, 28, 29)])
@pytest.mark.parametrize("edge", [3.0, 15.0, 30.0])
def test_cells_of_zero_have_moderate_coordinates(labels, edge):
    program = Program(OneCoin(30), each_another(30, labels))
    with program.session(0):
        coordinates = Coordinates(program)
        values = OneCoin(30).initial(each_another(30, labels))
        flat = coordinates.unconstrain(values, edge)
        back = coordinates.constrain(flat)
    assert float(flat.abs().max()) < edge + 8
    for name, value in values.items():
        # As near to the boundary as asked for, and on no other side of it.
        torch.testing.assert_close(back[name], value, rtol=0, atol=2 * math.exp(-edge))
        assert bool((back[name] > 0).all())


def test_svi_starts_with_many_classes_that_never_occur():
    with pytest.warns(ConvergenceWarning, match="after 3 steps"):
        fit = SVI(max_iter=3, draws=5).fit(OneCoin(30), each_another(30))
    # A start whose coordinates are in the hundreds has a bound below -1000, or none.
    assert float(fit.history["objective"].iloc[0]) > -500


# -- where it ends -------------------------------------------------------------------------------


def test_a_start_at_an_optimum_with_every_site_on_the_boundary_has_converged():
    with pytest.warns(BoundaryWarning, match="'prevalence', 'ability'"):
        fit = MAP().fit(OneCoin(8), each_another(8))
    assert fit.converged
    torch.testing.assert_close(fit.params["prevalence"][:4], torch.full((4,), 0.25))
    assert fit.params["prevalence"][4:].tolist() == [0.0] * 4
    assert fit.params["ability"].tolist() == [1.0, 1.0]
