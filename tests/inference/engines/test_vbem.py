"""Variational Bayes for probability tables."""

from __future__ import annotations

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch.distributions import Dirichlet

from likely.inference import EM, VBEM, ConvergenceWarning, ProgramError, Step
from likely.models import Annotations, DawidSkene, GaussianModel, RaggedLabels

ROLLS = torch.tensor([0, 0, 1, 2, 0, 3])
CONCENTRATION = torch.tensor([0.5, 1.0, 2.0, 3.0], dtype=torch.float64)


def die(rolls):
    faces = pyro.sample("faces", dist.Dirichlet(CONCENTRATION))
    with pyro.plate("roll", len(rolls)):
        pyro.sample("rolls", dist.Categorical(faces), obs=rolls)


def crowd(seed=0, n_tasks=60, n_annotators=4):
    """Annotations of simulated annotators, who are right four times of five."""
    generator = torch.Generator().manual_seed(seed)
    truth = torch.randint(3, (n_tasks,), generator=generator).repeat(n_annotators)
    other = torch.randint(3, truth.shape, generator=generator)
    right = torch.rand(truth.shape, generator=generator) < 0.7
    task = torch.arange(n_tasks).repeat(n_annotators)
    annotator = torch.arange(n_annotators).repeat_interleave(n_tasks)
    return Annotations.from_arrays(task, annotator, torch.where(right, truth, other))


def enumerated(annotations):
    """Dawid & Skene's model with a plain latent, the same priors."""
    prior = 1 + 1 / 3 + 2 * torch.eye(3, dtype=torch.float64)
    prevalence = pyro.sample("prevalence", dist.Dirichlet(torch.ones(3, dtype=torch.float64)))
    with pyro.plate("annotator", annotations.n_annotators):
        confusion = pyro.sample("confusion", dist.Dirichlet(prior).to_event(1))
    with pyro.plate("task", annotations.n_tasks):
        truth = pyro.sample("truth", dist.Categorical(prevalence))
        labels = RaggedLabels(confusion, annotations, truth)
        pyro.sample("labels", labels, obs=annotations.label)


def test_without_latents_it_is_the_exact_posterior():
    draws = 20_000
    fit = VBEM(draws=draws).fit(die, ROLLS)
    exact = Dirichlet(CONCENTRATION + torch.bincount(ROLLS))
    torch.testing.assert_close(fit.params["faces"], exact.mean, rtol=1e-12, atol=0)
    spread = exact.variance.sqrt()
    error = (fit.draws["faces"].mean((0, 1)) - exact.mean).abs()
    assert bool((error < 4 * spread / draws**0.5).all())
    # The bound is the evidence itself, log p(data), by Dirichlet-multinomial integrals.
    counts = torch.bincount(ROLLS).double()
    evidence = (CONCENTRATION + counts).lgamma().sum() - CONCENTRATION.lgamma().sum()
    evidence += CONCENTRATION.sum().lgamma() - (CONCENTRATION.sum() + counts.sum()).lgamma()
    assert fit.diagnostics["elbo"] == pytest.approx(float(evidence), abs=1e-10)
    assert fit.converged
    assert not fit.is_point


def by_hand(annotations, steps):
    """Expected counts and bounds of the same iteration, one label at a time."""
    k, prior = 3, 1 + 1 / 3 + 2 * torch.eye(3, dtype=torch.float64)
    start = DawidSkene(3).initial(annotations)
    geometric = {name: value.double() for name, value in start.items()}
    alpha, bounds = {}, []
    for step in range(steps + 1):
        score = geometric["prevalence"].log().repeat(annotations.n_tasks, 1)
        for task, who, label in zip(
            annotations.task, annotations.annotator, annotations.label, strict=True
        ):
            score[task] += geometric["confusion"][who, :, label].log()
        if step:
            divergence = sum(
                torch.distributions.kl_divergence(
                    Dirichlet(alpha[n]), Dirichlet(p.expand(alpha[n].shape))
                ).sum()
                for n, p in (("prevalence", torch.ones(k).double()), ("confusion", prior))
            )
            bounds.append(float(score.logsumexp(1).sum() - divergence))
        share = score.softmax(1)
        counts = torch.zeros(annotations.n_annotators, k, k, dtype=torch.float64)
        for task, who, label in zip(
            annotations.task, annotations.annotator, annotations.label, strict=True
        ):
            counts[who, :, label] += share[task]
        alpha = {"prevalence": 1 + share.sum(0), "confusion": prior + counts}
        geometric = {
            n: (a.digamma() - a.sum(-1, keepdim=True).digamma()).exp() for n, a in alpha.items()
        }
    return bounds


@pytest.mark.parametrize("program", [DawidSkene(3), enumerated], ids=["summed", "enumerated"])
def test_bounds_are_those_of_the_iteration_by_hand(program):
    annotations = crowd(n_tasks=15)
    with torch.random.fork_rng():
        start = DawidSkene(3).initial(annotations)
    start = {name: value.double() for name, value in start.items()}
    with pytest.warns(ConvergenceWarning):
        fit = VBEM(init=start, max_iter=4, tol=1e-300).fit(program, annotations)
    expected = by_hand(annotations, 5)
    assert fit.history.objective.tolist() == pytest.approx(expected, rel=1e-7)


def test_the_bound_never_falls_and_stays_below_the_optimum_of_the_likelihood():
    annotations = crowd()
    fit = VBEM(draws=2000).fit(DawidSkene(3), annotations)
    assert (fit.history.objective.diff().dropna() > -1e-8).all()
    # An average over the prior, which the evidence is, cannot exceed the likelihood's optimum.
    assert fit.diagnostics["elbo"] < EM().fit(DawidSkene(3), annotations).log_likelihood
    assert math.isfinite(fit.diagnostics["khat"])


def test_latents_and_arviz():
    annotations = crowd()
    fit = VBEM(draws=200).fit(DawidSkene(3), annotations)
    truth = fit.latent("truth")
    torch.testing.assert_close(truth.sum(-1), torch.ones(60, dtype=torch.float64))
    data = fit.to_arviz()
    assert data.posterior["confusion"].dims[2:] == ("annotator", "class", "reported")


def test_the_same_seed_gives_the_same_draws_and_another_other_ones():
    first, again, other = (
        VBEM(draws=5, seed=seed).fit(die, ROLLS).draws["faces"] for seed in (0, 0, 1)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_a_callback_stops_it():
    def stop(step: Step) -> bool:
        return step.iteration == 1

    with pytest.warns(ConvergenceWarning, match="stopped"):
        fit = VBEM(callback=stop).fit(DawidSkene(3), crowd())
    assert fit.n_iter == 1


def simplex_mean(y):
    share = pyro.sample("share", dist.Dirichlet(torch.ones(2)))
    with pyro.plate("n", len(y)):
        pyro.sample("y", dist.Normal(share[0], 1.0), obs=y)


@pytest.mark.parametrize(
    ("program", "data", "site"),
    [
        (GaussianModel(), torch.randn(5), "'loc', 'scale'"),
        (simplex_mean, torch.randn(5), "'share'"),
    ],
)
def test_what_is_no_table_is_named(program, data, site):
    with pytest.raises(ProgramError, match=f"{site} (is|are) not; use SVI"):
        VBEM().fit(program, data)
