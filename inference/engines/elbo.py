"""The evidence lower bound of a guide, its gradient, and whether climbing it has ended."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pyro
import torch
from pyro.optim import PyroOptim

from likely.inference.engines.guides import BoundGuide
from likely.inference.handlers import is_plate
from likely.inference.optimise import settled
from likely.inference.program import Program, Values

# A parameter that covers this share of the way that its steps could have taken it is on its way
# somewhere; around an optimum steps cancel.
_DRIFT = 0.5
# A rise of the bound, relative to itself, that counts as none where nothing is drawn.
_LEVEL = 1e-7


def elbo(
    program: Program,
    guide: BoundGuide,
    parameters: Callable[[], dict[str, torch.Tensor]],
    indices: Values | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """One draw's estimate of E_q[log p(data, θ) − log q(θ)], discrete latents summed out.

    The sum over the latents is the program's own contraction, so that it holds wherever `MLE` and
    `EM` can sum them out, weights of observations included.

    Parameters
    ----------
    program : Program
    guide : BoundGuide
    parameters : callable
        Gives the current values of the program's parameters.
    indices : mapping of str to Tensor, optional
        Mini-batch: the indices of a subsampled plate.

    Returns
    -------
    estimate : Tensor
        Scalar, in nats.
    surrogate : Tensor
        Scalar whose gradient estimates that of the bound: through the draw where the guide's
        distributions are reparametrised (Kingma & Welling 2014), by the score function elsewhere
        (Ranganath et al. 2014).
    """
    trace = guide.trace(indices)
    trace.compute_score_parts()
    nodes: dict[str, Any] = {
        name: node
        for name, node in trace.nodes.items()
        if node["type"] == "sample" and not is_plate(node)
    }
    values = {name: node["value"] for name, node in nodes.items()}
    density = program.density(values | parameters(), indices=indices)
    log_p = density.log_likelihood + density.log_prior
    log_q = sum((node["log_prob_sum"] for node in nodes.values()), program.zero)
    surrogate = log_p
    for node in nodes.values():
        _, score, entropy = node["score_parts"]
        surrogate = surrogate - torch.as_tensor(entropy).sum()
        if isinstance(score, torch.Tensor):
            surrogate = surrogate + (log_p - log_q).detach() * score.sum()
    return log_p - log_q, surrogate


class Drift:
    """How far parameters travel in the last quarter of a run, beside how far they could.

    ELBO estimates are too noisy to show the slope of a short run, and steps that have become small
    hide it in a long one; parameters that all steps push the same way show it at once.

    Parameters
    ----------
    total : int
        Steps of the whole run.
    optimizer : PyroOptim
        Judged only if it is of Adam's family, whose steps have the length of the learning rate
        wherever gradients agree.

    Attributes
    ----------
    travelled : tuple
        Where the parameters were when the last quarter began, and the length of all steps since.
    """

    def __init__(self, total: int, optimizer: PyroOptim) -> None:
        self._first, self._optimizer = (3 * total) // 4, optimizer
        self.travelled: tuple[dict[str, torch.Tensor] | None, float] = (None, 0.0)

    def step(self, iteration: int) -> None:
        """Note one step, after it was taken."""
        if iteration < self._first:
            return
        since, reach = self.travelled
        self.travelled = (_positions(), 0.0) if since is None else (since, reach + self._rate())

    def _rate(self) -> float:
        groups = [
            group
            for stepper in self._optimizer.optim_objs.values()
            for group in getattr(stepper, "param_groups", ())
        ]
        if not groups or not all("betas" in group for group in groups):
            return float("inf")
        return max(float(group["lr"]) for group in groups)

    def share(self) -> float:
        """Share of its reach, 0 to about 1, that the parameter went which went farthest.

        Among thousands some go far by chance: one in a thousand is left aside.
        """
        since, reach = self.travelled
        if since is None or not reach:
            return 1.0
        now = _positions()
        moved = [(now[name] - value).abs().reshape(-1) for name, value in since.items()]
        every = torch.cat(moved) if moved else torch.zeros(1)
        return float(every.topk(1 + len(every) // 1000).values[-1]) / reach


def _positions() -> dict[str, torch.Tensor]:
    store = pyro.get_param_store()
    return {name: value.detach().clone() for name, value in store.named_parameters()}


def has_settled(history: Sequence[float], drift: Drift) -> bool:
    """Whether the bound has stopped rising and the parameters have stopped travelling.

    The bound has if its last quarter is no better, within three standard errors or rounding, than
    the quarter before.
    """
    quarter = len(history) // 4
    if quarter < 2 or drift.share() > _DRIFT:
        return False
    last, before = history[-quarter:], history[-2 * quarter : -quarter]
    rise = (sum(last) - sum(before)) / quarter
    return rise <= _LEVEL * max(1.0, abs(last[-1])) or settled([-value for value in history])
