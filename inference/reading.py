"""Steps of reading and running a program: drawing it once, and turning nodes into factors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
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
    """Raise a `ProgramError` for data that the site's distribution cannot give."""
    try:
        log_prob = node["fn"].log_prob(node["value"], *node["args"], **node["kwargs"])
    except (ValueError, RuntimeError, IndexError) as error:
        raise ProgramError(
            f"observed site '{name}' cannot have come from {node['fn']}: {error}{mend(error)}"
        ) from error
    if bool(torch.isnan(log_prob).any()):
        raise ProgramError(
            f"observed site '{name}' has a log-density that is not a number; look for NaN in its "
            "data or its parameters"
        )


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
    if "dtype" in text or "but got Float" in text or "but found Float" in text:
        return (
            ". Tensors that a program closes over keep their dtype: pass data as arguments, or "
            "give the engine dtype=torch.float32."
        )
    if "Shape mismatch inside plate" in text:
        return ". The data and the plate disagree about how many there are."
    return ""
