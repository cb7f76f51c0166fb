"""What policies share: sites with priors, a distribution of actions, and a way to act by it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pyro
import torch
from gymnasium.spaces import Box, Discrete
from numpy.typing import NDArray
from pyro import poutine
from torch import Tensor

from likely.envs import DataError, EpisodeRandom, Trajectories
from likely.envs._randomness import choose
from likely.models._data import as_floating
from likely.models._rows import default_dtype

Sites = dict[str, Any]
Params = Mapping[str, Any]
Features = Callable[[Tensor], Tensor] | Tensor | None


class Policy(ABC):
    """How actions depend on states: a part of a program, with unknowns of its own.

    Attributes
    ----------
    action_space : Discrete or Box
        What actions may be.
    dims : dict
        Site to the names of all its dimensions.
    """

    @property
    def action_width(self) -> int:
        """Length of an action, 1 where actions are one of a few."""
        return sum(self.action_space.shape or (1,))

    @property
    def discrete(self) -> bool:
        """Whether actions are one of a few; else they are vectors [U] of real numbers."""
        return isinstance(self.action_space, Discrete)

    @property
    @abstractmethod
    def dims(self) -> dict[str, tuple[str, ...]]:
        """Site to the names of all its dimensions."""

    @property
    @abstractmethod
    def action_space(self) -> Box | Discrete:
        """What actions may be."""

    @abstractmethod
    def sample_sites(self, states: Tensor) -> Sites:
        """Make the policy's Pyro statements, all of them outside the plates of the data.

        Parameters
        ----------
        states
            [n, *state]; only shapes, dtype and device count.

        Returns
        -------
        dict
            Site to value, as `distribution` takes them.
        """

    @abstractmethod
    def distribution(self, sites: Sites, states: Tensor) -> Any:
        """Distribution of the actions in ``states`` [*batch, *state]: batch shape [*batch]."""

    def check(self, trajectories: Trajectories) -> None:
        """Raise `DataError` if spaces do not fit the policy."""
        found = isinstance(trajectories.action_space, Discrete)
        if found != self.discrete:
            expected = "Discrete actions" if self.discrete else "actions in a Box"
            raise DataError(f"trajectories: expected {expected}, got {trajectories.action_space}")

    def coords(self, trajectories: Trajectories | None) -> dict[str, Any]:
        """Labels of the dimensions."""
        return {}

    def initial(self, states: Tensor, actions: Tensor, weights: Tensor | None) -> Sites:
        """A start for a search, from rows of data with weights [n]; empty for none."""
        return {}

    def m_step(
        self, states: Tensor, actions: Tensor, weights: Tensor | None, objective: str
    ) -> Sites:
        """Sites at which the weighted log-density of rows is highest, where that is closed."""
        return {}

    # -- after a fit -------------------------------------------------------------------------

    def at(self, params: Params, states: Any) -> Any:
        """The program's own distribution of actions at values of its sites.

        Parameters
        ----------
        params
            Site to value, such as a fit's ``params``; those of other parts are let be.
        states
            [n, *state].

        Returns
        -------
        Distribution
            Of batch shape [n], in float64.

        Raises
        ------
        DataError
            If a site is missing or has another shape.
        """
        states = _as_states(states)
        # Whole numbers as states do not say in which precision to work.
        with torch.no_grad(), default_dtype(torch.float64):
            policy, sites = self._ready(params, states)
            return policy.distribution(sites, states)

    def _ready(self, params: Params, states: Tensor) -> tuple[Policy, Sites]:
        """A policy that works in float64, and the values of its sites."""
        return self, self._values(params, states)

    def _values(self, params: Params, states: Tensor) -> Sites:
        """Values of the sites, float64."""
        with torch.random.fork_rng(devices=[]), pyro.get_param_store().scope():
            nodes: dict[str, Any] = poutine.trace(self.sample_sites).get_trace(states).nodes
        names = [name for name in self.dims if name in nodes]
        return {n: checked_value(params, n, nodes[n]["value"].shape) for n in names}

    def probabilities(self, params: Params, states: Any) -> Tensor:
        r"""Probabilities of the actions, [n, A], of a policy with Discrete actions.

        Parameters
        ----------
        params
            Site to value, such as a fit's ``params``.
        states
            [n, \*state].

        Raises
        ------
        DataError
            If actions are not Discrete, and as `at`.
        """
        if not self.discrete:
            raise DataError("probabilities: the policy's actions are not Discrete")
        return _probabilities(self.at(params, states))

    def uncertainty(self, draws: Params, states: Any) -> tuple[Tensor, Tensor]:
        r"""Mean and standard deviation of the actions' probabilities over a posterior's draws.

        Parameters
        ----------
        draws
            Site to draws [chain, draw, \*shape], a fit's ``draws``.
        states
            [n, \*state].

        Returns
        -------
        mean, sd : Tensor
            [n, A]. The mean is the probability of an action once the policy is integrated out.
        """
        states = _as_states(states)
        names = [name for name in self.dims if name in draws]
        if not names:
            raise DataError(f"draws: expected {sorted(self.dims)}, got {sorted(draws)}")
        flat = {name: torch.as_tensor(draws[name]).flatten(0, 1) for name in names}
        count = len(flat[names[0]])
        total = squares = torch.zeros((), dtype=torch.float64)
        first = None
        for i in range(count):
            found = self.probabilities({name: flat[name][i] for name in names}, states)
            first = found if first is None else first
            # Around the first draw, where squares keep their digits.
            total, squares = total + (found - first), squares + (found - first) ** 2
        assert first is not None
        mean = total / count
        return first + mean, (squares / count - mean**2).clamp_min(0.0).sqrt()

    def act(self, params: Params, states: Any, rng: Any) -> NDArray[Any]:
        r"""Draw an action in each state.

        Parameters
        ----------
        params
            Site to value, such as a fit's ``params``.
        states
            [n, \*state].
        rng
            `numpy.random.Generator` or `EpisodeRandom`: a row's action then depends on nothing but
            its state and its own random numbers.

        Returns
        -------
        array
            int64 [n], or [n, U].
        """
        return self.draw(self.at(params, states), rng)

    def draw(self, fn: Any, rng: Any) -> NDArray[Any]:
        """Draw from a distribution of actions [n] with random numbers of ``rng``."""
        n = fn.batch_shape[-1]
        if self.discrete:
            return choose(_probabilities(fn), rng.random(n))
        base = getattr(fn, "base_dist", fn)
        uniform = torch.from_numpy(np.asarray(rng.random((n, *fn.event_shape))))
        # Neither end of the interval has a finite quantile.
        uniform = uniform.clamp(torch.finfo(uniform.dtype).tiny, 1 - 2**-53)
        return np.asarray(base.icdf(uniform).numpy())

    def best(self, fn: Any) -> NDArray[Any]:
        """The most probable action of a distribution: the mean of a symmetric one."""
        if self.discrete:
            return np.asarray(_probabilities(fn).argmax(-1).numpy())
        return np.asarray(fn.mean.numpy())

    def behaviour(
        self, params: Params, action_space: Any = None, *, greedy: bool = False
    ) -> Callable[[Any, Any], NDArray[Any]]:
        """The policy at values of its sites, as `likely.envs.rollout` takes it.

        Parameters
        ----------
        params
            Site to value, such as a fit's ``params``.
        action_space
            A Box to whose bounds actions are cut, as a normal distribution has none.
        greedy
            Take the most probable action instead of drawing one.
        """
        ready: list[tuple[Policy, Sites]] = []

        def play(observations: Any, rng: EpisodeRandom) -> NDArray[Any]:
            states = _as_states(observations)
            with torch.no_grad(), default_dtype(torch.float64):
                if not ready:  # once, as values are checked by running the program
                    ready.append(self._ready(params, states))
                policy, sites = ready[0]
                fn = policy.distribution(sites, states)
            actions = self.best(fn) if greedy else self.draw(fn, rng)
            if isinstance(action_space, Box):
                actions = np.clip(actions, action_space.low, action_space.high)
            return actions

        return play


def checked_value(params: Params, name: str, shape: torch.Size) -> Tensor:
    """The value of a site, float64, from values by name.

    Raises
    ------
    DataError
        If it is missing, has another shape or is not finite.
    """
    if name not in params:
        raise DataError(f"params: expected a value of {name!r}, got {sorted(params)}")
    with default_dtype(torch.float64):
        value = as_floating(params[name], f"params[{name!r}]").detach()
    if value.shape != shape:
        raise DataError(
            f"params[{name!r}]: expected shape {tuple(shape)}, got {tuple(value.shape)}; give one "
            "value of each site, such as a fit's params"
        )
    if not bool(torch.isfinite(value).all()):
        raise DataError(f"params[{name!r}]: expected finite numbers")
    return value.to(torch.float64)


def _probabilities(fn: Any) -> Tensor:
    """Probabilities [n, A] of the values of a discrete distribution [n]."""
    found: Tensor = fn.log_prob(fn.enumerate_support()).exp().movedim(0, -1)
    return found


def _as_states(states: Any) -> Tensor:
    """Observations as a tensor: whole numbers int64, others float64."""
    tensor = states if isinstance(states, Tensor) else torch.from_numpy(np.array(states))
    if tensor.dim() == 0:
        raise DataError("states: expected one or more, [n, ...], got a single number")
    return tensor.to(torch.float64 if tensor.is_floating_point() else torch.int64)


def float_like(states: Tensor) -> Tensor:
    """A tensor whose dtype and device priors take."""
    dtype = states.dtype if states.is_floating_point() else torch.get_default_dtype()
    return torch.empty((), dtype=dtype, device=states.device)


def featurise(features: Features, states: Tensor) -> Tensor:
    """Features [*batch, d] of states.

    Parameters
    ----------
    features
        None for the states themselves, vectors; a table [S, d], read at discrete states; or a
        function of states.
    states
        [*batch, *state].

    Raises
    ------
    DataError
        If discrete states have no features, or a function gives another number of rows.
    """
    if isinstance(features, Tensor):
        return features.to(float_like(states))[states.long()]
    if features is None:
        if not states.is_floating_point() or states.dim() < 2:
            raise DataError(
                "features: expected a table [n_states, d] or a function of states, as these are no "
                "vectors"
            )
        return states
    found = features(states)
    if not isinstance(found, Tensor) or found.shape[:1] != states.shape[:1] or found.dim() < 2:
        got = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
        raise DataError(f"features: expected [{len(states)}, d] for as many states, got {got}")
    return found.to(float_like(states))
