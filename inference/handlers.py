"""Pyro handlers and the scope in which a program runs.

The functions here put values into a program and keep a run from touching global state; they hold
no mathematics.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from pyro.poutine.messenger import Messenger
from pyro.poutine.subsample_messenger import _Subsample
from pyro.poutine.uncondition_messenger import UnconditionMessenger
from torch.overrides import TorchFunctionMode

_WRAPPERS = (torch.distributions.Independent, dist.MaskedDistribution, dist.ExpandedDistribution)


# Pyro's handler stack, parameter store and the random state belong to the process: a second
# thread waits for its turn. The same thread may enter again (a fit inside a callback).
_ONE_AT_A_TIME = threading.RLock()


@contextmanager
def isolated(seed: int, dtype: torch.dtype, device: torch.device | None) -> Iterator[None]:
    """Run a block with its own random numbers, parameter store, dtype and device.

    Everything global is put back afterwards, so fits in one process never meet.
    """
    # NumPy's global generator is what Pyro seeds.
    state = random.getstate(), np.random.get_state(), torch.get_default_dtype()  # noqa: NPY002
    cuda = [device] if device is not None and device.type == "cuda" else []
    with ExitStack() as stack:
        stack.enter_context(_ONE_AT_A_TIME)
        stack.enter_context(torch.random.fork_rng(devices=cuda))
        stack.enter_context(pyro.get_param_store().scope())
        if device is not None and device.type != "cpu":
            stack.enter_context(device)
        try:
            torch.set_default_dtype(dtype)
            set_seed(seed, device)
            yield
        finally:
            random.setstate(state[0])
            np.random.set_state(state[1])  # noqa: NPY002
            torch.set_default_dtype(state[2])


def set_seed(seed: int, device: torch.device | None = None) -> None:
    """Seed torch, NumPy and Python, and the device's own generator where that is a GPU.

    ``torch.manual_seed`` would reseed every GPU, used or not, and is a millisecond slower.
    """
    torch.default_generator.manual_seed(seed)
    if device is not None and device.type == "cuda":
        torch.cuda.manual_seed(seed)
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002


def is_plate(msg: Mapping[str, Any]) -> bool:
    """Whether a trace node is the index site that a plate makes for itself."""
    return isinstance(msg["fn"], _Subsample)


def is_deterministic(msg: Mapping[str, Any]) -> bool:
    """Whether a trace node was made by ``pyro.deterministic``."""
    return bool((msg["infer"] or {}).get("_deterministic"))


def module_parameter(msg: Mapping[str, Any]) -> torch.nn.Parameter | None:
    """The module's own parameter behind a ``param`` node, if there is one."""
    return next((arg for arg in msg["args"] if isinstance(arg, torch.nn.Parameter)), None)


def base_distribution(fn: Any) -> Any:
    """Unwrap independent, masked and expanded distributions."""
    while True:
        if isinstance(fn, _WRAPPERS):
            fn = fn.base_dist
        else:
            return fn


def is_discrete(fn: Any) -> bool:
    """Whether a distribution's values are discrete."""
    try:
        return bool(fn.support.is_discrete)
    except NotImplementedError:
        return False


class Substitute(Messenger):
    """Give unknown sites their values and mark the discrete latents for enumeration.

    Parameters
    ----------
    value_of : callable
        ``value_of(name, msg)`` returns the value of an unknown site or parameter, or ``None`` to
        let the program draw it.
    indices : mapping of str to Tensor
        For a subsampled plate, the indices in use.
    enumerate_latents : bool
        Mark discrete sites that are not observed for parallel enumeration.
    """

    def __init__(
        self,
        value_of: Callable[[str, dict[str, Any]], torch.Tensor | None],
        indices: Mapping[str, torch.Tensor] | None = None,
        enumerate_latents: bool = True,
    ) -> None:
        super().__init__()
        self.value_of = value_of
        self.indices = indices or {}
        self.enumerate_latents = enumerate_latents
        self.last_site: str | None = None

    def _pyro_sample(self, msg: dict[str, Any]) -> None:
        name = msg["name"]
        if is_plate(msg):
            if name in self.indices:
                msg["value"] = self.indices[name]
                msg["done"] = True
            return
        self.last_site = name
        if msg["is_observed"]:
            return
        value = self.value_of(name, msg)
        if value is not None:
            for frame in msg["cond_indep_stack"]:
                if frame.name in self.indices and frame.dim is not None:
                    # A local unknown keeps its full length; a mini-batch sees its own rows.
                    axis = frame.dim - len(msg["fn"].event_shape)
                    if value.dim() >= -axis and value.shape[axis] == frame.full_size:
                        value = value.index_select(axis, self.indices[frame.name])
            # Not marked as done: Pyro's enumeration still notes which latents the site depends on.
            msg["value"] = value
        elif self.enumerate_latents and is_discrete(msg["fn"]):
            msg["infer"]["enumerate"] = "parallel"

    def _pyro_param(self, msg: dict[str, Any]) -> None:
        self.last_site = msg["name"]
        value = self.value_of(msg["name"], msg)
        if value is not None:
            msg["value"] = value
            msg["done"] = True


class Resample(UnconditionMessenger):
    """Draw observed sites anew; deterministic sites keep the value that the run gives them."""

    def _pyro_sample(self, msg: Any) -> None:
        # A deterministic site drawn in a plate would be repeated along it.
        if not is_deterministic(msg):
            super()._pyro_sample(msg)


class Observe(Messenger):
    """Put other data in place of what observed sites were given.

    Parameters
    ----------
    data : mapping of str to Tensor
        Value by site; other sites keep theirs.
    """

    def __init__(self, data: Mapping[str, torch.Tensor]) -> None:
        super().__init__()
        self.data = data

    def _pyro_sample(self, msg: dict[str, Any]) -> None:
        if msg["is_observed"] and not is_deterministic(msg) and msg["name"] in self.data:
            msg["value"] = self.data[msg["name"]]


class ReplaceParameters(TorchFunctionMode):
    """Let torch functions see other tensors in place of a module's parameters.

    ``pyro.module`` registers parameters but the module goes on reading its own; with this mode the
    density is a function of the values that are put in, and the user's module is never written to.
    """

    def __init__(self, replacements: Mapping[int, torch.Tensor]) -> None:
        super().__init__()
        self.replacements = replacements

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        # Attributes (requires_grad, shape, ...) are asked of the parameter itself: pyro.module
        # registers by them. The arguments of every operation are searched, by hand, as torch's
        # own search takes longer than most operations.
        if self.replacements and getattr(func, "__name__", "") != "__get__":
            args, kwargs = self._replaced(args), self._replaced(kwargs)
        return func(*args, **kwargs)

    def _replaced(self, value: Any) -> Any:
        if isinstance(value, torch.nn.Parameter):
            return self.replacements.get(id(value), value)
        kind = type(value)
        if kind is tuple or kind is list:
            return kind([self._replaced(item) for item in value])
        if kind is dict:
            return {key: self._replaced(item) for key, item in value.items()}
        return value
