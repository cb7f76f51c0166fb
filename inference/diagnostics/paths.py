"""How a fit got where it is: a recorder of parameters, and a figure of their path."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from matplotlib.ticker import MaxNLocator

from likely.inference.diagnostics.components import numbers
from likely.inference.diagnostics.groups import as_numpy, first_draw, posterior_by_site
from likely.inference.diagnostics.style import WIDTH, bare, colour, panels, written
from likely.inference.diagnostics.traces import FEW, objective_name
from likely.inference.errors import FitError
from likely.inference.fit import Fit
from likely.inference.monitor import Step
from likely.inference.quantities import deterministics

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_COLUMNS = 3
_MOST_PANELS = 24
# Longer titles would run into the next panel's.
_LONGEST_TITLE = 24


class ParameterPath:
    """Keeps the parameters of every iteration; give it to an engine as its ``callback``.

    A second fit with the same recorder starts afresh. Memory grows with iterations × parameters.

    Examples
    --------
    >>> import pyro, pyro.distributions as dist
    >>> from likely.inference import EM
    >>> def coins(heads):
    ...     weights = pyro.sample("weights", dist.Dirichlet(torch.ones(2)))
    ...     with pyro.plate("coin", 2):
    ...         p = pyro.sample("p", dist.Beta(1.0, 1.0))
    ...     with pyro.plate("bag", len(heads)):
    ...         z = pyro.sample("z", dist.Categorical(weights))
    ...         pyro.sample("heads", dist.Binomial(10, p[z]), obs=heads)
    >>> path = ParameterPath()
    >>> fit = EM(callback=path, init={"p": [0.3, 0.6]}).fit(coins, torch.tensor([9.0, 8.0, 2.0]))
    >>> path.values("p")[0].tolist(), len(path) == fit.n_iter + 1
    ([0.3, 0.6], True)
    """

    def __init__(self) -> None:
        self._runs: dict[int, list[tuple[int, float, dict[str, torch.Tensor]]]] = {}
        self._kept: int | None = None

    def __call__(self, step: Step) -> None:
        """Record one iteration."""
        if step.iteration == 0:
            if step.restart == 0 or self._kept is not None:
                self._runs.clear()
                self._kept = None
            self._runs[step.restart] = []
        values = {name: value.detach().clone() for name, value in step.params().items()}
        self._runs[step.restart].append((step.iteration, step.objective, values))

    def kept(self, restart: int) -> None:
        """Told by the engine which restart it keeps: one that ended higher may have failed."""
        self._kept = restart

    def __len__(self) -> int:
        return len(self._best) if self._runs else 0

    @property
    def _best(self) -> list[tuple[int, float, dict[str, torch.Tensor]]]:
        """The restart that the engine kept; until it says so, the one that ended highest."""
        if not self._runs:
            raise FitError(
                "the path is empty: give it to an engine as its callback, and fit, before drawing"
            )
        if self._kept in self._runs:
            return self._runs[self._kept]
        return max(self._runs.values(), key=lambda run: run[-1][1])

    @property
    def iterations(self) -> np.ndarray:
        """Numbers of the iterations, 0 for the start."""
        return np.array([number for number, _, _ in self._best])

    @property
    def objective(self) -> np.ndarray:
        """What the engine maximises, by iteration, in nats."""
        return np.array([value for _, value, _ in self._best])

    @property
    def sites(self) -> list[str]:
        """Names of the sites."""
        return list(self._best[0][2])

    def values(self, site: str) -> torch.Tensor:
        """Values of one site, [iteration, *shape].

        Raises
        ------
        FitError
            If there is no such site.
        """
        if site not in self.sites:
            raise FitError(f"the path has no site '{site}'; it has {', '.join(self.sites)}")
        return torch.stack([values[site] for _, _, values in self._best])

    def at(self, iteration: int) -> dict[str, torch.Tensor]:
        """Values of all sites in one iteration.

        Raises
        ------
        FitError
            If that iteration was not recorded.
        """
        for number, _, values in self._best:
            if number == iteration:
                return dict(values)
        raise FitError(
            f"iterations: there is no iteration {iteration!r}; the path has "
            f"{self.iterations[0]} to {self.iterations[-1]}"
        )


def all_values(path: ParameterPath, fit: Fit) -> dict[str, np.ndarray]:
    """Values of all sites, the program's deterministic ones included, [iteration, *shape]."""
    check_path(path, fit)
    program = fit.bound("drawing a path")
    found = {site: as_numpy(path.values(site)) for site in path.sites}
    with program.session(fit.seed), torch.no_grad():
        rows = [deterministics(program, path.at(int(i))) for i in path.iterations]
    return found | {site: np.stack([as_numpy(row[site]) for row in rows]) for site in rows[0]}


def check_path(path: Any, fit: Any) -> None:
    """Raise a `FitError` unless these are a recorded path and a fit of the same sites."""
    if not isinstance(path, ParameterPath):
        raise FitError(f"path must be a ParameterPath, got {type(path).__name__}")
    if not isinstance(fit, Fit):
        raise FitError(f"fit must be the Fit that the path led to, got {type(fit).__name__}")
    for site in path.sites:
        shape = tuple(path.values(site).shape[1:])
        if site not in fit.params or tuple(fit.params[site].shape) != shape:
            raise FitError(f"path and fit are not of one program: site '{site}' {list(shape)}")


@dataclass(frozen=True)
class _Panel:
    """One small multiple: lines [iteration, line] and, for each, the truth."""

    title: str
    lines: np.ndarray
    labels: list[str]
    truth: np.ndarray | None


def plot_em_path(
    path: ParameterPath,
    fit: Fit,
    *,
    sites: str | Sequence[str] | None = None,
    truth: Mapping[str, Any] | None = None,
    axes: Axes | Iterable[Axes] | None = None,
) -> Figure:
    """Parameters against iterations, and above them the objective.

    Sites that run over the components (the first dimension of the first site that has one) have
    a line for each component and a panel for each other element; elements of a matrix that never
    move, or repeat their mirror image, are left out.

    Parameters
    ----------
    path : ParameterPath
        The recorder that was the engine's callback.
    fit : Fit
        What the engine returned; its program gives deterministic sites and the names of things.
    sites : str or sequence of str, optional
        Sites to draw; by default all, deterministic ones included.
    truth : mapping of str to array-like, optional
        True values by site, drawn as dashed lines; components in the order of the fit's.
    axes : Axes or iterable of Axes, optional
        Where to draw: one for the objective, and one for each panel.

    Raises
    ------
    FitError
        If the path is empty or not of this fit, a site is not there, the truth of a site has
        another shape, or there are too many panels for a figure.
    """
    values = all_values(path, fit)
    if not values:
        raise FitError("path holds no values: the guide that was fitted has no median to record")
    if sites is not None and not isinstance(sites, str | Sequence):
        raise FitError(f"sites must be a name or several, got {sites!r}")
    if truth is not None and not isinstance(truth, Mapping):
        raise FitError(f"truth must be a mapping of site to value, got {type(truth).__name__}")
    chosen = list(values) if sites is None else [sites] if isinstance(sites, str) else list(sites)
    if not chosen:
        raise FitError("sites is empty; name at least one")
    for site in [*chosen, *(truth or {})]:
        if site not in values:
            raise FitError(f"there is no site '{site}'; there are {', '.join(map(repr, values))}")
    shown = _panels(fit, {site: values[site] for site in chosen}, truth or {})
    if len(shown) > _MOST_PANELS:
        raise FitError(
            f"{len(shown)} panels are too many for one figure (at most {_MOST_PANELS}); choose "
            "some of the sites with sites="
        )
    if axes is None:
        figure, top, rest = _grid(len(shown))
    else:
        figure, (top, *rest) = panels(1 + len(shown), axes, size=(WIDTH, WIDTH))
    mark: dict[str, Any] = {"marker": "o" if len(path) <= FEW else None, "ms": 3, "lw": 1.4}
    top.plot(path.iterations, path.objective, color="black", **mark)
    top.set_title(objective_name(fit), loc="left", size=10)
    top.set_ylabel("nats")
    for ax, panel in zip(rest, shown, strict=True):
        many = panel.lines.shape[1] > 1
        for number, (line, label) in enumerate(zip(panel.lines.T, panel.labels, strict=True)):
            tone = colour(number) if many else "black"
            ax.plot(path.iterations, line, color=tone, label=written(label, 40) or None, **mark)
            if panel.truth is not None:
                ax.axhline(panel.truth[number], color=tone, lw=1.0, ls="--", zorder=1)
        ax.set_title(written(panel.title, 60), loc="left", size=9)
    for number, ax in enumerate([top, *rest]):
        ax.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        bare(ax)
        if axes is not None or number == 0 or number > len(shown) - min(len(shown), _COLUMNS):
            ax.set_xlabel("iteration")
    _legend(figure, rest, any(panel.truth is not None for panel in shown), axes is None)
    return figure


def _grid(count: int) -> tuple[Figure, Axes, list[Axes]]:
    """A wide panel, and below it the others."""
    import matplotlib.pyplot as plt

    columns = min(count, _COLUMNS)
    rows = -(-count // columns)
    figure = plt.figure(figsize=(WIDTH, 2.6 + 1.9 * rows), layout="constrained")
    grid = figure.add_gridspec(1 + rows, columns)
    places = [divmod(number, columns) for number in range(count)]
    top = figure.add_subplot(grid[0, :])
    return figure, top, [figure.add_subplot(grid[1 + row, column]) for row, column in places]


def _legend(figure: Figure, axes: Sequence[Axes], with_truth: bool, outside: bool) -> None:
    from matplotlib.lines import Line2D

    entries: dict[str, Any] = {}
    for ax in axes:
        for handle, name in zip(*ax.get_legend_handles_labels(), strict=True):
            entries.setdefault(name, handle)
    if with_truth:
        entries["truth"] = Line2D([], [], color="0.3", lw=1.0, ls="--")
    if not entries:
        return
    names, handles = list(entries), list(entries.values())
    if outside:
        figure.legend(
            handles, names, loc="outside upper center", ncols=min(len(names), 5), frameon=False
        )
    else:
        axes[0].legend(handles, names)


def _panels(fit: Fit, values: Mapping[str, np.ndarray], truth: Mapping[str, Any]) -> list[_Panel]:
    arrays = {name: first_draw(array) for name, array in posterior_by_site(fit).items()}
    # A vector's only axis is the components' where there are any.
    lead = next((str(a.dims[0]) for a in arrays.values() if a.dims), None)
    found = []
    for site, value in values.items():
        array = arrays[site]
        known = _truth(truth, site, value.shape[1:])
        by_component = bool(array.dims) and array.dims[0] == lead
        entries = [[str(label) for label in array.indexes[dim]] for dim in array.dims]
        made_up = [str(dim).startswith(f"{site}_dim_") for dim in array.dims]
        labels = [""]
        if by_component:
            kind = "component" if made_up[0] else str(lead)
            labels = [f"{kind} {entry}" for entry in entries[0]]
        inner = value.shape[2:] if by_component else value.shape[1:]
        seen: list[np.ndarray] = []
        for index in np.ndindex(*inner):
            where = (slice(None), slice(None), *index) if by_component else (slice(None), *index)
            lines = value[where].reshape(len(value), -1)
            if len(inner) > 1 and (
                bool((lines == lines[:1]).all()) or any(np.array_equal(lines, s) for s in seen)
            ):
                continue
            seen.append(lines)
            names = entries[1 if by_component else 0 :]
            place = ", ".join(axis[i] for axis, i in zip(names, index, strict=True))
            own = None if known is None else np.reshape(known[where[1:]], -1)
            title = f"{site} [{place}]" if place else site
            if len(title) > _LONGEST_TITLE:
                title = f"{site}\n[{place}]"
            found.append(_Panel(title, lines, labels, own))
    return found


def _truth(truth: Mapping[str, Any], site: str, shape: tuple[int, ...]) -> np.ndarray | None:
    if site not in truth:
        return None
    known = numbers(truth[site], f"truth of site '{site}'")
    if known.shape != shape:
        raise FitError(f"truth of site '{site}' must have shape {shape}, got {known.shape}")
    return known
