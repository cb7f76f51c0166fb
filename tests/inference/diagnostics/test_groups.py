from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pyro
import pyro.distributions as dist
import pytest
import torch

from likely.inference import EM, MAP, MLE, Fit, FitError
from likely.inference.diagnostics import backend, build_groups
from likely.inference.diagnostics.dimensions import as_labels, element_labels
from likely.inference.diagnostics.groups import posterior_by_site

CLASSES = ["healthy", "mild", "severe"]


def test_names_and_labels_come_from_plates_and_hooks(em: Fit) -> None:
    groups = build_groups(em)
    posterior = groups["posterior"]
    assert posterior["confusion"].dims == ("chain", "draw", "annotator", "class", "reported")
    assert list(posterior["confusion"].coords["annotator"].values) == ["Ann", "Bo"]
    cell = posterior["confusion"].sel(annotator="Bo", reported="mild", **{"class": "severe"})
    assert cell.item() == em.params["confusion"][1, 2, 1].item()
    assert posterior["odds"].dims == ("chain", "draw", "odds_dim_0")
    assert groups["latent_posterior"]["truth"].dims == ("task", "class")
    assert groups["observed_data"]["answer"].dims == ("rater", "task")
    assert list(groups["observed_data"]["task"].values[:2]) == ["t0", "t1"]
    np.testing.assert_array_equal(groups["observed_data"]["rater"], [0, 1])


def test_values_are_the_fit(em: Fit, laplace: Fit, answers: torch.Tensor) -> None:
    for fit in (em, laplace):
        groups = build_groups(fit)
        assert list(groups["posterior"].data_vars) == ["prevalence", "confusion", "odds"]
        for name, draws in fit.draws.items():
            np.testing.assert_array_equal(groups["posterior"][name], draws.numpy())
        np.testing.assert_array_equal(groups["observed_data"]["answer"], answers.numpy())
        latent = groups["latent_posterior"]["truth"]
        np.testing.assert_allclose(latent, fit.latent("truth"))
        np.testing.assert_allclose(latent.sum("class"), 1.0)


def test_log_likelihood_is_that_of_every_draw(em: Fit, laplace: Fit) -> None:
    pointwise = build_groups(em)["log_likelihood"]["answer"]
    assert pointwise.dims == ("chain", "draw", "task")
    assert pointwise.sum().item() == pytest.approx(em.log_likelihood)
    total = build_groups(laplace)["log_likelihood"]["answer"].sum("task")
    program = laplace.bound("a test")
    values = laplace.each_draw()[7]
    assert total[0, 7].item() == pytest.approx(program.log_likelihood(values).item())


def test_point_has_its_log_joint_density(em: Fit, laplace: Fit) -> None:
    lp = build_groups(em)["sample_stats"]["lp"]
    assert lp.item() == pytest.approx(em.log_likelihood + em.log_prior)
    assert "sample_stats" not in build_groups(laplace)


def test_predictive_on_request(em: Fit, laplace: Fit) -> None:
    assert "posterior_predictive" not in build_groups(em)
    answer = build_groups(em, predictive=5)["posterior_predictive"]["answer"]
    assert answer.dims == ("chain", "draw", "rater", "task")
    assert answer.shape == (1, 5, 2, 40)
    np.testing.assert_array_equal(answer, em.predict(draws=5)["answer"])
    assert build_groups(laplace, predictive=True)["posterior_predictive"].sizes["draw"] == 200
    for wrong in (-3, 2.5, "a", None):
        with pytest.raises(FitError, match=rf"predictive must be True, False or .*{wrong}"):
            build_groups(em, predictive=wrong)  # type: ignore[arg-type]


def test_default_names(mle_line: Fit) -> None:
    posterior = build_groups(mle_line)["posterior"]
    assert posterior["coefficients"].dims == ("chain", "draw", "coefficients_dim_0")
    assert posterior["scale"].dims == ("chain", "draw")
    np.testing.assert_array_equal(posterior["coefficients_dim_0"], [0, 1])


def test_dims_and_coords_arguments(mle_line: Fit) -> None:
    labels = {"term": ["intercept", "slope"], "point": pd.Index(range(10, 40))}
    for dims in ({"coefficients": ["term"]}, {"coefficients": "term"}):
        groups = build_groups(mle_line, coords=labels, dims=dims)
        array = groups["posterior"]["coefficients"]
        slope = array.sel(term="slope").item()
        assert slope == mle_line.params["coefficients"][1].item()
        assert groups["log_likelihood"]["point"].values[0] == 10


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"dims": {"coefficient": ["term"]}}, "dims names 'coefficient'.*'coefficients'"),
        ({"dims": {"scale": ["term"]}}, r"dims names 1 dimensions of site 'scale' \(term\)"),
        ({"dims": ["term"]}, "dims must be a mapping, got list"),
        ({"coords": ["a", "b"]}, "coords must be a mapping, got list"),
        ({"coords": {"point": [1, 2]}}, "coords gives 2 labels for dimension 'point'.*length 30"),
        ({"coords": {"point": 5}}, "labels of dimension 'point' must be a sequence of 30, got 5"),
        ({"coords": {"point": "a" * 30}}, "labels of dimension 'point' must be a sequence of 30"),
        ({"coords": {"point": [*range(29), 0]}}, "gives the label 0 to several entries of .*'poi"),
        ({"coords": {"pint": range(30)}}, "coords names 'pint', which is no dimension"),
        (
            {"dims": {"coefficients": ["same"], "y": ["same"]}},
            None,  # other groups: no conflict
        ),
    ],
)
def test_wrong_arguments(mle_line: Fit, arguments: dict, message: str | None) -> None:
    if message is None:
        build_groups(mle_line, **arguments)
        return
    with pytest.raises(FitError, match=message):
        build_groups(mle_line, **arguments)


def test_two_sites_disagree_about_a_dimension(em: Fit) -> None:
    dims = {"odds": ["class"]}
    with pytest.raises(FitError, match="'class' has length 3 in site 'prevalence' and 2 in site"):
        build_groups(em, dims=dims)


def test_wrong_labels_of_the_program(crowd: object, answers: torch.Tensor) -> None:
    class Wrong(type(crowd)):  # type: ignore[misc]
        def coords(self, answers: torch.Tensor) -> dict:
            return {"annotator": ["Ann", "Bo", "Cy"]}

    fit = EM(objective="posterior").fit(Wrong(), answers)
    with pytest.raises(FitError, match=r"the program's coords gives 3 labels for .*'annotator'"):
        build_groups(fit)


def test_axes_of_one_array_have_different_names() -> None:
    def program(x: torch.Tensor) -> None:
        table = pyro.sample("table", dist.Dirichlet(torch.full((3, 3), 2.0)).to_event(1))
        pyro.sample("x", dist.Multinomial(20, table[0], validate_args=False), obs=x)

    program.dims = {"table": ("class", "class")}  # type: ignore[attr-defined]
    program.coords = {"class": CLASSES}  # type: ignore[attr-defined]
    fit = MAP().fit(program, torch.tensor([3.0, 9.0, 8.0]))
    table = build_groups(fit)["posterior"]["table"]
    assert table.dims == ("chain", "draw", "class", "class_2")
    assert list(table["class_2"].values) == CLASSES
    assert element_labels(table[0, 0])[1] == "table[healthy, mild]"


def test_names_that_xarray_keeps_for_itself() -> None:
    def program(heads: torch.Tensor) -> None:
        chain = pyro.sample("chain", dist.Beta(2.0, 2.0))
        with pyro.plate("draw", 4):
            part = pyro.sample("scope/part", dist.Beta(2.0, 2.0))
            pyro.sample("heads", dist.Binomial(10, (chain + part) / 2), obs=heads)

    program.dims = {"scope/part": "label"}  # type: ignore[attr-defined]
    heads = torch.tensor([1.0, 5.0, 6.0, 9.0])
    fit = MAP().fit(program, heads)
    groups = build_groups(fit, predictive=3, dims={"heads": "heads"})
    assert groups["posterior"]["chain_site"].dims == ("chain", "draw")
    # The program's names do not replace those of plates.
    assert groups["posterior"]["scope.part"].dims == ("chain", "draw", "draw_dim")
    assert groups["observed_data"]["heads"].dims == ("heads_dim",)
    np.testing.assert_array_equal(groups["observed_data"]["heads"], heads)
    assert groups["log_likelihood"]["heads"].dims[:2] == ("chain", "draw")
    by_site = posterior_by_site(fit)
    assert list(by_site) == ["chain", "scope/part"]
    plain = build_groups(fit)
    assert plain["log_likelihood"]["heads"].dims == ("chain", "draw", "draw_dim")
    assert plain["observed_data"]["heads"].dims == ("draw_dim",)


def test_axes_that_were_broadcast_and_statements_without_data() -> None:
    def program(x: torch.Tensor) -> None:
        p = pyro.sample("p", dist.Beta(2.0, 2.0))
        pyro.factor("penalty", -p)
        with pyro.plate("day", 3, dim=-1), pyro.plate("row", 2, dim=-2):
            pyro.sample("x", dist.Bernoulli(p), obs=x)

    for x in (torch.ones(2, 1), torch.ones(2, 3)):
        observed = build_groups(MAP().fit(program, x))["observed_data"]
        assert list(observed.data_vars) == ["x"]
        assert observed["x"].dims == (("row",) if x.shape[1] == 1 else ("row", "day"))
    vector = build_groups(MAP().fit(program, torch.ones(3)))["observed_data"]["x"]
    assert vector.dims == ("day",)


def test_attributes_of_the_program_that_mean_something_else() -> None:
    class Net:
        dims = 3
        coords = None

        def __call__(self, x: torch.Tensor) -> None:
            loc = pyro.sample("loc", dist.Normal(0.0, 1.0))
            with pyro.plate("n", len(x)):
                pyro.sample("x", dist.Normal(loc, 1.0), obs=x)

    assert build_groups(MLE().fit(Net(), torch.ones(3)))["posterior"]["loc"].size == 1


def test_attributes_say_what_made_the_fit(em: Fit) -> None:
    for group in build_groups(em).values():
        assert group.attrs["engine"] == "em"
        assert group.attrs["inference_library"] == "likely"
        assert group.attrs["seed"] == em.seed
        assert json.loads(group.attrs["options"]) == em.options
        assert {"likely", "pyro", "torch", "arviz", "python"} <= set(
            json.loads(group.attrs["versions"])
        )


def test_long_options_are_cut_short_in_attributes(em: Fit) -> None:
    fit = replace(em, options={"init": {"confusion": np.zeros((100, 90)).tolist()}, "seed": 3})
    options = json.loads(build_groups(fit)["posterior"].attrs["options"])
    assert options == {"init": {"confusion": "list of shape (100, 90)"}, "seed": 3}


def test_a_fit_without_program_or_groups(em: Fit) -> None:
    with pytest.raises(FitError, match="needs the program"):
        build_groups(replace(em, program=None))


@pytest.mark.parametrize(
    ("given", "kind", "first"),
    [
        (["a", "b"], "U", "a"),
        (range(2), "i", 0),
        ([1.5, 2.5], "f", 1.5),
        (["a", 1], "U", "a"),
        ([(1, 2), (3, 4)], "U", "(1, 2)"),
        ([None, "a"], "U", "None"),
        (torch.tensor([3, 4]), "i", 3),
        (pd.Index(["x", "y"]), "U", "x"),
        (pd.date_range("2024-01-01", periods=2), "M", np.datetime64("2024-01-01")),
        (pd.timedelta_range("1D", periods=2), "U", None),
        ("ab", "U", "a"),
    ],
)
def test_labels_can_be_in_a_file(given: object, kind: str, first: object) -> None:
    labels = as_labels(given)  # type: ignore[arg-type]
    assert labels.shape == (2,)
    assert labels.dtype.kind == kind
    if first is not None:
        assert labels[0] == first


def test_missing_site(em: Fit) -> None:
    with pytest.raises(FitError, match="sites names 'confuse'; the fit has 'prevalence'"):
        posterior_by_site(em, "confuse")
    with pytest.raises(FitError, match="sites names no site"):
        posterior_by_site(em, [])


def test_names_that_arviz_keeps_for_itself(nuts_line: Fit) -> None:
    for name in sorted(backend.RESERVED_DIMS):
        groups = build_groups(
            nuts_line, dims={"coefficients": name}, coords={name: ["intercept", "slope"]}
        )
        posterior = groups["posterior"]
        assert posterior["coefficients"].dims == ("chain", "draw", f"{name}_dim")
        assert list(posterior[f"{name}_dim"].values) == ["intercept", "slope"]
        frame = backend.summary(backend.to_arviz(groups))
        assert list(frame.index) == ["coefficients[intercept]", "coefficients[slope]", "scale"]


def test_log_likelihood_and_data_of_ragged_events() -> None:
    def program(rows: torch.Tensor) -> None:
        p = pyro.sample("p", dist.Dirichlet(torch.ones(3) * 2))
        with pyro.plate("task", 4):
            pyro.sample("counts", dist.Multinomial(5, p), obs=rows)
        pyro.sample("whole", dist.Categorical(p).expand([6]).to_event(1), obs=torch.ones(6).long())

    program.dims = {"counts": ("class",), "whole": ("annotation",), "p": ("class",)}  # type: ignore[attr-defined]
    rows = torch.tensor([[5.0, 0, 0], [1, 2, 2], [0, 0, 5], [2, 2, 1]])
    groups = build_groups(MAP().fit(program, rows))
    assert groups["observed_data"]["counts"].dims == ("task", "class")
    assert groups["observed_data"]["whole"].dims == ("annotation",)
    assert groups["log_likelihood"]["counts"].dims == ("chain", "draw", "task")
    assert groups["log_likelihood"]["whole"].dims == ("chain", "draw")


def test_names_of_a_latent_do_not_replace_its_plates() -> None:
    # Once observed, the site has no dimension of probabilities.
    def program(truth: torch.Tensor) -> None:
        p = pyro.sample("p", dist.Dirichlet(torch.ones(3)))
        with pyro.plate("task", len(truth)):
            pyro.sample("truth", dist.Categorical(p), obs=truth)

    program.dims = {"p": ("class",), "truth": ("class",)}  # type: ignore[attr-defined]
    groups = build_groups(MLE().fit(program, torch.tensor([0, 1, 1, 2])))
    assert groups["observed_data"]["truth"].dims == ("task",)
    assert groups["posterior"]["p"].dims == ("chain", "draw", "class")
