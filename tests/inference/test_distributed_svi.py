"""Several processes share a variational posterior, and EM steps that go over the data."""

from __future__ import annotations

import warnings

import numpy as np
import pytest

from ranks import launch, told

pytestmark = pytest.mark.slow

# Sums in another order differ by rounding, and Adam's steps carry it on.
SAME = 1e-8
# What the processes share: programs, data and engines, as one process has them, too.
SHARED = """
import numpy as np
import pyro
import pyro.distributions as dist
import torch
from likely.inference import EM, SVI
from likely.models.crowd import Annotations, DawidSkene, LearningFromCrowds

rng = np.random.default_rng(12)
features = rng.normal(size=(60, 2))
truth = (features[:, 0] > 0).astype(int)
task = np.repeat(np.arange(60), 3)
annotator = rng.permuted(np.tile(np.arange(4), (60, 1)), axis=1)[:, :3].reshape(-1)
label = np.where(rng.random(task.size) < 0.3, rng.integers(2, size=task.size), truth[task])
crowd = Annotations.from_arrays(task, annotator, label, features=features)
counts = torch.as_tensor(rng.poisson(np.where(rng.random(60) < 0.4, 1, 6))).double()


def two_rates(x):
    weights = pyro.sample("weights", dist.Dirichlet(torch.ones(2)))
    rate = pyro.sample("rate", dist.Gamma(2.0 * torch.ones(2), 1.0).to_event(1))
    with pyro.plate("n", len(x)):
        z = pyro.sample("z", dist.Categorical(weights))
        pyro.sample("x", dist.Poisson(rate[z]), obs=x)


def with_parameter(x):
    shape = pyro.param("shape", torch.tensor(2.0), constraint=dist.constraints.positive)
    rate = pyro.sample("rate", dist.Gamma(shape, 1.0))
    with pyro.plate("n", len(x)):
        pyro.sample("x", dist.Poisson(rate), obs=x)


def guide(x):
    loc = pyro.param("loc", torch.tensor(1.0))
    scale = pyro.param("scale", torch.tensor(0.1), constraint=dist.constraints.positive)
    pyro.sample("rate", dist.LogNormal(loc, scale))


RATES = {"weights": [0.5, 0.5], "rate": [1.0, 5.0]}
FLAT = {
    "classifier$$$weight": [[-0.5, 0.0], [0.5, 0.0]],
    "classifier$$$bias": [0.0, 0.0],
    "confusion": [[[0.7, 0.3], [0.3, 0.7]]] * 4,
}
FEW = {"max_iter": 60, "draws": 20}
CASES = {
    "normal": (SVI(**FEW), DawidSkene(2), "crowd"),
    "multivariate": (SVI(guide="multivariate", **FEW), DawidSkene(2), "crowd"),
    "restarts": (
        SVI(restarts=2, init={"shape": 2.0, "rate": 3.0}, **FEW), with_parameter, "counts"
    ),
    "flow": (SVI(guide="flow", **FEW), with_parameter, "counts"),
    "own": (SVI(guide=guide, num_particles=2, **FEW), with_parameter, "counts"),
    "delta": (SVI(guide="delta", init=RATES, **FEW), two_rates, "counts"),
    "latents": (SVI(guide="lowrank", init=RATES, **FEW), two_rates, "counts"),
    "em rates": (EM(init=RATES, tol=1e-12), two_rates, "counts"),
    "em classifier": (
        EM(objective="posterior", init=FLAT, max_iter=4),
        LearningFromCrowds(2, classifier=torch.nn.Linear(2, 2)),
        "crowd",
    ),
}


def cut(kind, start, stop):
    return crowd.subset(torch.arange(start, stop)) if kind == "crowd" else counts[start:stop]


def report(fit):
    return {
        "params": {n: v.tolist() for n, v in fit.params.items()},
        "draws": {n: v.tolist() for n, v in fit.draws.items()},
        "history": fit.history["objective"].tolist(),
        "diagnostics": {n: v for n, v in fit.diagnostics.items() if np.isfinite(v)},
        "log_likelihood": fit.log_likelihood,
    }
"""
WORKER = (
    SHARED
    + """
from likely.inference import Shards, latent_by_part, trained_guide

# A group of its own: ranks may start far apart, and yet a silent one is soon given up.
distributed.barrier()
quick = distributed.new_group(timeout=timedelta(seconds=4))
EDGES = {2: [[(0, 20), (20, 27)], [(27, 60)]], 3: [[], [(0, 31)], [(31, 40), (40, 60)]]}
started = time.monotonic()


def shards(kind):
    parts = [cut(kind, *edge) for edge in EDGES[size][rank]]
    return Shards(parts, distributed=True, group=quick if mode == "stalls" else None)


def dies(step):
    if rank == 1 and step.iteration == 20:
        os._exit(7)


def stalls(step):
    global started
    started = time.monotonic()
    if rank == 1 and step.iteration == 20:
        time.sleep(30)
        os._exit(7)


def breaks(step):
    if rank == 1 and step.iteration == 3:
        raise KeyError("mine")


def reads(x):
    pyro.sample("rate", dist.LogNormal(x.mean().log(), pyro.param("scale", torch.tensor(0.1))))


def lazy(x):
    # Only a rank's own number tells it what to say.
    pyro.sample("rate", dist.LogNormal(1.0 + rank, pyro.param("scale", torch.tensor(0.1))))


if mode in ("dies", "stalls"):
    engine = SVI(callback=dies if mode == "dies" else stalls)
    found["svi"] = message(lambda: engine.fit(DawidSkene(2), shards("crowd")))
    found["seconds"] = time.monotonic() - started
else:
    for name, (engine, program, kind) in CASES.items():
        fit = engine.fit(program, shards(kind))
        found[name] = report(fit)
        if name == "own":
            found["guide"] = {n: v.tolist() for n, v in trained_guide(fit).parameters().items()}
        if name == "normal":
            found["latent"] = [len(p) for _, p in latent_by_part(fit, "truth", draws=5)]
    stopped = SVI(callback=lambda step: rank == 1 and step.iteration == 3, draws=5).fit(
        DawidSkene(2), shards("crowd")
    )
    found["stopped"] = stopped.n_iter, stopped.converged
    found["callback"] = message(lambda: SVI(callback=breaks).fit(DawidSkene(2), shards("crowd")))
    found["reads"] = message(lambda: SVI(guide=reads).fit(with_parameter, shards("counts")))
    found["lazy"] = message(lambda: SVI(guide=lazy).fit(with_parameter, shards("counts")))
tell(found)
"""
)


@pytest.fixture(scope="module")
def alone():
    """Every case in this process, on all data at once."""
    names: dict = {}
    exec(SHARED, names)
    found = {}
    for case, (engine, program, kind) in names["CASES"].items():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found[case] = names["report"](engine.fit(program, names["cut"](kind, 0, 60)))
    return found


@pytest.fixture(scope="module", params=[2, 3])
def ranks(request, tmp_path_factory):
    """What every rank found; of three, the first has no parts."""
    folder = tmp_path_factory.mktemp("ranks")
    assert launch(WORKER, folder, request.param, "fits") == [0] * request.param
    return [told(folder, rank) for rank in range(request.param)]


def assert_close(found, wanted, within, case):
    assert found.keys() == wanted.keys(), case
    for name, value in wanted.items():
        np.testing.assert_allclose(found[name], value, rtol=0, atol=within, err_msg=case)


def test_ranks_find_what_one_process_finds(ranks, alone):
    for case, one in alone.items():
        # All ranks the same to the last bit, draws and history included.
        assert all(found[case] == ranks[0][case] for found in ranks), case
        found = ranks[0][case]
        for kind in ("params", "draws", "diagnostics"):
            assert_close(found[kind], one[kind], SAME, case)
        np.testing.assert_allclose(found["history"], one["history"], rtol=0, atol=SAME)
        assert found["log_likelihood"] == pytest.approx(one["log_likelihood"], abs=SAME)
    assert all(found["guide"] == ranks[0]["guide"] for found in ranks)


def test_what_happens_on_one_rank_happens_on_all(ranks):
    size = len(ranks)
    own = {2: [[20, 7], [33]], 3: [[], [31], [9, 20]]}[size]
    for rank, found in enumerate(ranks):
        assert found["latent"] == own[rank]
        assert found["stopped"] == [4, False]
        assert found["callback"] == ["DistributedError", f"rank 1 of {size}: KeyError: 'mine'"]
        for case in ("reads", "lazy"):
            kind, message = found[case]
            assert kind == "OptionError"
            assert "the guide draws 'rate'" in message
            assert "must not read the data" in message


@pytest.mark.parametrize("mode", ["dies", "stalls"])
def test_the_others_do_not_wait_for_a_rank_that_is_gone(tmp_path, mode):
    assert launch(WORKER, tmp_path, 3, mode) == [0, 7, 0]
    for rank in (0, 2):
        kind, message = told(tmp_path, rank)["svi"]
        assert kind == "DistributedError"
        assert message.startswith(f"rank {rank} of 3 lost the others")
        # The silent one sleeps for longer than the others wait after their last step.
        assert mode == "dies" or told(tmp_path, rank)["seconds"] < 29
