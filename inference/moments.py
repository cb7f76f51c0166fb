"""The method of moments, read off a program's observed sites."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import pyro.distributions as dist
import torch

from likely.inference.coordinates import supported
from likely.inference.errors import ProgramError
from likely.inference.handlers import base_distribution, is_deterministic, is_plate
from likely.inference.program import Program, Values

Parameters = dict[str, torch.Tensor]
# From mean and variance of the data, and what is known of the other parameters, to a parameter.
Inverse = Callable[[torch.Tensor, torch.Tensor, Parameters], torch.Tensor]


def method_of_moments(program: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Parameters:
    """Estimates that make the moments of an observed site's distribution those of its data.

    Where a parameter of a Normal, Laplace, Poisson, Bernoulli, Beta, Gamma or Exponential site *is*
    the value of an unknown (of its only element, or of the one that the observation's group picks),
    its mean, and its variance where there are two parameters, are equated with those of the
    observations that share it (Pearson 1894; Casella & Berger 2002, section 7.2.1). Masked
    observations do not count, and weights are those of ``poutine.scale``. Unknowns that enter
    otherwise (through a regression, below a latent) are left out.

    Parameters
    ----------
    program : callable
        Any Pyro program.
    *args, **kwargs
        What it is called with.

    Returns
    -------
    dict of str to Tensor
        Site to constrained value, for the sites that are identified: a start for any engine,
        ``MLE(init=method_of_moments(program, data))``.

    Raises
    ------
    ProgramError
        If the program cannot be read, or no moment identifies an unknown.

    Examples
    --------
    >>> import pyro, pyro.distributions as dist, torch
    >>> def lifetimes(years):
    ...     shape = pyro.sample("shape", dist.LogNormal(0.0, 1.0))
    ...     rate = pyro.sample("rate", dist.LogNormal(0.0, 1.0))
    ...     with pyro.plate("lamp", len(years)):
    ...         pyro.sample("years", dist.Gamma(shape, rate), obs=years)
    >>> start = method_of_moments(lifetimes, torch.tensor([1.0, 2.0, 3.0]))
    >>> [round(float(start[name]), 6) for name in ("shape", "rate")]
    [6.0, 3.0]
    """
    reading = Program.of(program, args, kwargs)
    with reading.session(0), torch.no_grad():
        settings = [_moved(reading) for _ in range(2)]
        traces = [_nodes(reading, values) for values in settings]
        pooled: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}
        for name in reading.sites.observed:
            for site, estimate, weight in _of_site(reading, name, settings, traces):
                total, count = pooled.get(site, (0.0, 0.0))
                pooled[site] = total + weight * estimate, count + weight
        found = {}
        for name, unknown in reading.sites.unknowns.items():
            total, count = pooled.get(name, (torch.tensor(0.0), torch.tensor(0.0)))
            value = total / count
            if bool(torch.isfinite(value).all()):
                value = value.reshape(unknown.shape).to(reading.dtype)
                if not unknown.static or supported(unknown, value):
                    found[name] = value
    if not found:
        raise ProgramError(
            "no moment of the data identifies an unknown: none of "
            f"{', '.join(map(repr, reading.sites.unknowns))} is itself a parameter of an observed "
            f"{', '.join(kind.__name__ for kind in _FAMILIES)} site whose data vary. Start with "
            "init= or the engine's own start."
        )
    return found


def _nodes(program: Program, values: Values) -> Any:
    return program.trace(lambda name, msg: values.get(name)).nodes


def _moved(program: Program) -> dict[str, torch.Tensor]:
    """Values of the unknowns, no two elements alike."""
    values = {}
    for name, unknown in program.sites.unknowns.items():
        free = unknown.transform.inv(unknown.start)
        free = torch.nan_to_num(free, 0.0, 3.0, -3.0)
        values[name] = unknown.transform(free + 0.1 * torch.randn_like(free))
    return values


# -- from moments to parameters ------------------------------------------------------------------


def _beta_total(mean: torch.Tensor, variance: torch.Tensor) -> torch.Tensor:
    return mean * (1 - mean) / variance - 1


def _beta_ones(mean: torch.Tensor, variance: torch.Tensor, known: Parameters) -> torch.Tensor:
    if "concentration0" in known:
        return known["concentration0"] * mean / (1 - mean)
    return mean * _beta_total(mean, variance)


def _beta_zeros(mean: torch.Tensor, variance: torch.Tensor, known: Parameters) -> torch.Tensor:
    if "concentration1" in known:
        return known["concentration1"] * (1 - mean) / mean
    return (1 - mean) * _beta_total(mean, variance)


def _gamma_shape(mean: torch.Tensor, variance: torch.Tensor, known: Parameters) -> torch.Tensor:
    return known["rate"] * mean if "rate" in known else mean.square() / variance


def _gamma_rate(mean: torch.Tensor, variance: torch.Tensor, known: Parameters) -> torch.Tensor:
    return known["concentration"] / mean if "concentration" in known else mean / variance


@dataclass(frozen=True)
class _Family:
    """Inverses by parameter; ``needs`` are parameters without which another is not identified.

    ``centre`` names a parameter that is the mean: deviations are taken from it where it is known.
    """

    inverses: Mapping[str, Inverse]
    needs: Mapping[str, str]
    centre: str = ""


_FAMILIES: dict[type, _Family] = {
    dist.Normal: _Family(
        {"loc": lambda m, v, known: m, "scale": lambda m, v, known: v.sqrt()},
        {"scale": "loc"},
        "loc",
    ),
    dist.Laplace: _Family(
        {"loc": lambda m, v, known: m, "scale": lambda m, v, known: (v / 2).sqrt()},
        {"scale": "loc"},
        "loc",
    ),
    dist.Poisson: _Family({"rate": lambda m, v, known: m}, {}),
    dist.Bernoulli: _Family(
        {"probs": lambda m, v, known: m, "logits": lambda m, v, known: m.logit()}, {}
    ),
    dist.Beta: _Family(
        {"concentration1": _beta_ones, "concentration0": _beta_zeros},
        {"concentration1": "concentration0", "concentration0": "concentration1"},
    ),
    dist.Gamma: _Family(
        {"concentration": _gamma_shape, "rate": _gamma_rate},
        {"concentration": "rate", "rate": "concentration"},
    ),
    dist.Exponential: _Family({"rate": lambda m, v, known: 1 / m}, {}),
}


# -- from a site to its moments ------------------------------------------------------------------


@dataclass(frozen=True)
class _Picked:
    """A parameter that is an unknown's value, and the element [entries] that each datum has."""

    site: str
    size: int
    element: torch.Tensor


def _of_site(
    program: Program, name: str, settings: list[dict[str, torch.Tensor]], traces: list[Any]
) -> list[tuple[str, torch.Tensor, torch.Tensor]]:
    """Estimates [elements] and their weights, with the unknown they are of, from one site."""
    nodes = [trace[name] for trace in traces]
    fns = [base_distribution(node["fn"]) for node in nodes]
    family = next((f for kind, f in _FAMILIES.items() if type(fns[0]) is kind), None)
    value = nodes[0]["value"]
    below_latent = len(nodes[0]["fn"].batch_shape) > program.sites.max_plate_nesting
    if family is None or below_latent or is_plate(nodes[0]) or is_deterministic(nodes[0]):
        return []
    shape = torch.broadcast_shapes(value.shape, nodes[0]["fn"].shape())
    data = value.to(program.dtype).expand(shape).reshape(-1)
    weight = _weight(nodes[0], shape).to(data.dtype)
    picked: dict[str, _Picked] = {}
    constant: Parameters = {}
    for parameter in family.inverses:
        pair = [getattr(fn, parameter).expand(shape).reshape(-1) for fn in fns]
        if torch.equal(*pair):
            constant[parameter] = pair[0]
            continue
        found = _pick(program, settings, pair)
        if found is not None:
            picked[parameter] = found
    results = []
    for parameter, own in picked.items():
        other = family.needs.get(parameter, "")
        # A spread that several groups share still has a centre each.
        centred = other == family.centre and other in picked
        if other and other not in constant and not centred and not _same(picked.get(other), own):
            continue
        mean, variance = _moments(data, weight, own)
        if family.centre and parameter != family.centre:
            centre = constant.get(family.centre)
            if centre is None:
                of_centre = picked[family.centre]
                centre = _moments(data, weight, of_centre)[0][of_centre.element]
            _, variance = _moments(data, weight, own, centre)
            variance = torch.where(variance > 0, variance, torch.full_like(variance, torch.nan))
        known = {p: _moments(v, weight, own)[0] for p, v in constant.items()}
        estimate = family.inverses[parameter](mean, variance, known)
        results.append((own.site, estimate, _sum(weight, own)))
    return results


def _same(first: _Picked | None, second: _Picked) -> bool:
    """Whether two parameters divide the data into the same groups."""
    return (
        first is not None
        and first.size == second.size
        and torch.equal(first.element, second.element)
    )


def _pick(
    program: Program, settings: list[dict[str, torch.Tensor]], pair: list[torch.Tensor]
) -> _Picked | None:
    """The unknown whose elements a parameter's entries are at both settings, if there is one."""
    for name in program.sites.unknowns:
        values = [setting[name].reshape(-1) for setting in settings]
        order = values[0].argsort()
        place = torch.searchsorted(values[0][order], pair[0].contiguous())
        element = order[place.clamp_max(len(order) - 1)]
        if all(torch.equal(v[element], p) for v, p in zip(values, pair, strict=True)):
            return _Picked(name, len(order), element)
    return None


def _weight(node: Mapping[str, Any], shape: torch.Size) -> torch.Tensor:
    """Weight of each entry [entries] of a site's data: its scale, and zero where it is masked."""
    weight = torch.as_tensor(node["scale"], dtype=torch.get_default_dtype())
    weight = _with_event(weight, node["fn"])
    if node["mask"] is not None:
        weight = weight * _with_event(torch.as_tensor(node["mask"]), node["fn"])
    fn = node["fn"]
    while fn is not None:
        if isinstance(fn, dist.MaskedDistribution):
            weight = weight * _with_event(torch.as_tensor(fn._mask), fn)
        fn = getattr(fn, "base_dist", None)
    return weight.expand(shape).reshape(-1)


def _with_event(weight: torch.Tensor, fn: Any) -> torch.Tensor:
    """Weights by batch as weights by entry."""
    return weight.reshape(weight.shape + (1,) * len(fn.event_shape))


def _sum(values: torch.Tensor, group: _Picked) -> torch.Tensor:
    return values.new_zeros(group.size).index_add(0, group.element, values)


def _moments(
    data: torch.Tensor, weight: torch.Tensor, group: _Picked, centre: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and variance [elements] by group; the latter around ``centre`` [entries] if given."""
    count = _sum(weight, group)
    mean = _sum(weight * data, group) / count
    away = data - (mean[group.element] if centre is None else centre)
    return mean, _sum(weight * away.square(), group) / count
