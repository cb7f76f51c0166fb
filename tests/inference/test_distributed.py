"""Several processes share a fit: the optimum of one, and failures that all of them hear of."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from likely.inference import DistributedError, ProgramError
from likely.inference.distributed import Ranks, _described
from ranks import launch, told

pytestmark = pytest.mark.slow

# Sums in another order differ by rounding; Newton's method ends where that moves it by no more.
SAME = 1e-8
# What the processes share: programs, data and engines, as one process has them, too.
SHARED = """
import numpy as np
import pyro
import pyro.distributions as dist
import torch
from likely.inference import EM, MAP, MLE
from likely.models import LogisticRegression
from likely.models.crowd import Annotations, DawidSkene, OneCoin, PooledMultinomial

rng = np.random.default_rng(11)
truth = rng.integers(3, size=90)
task = np.repeat(np.arange(90), 4)
annotator = rng.permuted(np.tile(np.arange(5), (90, 1)), axis=1)[:, :4].reshape(-1)
wrong = rng.random(task.size) < 0.35
label = np.where(wrong, rng.integers(3, size=task.size), truth[task])
crowd = Annotations.from_arrays(task, annotator, label)
x = torch.as_tensor(rng.normal(size=(90, 2)))
y = torch.as_tensor(rng.random(90) < 1 / (1 + np.exp(-x.sum(-1).numpy()))).double()


def nested(label):
    centre = pyro.sample("centre", dist.Dirichlet(torch.ones(3)))
    with pyro.plate("annotator", 2):
        table = pyro.sample("table", dist.Dirichlet(1 + 9 * centre))
    with pyro.plate("n", len(label)):
        pyro.sample("one", dist.Categorical(table[0]), obs=label[:, 0])
        pyro.sample("two", dist.Categorical(table[1]), obs=label[:, 1])


pairs = torch.as_tensor(rng.choice(3, p=[0.5, 0.3, 0.2], size=(90, 2)))
CASES = {
    "DawidSkene em": (EM(), DawidSkene(3), "crowd"),
    "DawidSkene posterior": (EM(objective="posterior"), DawidSkene(3), "crowd"),
    "OneCoin posterior": (EM(objective="posterior"), OneCoin(3), "crowd"),
    "PooledMultinomial mle": (MLE(), PooledMultinomial(3), "crowd"),
    "OneCoin map": (MAP(), OneCoin(3), "crowd"),
    "LogisticRegression map": (
        MAP(init={"intercept": 0.0, "coefficients": torch.zeros(2)}), LogisticRegression(), "xy"
    ),
    "restarts": (EM(objective="posterior", restarts=2, max_iter=300), DawidSkene(3), "crowd"),
    "nested": (
        MAP(init={"centre": [0.4, 0.3, 0.3], "table": [[0.4, 0.3, 0.3]] * 2}), nested, "pairs"
    ),
}


def cut(kind, start, stop):
    if kind == "crowd":
        return crowd.subset(torch.arange(start, stop))
    return (x[start:stop], y[start:stop]) if kind == "xy" else pairs[start:stop]
"""
WORKER = (
    SHARED
    + """
from likely.inference import DistributedError, FitError, ProgramError, Shards

EDGES = {2: [[(0, 30), (30, 41)], [(41, 90)]], 3: [[], [(0, 50)], [(50, 60), (60, 90)]]}


def shards(kind):
    return Shards([cut(kind, *edge) for edge in EDGES[size][rank]], distributed=True)


def dies(step):
    if rank == 1 and step.iteration == 2:
        os._exit(7)


def breaks(step):
    if rank == 1 and step.iteration == 2:
        raise KeyError("mine")


if mode == "dies":
    found["em"] = message(lambda: EM(callback=dies).fit(DawidSkene(3), shards("crowd")))
else:
    for name, (engine, program, kind) in CASES.items():
        fit = engine.fit(program, shards(kind))
        found[name] = {
            "params": {n: v.tolist() for n, v in fit.params.items()},
            "history": fit.history["objective"].tolist(),
            "log_likelihood": fit.log_likelihood,
            "log_prior": fit.log_prior,
        }
    found["errors"] = message(fit.standard_errors)
    stopped = EM(callback=lambda step: rank == 1 and step.iteration == 3).fit(
        DawidSkene(3), shards("crowd")
    )
    found["stopped"] = stopped.n_iter, stopped.converged
    found["callback"] = message(lambda: EM(callback=breaks).fit(DawidSkene(3), shards("crowd")))
    bad = [cut("crowd", 0, 50)] if rank else [torch.ones(3)]
    found["bad part"] = message(
        lambda: EM().fit(DawidSkene(3), Shards(bad, distributed=True))
    )
    late = [cut("crowd", 0, 50)] + [torch.ones(3)] * (rank == 1)
    found["bad later part"] = message(
        lambda: MLE().fit(DawidSkene(3), Shards(late, distributed=True))
    )
    other = Annotations.from_arrays(task, annotator + 10 * rank, label)
    found["other ids"] = message(
        lambda: EM().fit(DawidSkene(3), Shards([other], distributed=True))
    )
    found["other shapes"] = message(
        lambda: MAP().fit(
            LogisticRegression(), Shards([(x[:, : 1 + (rank > 0)], y)], distributed=True)
        )
    )
    found["nobody"] = message(lambda: EM().fit(DawidSkene(3), Shards([], distributed=True)))
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
        data = names["cut"](kind, 0, 90)
        found[case] = engine.fit(program, *(data if isinstance(data, tuple) else (data,)))
    return found


@pytest.fixture(scope="module", params=[2, 3])
def ranks(request, tmp_path_factory):
    """What every rank found; of three, the first has no parts."""
    folder = tmp_path_factory.mktemp("ranks")
    assert launch(WORKER, folder, request.param, "fits", patience=20) == [0] * request.param
    return [told(folder, rank) for rank in range(request.param)]


def test_ranks_find_what_one_process_finds(ranks, alone):
    for case, one in alone.items():
        assert all(found[case] == ranks[0][case] for found in ranks), case
        found = ranks[0][case]
        history = one.history["objective"].to_numpy()
        np.testing.assert_allclose(found["history"], history, rtol=0, atol=SAME, err_msg=case)
        assert found["log_likelihood"] == pytest.approx(one.log_likelihood, abs=SAME)
        assert found["log_prior"] == pytest.approx(one.log_prior, abs=SAME)
        for name, value in one.params.items():
            np.testing.assert_allclose(found["params"][name], value, rtol=0, atol=SAME)


def test_what_happens_on_one_rank_happens_on_all(ranks):
    size = len(ranks)
    for found in ranks:
        assert found["errors"][0] == "FitError"
        assert f"{size} processes" in found["errors"][1]
        assert found["stopped"] == [3, False]
        assert found["callback"] == ["DistributedError", f"rank 1 of {size}: KeyError: 'mine'"]
        for case in ("bad part", "bad later part"):
            kind, message = found[case]
            assert kind == "ProgramError"
            assert message.startswith(f"rank {int(case != 'bad part')} of {size}: ")
            assert "expected Annotations" in message
        assert found["other ids"][0] == "ProgramError"
        assert "rank 1 has other labels of 'annotator' than rank 0" in found["other ids"][1]
        assert found["other shapes"][0] == "ProgramError"
        assert "rank 1 has unknowns of shapes" in found["other shapes"][1]
        assert found["nobody"][0] == "ProgramError"
        assert "no parts" in found["nobody"][1]


def test_the_others_do_not_wait_for_a_rank_that_died(tmp_path):
    assert launch(WORKER, tmp_path, 3, "dies", patience=20) == [0, 7, 0]
    for rank in (0, 2):
        kind, message = told(tmp_path, rank)["em"]
        assert kind == "DistributedError"
        assert message.startswith(f"rank {rank} of 3 lost the others")


# -- one process -------------------------------------------------------------------------------


def test_one_process_has_nobody_to_add_to():
    ranks = Ranks()
    value = torch.tensor([1.0, 2.0])
    assert ranks.total([value])[0] is value
    assert ranks.first([value])[0] is value
    assert ranks.gathered(3) == [3]
    assert ranks.sent("x", 0) == "x"
    assert ranks.any(True)
    assert not ranks.any(False)
    with pytest.raises(KeyError):
        ranks.together(lambda: {}["missing"])


def test_failures_keep_their_kind():
    assert _described(ZeroDivisionError("x"))[0] == "arithmetic"
    assert _described(ProgramError("said"))[:2] == ("value", "said")
    assert _described(OSError("x"))[:2] == ("other", "OSError: x")
    assert not isinstance(DistributedError("x"), RuntimeError | ValueError)
