"""Judges who err: against enumeration, recovery, and what is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine

from likely.envs import DataError
from likely.inference import EM, MAP, Program
from likely.inference.quantities import latent_posterior
from likely.models import BradleyTerry, Comparisons, CrowdBradleyTerry
from likely.models.preference import FaultyJudges, FaultyOutcomes, log_chances
from likely.models.preference.faults import faulty_logs
from likely.models.preference.outcomes import log_odds_of

RULES = [(None, None), ("davidson", 0.6)]


def judged(total: int = 1, ties: bool = False) -> Comparisons:
    """Five judges on four items, who say this or that."""
    rows = [(i, j, k) for i in range(4) for j in range(i) for k in range(5) if (i + j + k) % 3]
    first, second, judge = (np.array(x) for x in zip(*rows, strict=True))
    source = np.random.default_rng(1)
    what = source.integers(0, 3 if ties else 2, len(first))
    return Comparisons.from_arrays(
        first, second, total * (what == 0), total * (what == 1), total * (what == 2),
        annotator=judge,
    )  # fmt: skip


def enumerated(program: CrowdBradleyTerry) -> Any:
    """The same model with its latent as a plain site, which Pyro enumerates; rows of one each."""

    def model(data: Comparisons) -> None:
        sites = program.sample_sites(data)
        right = log_chances(log_odds_of(sites["ability"], data), sites.get("tie"), program.ties)
        both = torch.stack([faulty_logs(right, program.fault, program.models_ties), right])
        says = data.outcomes().argmax(-1)
        rows = torch.arange(len(data))
        assert data.annotator is not None
        if program.latent == "comparison":
            with pyro.plate("comparison", len(data)):
                share = sites["reliability"][data.annotator]
                faithful = pyro.sample("faithful", dist.Bernoulli(share))
                pyro.factor("outcome", both[faithful.long(), rows, says])
            return
        with pyro.plate("annotator", data.n_annotators):
            faithful = pyro.sample("faithful", dist.Bernoulli(sites["reliability"])).long()
            logs = both[:, rows, says]
            by_judge = logs.new_zeros(2, data.n_annotators).index_add(1, data.annotator, logs)
            pyro.factor("outcome", by_judge[faithful, torch.arange(data.n_annotators)])

    return model


@pytest.mark.parametrize("latent", ["comparison", "annotator"])
@pytest.mark.parametrize("fault", ["reverse", "guess"])
@pytest.mark.parametrize(("rule", "tie"), RULES)
def test_the_sum_is_that_of_enumeration(
    latent: str, fault: str, rule: str | None, tie: float | None
) -> None:
    program = CrowdBradleyTerry(4, ties=rule, latent=latent, fault=fault)
    data = judged(ties=rule is not None)
    torch.manual_seed(0)
    values = {
        "ability": torch.tensor([1.0, 0.2, -0.5, -0.7], dtype=torch.float64),
        "reliability": torch.tensor(0.8).double()
        if latent == "annotator"
        else torch.linspace(0.5, 0.95, 5).double(),
    }
    if tie is not None:
        values["tie"] = torch.tensor(tie).double()
    ours, theirs = Program(program, data), Program(enumerated(program), data)
    assert float(ours.log_likelihood(values)) == pytest.approx(
        float(theirs.log_likelihood(values)), rel=1e-12
    )
    slopes = []
    for reading in (ours, theirs):
        leaves = {name: value.clone().requires_grad_(True) for name, value in values.items()}
        with reading.session(0):
            density = reading.density(leaves).log_likelihood
        slopes.append(torch.autograd.grad(density, list(leaves.values())))
    for one, other in zip(*slopes, strict=True):
        assert torch.allclose(one, other, rtol=1e-10, atol=1e-12)
    posteriors = []
    for reading in (ours, theirs):
        with reading.session(0), torch.no_grad():
            posteriors.append(latent_posterior(reading, values, "faithful"))
    if latent == "comparison":
        says = data.outcomes().argmax(-1)
        posteriors[0] = posteriors[0][torch.arange(len(data)), says]
    assert torch.allclose(*posteriors, atol=1e-12)


@pytest.mark.parametrize("latent", ["comparison", "annotator"])
def test_em_and_gradients_agree(latent: str) -> None:
    program = CrowdBradleyTerry(4, latent=latent)
    data = judged(total=3)
    by_em = EM(objective="posterior", tol=1e-12).fit(program, data)
    by_gradient = MAP().fit(program, data)
    total = by_em.log_likelihood + by_em.log_prior
    assert total == pytest.approx(by_gradient.log_likelihood + by_gradient.log_prior, abs=1e-6)
    for name, value in by_gradient.params.items():
        assert torch.allclose(by_em.params[name], value, atol=2e-3)


@pytest.mark.parametrize("kind", [FaultyOutcomes, FaultyJudges])
def test_counts_sum_to_one_and_are_drawn_so(kind: Any) -> None:
    logs = log_chances(torch.tensor([0.8]).double(), None, None)
    share, total = torch.tensor(0.7).double(), torch.tensor([3.0]).double()
    if kind is FaultyOutcomes:
        made = FaultyOutcomes(logs, share.expand(1), total)
    else:
        made = FaultyJudges(logs, share, total, annotator=torch.tensor([0]), n_annotators=1)
    values = [torch.tensor([[w, 3.0 - w, 0.0]]).double() for w in range(4)]
    chances = torch.stack([made.log_prob(value).exp()[0] for value in values])
    assert float(chances.sum()) == pytest.approx(1.0, abs=1e-14)
    torch.manual_seed(0)
    drawn = torch.stack([made.sample()[0, 0] for _ in range(4000)])
    for w, chance in enumerate(chances.tolist()):
        found = float((drawn == w).double().mean())
        assert abs(found - chance) < 4 * (chance * (1 - chance) / 4000) ** 0.5


def test_bad_judges_are_found_and_do_less_harm() -> None:
    n, judges = 12, 10
    rows = [(i, j, k) for i in range(n) for j in range(i) for k in range(judges)]
    first, second, judge = zip(*rows, strict=True)
    design = Comparisons.from_arrays(first, second, total=1, annotator=judge)
    truth = {
        "ability": torch.linspace(-1.5, 1.5, n).double(),
        "reliability": torch.tensor([0.98] * 6 + [0.05] * 4).double(),
    }
    program = CrowdBradleyTerry(n)
    torch.manual_seed(1)
    counts = poutine.condition(program, truth)(design)
    data = design.with_counts(counts)
    fit = MAP().fit(program, data)
    assert bool((fit.params["reliability"][:6] > 0.7).all())
    assert bool((fit.params["reliability"][6:] < 0.4).all())
    plain = MAP().fit(BradleyTerry(n), data)
    # The scale of abilities hangs together with how reliable everybody is; their pattern does not.
    missing = [
        1 - float(np.corrcoef(x.params["ability"], truth["ability"])[0, 1]) for x in (fit, plain)
    ]
    assert missing[0] < 0.25 * missing[1]


def test_bad_arguments_are_refused() -> None:
    for options, said in (
        ({"latent": "row"}, "latent"),
        ({"fault": "sleep"}, "fault"),
        ({"reliability_prior": (1.0, 0.0)}, "reliability_prior"),
        ({"reliability_prior": 2.0}, "reliability_prior"),
    ):
        with pytest.raises(DataError, match=said):
            CrowdBradleyTerry(3, **options)
    with pytest.raises(DataError, match="annotator"):
        CrowdBradleyTerry(2)(Comparisons.from_arrays(["a"], ["b"]))
