"""Data in parts that cannot be fitted, or not by every engine: what users are told."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pyro
import pyro.distributions as dist
import pytest
import torch

from likely.inference import (
    EM,
    MAP,
    MLE,
    NUTS,
    SVI,
    Laplace,
    NonFiniteError,
    OptionError,
    ProgramError,
    Shards,
)
from likely.models import (
    Annotations,
    DawidSkene,
    LogisticRegression,
    PoissonModel,
)

CROWD = Annotations.from_arrays(
    np.arange(20).repeat(3), np.tile(np.arange(3), 20), np.tile([0, 1, 2, 0, 2], 12)
)


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        (iter([torch.ones(2)]), "only once"),
        ((x for x in [torch.ones(2)]), "only once"),
        (torch.ones(2), "list of parts"),
        (np.ones(2), "list of parts"),
        (pd.DataFrame({"x": [1.0]}), "list of parts"),
        ({"x": torch.ones(2)}, "list of parts"),
        ("parts", "list of parts"),
        (3, "list of parts"),
        (None, "list of parts"),
        (CROWD, "list of parts"),
    ],
)
def test_what_cannot_be_parts_is_refused(parts, message):
    with pytest.raises(ProgramError, match=message):
        Shards(parts)


def test_a_function_that_gives_the_same_iterator_twice_is_found_out():
    once = iter([torch.ones(3), torch.ones(2)])
    with pytest.raises(ProgramError, match=r"new iterator every time|no parts"):
        MLE().fit(PoissonModel(), Shards(lambda: once))
    passes = []

    def parts():
        passes.append(len(passes))
        # The first is looked at for the head, the second is the first pass.
        return [torch.ones(2)] * (2 if len(passes) < 3 else 1)

    with pytest.raises(ProgramError, match=r"2 part.*and 1 in a later"):
        MLE().fit(PoissonModel(), Shards(parts))


@pytest.mark.parametrize("engine", [EM(), MLE()], ids=["em", "mle"])
def test_no_parts_and_wrong_parts_are_refused(engine):
    with pytest.raises(ProgramError, match="no parts"):
        engine.fit(PoissonModel(), Shards([]))
    with pytest.raises(ProgramError, match="must give an iterable"):
        engine.fit(PoissonModel(), Shards(lambda: 3))
    with pytest.raises(ValueError, match="expected Annotations"):
        engine.fit(DawidSkene(3), Shards([torch.ones(3)]))
    with pytest.raises(ValueError, match="expected Annotations"):
        engine.fit(DawidSkene(3), Shards([CROWD, torch.ones(3)]))
    with pytest.raises(ProgramError, match="given once"):
        engine.fit(LogisticRegression(), Shards([torch.ones(3, 1)]), Shards([torch.ones(3)]))
    with pytest.raises(ProgramError, match="given once"):
        engine.fit(PoissonModel(), x=Shards([torch.ones(3)]))


def test_observations_out_of_range_are_found_in_every_part():
    good, bad = torch.tensor([1.0, 2.0]), torch.tensor([1.0, float("nan")])
    with pytest.raises(ValueError, match=r"nan|support|finite"):
        MLE().fit(PoissonModel(), Shards([good, bad]))


def test_parts_of_other_annotators_are_refused():
    other = Annotations(
        CROWD.task, CROWD.annotator, CROWD.label, CROWD.tasks, CROWD.annotators[::-1], CROWD.classes
    )
    with pytest.raises(ProgramError, match="part 1 has other labels of 'annotator'"):
        EM().fit(DawidSkene(3), Shards([CROWD, other]))
    fewer = Annotations.from_arrays([0, 1], [0, 1], [0, 2], classes=[0, 1, 2])
    with pytest.raises(ProgramError, match="same groups and ids"):
        EM().fit(DawidSkene(3), Shards([CROWD, fewer]))


def test_values_for_each_observation_are_refused():
    def program(x):
        with pyro.plate("n", len(x)):
            mean = pyro.sample("mean", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(mean, 1.0), obs=x)

    with pytest.raises(ProgramError, match="'mean' has a value for each observation"):
        MAP().fit(program, Shards([torch.ones(2), torch.ones(2)]))


def test_a_latent_of_all_observations_is_refused():
    def program(x):
        rate = pyro.sample("rate", dist.Gamma(torch.ones(2), 1.0).to_event(1))
        z = pyro.sample("z", dist.Categorical(torch.ones(2) / 2))
        with pyro.plate("n", len(x)):
            pyro.sample("x", dist.Poisson(rate[z]), obs=x)

    with pytest.raises(ProgramError, match="'z' is shared"):
        MLE().fit(program, Shards([torch.ones(2), torch.ones(3)]))


@pytest.mark.parametrize("engine", [Laplace(), NUTS()], ids=["laplace", "nuts"])
def test_engines_that_need_all_data_say_so(engine):
    with pytest.raises(OptionError, match=r"needs all data at once.* 'em' and 'svi' from Shards"):
        engine.fit(PoissonModel(), Shards([torch.ones(3)]))


def test_options_that_contradict_shards():
    for engine in (MLE(batch_size=2), SVI(batch_size=2)):
        with pytest.raises(OptionError, match="batch_size=2"):
            engine.fit(PoissonModel(), Shards([torch.ones(3)]))
    with pytest.raises(ProgramError, match="init_process_group"):
        MLE().fit(PoissonModel(), Shards([torch.ones(3)], distributed=True))


def test_a_likelihood_without_a_bound_is_told():
    def program(x):
        scale = pyro.sample("scale", dist.LogNormal(0.0, 1.0))
        with pyro.plate("n", len(x)):
            pyro.sample("x", dist.Normal(0.0, scale), obs=x)

    with pytest.raises(NonFiniteError, match="scale"):
        MLE().fit(program, Shards([torch.zeros(2), torch.zeros(3)]))
