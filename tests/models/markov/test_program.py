from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from hmmlearn.hmm import CategoricalHMM, GaussianHMM, PoissonHMM
from statsmodels.datasets import nile

from likely.envs import DataError
from likely.inference import EM, MAP, MLE, BoundaryWarning, Fit
from likely.models import GaussianMixture, HiddenMarkovModel, Sequences
from likely.models.markov import kernels

pytestmark = pytest.mark.filterwarnings(
    "ignore::likely.inference.errors.ConvergenceWarning",
    "ignore::likely.inference.errors.BoundaryWarning",
)

LENGTHS = [40, 25, 1, 60, 33]
MOVES = torch.tensor([[0.85, 0.1, 0.05], [0.1, 0.8, 0.1], [0.2, 0.1, 0.7]], dtype=torch.float64)
TRUTH = {
    "initial": torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64),
    "transition": MOVES,
    "locs": torch.tensor([[0.0, 0.0], [2.5, 1.0], [-1.0, 3.0]], dtype=torch.float64),
    "scales": torch.tensor([[1.0, 0.7], [0.8, 1.2], [0.6, 0.6]], dtype=torch.float64),
}
CHOLESKY = torch.tensor([[1.0, 0.0], [0.6, 0.8]], dtype=torch.float64).expand(3, 2, 2)
COUNTS = {
    "initial": TRUTH["initial"],
    "transition": MOVES,
    "rates": torch.tensor([[1.0, 4.0], [5.0, 2.0], [9.0, 9.0]], dtype=torch.float64),
}
WORDS = {
    "initial": TRUTH["initial"],
    "transition": MOVES,
    "probabilities": torch.tensor(
        [[[0.8, 0.1, 0.1, 0.0]], [[0.05, 0.05, 0.2, 0.7]], [[0.1, 0.8, 0.05, 0.05]]],
        dtype=torch.float64,
    ),
}
PAIRS = {
    "full": (HiddenMarkovModel(3), {**TRUTH, "correlation_cholesky": CHOLESKY}),
    "diag": (HiddenMarkovModel(3, covariance="diag"), TRUTH),
    "poisson": (HiddenMarkovModel(3, "poisson"), COUNTS),
    "categorical": (HiddenMarkovModel(3, "categorical", options={"n_categories": 4}), WORDS),
}


def data(name, lengths=LENGTHS, seed=0):
    program, truth = PAIRS[name]
    sequences, _ = program.sample(truth, lengths, seed=seed)
    return program, sequences.to(dtype=torch.float64)


def start(name, sequences):
    """Values from which there is far to go."""
    _, truth = PAIRS[name]
    found = {
        "initial": torch.full((3,), 1 / 3),
        "transition": torch.full((3, 3), 0.2) + 0.4 * torch.eye(3),
    }
    if "locs" in truth:
        found["locs"] = sequences.x[[3, 50, 90]]
        found["scales"] = sequences.x.std(0).expand(3, 2).clone()
    if "correlation_cholesky" in truth:
        found["correlation_cholesky"] = torch.eye(2).expand(3, 2, 2).clone()
    if "rates" in truth:
        found["rates"] = sequences.x[[3, 50, 90]] + 1.0
    if "probabilities" in truth:
        table = torch.rand(3, 1, 4, generator=torch.Generator().manual_seed(0))
        found["probabilities"] = table.softmax(-1)
    return found


def peer(name, init, n_iter):
    """hmmlearn's model with its priors switched off."""
    options = {"n_components": 3, "n_iter": n_iter, "tol": -np.inf, "init_params": ""}
    if name in ("full", "diag"):
        model = GaussianHMM(covariance_type=name, covars_prior=0.0, covars_weight=0.0, **options)
        model.means_ = init["locs"].numpy()
        variances = init["scales"].square()
        model.covars_ = (variances.diag_embed() if name == "full" else variances).numpy()
    elif name == "poisson":
        model = PoissonHMM(**options)
        model.lambdas_ = init["rates"].numpy()
    else:
        model = CategoricalHMM(n_features=4, **options)
        model.emissionprob_ = init["probabilities"].squeeze(1).numpy()
    model.startprob_, model.transmat_ = init["initial"].numpy(), init["transition"].numpy()
    return model


@pytest.mark.parametrize("name", PAIRS)
def test_em_climbs_with_hmmlearn_step_by_step(name):
    program, sequences = data(name)
    init = start(name, sequences)
    steps = 12
    found = EM(init=init, max_iter=steps, tol=1e-300).fit(program, sequences)
    model = peer(name, init, steps + 1)
    x = sequences.x.numpy()
    model.fit(x.astype(int) if name in ("categorical", "poisson") else x, LENGTHS)
    history = found.history["objective"].to_numpy()
    # hmmlearn notes the likelihood before each of its steps, and keeps them all.
    assert len(model.monitor_.history) == len(history) == steps + 1
    np.testing.assert_allclose(history, model.monitor_.history, rtol=1e-9)
    assert bool((np.diff(history) >= -1e-9 * abs(history[-1])).all())
    assert history[-1] > history[0] + 1.0


def test_the_optimum_is_that_of_gradients_and_has_standard_errors():
    program, sequences = data("full")
    by_em, by_gradient = EM(max_iter=500).fit(program, sequences), MLE().fit(program, sequences)
    assert by_em.log_likelihood == pytest.approx(by_gradient.log_likelihood, rel=1e-6)
    errors = by_gradient.standard_errors()
    free = errors["locs"]
    assert bool((free > 0).all())
    # A mean cannot be known better than from all its state's steps.
    counts = torch.nan_to_num(by_gradient.latent("state")).sum((0, 1)).unsqueeze(-1)
    assert bool((free >= 0.95 * by_gradient.params["scales"] / counts.sqrt()).all())


def test_the_nile_dropped_in_1898():
    frame = nile.load_pandas().data
    flow = Sequences.from_frame(frame, columns="volume")
    engine = EM(restarts=2, tol=1e-11, max_iter=1000)
    # One state is a Gaussian sample.
    alone = engine.fit(HiddenMarkovModel(1), flow).log_likelihood
    assert alone == pytest.approx(-50 * (np.log(2 * np.pi * frame["volume"].var(ddof=0)) + 1))
    program = HiddenMarkovModel(2)
    fit = engine.fit(program, flow)
    peer = GaussianHMM(2, n_iter=1000, tol=1e-11, covars_prior=0.0, covars_weight=0, random_state=0)
    peer.fit(flow.x.numpy())
    assert fit.log_likelihood == pytest.approx(peer.score(flow.x.numpy()), rel=1e-6)
    # Cobb 1978, "The problem of the Nile": the change came after 1898.
    path = program.viterbi(fit.params, flow)[0]
    (last,) = (path.diff() != 0).nonzero().flatten().tolist()
    assert frame["year"][last] == 1898
    before, after = (fit.params["locs"][path[at], 0] for at in (0, -1))
    assert float(before - after) == pytest.approx(250, abs=25)


def aligned(found, truth, name):
    """Order of the states of ``found`` that is nearest to the truth's."""
    distance = torch.cdist(truth[name].flatten(1), found[name].flatten(1))
    order = distance.argmin(1)
    assert sorted(order.tolist()) == list(range(len(order)))
    return order


@pytest.mark.parametrize("name", ["full", "poisson", "categorical"])
def test_a_known_chain_is_found(name):
    program, truth = PAIRS[name]
    _, sequences = data(name, [200] * 10, seed=1)
    found = EM(seed=1).fit(program, sequences).params
    order = aligned(found, truth, next(site for site in truth if site in program.family.dims))
    # At least 400 steps in each state; 4.5 standard errors of a proportion.
    moved = found["transition"][order][:, order]
    bound = 4.5 * (truth["transition"] * (1 - truth["transition"]) / 400).sqrt()
    assert bool(((moved - truth["transition"]).abs() <= bound).all())
    for site in program.family.dims:
        if site in truth and site != "correlation_cholesky":
            scale = truth[site].abs().clamp_min(1.0)
            assert bool(((found[site][order] - truth[site]).abs() <= 0.25 * scale).all())


def test_an_iteration_costs_one_pass_over_the_data(monkeypatch):
    program, sequences = data("full")
    calls = []
    smoother = kernels._smoother
    monkeypatch.setattr(
        kernels, "_smoother", lambda *a, **k: calls.append("pass") or smoother(*a, **k)
    )
    monkeypatch.setattr(HiddenMarkovModel, "initial", lambda *a, **k: calls.append("hook"))
    # With every unknown given, nothing else looks at the data, but for reading the program.
    EM(init=start("full", sequences), max_iter=3).fit(program, sequences)
    assert calls.count("hook") == 0
    assert calls.count("pass") == 4


def test_zero_cells_stay_zero():
    program, sequences = data("diag")
    init = start("diag", sequences)
    init["initial"] = torch.tensor([1.0, 0.0, 0.0])
    init["transition"] = torch.tensor([[0.9, 0.1, 0.0], [0.0, 0.9, 0.1], [0.0, 0.0, 1.0]])
    found = EM(init=init, max_iter=20).fit(program, sequences)
    assert found.params["initial"].tolist() == [1.0, 0.0, 0.0]
    assert bool((found.params["transition"][init["transition"] == 0] == 0).all())
    assert bool(torch.isfinite(found.params["transition"]).all())
    history = found.history["objective"].to_numpy()
    assert bool((np.diff(history) >= -1e-9 * abs(history[-1])).all())


def test_one_state_is_the_family_alone():
    program = HiddenMarkovModel(1)
    _, sequences = data("full")
    found = EM().fit(program, sequences)
    x = sequences.x
    torch.testing.assert_close(found.params["locs"][0], x.mean(0), rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(
        found.params["covariances"][0], x.T.cov(correction=0), rtol=1e-8, atol=1e-10
    )
    assert found.params["transition"].tolist() == [[1.0]]
    latent = found.latent("state")
    assert bool((latent[~latent.isnan()] == 1).all())


def test_sequences_of_one_step_are_a_mixture():
    _, sequences = data("diag")
    x = sequences.x
    single = Sequences.from_arrays(x, [1] * len(x))
    start_of_mixture = {
        "locs": x[[3, 50, 90]],
        "scales": x.std(0).expand(3, 2).clone(),
        "weights": torch.full((3,), 1 / 3),
    }
    mixture = EM(init=start_of_mixture, max_iter=15).fit(GaussianMixture(3, "diag"), x)
    init = {**start_of_mixture, "initial": start_of_mixture["weights"], "transition": MOVES}
    del init["weights"]
    chains = EM(init=init, max_iter=15).fit(HiddenMarkovModel(3, covariance="diag"), single)
    torch.testing.assert_close(
        torch.tensor(chains.history["objective"].to_numpy()),
        torch.tensor(mixture.history["objective"].to_numpy()),
        rtol=1e-10,
        atol=0,
    )
    # Nothing is said about moves, so they stay.
    torch.testing.assert_close(chains.params["transition"], MOVES, rtol=1e-12, atol=0)


def test_constant_columns_and_missing_entries():
    program, sequences = data("diag")
    x = sequences.x.clone()
    x[5], x[50:55, 0] = torch.nan, torch.nan
    found = EM(max_iter=30).fit(program, x, lengths=LENGTHS)
    assert np.isfinite(found.log_likelihood)
    x[:, 1] = 3.0
    found = EM(max_iter=30).fit(program, x, lengths=LENGTHS)
    assert np.isfinite(found.log_likelihood)
    torch.testing.assert_close(found.params["locs"][:, 1], torch.full((3,), 3.0))


def test_classification_em_climbs_the_best_path():
    program, sequences = data("full")
    found = EM(hard=True, max_iter=30).fit(program, sequences)
    steps = found.history["objective"].diff().dropna()
    assert bool((steps >= -1e-9 * abs(found.history["objective"].iloc[-1])).all())
    paths = torch.cat(program.viterbi(found.params, sequences))
    means = torch.stack([sequences.x[paths == k].mean(0) for k in range(3)])
    torch.testing.assert_close(found.params["locs"], means, rtol=1e-6, atol=1e-6)


def test_stickiness_is_a_prior_on_the_diagonal():
    _, sequences = data("diag")
    loose = MAP().fit(HiddenMarkovModel(3, covariance="diag"), sequences)
    sticky = MAP().fit(HiddenMarkovModel(3, covariance="diag", stickiness=200.0), sequences)
    one, other = (f.params["transition"].diagonal().min() for f in (loose, sticky))
    assert float(other) > float(one) + 0.1


def test_every_way_to_give_the_data_is_the_same():
    program, sequences = data("diag", [20, 20, 20])
    block = torch.stack(list(sequences))
    options = {"max_iter": 3}
    expected = EM(**options).fit(program, sequences).log_likelihood
    for arguments, keywords in (
        ((block,), {}),
        ((block.numpy(),), {}),
        ((list(sequences),), {}),
        ((sequences.x,), {"lengths": [20, 20, 20]}),
    ):
        found = EM(**options).fit(program, *arguments, **keywords)
        assert found.log_likelihood == pytest.approx(expected, rel=1e-12)


def test_names_reach_arviz_and_files(tmp_path):
    program, _ = PAIRS["diag"]
    x = data("diag", [12, 8])[1].x.numpy()
    frame = pd.DataFrame({"who": ["a"] * 12 + ["b"] * 8, "up": x[:, 0], "down": x[:, 1]})
    found = EM(max_iter=3).fit(program, Sequences.from_frame(frame, "who"))
    posterior = found.to_arviz().posterior
    assert posterior["locs"].dims[2:] == ("state", "feature")
    assert posterior["transition"].dims[2:] == ("state", "state_to")
    assert posterior["feature"].values.tolist() == ["up", "down"]
    likelihood = found.to_arviz().log_likelihood["x"]
    assert likelihood.dims[2:] == ("sequence",)
    assert likelihood["sequence"].values.tolist() == ["a", "b"]
    assert float(likelihood.sum()) == pytest.approx(found.log_likelihood, rel=1e-12)
    found.save(tmp_path / "fit.nc")
    loaded = Fit.load(tmp_path / "fit.nc")
    torch.testing.assert_close(loaded.params["transition"], found.params["transition"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_states": 0}, "n_states"),
        ({"n_states": 2.5}, "n_states"),
        ({"n_states": 2, "emission": "beta"}, "emission"),
        ({"n_states": 2, "covariance": "round"}, "covariance"),
        ({"n_states": 2, "emission": "poisson", "covariance": "diag"}, "covariance is an option"),
        ({"n_states": 2, "initial_concentration": 0.0}, "initial_concentration"),
        ({"n_states": 2, "transition_concentration": float("nan")}, "transition_concentration"),
        ({"n_states": 2, "stickiness": -1.0}, "stickiness"),
        ({"n_states": 2, "options": {"colour": 1}}, "options of emission 'gaussian'"),
        ({"n_states": 2, "emission": "categorical"}, "options of emission 'categorical'"),
    ],
)
def test_options_out_of_range_are_refused(options, message):
    with pytest.raises(DataError, match=message):
        HiddenMarkovModel(**options)


INF, NAN = float("inf"), float("nan")


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("diag", {}, "give x, or the lengths"),
        ("diag", {"lengths": [3]}, "give x, or the lengths"),
        ("diag", {"lengths": [0], "dim": 2}, "lengths"),
        ("diag", {"lengths": [2.5], "dim": 2}, "lengths"),
        ("diag", {"x": np.ones((5, 2)), "dim": 3}, "dim=3"),
        ("diag", {"x": np.ones((2, 2))}, "at least one step for each of 3 states"),
        ("diag", {"x": np.array([[1.0, INF]] * 5)}, "infinite one at row 0, column 1"),
        ("diag", {"x": np.array([[1.0, NAN]] * 5)}, "none in column 1"),
        ("diag", {"x": np.zeros((0, 2))}, "x: expected shape"),
        ("diag", {"x": [["a"]] * 4}, "strings|numbers"),
        ("diag", {"x": np.ones((4, 2)), "weights": [1.0, 2.0]}, "weights"),
        ("diag", {"x": np.ones((4, 2)), "weights": [-1.0]}, "weights"),
        ("poisson", {"x": np.array([[1.0, 2.5]] * 4)}, "counts"),
        ("categorical", {"x": np.array([0.0, 4.0, 1.0])}, "categories 0, ..., 3"),
        ("categorical", {"x": np.array([0.0, -1.0, 1.0])}, "categories 0, ..., 3"),
    ],
)
def test_data_that_cannot_be_are_refused(name, arguments, message):
    x = arguments.pop("x", None)
    with pytest.raises(DataError, match=message):
        EM(max_iter=1).fit(PAIRS[name][0], *([] if x is None else [x]), **arguments)


def test_a_boundary_is_told():
    program, sequences = data("categorical")
    with pytest.warns(BoundaryWarning):
        MLE().fit(program, sequences)
