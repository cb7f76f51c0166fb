"""Parameters that are trained as copies, so that nobody's own are written to."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import pyro
import torch
from pyro.poutine.messenger import Messenger

from likely.inference.handlers import ReplaceParameters
from likely.inference.program import Program, Values

# Before the names of a program's and of a guide's parameters in the scoped store.
_PROGRAM, _GUIDE = "likely.program.", "likely.guide."


class _Redirect(Messenger):
    """Answers ``param`` statements with other values, unseen by the handlers outside."""

    def __init__(self, values: Values) -> None:
        super().__init__()
        self._values = values

    def _pyro_param(self, msg: dict[str, Any]) -> None:
        if msg["name"] in self._values:
            msg["value"] = self._values[msg["name"]]
            msg["done"] = msg["stop"] = True


@contextmanager
def reading_from(values: Values, objects: Mapping[str, torch.nn.Parameter]) -> Iterator[None]:
    """Let Pyro code read its parameters from ``values``; its modules are never written to.

    Parameters
    ----------
    values : mapping of str to Tensor
        Parameter to value.
    objects : mapping of str to Parameter
        The modules' own parameters behind some of them.
    """
    with ExitStack() as stack:
        if values:
            stack.enter_context(_Redirect(values))
        if objects:
            stack.enter_context(ReplaceParameters({id(p): values[n] for n, p in objects.items()}))
        yield


@dataclass(frozen=True, eq=False)
class Copies:
    """Copies of somebody's parameters in the scoped store, which is where they are trained.

    Attributes
    ----------
    prefix : str
        Before their names in the store.
    names : tuple of str
        Their own names.
    objects : dict of str to Parameter
        The modules' parameters behind some of them.
    """

    prefix: str = _GUIDE
    names: tuple[str, ...] = ()
    objects: dict[str, torch.nn.Parameter] = field(default_factory=dict)

    @classmethod
    def of_program(cls, program: Program, values: Values) -> Copies:
        """Those of a program's unknowns that are parameters, at ``values``."""
        unknowns = {n: u for n, u in program.sites.unknowns.items() if u.is_param}
        starts = {name: (values[name], unknown.support) for name, unknown in unknowns.items()}
        return cls._made(_PROGRAM, starts, program.sites.parameter_objects)

    @classmethod
    def of_guide(
        cls,
        starts: Mapping[str, tuple[torch.Tensor, Any]],
        objects: Mapping[str, torch.nn.Parameter],
    ) -> Copies:
        """Those of a guide: name to start and support."""
        return cls._made(_GUIDE, starts, objects)

    @classmethod
    def _made(
        cls,
        prefix: str,
        starts: Mapping[str, tuple[torch.Tensor, Any]],
        objects: Mapping[str, torch.nn.Parameter],
    ) -> Copies:
        for name, (value, support) in starts.items():
            pyro.param(prefix + name, value.detach().clone(), constraint=support)
        return cls(prefix, tuple(starts), dict(objects))

    def values(self) -> dict[str, torch.Tensor]:
        """Current constrained values."""
        found: dict[str, Any] = {name: pyro.param(self.prefix + name) for name in self.names}
        return found

    def frozen(self) -> dict[str, torch.Tensor]:
        """Current values, detached from what comes later."""
        return {name: value.detach().clone() for name, value in self.values().items()}
