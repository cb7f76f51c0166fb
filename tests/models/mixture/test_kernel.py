"""The sum over components, block by block: values, gradients, and what is impossible."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch

from likely.models import GaussianMixture, Mixture
from likely.models._gaussian_features import GaussianFeatures
from likely.models._loglinear import Features, evidence, posterior, statistics
from likely.models._mixture_distribution import LogLinearMixture

Params = dict[str, torch.Tensor]
Problem = tuple[torch.Tensor, torch.Tensor, torch.Tensor, Features]


def problem(d: int = 2, n: int = 20, k: int = 3) -> Problem:
    """Rows, log-weights, natural parameters and features of a Gaussian mixture."""
    generator = torch.Generator().manual_seed(d)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    x = 2 * normal(n, d) + 5
    features = GaussianFeatures(x, products=True)
    whiten = (normal(k, d, d) * 0.3).tril(-1) + (0.3 * normal(k, d)).exp().diag_embed()
    return x, normal(k).log_softmax(0), features.natural(normal(k, d) + 5, whiten), features


def plain(
    x: torch.Tensor, log_weights: torch.Tensor, natural: torch.Tensor, features: Features
) -> torch.Tensor:
    """Joint log-densities [K, n] with autograd's own derivatives."""
    return log_weights.unsqueeze(-1) + natural @ features(x)


def gradients(total: torch.Tensor, leaves: list[torch.Tensor]) -> list[torch.Tensor]:
    return list(torch.autograd.grad(total, leaves))


def close(found: list[torch.Tensor], expected: list[torch.Tensor]) -> None:
    for mine, reference in zip(found, expected, strict=True):
        torch.testing.assert_close(mine, reference, rtol=1e-12, atol=1e-12)


@pytest.fixture(params=[False, True], ids=["one block", "blocks"])
def blocked(request: pytest.FixtureRequest) -> Any:
    """Run once in one block and once in several."""
    if request.param:
        request.getfixturevalue("small_blocks")
    return request.param


@pytest.mark.usefixtures("blocked")
@pytest.mark.parametrize("hard", [False, True])
@pytest.mark.parametrize("cotangent", ["ones", "constant", "varying", "zero"])
def test_value_and_gradient(hard: bool, cotangent: str) -> None:
    x, log_weights, natural, features = problem()
    leaves = [log_weights.requires_grad_(True), natural.requires_grad_(True)]
    weights = {
        "ones": torch.ones(20, dtype=torch.float64),
        "constant": torch.full((20,), 2.5, dtype=torch.float64),
        "varying": torch.linspace(0.0, 3.0, 20, dtype=torch.float64),
        "zero": torch.zeros(20, dtype=torch.float64),
    }[cotangent]
    found = evidence(x, log_weights, natural, features, hard)
    joint = plain(x, log_weights, natural, features)
    expected = joint.amax(0) if hard else joint.logsumexp(0)
    close([found], [expected])
    close(
        gradients(found @ weights, leaves),
        gradients(expected @ weights, leaves),
    )


@pytest.mark.usefixtures("blocked")
@pytest.mark.parametrize("hard", [False, True])
def test_many_gradients_at_once(hard: bool) -> None:
    """Autograd's own batches of directions, and those of `torch.func.vmap`."""
    x, log_weights, natural, features = problem()
    leaves = [log_weights.requires_grad_(True), natural.requires_grad_(True)]
    found = evidence(x, log_weights, natural, features, hard)
    directions = torch.eye(20, dtype=torch.float64)[:4]
    directions[3] = 1.0
    rows = [torch.autograd.grad(found, leaves, d, retain_graph=True) for d in directions]
    expected = [torch.stack(parts) for parts in zip(*rows, strict=True)]
    batched = torch.autograd.grad(
        found, leaves, directions, retain_graph=True, is_grads_batched=True
    )
    close(list(batched), expected)
    mapped = torch.func.vmap(lambda d: torch.autograd.grad(found, leaves, d, retain_graph=True))
    close(list(mapped(directions)), expected)


@pytest.mark.usefixtures("blocked")
def test_one_row_and_one_component() -> None:
    for n, k in ((1, 3), (20, 1), (1, 1)):
        x, log_weights, natural, features = problem(n=n, k=k)
        leaves = [log_weights.requires_grad_(True), natural.requires_grad_(True)]
        found = evidence(x, log_weights, natural, features)
        expected = plain(x, log_weights, natural, features).logsumexp(0)
        close([found], [expected])
        close(gradients(3 * found.sum(), leaves), gradients(3 * expected.sum(), leaves))


@pytest.mark.usefixtures("blocked")
def test_a_graph_can_be_walked_twice() -> None:
    x, log_weights, natural, features = problem()
    leaves = [log_weights.requires_grad_(True), natural.requires_grad_(True)]
    total = evidence(x, log_weights, natural, features).sum()
    first = torch.autograd.grad(total, leaves, retain_graph=True)
    copies = [gradient.clone() for gradient in first]
    for gradient in first:
        gradient.zero_()
    close(list(torch.autograd.grad(total, leaves)), copies)


@pytest.mark.usefixtures("blocked")
@pytest.mark.parametrize("hard", [False, True])
def test_second_derivatives(hard: bool) -> None:
    x, log_weights, natural, features = problem()
    shape, weights = natural.shape, torch.linspace(0.5, 2.0, 20, dtype=torch.float64)
    flat = torch.cat([log_weights, natural.flatten()])

    def found(flat: torch.Tensor) -> torch.Tensor:
        values = flat[:3], flat[3:].reshape(shape)
        return evidence(x, *values, features, hard) @ weights

    def expected(flat: torch.Tensor) -> torch.Tensor:
        joint = plain(x, flat[:3], flat[3:].reshape(shape), features)
        return (joint.amax(0) if hard else joint.logsumexp(0)) @ weights

    hessian, jacobian = torch.autograd.functional.hessian, torch.autograd.functional.jacobian
    reference = hessian(expected, flat)
    close([jacobian(found, flat)], [jacobian(expected, flat)])
    close([hessian(found, flat)], [reference])
    close([hessian(found, flat, vectorize=True)], [reference])
    close([torch.func.hessian(found)(flat)], [reference])


@pytest.mark.usefixtures("blocked")
def test_vmap_over_natural_parameters() -> None:
    x, log_weights, natural, features = problem()
    many = torch.stack([natural, 0.9 * natural])

    def total(eta: torch.Tensor) -> torch.Tensor:
        return evidence(x, log_weights, eta, features).sum()

    close([torch.func.vmap(total)(many)], [torch.stack([total(eta) for eta in many])])
    close(
        [torch.func.vmap(torch.func.grad(total))(many)],
        [torch.stack([torch.func.grad(total)(eta) for eta in many])],
    )


@pytest.mark.usefixtures("blocked")
def test_gradient_is_checked_by_differences() -> None:
    x, log_weights, natural, features = problem(n=9)
    leaves = (log_weights.requires_grad_(True), natural.requires_grad_(True))
    assert torch.autograd.gradcheck(lambda w, eta: evidence(x, w, eta, features), leaves)
    assert torch.autograd.gradgradcheck(lambda w, eta: evidence(x, w, eta, features), leaves)


def test_rows_can_be_differentiated() -> None:
    x, log_weights, natural, _ = problem()
    # Units stay what they are while the rows move.
    features = GaussianFeatures(x, products=True)
    x = x.requires_grad_(True)

    def joint(x: torch.Tensor) -> torch.Tensor:
        centred = (x - features.centre) / features.unit
        row, column = torch.triu_indices(2, 2)
        products = centred[:, row] * centred[:, column]
        phi = torch.cat([torch.ones_like(x[:, :1]), centred, products], 1)
        return log_weights.unsqueeze(-1) + natural @ phi.T

    found = evidence(x, log_weights, natural, features)
    close(gradients(found.sum(), [x]), gradients(joint(x).logsumexp(0).sum(), [x]))


@pytest.mark.usefixtures("blocked")
def test_posterior_and_statistics() -> None:
    x, log_weights, natural, features = problem()
    shares = plain(x, log_weights, natural, features).softmax(0).T
    close([posterior(x, log_weights, natural, features)], [shares])
    close([statistics(x, shares, features)], [shares.T @ features(x).T])


# -- what is impossible --------------------------------------------------------------------------


@pytest.mark.usefixtures("blocked")
@pytest.mark.parametrize("hard", [False, True])
def test_component_of_no_weight_has_no_share(hard: bool) -> None:
    x, log_weights, natural, features = problem()
    gone = log_weights.clone()
    gone[1] = -math.inf
    kept = [0, 2]
    leaves = [gone.requires_grad_(True), natural.requires_grad_(True)]
    found = evidence(x, *leaves, features, hard)
    expected = evidence(x, gone[kept], natural[kept], features, hard)
    close([found], [expected])
    found_grads = torch.autograd.grad(found.sum(), leaves, create_graph=True)
    for mine, reference in zip(found_grads, gradients(expected.sum(), leaves), strict=True):
        close([mine], [reference])
        assert float(mine[1].detach().abs().sum()) == 0.0
    if not hard:
        second = torch.autograd.grad(found_grads[1].square().sum(), natural)[0]
        assert bool(torch.isfinite(second).all())
    assert float(posterior(x, gone.detach(), natural.detach(), features)[:, 1].abs().max()) == 0.0


@pytest.mark.parametrize("hard", [False, True])
def test_a_row_that_no_component_can_have_made(
    hard: bool, discrete_params: Callable[[str], Params]
) -> None:
    params = discrete_params("bernoulli")
    params["probabilities"] = params["probabilities"].clone()
    params["probabilities"][:, 0] = 0.0
    family = Mixture(3, "bernoulli").family
    x = torch.tensor([[1.0, 0, 0, 1], [0, 1, 1, 0]], dtype=torch.float64)
    features = family.features(x)
    natural = family.natural(params, features).requires_grad_(True)
    mixture = LogLinearMixture(params["weights"], natural, features, lambda z: x, 4)
    found = mixture.evidence(x, mixture.natural, hard)
    assert float(found[0].detach()) == -math.inf
    joint = torch.distributions.Bernoulli(params["probabilities"][:, 1:]).log_prob(x[1, 1:])
    joint = joint.sum(-1) + params["weights"].log()
    assert float(found[1].detach()) == pytest.approx(
        float(joint.max() if hard else joint.logsumexp(0)), rel=1e-12
    )
    # The possible row keeps its statistics; the other has none.
    (slope,) = torch.autograd.grad(found[1], natural)
    assert bool(torch.isfinite(slope).all())
    assert float(mixture.latent_posterior(x)[0].detach().abs().sum()) == 0.0


def test_impossible_for_one_component_only(discrete_params: Callable[[str], Params]) -> None:
    params = discrete_params("categorical")
    table = params["probabilities"].clone()
    table[0, 0] = torch.tensor([1.0, 0.0, 0.0])
    family = Mixture(3, "categorical", options={"n_categories": 3}).family
    x = torch.tensor([[2.0, 0, 1, 2], [0.0, 1, 1, 0]], dtype=torch.float64)
    features = family.features(x)
    natural = family.natural({"probabilities": table}, features)
    mixture = LogLinearMixture(params["weights"], natural, features, lambda z: x, 4)
    joint = torch.stack(
        [
            params["weights"] * torch.stack([table[:, d, int(row[d])] for d in range(4)]).prod(0)
            for row in x
        ]
    )
    torch.testing.assert_close(mixture.log_prob(x), joint.sum(1).log(), rtol=1e-12, atol=0.0)
    shares = joint / joint.sum(1, keepdim=True)
    torch.testing.assert_close(mixture.latent_posterior(x), shares, rtol=1e-12, atol=0.0)
    assert float(shares[0, 0]) == 0.0


def test_plates_outside_are_a_dimension_of_the_evidence(params_of: Callable[..., Params]) -> None:
    x, log_weights, natural, features = problem()
    many = torch.stack([natural, 0.9 * natural])
    mixture = LogLinearMixture(log_weights.exp(), many, features, lambda z: x, 2)
    assert mixture.batch_shape == (2, 1)
    expected = torch.stack([evidence(x, log_weights, eta, features) for eta in many])
    for fn in (mixture, mixture.expand(torch.Size([2, 20]))):
        close([fn.log_prob(x)], [expected])
    with pytest.raises(NotImplementedError, match="vectorised"):
        mixture.sample()


def test_far_rows_have_a_density_and_one_owner() -> None:
    """exp() of every component underflows there; the logarithm does not."""
    x, log_weights, natural, features = problem()
    far = x + 1e4
    found = evidence(far, log_weights, natural, features)
    expected = plain(far, log_weights, natural, features).logsumexp(0)
    close([found], [expected])
    assert bool((found < -1e5).all())
    shares = posterior(far, log_weights, natural, features)
    torch.testing.assert_close(shares.sum(1), torch.ones(20, dtype=torch.float64))


def test_float32_keeps_its_dtype() -> None:
    program = GaussianMixture(2)
    x = torch.randn(30, 2, generator=torch.Generator().manual_seed(0))
    start = program.initial(x)
    found = program.score_samples(start, x)
    assert found.dtype == torch.float32
    double = program.score_samples({n: v.double() for n, v in start.items()}, x.double())
    torch.testing.assert_close(found.double(), double, rtol=1e-4, atol=1e-4)
