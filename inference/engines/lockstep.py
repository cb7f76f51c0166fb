"""What keeps variational inference on parts of the data the same in every part and process."""

from __future__ import annotations

from collections.abc import Mapping

import pyro
import torch

from likely.inference.engines.guides import BoundGuide
from likely.inference.errors import OptionError
from likely.inference.handlers import set_seed
from likely.inference.passes import gpu_of, log_joint
from likely.inference.program import Program, Values
from likely.inference.shards import Sharded

_MEND = (
    "with Shards a guide must not read the data, which differ from part to part: give it a "
    "pyro.param where it reads them, take guide='normal', or fit all data at once"
)


def check_guide(program: Program, guide: BoundGuide, seed: int) -> None:
    """Raise an `OptionError` if a guide draws otherwise with one part of `Shards` than another.

    Unknowns are common to all parts, and so must be what a guide says of them; what is compared is
    one draw with its density, from the same random numbers.

    This is also the first pass over the parts, which looks them over in sessions of their own. That
    must not happen inside a step: Pyro's parameters lose what the step needs to know of them.

    Parameters
    ----------
    program : Program
        One that is no `Sharded` has nothing to compare.
    guide : BoundGuide
    seed : int
        Of the random numbers.
    """
    if not isinstance(program, Sharded):
        return

    def drawn(part: Program) -> dict[str, torch.Tensor]:
        with torch.random.fork_rng(devices=gpu_of(program)), torch.no_grad():
            set_seed(seed, program.device)
            trace = BoundGuide(part, guide.guide, guide.copies).trace()
            found = {
                name: trace.nodes[name]["value"].detach()
                for name, unknown in program.sites.unknowns.items()
                if not unknown.is_param
            }
            return {**found, "its density": torch.as_tensor(trace.log_prob_sum())}

    def own() -> dict[str, torch.Tensor]:
        first = drawn(program.head)
        for number, (part, _) in enumerate(program.parts()):
            _require_same(first, drawn(part), f"part {number}", "the first part")
        return first

    found = program.ranks.together(own)
    reference = dict(zip(found, program.ranks.first(list(found.values())), strict=True))
    rank = program.ranks.rank
    program.ranks.together(lambda: _require_same(reference, found, f"rank {rank}", "rank 0"))


def _require_same(
    first: Mapping[str, torch.Tensor], other: Mapping[str, torch.Tensor], who: str, reference: str
) -> None:
    different = [name for name, value in first.items() if not torch.equal(value, other[name])]
    if different:
        raise OptionError(
            f"the guide draws {', '.join(map(repr, different))} otherwise with {who} than with "
            f"{reference}; {_MEND}"
        )


def agree_on_parameters(program: Program) -> None:
    """Give every rank rank 0's values of all parameters that are trained.

    Every rank takes the same steps with the same gradients and the same random numbers; that they
    stay together to the last bit should not hang on all of them computing alike.
    """
    if not isinstance(program, Sharded) or program.ranks.size == 1:
        return
    trained = [value for _, value in sorted(pyro.get_param_store().named_parameters())]
    with torch.no_grad():
        for value, agreed in zip(trained, program.ranks.first(trained), strict=True):
            value.copy_(agreed)


def agree_on_noise(program: Program) -> None:
    """Let every rank go on with the random numbers of rank 0, which alone made the start.

    What is drawn from here on is the guide's: the same on all ranks, however many there are.
    """
    if not isinstance(program, Sharded) or program.ranks.size == 1:
        return
    states = [torch.get_rng_state(), *(torch.cuda.get_rng_state(d) for d in gpu_of(program))]
    first, *others = program.ranks.first(states)
    torch.set_rng_state(first)
    for state, device in zip(others, gpu_of(program), strict=True):
        torch.cuda.set_rng_state(state, device)


def log_joints(program: Program, rows: list[dict[str, torch.Tensor]]) -> torch.Tensor:
    """Log joint densities [n] of n values of the unknowns, as float64 on the CPU.

    Parts of the data are gone through once for all of them.
    """
    if isinstance(program, Sharded):
        return log_joint(program, rows).to("cpu", torch.float64)

    def of(values: Values) -> float:
        density = program.density(values)
        return float(density.log_likelihood + density.log_prior)

    return torch.tensor([of(values) for values in rows], dtype=torch.float64)
