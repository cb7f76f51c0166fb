"""Hidden Markov models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import pyro
import pyro.distributions as dist
import torch
from pyro.util import ignore_jit_warnings
from torch import Tensor

from likely.envs import DataError
from likely.models._clustering import k_means
from likely.models._data import as_size, as_tensor, as_weights, plate_rows, plate_weights
from likely.models._discrete_families import family_of
from likely.models._gaussian_family import GaussianFamily
from likely.models._options import check_count, check_number
from likely.models.markov._packing import Packing
from likely.models.markov._predictions import Predictions
from likely.models.markov.distribution import HiddenMarkovChains
from likely.models.markov.sequences import Sequences, as_sequences, check_columns


@dataclass(frozen=True)
class HiddenMarkovModel(Predictions):
    r"""Sequences of observations of a Markov chain that is not seen itself.

    .. math:: z_1 \sim \mathrm{Categorical}(\text{initial}), \quad
              z_t \sim \mathrm{Categorical}(\text{transition}_{z_{t-1}}), \quad
              x_t \sim \mathrm{Emission}(\theta_{z_t})

    (Rabiner 1989, "A tutorial on hidden Markov models", Proceedings of the IEEE 77(2).) The states
    are summed out by the forward–backward recursions, so ``EM`` is the algorithm of Baum & Welch.

    Parameters
    ----------
    n_states : int
        Number of states K.
    emission : {"gaussian", "poisson", "bernoulli", "categorical"}
        What the D features of an observation are, given the state.
    covariance : {"full", "tied", "diag", "spherical", "tied_spherical"}
        Of a Gaussian emission, as in `GaussianMixture`.
    initial_concentration : float
        Parameter of the symmetric Dirichlet prior on ``initial``.
    transition_concentration : float
        Parameter of the Dirichlet priors on the rows of ``transition``.
    stickiness : float
        Added to that parameter on the diagonal: a prior belief that states last (Fox et al. 2011,
        "A sticky HDP-HMM", section 3).
    options : dict
        Options of the emission. For ``"gaussian"``, ``loc_mean``, ``loc_scale``, ``scale_median``,
        ``scale_log_sd``, ``correlation_concentration`` and ``covariance_floor`` of
        `GaussianMixture`; for the others, those of `Mixture`.

    Raises
    ------
    DataError
        For an option out of range.

    Notes
    -----
    Sites ``initial`` [K], ``transition`` [K, K] (row: from, column: to) and those of the emission,
    all with plate ``state``: ``locs`` [K, D], ``scales``, ``correlation_cholesky`` and the
    deterministic ``covariances`` (as in `GaussianMixture`), ``rates`` [K, D] (Poisson), or
    ``probabilities`` [K, D] (Bernoulli) or [K, D, C] (categorical). Discrete latent ``state``
    [sequence, step, K], NaN beyond the end of a sequence, which the distribution of the observed
    ``x`` [N, D] sums out. Plate ``sequence``: the log-likelihood has one entry a sequence. Missing
    entries of x, as NaN, are integrated out.

    Predictions are methods: `viterbi`, `smooth`, `filter`, `score_steps`, `forecast`, `sample`.

    Examples
    --------
    >>> import pyro
    >>> pyro.set_rng_seed(0)
    >>> HiddenMarkovModel(2, "poisson")(lengths=[40, 60], dim=3).shape
    torch.Size([100, 3])
    """

    n_states: int
    emission: str = "gaussian"
    covariance: str = "full"
    initial_concentration: float = 1.0
    transition_concentration: float = 1.0
    stickiness: float = 0.0
    options: Mapping[str, Any] = field(default_factory=dict, hash=False)

    exchangeable: ClassVar[tuple[str, ...]] = ("state",)

    def __post_init__(self) -> None:
        check_count(self.n_states, "n_states", 1)
        for name in ("initial_concentration", "transition_concentration"):
            check_number(getattr(self, name), name, positive=True)
        if check_number(self.stickiness, "stickiness") < 0:
            raise DataError(f"stickiness must be >= 0, got {self.stickiness!r}")
        if self.emission != "gaussian" and self.covariance != "full":
            raise DataError(
                f"covariance is an option of Gaussian emissions, got {self.covariance!r} for "
                f"{self.emission!r}"
            )
        object.__setattr__(self, "options", dict(self.options))
        _ = self.family

    @property
    def family(self) -> Any:
        """The emissions."""
        if self.emission != "gaussian":
            return family_of(self.emission, self.options)
        try:
            return GaussianFamily(self.covariance, **self.options)
        except TypeError as error:
            raise DataError(f"options of emission 'gaussian': {error}") from error

    @property
    def dims(self) -> dict[str, tuple[str, ...]]:
        """Names of the event dimensions of each site."""
        return {
            "initial": ("state",),
            "transition": ("state_to",),
            "x": ("observation", "feature"),
            "state": ("state",),
            **self.family.dims,
        }

    def coords(
        self, x: Any = None, *, lengths: Any = None, dim: int | None = None, weights: Any = None
    ) -> dict[str, Sequence[Any]]:
        """Labels of the dimensions: ids of the sequences and names of the features."""
        states = range(self.n_states)
        labels: dict[str, Sequence[Any]] = {"state": states, "state_to": states}
        if x is None:
            features: Sequence[Any] = range(as_size(dim, "dim"))
            labels["sequence"] = range(len(_checked_lengths(lengths)))
        else:
            known = getattr(x, "columns", None)
            sequences = as_sequences(x, lengths)
            features = [str(c) for c in known] if known is not None else sequences.features.tolist()
            labels["sequence"] = sequences.sequences.tolist()
        labels["feature"] = labels["feature_bis"] = features
        return labels

    def __call__(
        self, x: Any = None, *, lengths: Any = None, dim: int | None = None, weights: Any = None
    ) -> Tensor:
        """Run the program.

        Parameters
        ----------
        x
            `Sequences`; or one sequence [T, D] or [T], sequences of equal length [S, T, D], a list
            of arrays [T_i, D], or all steps [N, D] with ``lengths``. NaN where an entry is missing.
            Left out to simulate.
        lengths
            [S]: steps of each sequence, to simulate or to tell rows [N, D] apart.
        dim
            Number of features to simulate.
        weights
            [S]: how often each sequence counts, at least 0.

        Returns
        -------
        Tensor
            [N, D]: the steps of all sequences, one sequence after another, given or simulated.

        Raises
        ------
        DataError
            If neither ``x`` nor both ``lengths`` and ``dim`` are given; if sequences are empty or
            hold infinite or impossible entries; if a prior has another number of features.
        """
        sequences, packing, d = self._resolve(x, lengths, dim)
        like = torch.empty(()) if sequences is None else sequences.x
        k, device = self.n_states, str(like.device)
        alpha = like.new_full((k,), float(self.initial_concentration))
        beta = self.transition_concentration + self.stickiness * torch.eye(k).to(like)
        initial = pyro.sample("initial", dist.Dirichlet(alpha))
        state = pyro.plate("state", k, device=device)
        with state:
            transition = pyro.sample("transition", dist.Dirichlet(beta))
        params = self.family.sample(like, d, state)
        observed = None
        if sequences is None:
            features = self.family.features(like.new_zeros(1, d))
        else:
            observed = sequences.x, sequences.steps(self.family)
            features = observed[1].features
        n = packing.n_sequences
        counted = as_weights(weights, n, like)
        with pyro.plate("sequence", n, device=device) as index:
            rows = plate_rows(index, n, like.device)
            if sequences is not None and isinstance(rows, Tensor):
                sequences = sequences.subset(rows)
                packing, observed = sequences.packing, None
            chains = HiddenMarkovChains(
                # Plates outside leave a dimension of one where the sequences are.
                initial if initial.dim() == 1 else initial.squeeze(-2),
                transition,
                self.family.natural(params, features),
                features,
                packing,
                d,
                lambda states: self.family.distribution(params, states).sample(),
                observed,
            )
            obs = None if sequences is None else sequences.x
            with plate_weights(counted, rows):
                found: Tensor = pyro.sample("x", chains, obs=obs)
        return found

    def initial(
        self, x: Any = None, *, lengths: Any = None, dim: int | None = None, weights: Any = None
    ) -> dict[str, Tensor]:
        """Start at k-means clusters of all steps: their moments, and their moves plus one each.

        The clusters are seeded from torch's random numbers; the first state is uniform.

        Raises
        ------
        DataError
            If there are fewer steps than states, or a feature is missing everywhere.
        """
        if x is None:
            return {}
        sequences, packing, _ = self._resolve(x, lengths, dim)
        assert sequences is not None
        rows, k = sequences.x, self.n_states
        check_columns(sequences)
        if sequences.n_steps < k:
            raise DataError(
                f"x must have at least one step for each of {k} states, got {sequences.n_steps}"
            )
        if bool(torch.isnan(rows.sum())):
            rows = torch.where(torch.isnan(rows), rows.nanmean(0), rows)
        clusters = k_means(rows, k)
        packed = clusters[packing.rows]
        moves = packed[packing.earlier] * k + packed[packing.later]
        counts = torch.bincount(moves, minlength=k * k).reshape(k, k).to(rows.dtype) + 1
        return {
            "initial": rows.new_full((k,), 1.0 / k),
            "transition": counts / counts.sum(-1, keepdim=True),
            **self.family.initial(rows, torch.nn.functional.one_hot(clusters, k).to(rows.dtype)),
        }

    def m_step(
        self,
        expected: Mapping[str, Any],
        params: dict[str, Tensor],
        x: Any = None,
        *,
        objective: str,
        lengths: Any = None,
        dim: int | None = None,
        weights: Any = None,
    ) -> dict[str, Tensor]:
        """Maximise the expected complete-data log-likelihood over the emissions.

        Rabiner 1989, equations 53 and 54, for Gaussian emissions. The tables are for the engine.

        Parameters
        ----------
        expected
            ``x``: expected sufficient statistics, ``"emission"`` [K, F].
        params
            Current values of the sites.
        x, lengths, dim, weights
            As in the call of the program.
        objective
            ``"likelihood"``; with priors there is no closed form, and nothing is returned.
        """
        if objective != "likelihood" or x is None:
            return {}
        sequences, _, _ = self._resolve(x, lengths, dim)
        assert sequences is not None
        total = expected["x"]["emission"]
        found: dict[str, Tensor] = self.family.m_step(total, params, sequences.x)
        return found

    def review(
        self,
        params: Mapping[str, Tensor],
        x: Any = None,
        *,
        lengths: Any = None,
        dim: int | None = None,
        weights: Any = None,
    ) -> list[str]:
        """What a user should know about a fit: states whose emissions have collapsed."""
        if x is None:
            return []
        sequences, _, _ = self._resolve(x, lengths, dim)
        assert sequences is not None
        found: list[str] = self.family.review(params, sequences.x)
        return found

    def _resolve(
        self, x: Any, lengths: Any, dim: int | None
    ) -> tuple[Sequences | None, Packing, int]:
        """The sequences if there are any, how they are packed, and the number of features."""
        if x is None:
            if lengths is None or dim is None:
                raise DataError(
                    "give x, or the lengths of sequences and the number dim of features"
                )
            d = as_size(dim, "dim")
            self.family.check_size(d)
            return None, Packing.build(_checked_lengths(lengths)), d
        with ignore_jit_warnings():
            sequences = as_sequences(x, lengths)
            self.family.check(sequences.x)
        d = sequences.n_features
        if dim not in (None, d):
            raise DataError(f"x has {d} features, but dim={dim} was given")
        self.family.check_size(d)
        return sequences, sequences.packing, d


def _checked_lengths(lengths: Any) -> Tensor:
    found = as_tensor(lengths, "lengths")
    whole = not found.is_floating_point() and found.dtype != torch.bool
    if found.dim() != 1 or len(found) == 0 or not whole or bool((found < 1).any()):
        raise DataError(f"lengths: expected whole numbers of at least 1, got {lengths!r}")
    return found.long()
