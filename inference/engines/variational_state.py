"""The state of a variational run, to go on from."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import pyro
import torch
from pyro.optim import PyroOptim
from pyro.optim.lr_scheduler import PyroLRScheduler
from torch.optim.lr_scheduler import ReduceLROnPlateau

from likely.inference.checkpoints import Memory
from likely.inference.engines.batches import Batches
from likely.inference.engines.elbo import Drift
from likely.inference.engines.guides import BoundGuide
from likely.inference.monitor import Monitor


@dataclass(frozen=True, eq=False)
class VariationalState:
    """What changes from step to step.

    Parameters
    ----------
    guide, optimizer, drift, batches, monitor
        Of the run; parameters are those of Pyro's store.
    """

    guide: BoundGuide
    optimizer: PyroOptim
    drift: Drift
    batches: Batches | None
    monitor: Monitor

    def state(self) -> dict[str, Any]:
        """All of it, as tensors and plain values."""
        parameters = pyro.get_param_store().named_parameters()
        return {
            "parameters": {name: value.detach() for name, value in parameters},
            "optimizer": self.optimizer.get_state(),
            "drift": list(self.drift.travelled),
            "order": None if self.batches is None else self.batches.order,
            "history": self.monitor.objectives,
        }

    def restore(self, memory: Memory, rate: Callable[[int], float] | None) -> None:
        """Go on from what a memory found, if it found something.

        Parameters
        ----------
        memory
            Of an earlier run of the same options.
        rate
            The step size of a coming step, where the run sets it.
        """
        memory.require("optimizer", _made_with(self.optimizer))
        if memory.found is None:
            return
        with torch.no_grad():
            # Automatic guides make their parameters when they are first run.
            self.guide.trace(None if self.batches is None else self.batches.draw())
            own = dict(pyro.get_param_store().named_parameters())
            memory.require("guide", _shapes(own), _shapes(memory.found["parameters"]))
            for name, value in own.items():
                value.copy_(memory.found["parameters"][name])
        self.monitor.resume(memory.found["history"])
        states = memory.found["optimizer"]
        if rate is not None:
            for group in (group for state in states.values() for group in state["param_groups"]):
                group["lr"] = rate(len(self.monitor.objectives))
        self.optimizer.set_state(states)
        self.drift.travelled = tuple(memory.found["drift"])
        if self.batches is not None:
            self.batches.order = memory.found["order"]
        memory.load()


def follow_schedule(optimizer: PyroOptim, loss: float) -> None:
    """Go one step on in the schedule of an optimiser that has one."""
    if not isinstance(optimizer, PyroLRScheduler):
        return
    judges = optimizer.pt_scheduler_constructor is ReduceLROnPlateau
    optimizer.step(*[loss] if judges else [])


def _shapes(parameters: Mapping[str, torch.Tensor]) -> str:
    """Names and shapes of a guide's parameters."""
    return repr({name: tuple(value.shape) for name, value in parameters.items()})


def _made_with(optimizer: PyroOptim) -> str:
    """Kind and options of an optimiser of Pyro's, for the record."""
    args = [optimizer.pt_optim_args, optimizer.pt_clip_args]
    made = [getattr(optimizer.pt_optim_constructor, "__name__", "")]
    if isinstance(optimizer, PyroLRScheduler):
        made.append(getattr(optimizer.pt_scheduler_constructor, "__name__", ""))
        args.append(optimizer.kwargs)
    named = [sorted(a.items()) if isinstance(a, dict) else a.__qualname__ for a in args]
    return f"{made} {named}"
