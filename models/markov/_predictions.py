"""What a fitted hidden Markov model says about sequences, old and new."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import pyro
import torch
from pyro import poutine
from torch import Tensor

from likely.envs import DataError
from likely.models._data import as_size
from likely.models._rows import default_dtype
from likely.models.markov.distribution import HiddenMarkovChains
from likely.models.markov.sequences import Sequences, as_sequences

Params = Mapping[str, Tensor]


class Predictions:
    """Methods of `HiddenMarkovModel` that take the values of its sites.

    ``params`` is a fit's ``params``; ``x`` is what the program is called with.
    """

    n_states: int
    family: Any

    def viterbi(self, params: Params, x: Any, *, lengths: Any = None) -> list[Tensor]:
        """Most probable path of states of each sequence (Viterbi 1967).

        Returns
        -------
        list of Tensor
            int64 [T_i] for each sequence.

        Raises
        ------
        DataError
            If x has another number of features than ``params``, and as the program does.
        """
        sequences, chains = self._at(params, x, lengths)
        return _by_sequence(chains.viterbi(sequences.x), sequences)

    def smooth(self, params: Params, x: Any, *, lengths: Any = None) -> list[Tensor]:
        """Posterior probabilities p(z_t | x_1, …, x_T), [T_i, K] for each sequence.

        For the data of a fit, ``fit.latent("state")`` has the same numbers, padded with NaN, and
        averages over the draws of a posterior.
        """
        sequences, chains = self._at(params, x, lengths)
        return _by_sequence(chains.smoothed(sequences.x).T, sequences)

    def filter(self, params: Params, x: Any, *, lengths: Any = None) -> list[Tensor]:
        """Probabilities p(z_t | x_1, …, x_t) that know the past only, [T_i, K] each."""
        sequences, chains = self._at(params, x, lengths)
        return _by_sequence(chains.filtered(sequences.x)[0].T, sequences)

    def score_steps(self, params: Params, x: Any, *, lengths: Any = None) -> list[Tensor]:
        """One-step predictive log-scores log p(x_t | x_1, …, x_{t−1}), [T_i] each.

        They sum to the sequence's log-likelihood; a missing step scores 0.
        """
        sequences, chains = self._at(params, x, lengths)
        return _by_sequence(chains.filtered(sequences.x)[1], sequences)

    def score_sequences(self, params: Params, x: Any, *, lengths: Any = None) -> Tensor:
        """Log-likelihood of each sequence, [S] nats."""
        sequences, chains = self._at(params, x, lengths)
        return chains.log_prob(sequences.x)

    def forecast(
        self,
        params: Params,
        x: Any,
        steps: int,
        *,
        draws: int = 1000,
        lengths: Any = None,
        seed: int = 0,
    ) -> tuple[Tensor, Tensor]:
        """Simulate what comes after each sequence.

        Parameters
        ----------
        params
            A fit's ``params``; or its ``draws`` [chain, draw, *shape], so that the forecast knows
            how uncertain the parameters are.
        x, lengths
            The sequences so far, as in the call of the program.
        steps
            How many steps ahead.
        draws
            How many futures; with posterior draws they are shared out evenly.
        seed
            The same seed gives the same numbers.

        Returns
        -------
        x : Tensor
            [draws, S, steps, D].
        state : Tensor
            int64 [draws, S, steps].
        """
        steps, draws = as_size(steps, "steps"), as_size(draws, "draws")
        futures, states = [], []
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            for values, count in _shared_out(params, draws):
                sequences, chains = self._at(values, x, lengths)
                filtered, _ = chains.filtered(sequences.x)
                ends = _by_sequence(filtered.T, sequences)
                last = torch.stack([end[-1] for end in ends])
                with torch.no_grad():
                    state = _walk(last, chains.transition, steps, count)
                    assert chains.draw is not None
                    drawn = chains.draw(state.reshape(-1))
                futures.append(drawn.reshape(*state.shape, -1))
                states.append(state)
        return torch.cat(futures), torch.cat(states)

    def sample(self, params: Params, lengths: Any, *, seed: int = 0) -> tuple[Sequences, Tensor]:
        """Simulate sequences and their states.

        Parameters
        ----------
        params
            Values of the sites, a fit's ``params``.
        lengths
            [S]: steps of each sequence.
        seed
            The same seed gives the same numbers.

        Returns
        -------
        sequences : Sequences
        state : Tensor
            int64 [N]: the states of all steps, one sequence after another.
        """
        dim = self.family.n_features(params)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            chains = self._chains(params, lengths=lengths, dim=dim)
            x, state = chains.sample_with_states()
        return Sequences.from_arrays(x, chains.packing.lengths), state

    def _at(
        self, params: Params, x: Any, lengths: Any = None
    ) -> tuple[Sequences, HiddenMarkovChains]:
        like = next(iter(params.values()))
        sequences = as_sequences(x, lengths).to(like.dtype, like.device)
        dim = self.family.n_features(params)
        if sequences.n_features != dim:
            raise DataError(f"x has {sequences.n_features} features, but the emissions have {dim}")
        return sequences, self._chains(params, sequences)

    def _chains(self, params: Params, *args: Any, **kwargs: Any) -> HiddenMarkovChains:
        """The distribution of sequences at values of the sites."""
        like = next(iter(params.values()))
        with default_dtype(like.dtype), pyro.validation_enabled(True), torch.no_grad():
            program: Any = self
            run = poutine.condition(program, data=dict(params))
            trace = poutine.trace(run).get_trace(*args, **kwargs)
        chains: Any = trace.nodes["x"]["fn"]
        assert isinstance(chains, HiddenMarkovChains)
        return chains


def _by_sequence(columns: Tensor, sequences: Sequences) -> list[Tensor]:
    """Packed columns [N, ...] as one tensor [T_i, ...] a sequence."""
    rows = torch.empty_like(columns)
    rows[sequences.packing.rows] = columns
    return list(rows.split(sequences.lengths.tolist()))


def _shared_out(params: Params, draws: int) -> Iterator[tuple[Params, int]]:
    """Sets of values and how many of ``draws`` futures each gets."""
    lead = params["initial"].shape[:-1]
    if not lead:
        yield params, draws
        return
    flat = {name: value.flatten(0, len(lead) - 1) for name, value in params.items()}
    total = lead.numel()
    # Draws that follow one another are alike: take them evenly from all.
    chosen = torch.arange(draws) * total // draws
    for number, count in zip(*torch.unique(chosen, return_counts=True), strict=True):
        yield {name: value[number] for name, value in flat.items()}, int(count)


def _walk(last: Tensor, transition: Tensor, steps: int, count: int) -> Tensor:
    """States int64 [count, S, steps] after last states of probabilities ``last`` [S, K]."""
    state = torch.multinomial(last, count, replacement=True).T
    walked = []
    for _ in range(steps):
        state = torch.multinomial(transition[state.reshape(-1)], 1).reshape(state.shape)
        walked.append(state)
    return torch.stack(walked, -1)
