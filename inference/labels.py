"""Draws whose components can be exchanged, in one order throughout: assignment and permutation."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from likely.inference.errors import FitError

Axes = Mapping[str, tuple[int, ...]]
Draws = Mapping[str, torch.Tensor]

_MOST_PASSES = 100
# A feature never counts as if it were known better than to this share of its overall spread.
_FINEST = 1e-3
# How much smaller a sum of squares must be to be more than rounding.
_ROUNDING = 1e-9


def relabel_draws(
    draws: Draws,
    axes: Axes,
    reference: Draws | None = None,
    log_density: torch.Tensor | None = None,
) -> dict[str, torch.Tensor]:
    """Draws with one labelling of their components throughout.

    Parameters
    ----------
    draws : mapping of str to Tensor
        Site to draws [chain, draw, *shape].
    axes : mapping of str to tuple of int
        Site to those axes of its ``shape`` that run over the K components; sites that are not
        named stay as they are.
    reference, log_density
        As in `labelling`.

    Returns
    -------
    dict of str to Tensor
        The same draws, each permuted along all the axes at once.

    Raises
    ------
    FitError
        As `labelling` does.

    Examples
    --------
    >>> draws = {"loc": torch.tensor([[[0.0, 5.0], [0.1, 5.2], [5.1, -0.1]]])}
    >>> relabel_draws(draws, {"loc": (0,)})["loc"].tolist()
    [[[0.0, 5.0], [0.1..., 5.1...], [-0.1..., 5.0...]]]
    """
    return permute(draws, axes, labelling(draws, axes, reference, log_density))


def permute(draws: Draws, axes: Axes, order: torch.Tensor) -> dict[str, torch.Tensor]:
    """Draws with their components in another order.

    Parameters
    ----------
    draws : mapping of str to Tensor
        Site to draws [chain, draw, *shape].
    axes : mapping of str to tuple of int
        Site to those axes of its ``shape`` that run over the components.
    order : Tensor
        [chain, draw, K]: which component becomes the first, the second, ...
    """
    found = dict(draws)
    for site, own in axes.items():
        for axis in own if site in found else ():
            value = found[site]
            shape = [*order.shape[:2], *[1] * (value.dim() - 2)]
            shape[axis + 2] = order.shape[2]
            found[site] = value.take_along_dim(order.reshape(shape), axis + 2)
    return found


def labelling(
    draws: Draws,
    axes: Axes,
    reference: Draws | None = None,
    log_density: torch.Tensor | None = None,
) -> torch.Tensor:
    r"""The order of the components, draw by draw, in which all draws agree best.

    Minimises :math:`\sum_p \log \sum_{t,k} (x_{tkp} - m_{kp})^2` over the labelling of each draw t
    and the centres m, where p runs over the elements of a component's parameters. Each pass takes
    the mean and the spread of the draws as they are labelled, then gives every draw the labels
    that cost least (Hungarian assignment), until no draw changes (Stephens 2000, "Dealing with
    label switching in mixture models", JRSS B 62, algorithm of section 4 with a normal loss).

    Parameters
    ----------
    draws : mapping of str to Tensor
        Site to draws [chain, draw, *shape].
    axes : mapping of str to tuple of int
        Site to those axes of its ``shape`` that run over the K components.
    reference : mapping of str to Tensor, optional
        Draws of some of these sites whose labels are to be followed; one draw will do. Without
        them the labels are those of the draw with the highest density.
    log_density : Tensor, optional
        [chain, draw] in nats, to find that draw; without it the first is taken.

    Returns
    -------
    Tensor of int64
        [chain, draw, K]: which component becomes the first, the second, ...

    Raises
    ------
    FitError
        If no site has components, an axis is none of its site's, sites disagree about their number
        of components, the reference has other shapes or no site in common, or something is not
        finite.
    """
    size = _count(draws, axes)
    flat = {site: draws[site].detach().flatten(0, 1).double() for site in axes if site in draws}
    lead = next(iter(draws.values())).shape[:2]
    same = torch.arange(size, device=next(iter(flat.values())).device)
    same = same.expand(lead.numel(), size)
    best = 0
    if log_density is not None:
        best = int(torch.nan_to_num(log_density.flatten(), nan=-torch.inf).argmax())
    shared = None if reference is None else _shared(flat, reference)
    # Sites that say little about a component can drown those that tell them apart, so the search
    # starts at what each site says alone as well, and at the labels as they are.
    starts = [same]
    for sites in [tuple(flat), *((site,) for site in flat if len(flat) > 1)]:
        part = {site: flat[site] for site in sites}
        features = _features(part, axes, diagonal=True)
        starts.append(_assign(features, features[best], _overall(features)))
    settled = [_settle(flat, axes, start) for start in starts]
    order, _ = min(settled, key=lambda pair: pair[1])
    if shared is None:
        # The draw of highest density keeps its labels.
        return order.gather(1, order[best].argsort().expand_as(order)).reshape(*lead, size)
    return order.gather(1, _follow(flat, axes, order, shared).expand_as(order)).reshape(*lead, size)


def _settle(flat: Draws, axes: Axes, order: torch.Tensor) -> tuple[torch.Tensor, float]:
    """Relabel draws by their own centres until none changes; the order and what it costs."""
    same = torch.arange(order.shape[1], device=order.device).expand_as(order)
    for _ in range(_MOST_PASSES):
        current = _permuted(flat, axes, order)
        features = _features(current, axes)
        centre = features.mean(0)
        spread = _spread(features, centre)
        swap = _assign(features, centre, spread)
        after = _features(_permuted(current, axes, swap), axes)
        before = ((features - centre) / spread).square().sum((1, 2))
        better = ((after - centre) / spread).square().sum((1, 2)) < (1 - _ROUNDING) * before
        swap = torch.where(better[:, None], swap, same)
        if torch.equal(swap, same):
            break
        order = order.gather(1, swap)
    features = _features(_permuted(flat, axes, order), axes)
    return order, float(_spread(features, features.mean(0)).log().nan_to_num(posinf=0.0).sum())


def _follow(
    flat: Draws, axes: Axes, order: torch.Tensor, reference: dict[str, torch.Tensor]
) -> torch.Tensor:
    """The one permutation [K] after which labelled draws agree best with a reference."""
    current = {site: _permuted(flat, axes, order)[site] for site in reference}
    mine, theirs = _features(current, axes), _features(reference, axes)
    spread = _spread(mine, mine.mean(0))
    centre = {site: value.mean(0, keepdim=True) for site, value in current.items()}
    wanted = theirs.mean(0)
    # Rows and columns of one site can only be told apart by labels that agree already.
    rows, target = (_features(part, axes, diagonal=True).mean(0) for part in (current, reference))
    scale = _overall(torch.stack([rows, target]))
    cost = torch.cdist(target / scale, rows / scale).square()
    first = _matched(cost).to(order.device)
    for _ in range(_MOST_PASSES):
        moved = _features(_permuted(centre, axes, first[None]), axes)
        swap = _assign(moved, wanted, spread)
        again = _features(_permuted(centre, axes, first[None].gather(1, swap)), axes)
        gain = ((moved - wanted) / spread).square().sum()
        if float(((again - wanted) / spread).square().sum()) >= (1 - _ROUNDING) * float(gain):
            break
        first = first.gather(0, swap[0])
    return first


def _permuted(flat: Draws, axes: Axes, order: torch.Tensor) -> dict[str, torch.Tensor]:
    """Draws [draw, *shape] in another order [draw, K]."""
    lifted = permute({name: value[None] for name, value in flat.items()}, axes, order[None])
    return {name: value.squeeze(0) for name, value in lifted.items()}


def _shared(flat: Draws, reference: Draws) -> dict[str, torch.Tensor]:
    """Draws [draw, *shape] of the reference's sites that are compared."""
    shared = {}
    for site, value in flat.items():
        if site in reference:
            theirs = reference[site].detach().to(value).flatten(0, 1)
            if theirs.shape[1:] != value.shape[1:]:
                raise FitError(
                    f"reference: site '{site}' has shape {tuple(theirs.shape[1:])}, and here "
                    f"{tuple(value.shape[1:])}"
                )
            if not bool(torch.isfinite(theirs).all()):
                raise FitError(f"reference: site '{site}' is not finite")
            shared[site] = theirs
    if not shared:
        raise FitError(
            f"reference has none of the sites with exchangeable labels: {', '.join(flat)}"
        )
    return shared


def _check_axes(site: str, own: object, draws: torch.Tensor) -> None:
    """Raise unless these are different axes of a site's shape."""
    count = draws.dim() - 2
    whole = isinstance(own, tuple | list) and all(
        isinstance(axis, int) and not isinstance(axis, bool) and 0 <= axis < count for axis in own
    )
    if not whole or len(set(own)) < len(own):  # type: ignore[call-overload, arg-type]
        raise FitError(
            f"axes: site '{site}' has draws [chain, draw, *shape] of shape {tuple(draws.shape)}, "
            f"and its axes must be different integers from 0 to {count - 1}, got {own!r}"
            if count > 0
            else f"axes: draws of site '{site}' must be [chain, draw, *shape] with an axis of its "
            f"own, got shape {tuple(draws.shape)}"
        )


def _count(draws: Draws, axes: Axes) -> int:
    """Number of components, the same in all sites."""
    sizes: dict[tuple[str, int], int] = {}
    if not isinstance(axes, Mapping):
        raise FitError(f"axes must map sites to tuples of axes, got {type(axes).__name__}")
    for site, own in axes.items():
        if site in draws and own != ():
            _check_axes(site, own, draws[site])
            sizes |= {(site, axis): draws[site].shape[axis + 2] for axis in own}
            if not bool(torch.isfinite(draws[site]).all()):
                raise FitError(f"draws of site '{site}' are not finite, so they have no labels")
    if not sizes:
        raise FitError(f"axes must name sites of the draws ({', '.join(map(repr, draws))})")
    if len(set(sizes.values())) > 1:
        listed = ", ".join(f"{n} on axis {a} of '{s}'" for (s, a), n in sizes.items())
        raise FitError(f"axes: the sites have different numbers of components: {listed}")
    return next(iter(sizes.values()))


def _features(flat: Draws, axes: Axes, *, diagonal: bool = False) -> torch.Tensor:
    """Each component's parameters in one row, [draw, K, feature].

    Of a site with several such axes every one gives its features; ``diagonal`` takes only the
    elements that need no other component's label.
    """
    columns = []
    for site, value in flat.items():
        own = [axis + 1 for axis in axes[site]]
        if diagonal and len(own) > 1:
            front = value.movedim(own, list(range(len(own))))
            parts = [torch.stack([front[(k,) * len(own)] for k in range(len(front))], 1)]
        else:
            parts = [value.movedim(axis, 1) for axis in own]
        columns += [part.flatten(2) if part.dim() > 2 else part[..., None] for part in parts]
    return torch.cat(columns, -1)


def _overall(features: torch.Tensor) -> torch.Tensor:
    """Standard deviation of each feature over draws and components."""
    spread = features.std((0, 1), correction=0)
    # What is the same everywhere tells nothing apart.
    return torch.where(spread > 0, spread, torch.inf)


def _spread(features: torch.Tensor, centre: torch.Tensor) -> torch.Tensor:
    """Standard deviation of each feature about its component's centre."""
    within = (features - centre).square().mean((0, 1)).sqrt()
    return torch.maximum(within, _FINEST * _overall(features))


def _assign(features: torch.Tensor, centre: torch.Tensor, spread: torch.Tensor) -> torch.Tensor:
    """Which component of each draw is nearest to each of the centre's, one to one: [draw, K]."""
    cost = torch.cdist((centre / spread).expand(len(features), -1, -1), features / spread) ** 2
    nearest = cost.argmin(-1)
    settled = (nearest.sort(-1).values == torch.arange(cost.shape[1], device=cost.device)).all(-1)
    for draw in torch.nonzero(~settled).flatten().tolist():
        nearest[draw] = _matched(cost[draw])
    return nearest


def _matched(cost: torch.Tensor) -> torch.Tensor:
    """Column of each row in the cheapest matching one to one, [K]."""
    # Twenty-five megabytes that a fit of one point does not need.
    from scipy.optimize import linear_sum_assignment

    return torch.as_tensor(linear_sum_assignment(cost.cpu().numpy())[1], device=cost.device)
