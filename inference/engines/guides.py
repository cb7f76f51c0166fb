"""Guides of variational inference: Pyro's automatic ones, and a user's own."""

from __future__ import annotations

import copy
import weakref
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from typing import Any

import pyro
import torch
from pyro import poutine
from pyro.distributions import constraints
from pyro.infer.autoguide import (
    AutoContinuous,
    AutoDelta,
    AutoGuide,
    AutoIAFNormal,
    AutoLowRankMultivariateNormal,
    AutoMultivariateNormal,
    AutoNormal,
    init_to_value,
)
from pyro.nn import PyroModule

from likely.inference.arguments import convert
from likely.inference.coordinates import supported
from likely.inference.engines.parameters import Copies, reading_from
from likely.inference.errors import FitError, ProgramError
from likely.inference.fit import Fit
from likely.inference.handlers import ReplaceParameters, Substitute, is_plate, module_parameter
from likely.inference.passes import gpu_of
from likely.inference.program import PROGRAM_FAULTS, Program, Values
from likely.inference.reading import Reader, mend
from likely.inference.sites import Unknown

GUIDES: dict[str, Callable[..., AutoGuide]] = {
    "normal": partial(AutoNormal, init_scale=0.1),
    "multivariate": partial(AutoMultivariateNormal, init_scale=0.1),
    "lowrank": partial(AutoLowRankMultivariateNormal, init_scale=0.1),
    "flow": AutoIAFNormal,
    "delta": AutoDelta,
}


@dataclass(frozen=True, eq=False)
class BoundGuide:
    """A guide with a program's arguments and parameters of its own.

    Attributes
    ----------
    program : Program
    guide : callable
        As Pyro calls it.
    copies : Copies
        Its parameters; an automatic guide keeps its own.
    """

    program: Program
    guide: Callable[..., Any]
    copies: Copies

    def trace(self, indices: Values | None = None) -> Any:
        """Trace of one run, on a mini-batch where ``indices`` has those of a plate."""
        program = self.program
        follow = Substitute(lambda name, msg: None, indices, enumerate_latents=False)
        with (
            poutine.trace() as tracer,
            follow,
            reading_from(self.copies.values(), self.copies.objects),
        ):
            self.guide(*program.args, **program.kwargs)
        return tracer.trace

    def median(self) -> dict[str, torch.Tensor]:
        """The guide's centre by site; nothing for a guide that has none."""
        if not hasattr(self.guide, "median"):
            return {}
        with torch.no_grad():
            return dict(self.guide.median(*self.program.args, **self.program.kwargs))


def bind(
    guide: str | Callable[..., Any],
    program: Program,
    values: Values,
    own: Copies,
    plate: str | None = None,
) -> BoundGuide:
    """Make or copy a guide, run it once on all data, and check that it fits the program.

    Parameters
    ----------
    guide : str or callable
        A name in `GUIDES`, or a Pyro guide, of which a copy is trained.
    program : Program
    values : mapping of str to Tensor
        Constrained start of the unknowns, for guides that have one.
    own : Copies
        The program's own parameters.
    plate : str, optional
        The plate that mini-batches subsample.

    Raises
    ------
    ProgramError
        If the guide fails, or its sites are not the program's unknowns.
    """
    if isinstance(guide, str):
        made: Callable[..., Any] = _automatic(guide, program, values, own)
    else:
        made = _copied(guide, program, own)
    if isinstance(made, AutoGuide):
        copies = Copies()
        if plate is not None:
            _subsample(made, program, plate)
    else:
        copies = _call(lambda: _read(made, program))
    bound = BoundGuide(program, made, copies)
    _check(program, _call(bound.trace).nodes)
    return bound


def _call(run: Callable[[], Any]) -> Any:
    try:
        return run()
    except PROGRAM_FAULTS as error:
        if type(error).__module__.startswith("likely."):
            raise
        raise ProgramError(f"the guide failed: {error}{mend(error)}") from error


def _automatic(name: str, program: Program, values: Values, own: Copies) -> AutoGuide:
    moving = [name for name, unknown in program.sites.unknowns.items() if not unknown.static]
    if moving:
        raise ProgramError(
            f"the support of {', '.join(map(repr, moving))} depends on other sites, which "
            "Pyro's automatic guides cannot follow; give a guide of your own, reparametrise, "
            "or use NUTS"
        )
    prototype = _prototype(program.source, program, own)
    drawn = [unknown for unknown in program.sites.unknowns.values() if not unknown.is_param]
    if not drawn:
        name = "delta"  # there is nothing to draw, whatever the guide
    elif name == "flow" and sum(u.unconstrained_shape.numel() for u in drawn) == 1:
        name = "normal"  # a flow of one number is an affine map, that is, a normal
    if name == "flow":  # starts at its own base distribution
        return GUIDES[name](prototype)
    return GUIDES[name](prototype, init_loc_fn=init_to_value(values=dict(values)))


def unmoved(program: Program) -> Callable[[], AbstractContextManager[None]]:
    """Makes blocks that leave the random numbers where they were.

    A run that draws discrete latents takes as many numbers as there are data, and those of the
    guide are not to depend on that. Blocks around other programs change nothing.
    """
    return partial(torch.random.fork_rng, gpu_of(program), enabled=bool(program.sites.latents))


def _prototype(source: Callable[..., Any], program: Program, own: Copies) -> Callable[..., Any]:
    """A model as an automatic guide sees it: no discrete latents, parameters as they stand."""
    # Asked of the program here and not inside, which would tie it to its guide for ever.
    steady = unmoved(program)

    def model(*args: Any, **kwargs: Any) -> None:
        with steady(), reading_from(own.frozen(), own.objects):
            source(*args, **kwargs)

    hidden: Callable[..., Any] = poutine.block(model, hide=list(program.sites.latents))
    return hidden


def _copied(guide: Callable[..., Any], program: Program, own: Copies) -> Callable[..., Any]:
    """A guide with parameters of its own: the same engine gives the same numbers again."""
    if not isinstance(guide, AutoGuide):
        clone = copy.deepcopy(guide)
        if isinstance(clone, torch.nn.Module):
            clone.to(dtype=program.dtype, device=program.device)
        return clone
    # Copying takes the program out of Pyro's guides, out of the original as well.
    originals = [module for module in guide.modules() if isinstance(module, AutoGuide)]
    held = [(original._model, original.master) for original in originals]
    clone = copy.deepcopy(guide)
    copies = [module for module in clone.modules() if isinstance(module, AutoGuide)]
    for original, copied, (model, master) in zip(originals, copies, held, strict=True):
        original._model, original.master = model, master
        copied._model = (_prototype(model[0], program, own),)
    return clone


def _subsample(guide: AutoGuide, program: Program, plate: str) -> None:
    """Let an automatic guide follow the mini-batches of a plate."""
    local = [name for name, u in program.sites.unknowns.items() if plate in u.dims]
    if not local:
        return
    if any(isinstance(module, AutoContinuous) for module in guide.modules()):
        raise ProgramError(
            f"site {', '.join(map(repr, local))} stands in plate '{plate}', which mini-batches "
            f"subsample, and {type(guide).__name__} draws all unknowns as one vector; use "
            "guide='normal' or 'delta', or a guide of your own"
        )
    if guide.create_plates is None:
        found = program.sites.plates[plate]
        guide.create_plates = lambda *args, **kwargs: pyro.plate(plate, found.size, dim=found.dim)


def _read(guide: Callable[..., Any], program: Program) -> Copies:
    """Copies of a guide's parameters in the fit's dtype, under names of our own."""

    def cast(value: Any) -> torch.Tensor:
        start: torch.Tensor = value.detach().to(device=program.device, dtype=program.dtype)
        return start

    store = pyro.get_param_store()
    before = set(store)
    reader = Reader(program.dtype, program.device)
    with poutine.trace() as tracer, reader, ReplaceParameters(reader.copies):
        guide(*program.args, **program.kwargs)
    nodes = {n: node for n, node in tracer.trace.nodes.items() if node["type"] == "param"}
    starts: dict[str, tuple[torch.Tensor, Any]] = {}
    objects: dict[str, torch.nn.Parameter] = {}
    for name, node in nodes.items():
        starts[name] = cast(node["value"]), store._constraints.get(name, constraints.real)
        source = module_parameter(node)
        if source is not None:
            objects[name] = source
    if isinstance(guide, torch.nn.Module) and not isinstance(guide, PyroModule):
        # A plain module's weights are its guide's parameters, whether it tells Pyro or not.
        known = {id(source) for source in objects.values()}
        for name, parameter in guide.named_parameters():
            if parameter.requires_grad and id(parameter) not in known:
                starts[name] = cast(parameter), constraints.real
                objects[name] = parameter
    for name in set(store) - before:
        del store[name]
    return Copies.of_guide(starts, objects)


def _check(program: Program, nodes: Mapping[str, Mapping[str, Any]]) -> None:
    """Raise a `ProgramError` unless a guide's sites are the program's unknowns."""
    wanted = {name: u for name, u in program.sites.unknowns.items() if not u.is_param}
    drawn = {
        name: node
        for name, node in nodes.items()
        if node["type"] == "sample"
        and not is_plate(node)
        and not node["is_observed"]
        and not (node["infer"] or {}).get("is_auxiliary")
    }
    missing = [name for name in wanted if name not in drawn]
    if missing:
        raise ProgramError(
            f"the guide has no site {', '.join(map(repr, missing))}; a guide must draw "
            "every unknown of the program"
        )
    for name, node in drawn.items():
        if name in program.sites.latents:
            raise ProgramError(
                f"the guide draws '{name}', a discrete latent, which is summed out exactly; leave "
                "it out of the guide"
            )
        if name not in wanted:
            raise ProgramError(
                f"the guide has a site '{name}', which is not an unknown of the program; its "
                f"unknowns are {', '.join(map(repr, wanted)) or 'none'}. A draw that only helps "
                "to make others is marked by infer={'is_auxiliary': True}"
            )
        if node["value"].shape != wanted[name].shape:
            raise ProgramError(
                f"the guide draws site '{name}' in shape {tuple(node['value'].shape)}; in the "
                f"program it has shape {tuple(wanted[name].shape)}"
            )
        check_support(name, wanted[name], node["value"])


def check_support(name: str, unknown: Unknown, value: torch.Tensor) -> None:
    """Raise a `ProgramError` if a guide's draw of a site is no value that the site can have."""
    if unknown.static and not supported(unknown, value.detach()):
        raise ProgramError(f"the guide draws site '{name}' outside its support, {unknown.support}")


# -- after the fit -------------------------------------------------------------------------------


class TrainedGuide:
    """A guide as a fit left it: a Pyro callable for any data.

    Parameters
    ----------
    bound : BoundGuide
        The guide at the end of its training.
    """

    def __init__(self, bound: BoundGuide) -> None:
        self._guide, self._objects = bound.guide, bound.copies.objects
        self._values = bound.copies.frozen()
        self._dtype, self._device = bound.program.dtype, bound.program.device

    def parameters(self) -> dict[str, torch.Tensor]:
        """Values of the guide's parameters by name; none for an automatic guide."""
        return dict(self._values)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the guide, its arguments cast as those of the fit were."""
        before = torch.get_default_dtype()
        cast = partial(convert, dtype=self._dtype, device=self._device)
        with pyro.get_param_store().scope(), reading_from(self._values, self._objects):
            try:
                torch.set_default_dtype(self._dtype)
                return self._guide(
                    *(cast(value) for value in args),
                    **{name: cast(value) for name, value in kwargs.items()},
                )
            finally:
                torch.set_default_dtype(before)


_TRAINED: weakref.WeakKeyDictionary[Program, TrainedGuide] = weakref.WeakKeyDictionary()


def remember(program: Program, guide: TrainedGuide) -> None:
    """Keep the guide that was trained on a program for as long as the program is kept."""
    _TRAINED[program] = guide


def trained_guide(fit: Fit) -> TrainedGuide:
    """The guide that an SVI fit trained: an amortised one encodes data it has not seen.

    Parameters
    ----------
    fit : Fit
        A fit of `SVI`, with its program. A file holds the guide's draws and not the guide.

    Returns
    -------
    TrainedGuide

    Raises
    ------
    FitError
        If the fit has no guide: another engine made it, or it was loaded.

    Examples
    --------
    >>> import pyro, pyro.distributions as dist, torch
    >>> from likely.inference import SVI
    >>> def level(x):
    ...     mu = pyro.sample("mu", dist.Normal(0.0, 1.0))
    ...     with pyro.plate("point", len(x)):
    ...         pyro.sample("x", dist.Normal(mu, 1.0), obs=x)
    >>> def guide(x):
    ...     loc = pyro.param("loc", torch.tensor(0.0))
    ...     pyro.sample("mu", dist.Normal(loc, 0.5))
    >>> fit = SVI(guide=guide, max_iter=500, draws=100).fit(level, torch.tensor([1.0, 2.0, 3.0]))
    >>> round(float(trained_guide(fit).parameters()["loc"]), 1)
    1.5
    """
    if not isinstance(fit, Fit):
        raise FitError(f"fit must be a Fit, got {type(fit).__name__}")
    found = _TRAINED.get(fit.program) if fit.program is not None else None
    if found is None:
        raise FitError(
            "this fit has no guide: only SVI trains one, and a fit that was loaded from a file "
            "holds its draws and not the guide"
        )
    return found
