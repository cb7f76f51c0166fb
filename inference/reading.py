"""Steps of reading and running a program: drawing it once, and turning nodes into factors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from pyro.distributions import MaskedDistribution
from pyro.ops import packed

from likely.inference.errors import ProgramError
from likely.inference.factors import Factor
from likely.inference.handlers import Substitute, module_parameter


class Reader(Substitute):
    """Draws every site and refuses a name that was seen before.

    A module's parameters are read as copies in the fit's dtype, on its device; ``copies`` maps the
    identity of a parameter to its copy.
    """

    def __init__(self, dtype: torch.dtype, device: torch.device | None) -> None:
        super().__init__(lambda name, msg: None, enumerate_latents=False)
        self.seen: set[str] = set()
        self.copies: dict[int, torch.Tensor] = {}
        self._dtype, self._device = dtype, device

    def _pyro_post_sample(self, msg: dict[str, Any]) -> None:
        # A prior that was made outside the fit draws in the dtype of that time.
        value = msg["value"]
        if not msg["is_observed"] and torch.is_tensor(value) and value.is_floating_point():
            msg["value"] = value.to(dtype=self._dtype, device=self._device)

    def _pyro_param(self, msg: dict[str, Any]) -> None:
        super()._pyro_param(msg)
        source = module_parameter(msg)
        if source is not None:
            copy = source.detach().clone().to(dtype=self._dtype, device=self._device)
            msg["value"] = self.copies.setdefault(id(source), copy)
            msg["done"] = True

    def _pyro_sample(self, msg: dict[str, Any]) -> None:
        super()._pyro_sample(msg)
        name = msg["name"]
        if name in self.seen:
            raise ProgramError(
                f"two sites are called '{name}'. Give each pyro.sample and pyro.plate its own name "
                f"(in a loop, f'{name}_{{i}}')."
            )
        self.seen.add(name)


def check_observation(name: str, node: Mapping[str, Any]) -> None:
    """Raise a `ProgramError` for data that the site's distribution or its plates cannot give."""
    try:
        log_prob = node["fn"].log_prob(node["value"], *node["args"], **node["kwargs"])
    except (AttributeError, IndexError, RuntimeError, TypeError, ValueError) as error:
        raise ProgramError(
            f"observed site '{name}' cannot have come from {node['fn']}: "
            f"{str(error).rstrip('.')}{mend(error)}{_about_gaps(node)}"
        ) from error
    value = node["value"]
    infinite = _holds_infinity(value)
    # A distribution that gives infinity a finite density (a censored one, say) means it.
    if infinite and not bool(torch.isfinite(log_prob).all()):
        raise ProgramError(
            f"observed site '{name}' has infinite data, which have no density; drop these "
            "observations"
        )
    if bool(torch.isnan(log_prob).any()):
        raise ProgramError(
            f"observed site '{name}' has a log-density that is not a number; look for NaN in its "
            f"data or its parameters{_about_gaps(node)}"
        )
    _check_plated(name, node, log_prob)


def _holds_infinity(value: Any) -> bool:
    """Whether data have an infinite entry; a finite sum answers without a copy of the data."""
    if not isinstance(value, torch.Tensor) or not value.is_floating_point():
        return False
    return not bool(torch.isfinite(value.sum())) and bool(torch.isinf(value).any())


def _check_plated(name: str, node: Mapping[str, Any], log_prob: torch.Tensor) -> None:
    """Raise a `ProgramError` if a site in a plate has a batch dimension that is no plate's.

    Data of shape [n, 1] in a plate of n would be broadcast against the plate: every observation
    would be counted n times, with every other's parameters.
    """
    sizes = {frame.dim: frame.size for frame in node["cond_indep_stack"] if frame.vectorized}
    if not sizes:
        return
    shape = tuple(log_prob.shape)
    for dim in range(-len(shape), 0):
        # A plate without a size of its own (-1) takes that of what is inside.
        if shape[dim] > 1 and sizes.get(dim, 1) not in (shape[dim], -1):
            plates = ", ".join(
                f"'{f.name}' ({f.size})" for f in node["cond_indep_stack"] if f.vectorized
            )
            raise ProgramError(
                f"observed site '{name}' has data of shape {tuple(node['value'].shape)} and a "
                f"log-density of shape {shape}, of which dimension {dim} is not that of a plate; "
                f"its plates are {plates}. Make a column a vector (.squeeze(-1), or frame['name'] "
                "of a data frame), make several numbers one event with .to_event(1), or put the "
                "dimension in a pyro.plate."
            )


def _about_gaps(node: Mapping[str, Any]) -> str:
    """Advice for data with NaN, which no mask hides."""
    value = node["value"]
    if not isinstance(value, torch.Tensor) or not bool(torch.isnan(value).any()):
        return ""
    advice = ". The data hold NaN"
    if isinstance(node["mask"], torch.Tensor) or _is_masked(node["fn"]):
        return (
            f"{advice}: a mask leaves them out of the density and not out of its gradient; put "
            "any possible value in their place, e.g. torch.where(mask, x, 0.0)"
        )
    return (
        f"{advice}: drop these observations, or put any possible value in their place and leave "
        "them out with poutine.mask"
    )


def _is_masked(fn: Any) -> bool:
    while not isinstance(fn, MaskedDistribution):
        fn = getattr(fn, "base_dist", None)
        if fn is None:
            return False
    return True


def log_prob_of(name: str, node: Mapping[str, Any], role: str) -> torch.Tensor:
    """Masked, unscaled log-density of a site."""
    try:
        log_prob: torch.Tensor = node["fn"].log_prob(node["value"], *node["args"], **node["kwargs"])
    except (ValueError, RuntimeError, IndexError) as error:
        raise ProgramError(
            f"the log-density of site '{name}' cannot be computed: {error}{mend(error)}"
        ) from error
    # A masked latent still sums to one; masking its prior would count its states.
    mask = node["mask"]
    if role == "latent" or mask is None or mask is True:
        return log_prob
    return torch.where(
        torch.as_tensor(mask, device=log_prob.device), log_prob, log_prob.new_zeros(())
    )


def batch_depth(node: Mapping[str, Any]) -> int:
    """How many batch dimensions a site's log-density has, with its mask's."""
    mask = node["mask"].dim() if isinstance(node["mask"], torch.Tensor) else 0
    return max(len(node["fn"].batch_shape), mask)


def pack(
    name: str, role: str, log_prob: torch.Tensor, node: Mapping[str, Any], plates: Mapping[str, str]
) -> Factor:
    """Name the dimensions of a factor that depends on latents."""
    symbols, scale = node["infer"]["_dim_to_symbol"], node["scale"]
    try:
        value = packed.pack(log_prob, symbols)
        if isinstance(scale, torch.Tensor):
            scale = packed.pack(scale[...], symbols)
    except ValueError as error:
        raise ProgramError(
            f"site '{name}' has a log-density of shape {tuple(log_prob.shape)} with a dimension "
            "that no plate names, so latents cannot be summed out around it. Put the dimension in "
            "a pyro.plate, or make it part of the event with .to_event(1)."
        ) from error
    ordinal = frozenset(plates[f.name] for f in node["cond_indep_stack"] if f.vectorized)
    return Factor(name, role, value, ordinal, scale)


def mend(error: Exception) -> str:
    """Advice for failures that have one usual cause."""
    text = str(error)
    if "Boolean value of Tensor" in text:
        return (
            ". If the value is a discrete latent, Python cannot branch on it while it is summed "
            "out: use torch.where or index with it."
        )
    if "can't be cast to the desired output type" in text or "bool tensor" in text:
        return ". The distribution computes with real numbers: give the data as floating numbers."
    if "must be a Tensor" in text:
        return ". Give the data as a tensor, a NumPy array or a pandas object of numbers."
    if "dtype" in text or "but got Float" in text or "but found Float" in text:
        return (
            ". Tensors that a program closes over keep their dtype: pass data as arguments, or "
            "give the engine dtype=torch.float32."
        )
    if "Shape mismatch inside plate" in text:
        return ". The data and the plate disagree about how many there are."
    return ""
