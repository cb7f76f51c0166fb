r"""How much each point of a pool is worth asking about: functions of probabilities alone.

Each returns one score a point, [pool]; **a higher score is asked first**, and of equal scores
the lowest index (`top_batch`). Logarithms are natural. Probabilities are tensors (or NumPy
arrays) of floating point numbers on any device; they are checked and used block by block, and
``budget`` bounds the bytes that a block with all that is made from it takes beside the argument
and the result. By default blocks fit a processor's cache.

From one predictive [pool, classes]: `entropy`, `least_confident`, `margin`, `random`. From a
committee or posterior draws [draws, pool, classes]: `vote_entropy`, `vote_disagreement`,
`consensus_kl`, `consensus_js`, `bald`, `bald_variance`. The mean of draws, ``probs.mean(0)``, is
one predictive.

All raise `DataError` where probabilities are negative, NaN, do not sum to one or have another rank
or type, and `OptionError` where the budget does not hold one point.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from likely.envs import DataError
from likely.inference.active.blocks import as_probabilities, minus_plogp, pointwise
from likely.inference.engines.checks import check_choice, check_int, check_seed, is_int


def entropy(probs: Any, *, budget: int | None = None) -> Tensor:
    r"""Entropy of the predictive, :math:`-\sum_k p_k \log p_k` (Shannon 1948; Settles 2009, §3.1).

    Parameters
    ----------
    probs : Tensor
        [pool, classes].
    budget : int, optional
        Most bytes of a block.

    Returns
    -------
    Tensor
        [pool], in nats.

    Examples
    --------
    >>> entropy(torch.tensor([[0.5, 0.5], [1.0, 0.0]]))
    tensor([0.6931, 0.0000])
    """
    probs = as_probabilities(probs, 2)
    return pointwise(lambda p: minus_plogp(p).sum(-1), probs, 2 * probs.shape[1], budget)


def least_confident(probs: Any, *, budget: int | None = None) -> Tensor:
    r"""One minus the probability of the most probable class (Lewis & Gale 1994).

    Parameters and errors as in `entropy`.

    Returns
    -------
    Tensor
        [pool], from 0 to 1 - 1/classes: the expected 0/1 loss.

    Examples
    --------
    >>> least_confident(torch.tensor([[0.5, 0.5], [1.0, 0.0]]))
    tensor([0.5000, 0.0000])
    """
    probs = as_probabilities(probs, 2)
    return pointwise(lambda p: 1 - p.amax(-1), probs, 2, budget)


def margin(probs: Any, *, budget: int | None = None) -> Tensor:
    r"""One minus the gap of the two most probable classes, :math:`1 - (p_{(1)} - p_{(2)})`.

    Of the two conventions in use this is the one in which more is more worth asking; the gap
    itself (Scheffer et al. 2001), which is small where the prediction is uncertain, is
    ``1 - margin(probs)``.

    Parameters and errors as in `entropy`.

    Returns
    -------
    Tensor
        [pool], from 0 (certain) to 1 (two classes tie).

    Examples
    --------
    >>> margin(torch.tensor([[0.5, 0.5, 0.0], [0.75, 0.25, 0.0]]))
    tensor([1.0000, 0.5000])
    """
    probs = as_probabilities(probs, 2)

    def score(p: Tensor) -> Tensor:
        two = p.topk(2, -1).values
        return 1 - (two[:, 0] - two[:, 1])

    return pointwise(score, probs, 10, budget)


def random(probs: Any, *, seed: int = 0) -> Tensor:
    """Uniform scores: passive learning as an acquisition.

    Parameters
    ----------
    probs : Tensor or int
        [pool, classes] or [draws, pool, classes], of which only the size and the device count, or
        the number of points.
    seed : int
        The same seed gives the same scores on every device.

    Returns
    -------
    Tensor
        float64 [pool], from 0 to 1.

    Raises
    ------
    DataError
        If ``probs`` has another rank or type, or is empty.
    OptionError
        If ``seed`` is none, or the number of points less than 1.

    Examples
    --------
    >>> random(3, seed=1).shape
    torch.Size([3])
    """
    check_seed("seed", seed)
    device = torch.device("cpu")
    if is_int(probs) and not isinstance(probs, Tensor):
        check_int("probs", probs, 1)
        size = int(probs)
    else:
        three = getattr(probs, "ndim", 0) == 3
        tensor = as_probabilities(probs, 3 if three else 2)
        size, device = tensor.shape[-2], tensor.device
    source = torch.Generator().manual_seed(int(seed))
    return torch.rand(size, generator=source, dtype=torch.float64).to(device)


def vote_entropy(probs: Any, *, budget: int | None = None) -> Tensor:
    r"""Entropy of the shares of the members' votes (Dagan & Engelson 1995), in nats.

    A member votes for its most probable class, of equal ones the first.

    Parameters
    ----------
    probs : Tensor
        [draws, pool, classes]; votes themselves may be given as rows of 0 and a 1.
    budget : int, optional
        Most bytes of a block.

    Returns
    -------
    Tensor
        [pool].

    Examples
    --------
    >>> vote_entropy(torch.tensor([[[0.9, 0.1], [0.6, 0.4]], [[0.8, 0.2], [0.3, 0.7]]]))
    tensor([0.0000, 0.6931])
    """
    probs = as_probabilities(probs, 3)
    members = len(probs)
    return pointwise(
        lambda p: minus_plogp(_votes(p) / members).sum(-1), probs, _votes_width(probs), budget
    )


def vote_disagreement(probs: Any, *, budget: int | None = None) -> Tensor:
    r"""Share of the pairs of members whose most probable classes differ.

    :math:`1 - \sum_k n_k (n_k - 1) / (S (S - 1))` with :math:`n_k` votes of S members: Gini's
    impurity of the votes without its bias.

    Parameters as in `vote_entropy`, with at least two draws.

    Returns
    -------
    Tensor
        [pool], from 0 to 1.

    Raises
    ------
    DataError
        If there is one draw only, and as all functions here.

    Examples
    --------
    >>> vote_disagreement(torch.tensor([[[0.9, 0.1], [0.6, 0.4]], [[0.8, 0.2], [0.3, 0.7]]]))
    tensor([0., 1.])
    """
    probs = _several(probs)
    pairs = len(probs) * (len(probs) - 1)

    def score(p: Tensor) -> Tensor:
        votes = _votes(p)
        return (pairs - (votes * (votes - 1)).sum(-1)) / pairs

    return pointwise(score, probs, _votes_width(probs), budget)


def consensus_kl(probs: Any, *, reduction: str = "mean", budget: int | None = None) -> Tensor:
    r"""Divergence of the members from their mean, :math:`\mathrm{KL}(p_s \,\|\, \bar p)`.

    Its mean over members (McCallum & Nigam 1998) is `bald`, in another order of summation.

    Parameters
    ----------
    probs : Tensor
        [draws, pool, classes].
    reduction : {"mean", "max"}
        Over the members: all of them, or the one that is farthest off.
    budget : int, optional
        Most bytes of a block.

    Returns
    -------
    Tensor
        [pool], in nats.

    Examples
    --------
    >>> consensus_kl(torch.tensor([[[1.0, 0.0]], [[0.0, 1.0]]]))
    tensor([0.6931])
    """
    probs = as_probabilities(probs, 3)
    check_choice("reduction", reduction, ("mean", "max"))

    def score(p: Tensor) -> Tensor:
        divergence = _divergences(p)
        return _mean(divergence) if reduction == "mean" else divergence.amax(0)

    return pointwise(score, probs, _divergences_width(probs), budget)


def consensus_js(probs: Any, *, budget: int | None = None) -> Tensor:
    r"""Jensen–Shannon divergence of all members, :math:`H(\bar p) - \frac1S \sum_s H(p_s)`.

    The generalised divergence of S distributions with equal weights (Lin 1991) is `bald` of
    the members as posterior draws. Parameters and errors as in `bald`.

    Returns
    -------
    Tensor
        [pool], in nats.

    Examples
    --------
    >>> consensus_js(torch.tensor([[[1.0, 0.0]], [[0.0, 1.0]]]))
    tensor([0.6931])
    """
    return bald(probs, budget=budget)


def bald(probs: Any, *, budget: int | None = None) -> Tensor:
    r"""Mutual information of a point's class and the parameters (Houlsby et al. 2011).

    :math:`I(y; \theta) = H(\bar p) - \frac1S \sum_s H(p_s)`, what the answer is expected to tell.

    Parameters
    ----------
    probs : Tensor
        [draws, pool, classes].
    budget : int, optional
        Most bytes of a block.

    Returns
    -------
    Tensor
        [pool], in nats; rounding may leave tiny negative values.

    Examples
    --------
    >>> bald(torch.tensor([[[1.0, 0.0], [0.5, 0.5]], [[0.0, 1.0], [0.5, 0.5]]]))
    tensor([0.6931, 0.0000])
    """
    probs = as_probabilities(probs, 3)
    draws, _, classes = probs.shape

    def score(p: Tensor) -> Tensor:
        total, conditional = entropies(p)
        return total - conditional

    return pointwise(score, probs, draws * classes + 4 * classes + 4, budget)


def bald_variance(probs: Any, *, budget: int | None = None) -> Tensor:
    r"""Variance over the draws of :math:`\mathrm{KL}(p_s \,\|\, \bar p)`, whose mean is `bald`.

    This divergence is the influence of a draw on `bald` (the delta method), so that
    ``(bald_variance(probs) / draws).sqrt()`` is the Monte Carlo standard error of `bald` for
    independent draws.

    Parameters as in `bald`, with at least two draws.

    Returns
    -------
    Tensor
        [pool], in squared nats, with divisor S - 1.

    Raises
    ------
    DataError
        If there is one draw only, and as all functions here.

    Examples
    --------
    >>> bald_variance(torch.tensor([[[1.0, 0.0]], [[0.5, 0.5]]])) > 0
    tensor([True])
    """
    probs = _several(probs)

    def score(p: Tensor) -> Tensor:
        divergence = _divergences(p)
        divergence -= _mean(divergence)
        return folded(divergence.square_()) / (len(p) - 1)

    return pointwise(score, probs, _divergences_width(probs), budget)


def entropies(p: Tensor) -> tuple[Tensor, Tensor]:
    """Entropy of the mean over draws, and mean of the draws' entropies; [pool] each.

    Parameters
    ----------
    p : Tensor
        [draws, pool, classes], not checked.
    """
    # Sums over draws first: they are along whole rows, those over few classes are slow.
    conditional = folded(minus_plogp(p)).sum(-1) / len(p)
    return minus_plogp(_mean(p)).sum(-1), conditional


def folded(x: Tensor) -> Tensor:
    """Sum over the first dimension, by halves; overwrites ``x``.

    `torch.sum` adds in an order that depends on where a column stands, so that equal points
    would differ in the last place and ties were broken by chance. Halves are as fast.
    """
    count = len(x)
    while count > 1:
        half = count // 2
        x[:half] += x[count - half : count]
        count -= half
    return x[0]


def _mean(x: Tensor) -> Tensor:
    """Mean over the first dimension; leaves ``x`` as it is."""
    half = len(x) // 2
    if not half:
        return x[0]
    total = x[:half] + x[half : 2 * half]
    if len(x) % 2:
        total[0] += x[-1]
    return folded(total) / len(x)


def _divergences(p: Tensor) -> Tensor:
    """KL divergence of each draw from the mean over draws, [draws, pool]."""
    tiny = torch.finfo(p.dtype).tiny
    ratio = p.clamp(min=tiny).log_()
    ratio -= _mean(p).clamp(min=tiny).log_()
    # Rounding must not make a divergence negative.
    return ratio.mul_(p).sum(-1).clamp_(min=0)


def _divergences_width(probs: Tensor) -> int:
    draws, _, classes = probs.shape
    return draws * classes + 3 * draws + 3 * classes


def _votes(p: Tensor) -> Tensor:
    """Numbers of draws whose first most probable class is each, [pool, classes]."""
    votes = p.argmax(-1).T
    counts = p.new_zeros(p.shape[1:])
    return counts.scatter_add_(1, votes, p.new_ones(()).expand(votes.shape))


def _votes_width(probs: Tensor) -> int:
    draws, _, classes = probs.shape
    # Votes are integers of eight bytes.
    return 4 * draws + 4 * classes


def _several(probs: Any) -> Tensor:
    probs = as_probabilities(probs, 3)
    if len(probs) < 2:
        raise DataError("probs must have at least two draws, got one")
    return probs
