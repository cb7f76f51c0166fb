"""Categories whose log-odds are linear in features, with a log-density in one pass.

The score of a category's log-odds is the category, as zeros and a one, less the probabilities
(Bishop 2006, "Pattern Recognition and Machine Learning", equation 4.109), so density and gradient
share one pass. Tables lie with the rows along their last dimension: reductions over few categories
are ten times slower along it.
"""

from __future__ import annotations

from functools import cached_property
from typing import Any, ClassVar

import pyro.distributions as dist
import torch
from torch import Tensor

from likely.models._glm import LinearBernoulli, is_constant, is_transformed

# Below this many entries of the features the bookkeeping costs more than a pass saves.
_SMALL = 1 << 14


class LinearCategories(dist.Categorical):
    r"""One of A categories a row, with log-odds 0, :math:`b_1 + w_1^\top x`, ... against the first.

    The same distribution as ``Categorical(logits=...)``, whose logits are made when they are asked
    for.

    Parameters
    ----------
    x
        Features, [n, d].
    coefficients
        w, [A − 1, d].
    intercept
        b, [A − 1]; None for zeros.

    Examples
    --------
    >>> x = torch.tensor([[0.0], [2.0]])
    >>> fn = LinearCategories(x, torch.tensor([[0.5]]))
    >>> fn.log_prob(torch.tensor([1, 1])).exp()
    tensor([0.5000, 0.7311])
    """

    arg_constraints: ClassVar[dict[str, Any]] = {}  # type: ignore[misc]

    def __init__(
        self,
        x: Tensor,
        coefficients: Tensor,
        intercept: Tensor | None = None,
        validate_args: bool | None = None,
    ) -> None:
        self._x, self._weights = x, coefficients
        self._intercept = x.new_zeros(len(coefficients)) if intercept is None else intercept
        self._num_events = len(coefficients) + 1
        # Past Categorical's own, which would make the logits at once.
        torch.distributions.Distribution.__init__(
            self, torch.Size([len(x)]), validate_args=validate_args
        )

    @staticmethod
    def serves(x: Tensor, coefficients: Tensor) -> bool:
        """Whether one pass is possible and worth its bookkeeping."""
        return (
            coefficients.dim() == x.dim() == 2
            and len(coefficients) > 0
            and x.numel() >= _SMALL
            and not x.requires_grad
            and not is_transformed()
        )

    @cached_property
    def logits(self) -> Tensor:
        """Log-probabilities [n, A]."""
        scores = torch.addmm(self._intercept, self._x, self._weights.mT)
        return torch.nn.functional.pad(scores, (1, 0)).log_softmax(-1)

    @property
    def _param(self) -> Tensor:  # type: ignore[override]
        return self.logits

    def expand(self, batch_shape: Any, _instance: Any = None) -> Any:
        """Itself where the shape is its own, else a plain categorical distribution."""
        if torch.Size(batch_shape) == self.batch_shape:
            return self
        return dist.Categorical(logits=self.logits).expand(torch.Size(batch_shape))

    def log_prob(self, value: Tensor) -> Tensor:
        """Log-probabilities of categories [*sample, n]."""
        if value.shape != self.batch_shape or is_transformed():
            found: Tensor = super().log_prob(value)
            return found
        if self._validate_args:
            self._validate_sample(value)
        if self._num_events == 2:
            # An outcome that has a pass, and a Hessian, of its own.
            outcome = LinearBernoulli(self._x, self._weights[0], self._intercept[0])
            density: Tensor = outcome.log_prob(value.to(self._x.dtype))
            return density
        parameters = self._weights, self._intercept
        # Inside a Function torch no longer tells whether anybody wants a gradient.
        wanted = torch.is_grad_enabled() and any(p.requires_grad for p in parameters)
        density = _LogDensity.apply(self._x, value, *parameters, wanted)
        return density


class _LogDensity(torch.autograd.Function):
    """Log-densities [n]; the gradient of their sum is taken on the way, while it is cheap.

    Few callers want another gradient than a multiple of the sum's; those pay a second product.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, value: Tensor, weights: Tensor, intercept: Tensor, wanted: bool
    ) -> Tensor:
        """Compute the log-densities, and the gradient of their sum if it is ``wanted``."""
        scores, top, shares, total = _scores(x, weights, intercept)
        chosen = _indicator(value, scores)
        # Log-odds of -inf are those of an action that is never taken, and no concern of the others.
        own = torch.where(chosen > 0, scores, 0.0).sum(0)
        density = own - top - total.log()
        score = chosen.addcdiv_(shares, total, value=-1.0) if wanted else chosen[:0]
        whole = (score @ x, score.sum(1)) if wanted else (weights[:0], intercept[:0])
        ctx.data = x, value
        ctx.save_for_backward(weights, intercept, score, *whole)
        return density

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients by weights and intercept, from that by the log-density [n]."""
        (cotangent,) = gradients
        weights, intercept, score, by_weights, by_intercept = ctx.saved_tensors
        x, value = ctx.data
        if torch.is_grad_enabled():
            # Somebody differentiates again: in plain operations, once more from the start.
            scores, _, shares, total = _scores(x, weights, intercept)
            score = _indicator(value, scores) - shares / total
        elif not is_transformed() and is_constant(cotangent):
            return None, None, by_weights * cotangent[0], by_intercept * cotangent[0], None
        score = score * cotangent
        return None, None, score @ x, score.sum(1), None


def _scores(x: Tensor, weights: Tensor, intercept: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Scores [A − 1, n], the largest of a row [n], exponentials less that, and their sum [n]."""
    scores = torch.addmm(intercept.unsqueeze(-1), weights, x.T)
    # Probabilities do not depend on what is taken off, so neither do their derivatives.
    top = scores.detach().amax(0).clamp_min(0.0)
    shares = (scores - top).exp()
    return scores, top, shares, shares.sum(0) + (-top).exp()


def _indicator(value: Tensor, like: Tensor) -> Tensor:
    """Ones where a row's category is that of the table's row, [A − 1, n]."""
    categories = torch.arange(1, len(like) + 1, device=value.device)
    return (value == categories.unsqueeze(-1)).to(like.dtype)
