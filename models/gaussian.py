"""Program of normal outcomes without covariates."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

from likely.models._options import check_number
from likely.models._outcomes import Outcomes, in_plate, outcomes_or_size, reference


@dataclass(frozen=True)
class GaussianModel(Outcomes):
    r"""Normal outcomes with unknown mean and standard deviation.

    .. math:: \text{loc} \sim \mathrm{Normal}(m, s), \quad
              \text{scale} \sim \mathrm{HalfNormal}(t), \quad
              y_i \sim \mathrm{Normal}(\text{loc}, \text{scale})

    Parameters
    ----------
    loc_mean, loc_scale : float
        Mean m and standard deviation s of the normal prior on ``loc``, in the units of y.
    scale_scale : float
        Scale t of the half-normal prior on ``scale``, in the units of y.

    Notes
    -----
    Sites ``loc`` (a scalar), ``scale`` (a positive scalar) and, observed, ``y`` ``[n]``;
    plate ``observation``.

    Examples
    --------
    >>> import pyro
    >>> pyro.set_rng_seed(0)
    >>> GaussianModel()(n=5).shape
    torch.Size([5])
    """

    loc_mean: float = 0.0
    loc_scale: float = 10.0
    scale_scale: float = 10.0

    def __post_init__(self) -> None:
        check_number(self.loc_mean, "loc_mean")
        check_number(self.loc_scale, "loc_scale", positive=True)
        check_number(self.scale_scale, "scale_scale", positive=True)

    def __call__(self, y: Any = None, *, n: int | None = None) -> Tensor:
        """Run the program.

        Parameters
        ----------
        y
            Outcomes ``[n]``; missing to simulate them.
        n
            How many to simulate.

        Returns
        -------
        Tensor
            The outcomes ``[n]``, given or simulated.

        Raises
        ------
        DataError
            If both arguments are missing, ``y`` is not a vector, or ``y`` holds NaN or
            infinite entries (looked at while Pyro validates).
        """
        y, n = outcomes_or_size(y, "y", n)
        like = reference(y)
        loc = pyro.sample(
            "loc", dist.Normal(like.new_tensor(self.loc_mean), like.new_tensor(self.loc_scale))
        )
        scale = pyro.sample("scale", dist.HalfNormal(like.new_tensor(self.scale_scale)))
        with pyro.plate("observation", n, device=str(like.device)) as index:
            return pyro.sample("y", dist.Normal(loc, scale), obs=in_plate(y, index))

    def initial(self, y: Any = None, *, n: int | None = None) -> dict[str, Tensor]:
        """Start at the mean and the standard deviation (1 where there is no spread)."""
        y, n = outcomes_or_size(y, "y", n)
        if y is None:
            return {}
        spread = y.std(correction=0)
        return {"loc": y.mean(), "scale": torch.where(spread > 0, spread, torch.ones_like(spread))}
