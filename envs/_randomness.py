"""Random numbers that belong to an episode, not to the batch that it is played in."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from likely.envs.errors import DataError

Shape = int | tuple[int, ...]


class EpisodeRandom:
    """Random numbers of a batch of episodes, one generator a row.

    What a row gets depends on its episode and on what it was given before, never on the rows beside
    it. The methods are those of `numpy.random.Generator`, with a size that starts with the number
    of rows.

    Parameters
    ----------
    generators
        One a row.
    constants
        [n]: a number in [0, 1) for each row that stays the same during its episode.

    Examples
    --------
    >>> rows = EpisodeRandom([np.random.default_rng(seed) for seed in (1, 2)], np.zeros(2))
    >>> alone = EpisodeRandom([np.random.default_rng(2)], np.zeros(1))
    >>> bool(rows.random(2)[1] == alone.random(1)[0])
    True
    """

    def __init__(
        self, generators: Sequence[np.random.Generator], constants: NDArray[np.float64]
    ) -> None:
        self.generators = list(generators)
        self.constants = constants

    def __len__(self) -> int:
        return len(self.generators)

    def random(self, size: Shape | None = None) -> NDArray[np.float64]:
        """Uniform numbers in [0, 1), [n] or ``size``."""
        return self._each(size, lambda generator, shape: generator.random(shape))

    def standard_normal(self, size: Shape | None = None) -> NDArray[np.float64]:
        """Standard normal numbers, [n] or ``size``."""
        return self._each(size, lambda generator, shape: generator.standard_normal(shape))

    def integers(self, low: int, high: int | None = None, size: Shape | None = None) -> Any:
        """Whole numbers from ``low`` to ``high`` − 1, or below ``low``; [n] or ``size``."""
        return self._each(size, lambda generator, shape: generator.integers(low, high, shape))

    def _each(self, size: Shape | None, draw: Any) -> Any:
        shape = (len(self),) if size is None else (size,) if isinstance(size, int) else tuple(size)
        if shape[:1] != (len(self),):
            raise DataError(
                f"size: expected {len(self)} rows, as there are observations, got {shape}"
            )
        return np.stack([np.asarray(draw(g, shape[1:])) for g in self.generators])


def choose(probabilities: Any, uniform: NDArray[np.float64]) -> NDArray[np.int64]:
    """The category of each row that a uniform number points at.

    Parameters
    ----------
    probabilities
        [n, K], rows summing to one.
    uniform
        [n], in [0, 1).

    Returns
    -------
    array
        int64 [n]; a category of probability zero is never chosen.

    Examples
    --------
    >>> choose([[0.0, 0.25, 0.75], [1.0, 0.0, 0.0]], np.array([0.25, 0.999])).tolist()
    [2, 0]
    """
    table = np.asarray(probabilities, dtype=np.float64)
    below = table.cumsum(-1)
    # Rounding may leave the last sum below one, and the number above it.
    reached = np.asarray(uniform)[:, None] * below[:, -1:] < below
    found = np.where(reached.any(-1), reached.argmax(-1), table.argmax(-1))
    return found.astype(np.int64)
