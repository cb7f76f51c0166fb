"""Values of a program's sites, as predictions take them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from pyro import poutine
from pyro.poutine.util import site_is_subsample
from torch import Tensor

from likely.envs import DataError
from likely.models._data import as_floating
from likely.models._rows import default_dtype


def site_values(
    program: Callable[..., Any], params: Mapping[str, Any], **sizes: int
) -> dict[str, Tensor]:
    """Check and convert the values of a program's unknowns.

    Parameters
    ----------
    program
        A program that simulates rows in a plate ``observation``.
    params
        Site to value, e.g. a fit's ``params``. Derived quantities may be among them.
    **sizes
        How much to simulate.

    Returns
    -------
    dict
        A tensor for each site outside the plate ``observation``, all of one dtype and device.

    Raises
    ------
    DataError
        If a site is missing, one is not the program's, or one has another shape.
    """
    # Arrays and lists keep their digits.
    with default_dtype(torch.float64):
        given = {name: as_floating(value, f"params[{name!r}]") for name, value in params.items()}
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        nodes: dict[str, Any] = poutine.trace(program).get_trace(**sizes).nodes
    sites = {
        name: tuple(node["value"].shape)
        for name, node in nodes.items()
        if node["type"] == "sample"
        and not node["is_observed"]
        and not site_is_subsample(node)
        and all(frame.name != "observation" for frame in node["cond_indep_stack"])
    }
    missing = [name for name in sites if name not in given]
    if missing:
        raise DataError(f"params must hold {', '.join(map(repr, missing))}, got {sorted(given)}")
    foreign = [name for name in given if name not in nodes]
    if foreign:
        raise DataError(
            f"params holds {', '.join(map(repr, foreign))}, which the program does not have: "
            f"its sites are {sorted(sites)}"
        )
    for name, shape in sites.items():
        if tuple(given[name].shape) != shape:
            raise DataError(
                f"params[{name!r}] must have shape {shape}, got {tuple(given[name].shape)}; "
                "give one value of each site, such as a fit's params"
            )
    like = next(given[name] for name in sites)
    return {name: given[name].to(like) for name in sites}
