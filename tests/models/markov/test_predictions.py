from __future__ import annotations

import pytest
import torch

from likely.envs import DataError
from likely.inference import EM
from likely.models import HiddenMarkovModel

PROGRAM = HiddenMarkovModel(2, covariance="diag")
PARAMS = {
    "initial": torch.tensor([0.4, 0.6], dtype=torch.float64),
    "transition": torch.tensor([[0.9, 0.1], [0.3, 0.7]], dtype=torch.float64),
    "locs": torch.tensor([[0.0], [1.5]], dtype=torch.float64),
    "scales": torch.tensor([[1.0], [0.5]], dtype=torch.float64),
}
LENGTHS = [5, 1, 3]


@pytest.fixture
def sequences():
    return PROGRAM.sample(PARAMS, LENGTHS)[0]


def test_each_sequence_has_a_row_for_each_step(sequences):
    for found, width in (
        (PROGRAM.smooth(PARAMS, sequences), (2,)),
        (PROGRAM.filter(PARAMS, sequences), (2,)),
        (PROGRAM.viterbi(PARAMS, sequences), ()),
        (PROGRAM.score_steps(PARAMS, sequences), ()),
    ):
        assert [tuple(part.shape) for part in found] == [(length, *width) for length in LENGTHS]
    for part in PROGRAM.smooth(PARAMS, sequences) + PROGRAM.filter(PARAMS, sequences):
        torch.testing.assert_close(part.sum(-1), torch.ones(len(part)))


def test_sequences_keep_the_order_they_came_in(sequences):
    for number, part in enumerate(sequences):
        for method in (PROGRAM.smooth, PROGRAM.filter, PROGRAM.viterbi, PROGRAM.score_steps):
            alone = method(PARAMS, part)[0]
            torch.testing.assert_close(method(PARAMS, sequences)[number], alone)


def test_smoothing_is_what_a_fit_says_of_its_data(sequences):
    found = EM(init=PARAMS, tol=1e-3).fit(PROGRAM, sequences)
    latent = found.latent("state")
    for number, part in enumerate(PROGRAM.smooth(found.params, sequences)):
        torch.testing.assert_close(latent[number, : len(part)], part)


def test_the_last_step_is_filtered_as_it_is_smoothed(sequences):
    smooth, past = PROGRAM.smooth(PARAMS, sequences), PROGRAM.filter(PARAMS, sequences)
    for one, other in zip(smooth, past, strict=True):
        torch.testing.assert_close(one[-1], other[-1])


def test_scores_of_steps_sum_to_those_of_sequences(sequences):
    steps = torch.stack([part.sum() for part in PROGRAM.score_steps(PARAMS, sequences)])
    torch.testing.assert_close(steps, PROGRAM.score_sequences(PARAMS, sequences))
    gap = sequences.x.clone()
    gap[2] = torch.nan
    assert float(PROGRAM.score_steps(PARAMS, gap, lengths=LENGTHS)[0][2]) == pytest.approx(0.0)
    counts = {**PARAMS, "rates": torch.tensor([[1.0], [4.0]], dtype=torch.float64)}
    poisson = HiddenMarkovModel(2, "poisson")
    density = poisson.score_steps(counts, torch.tensor([3.0]))[0].exp()
    # A mixture by the probabilities of the first state, the factorial included.
    expected = (
        torch.tensor([0.4, 0.6])
        @ torch.distributions.Poisson(torch.tensor([1.0, 4.0])).log_prob(torch.tensor(3.0)).exp()
    )
    assert float(density) == pytest.approx(float(expected), rel=1e-12)


def test_forecasts_have_the_moments_of_the_chain(sequences):
    draws, steps = 20_000, 4
    x, state = PROGRAM.forecast(PARAMS, sequences, steps, draws=draws)
    assert x.shape == (draws, 3, steps, 1)
    assert state.shape == (draws, 3, steps)
    last = torch.stack([part[-1] for part in PROGRAM.filter(PARAMS, sequences)])
    probability = last
    for ahead in range(steps):
        probability = probability @ PARAMS["transition"]
        share = (state[..., ahead] == 1).double().mean(0)
        error = (probability[:, 1] * probability[:, 0] / draws).sqrt()
        assert bool(((share - probability[:, 1]).abs() <= 4.5 * error).all())
        mean = probability @ PARAMS["locs"]
        error = x[:, :, ahead, 0].std(0) / draws**0.5
        assert bool(((x[:, :, ahead].mean(0) - mean).squeeze(-1).abs() <= 4.5 * error).all())


def test_forecasts_of_draws_know_how_uncertain_the_parameters_are(sequences):
    # Two halves of the posterior draws that disagree about where state 1 is.
    several = {name: value.expand(2, 50, *value.shape).clone() for name, value in PARAMS.items()}
    several["locs"][1] += 100.0
    x, _ = PROGRAM.forecast(several, sequences, 2, draws=200)
    assert x.shape == (200, 3, 2, 1)
    assert int((x > 50).all(-1).all(-1).all(-1).sum()) == 100


def test_the_same_seed_gives_the_same_future(sequences):
    state = torch.get_rng_state()
    one, other, third = (
        PROGRAM.forecast(PARAMS, sequences, 3, draws=5, seed=seed)[0] for seed in (1, 1, 2)
    )
    assert torch.equal(one, other)
    assert not torch.equal(one, third)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(
        PROGRAM.sample(PARAMS, LENGTHS, seed=3)[0].x, PROGRAM.sample(PARAMS, LENGTHS, seed=3)[0].x
    )


def test_samples_follow_the_chain():
    sequences, state = PROGRAM.sample(PARAMS, [50] * 400)
    first = state.reshape(400, 50)[:, 0].double().mean()
    assert abs(float(first) - 0.6) <= 4.5 * (0.24 / 400) ** 0.5
    before, after = state.reshape(400, 50)[:, :-1], state.reshape(400, 50)[:, 1:]
    for row, expected in enumerate(PARAMS["transition"][:, 1].tolist()):
        moved = after[before == row].double()
        bound = 4.5 * (expected * (1 - expected) / len(moved)) ** 0.5
        assert abs(float(moved.mean()) - expected) <= bound
        own = sequences.x[state == row]
        bound = 4.5 * float(PARAMS["scales"][row]) / len(own) ** 0.5
        assert abs(float(own.mean() - PARAMS["locs"][row])) <= bound


@pytest.mark.parametrize("method", ["smooth", "filter", "viterbi", "score_steps"])
def test_other_features_than_those_fitted_are_refused(method):
    with pytest.raises(DataError, match="x has 2 features, but the emissions have 1"):
        getattr(PROGRAM, method)(PARAMS, torch.zeros(4, 2))


def test_impossible_arguments_of_forecasts(sequences):
    with pytest.raises(DataError, match="steps"):
        PROGRAM.forecast(PARAMS, sequences, 0)
    with pytest.raises(DataError, match="draws"):
        PROGRAM.forecast(PARAMS, sequences, 1, draws=1.5)
    with pytest.raises(DataError, match="counts"):
        HiddenMarkovModel(2, "poisson").smooth(
            {**PARAMS, "rates": torch.ones(2, 1, dtype=torch.float64)}, torch.tensor([1.0, -2.0])
        )
