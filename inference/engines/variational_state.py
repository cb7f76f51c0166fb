"""The state of a variational run, to go on from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pyro
import torch
from pyro.optim import PyroOptim

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
        if memory.found is None:
            return
        with torch.no_grad():
            # Automatic guides make their parameters when they are first run.
            self.guide.trace(None if self.batches is None else self.batches.draw())
            for name, value in pyro.get_param_store().named_parameters():
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
