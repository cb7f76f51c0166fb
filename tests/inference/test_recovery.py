"""Every engine finds the values that data were simulated from, for every program it can fit."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from likely.inference import MLE, Fit

Values = dict[str, torch.Tensor]

# An estimate is about normal around the truth. With this bound, a right engine fails for one
# element in 150,000; the data are fixed, so it fails always or never.
ERRORS = 4.5


def spread(config: Any, fit: Fit) -> Values:
    """What the fit itself says about its errors, by site.

    Posterior standard deviations of sites with a prior, standard errors of the rest.
    """
    params = [name for name, unknown in fit.program.sites.unknowns.items() if unknown.is_param]
    if fit.is_point:
        return fit.standard_errors()
    found = {name: fit.draws[name].std((0, 1)) for name in config.values}
    if params:
        errors = fit.standard_errors()
        found |= {name: errors[name] for name in params}
    return found


def test_the_truth_is_found_with_errors_of_the_right_size(case: Any, fitted: Any) -> None:
    config = case.config
    fit = fitted(config.name, case.by.name)
    assert fit.converged
    estimate = config.aligned(fit.params)
    errors = config.aligned(spread(config, fit))
    # The upper triangle of a Cholesky factor and its first row are fixed.
    free = {name: errors[name] > 1e-12 for name in config.values}
    for name, truth in config.values.items():
        away = (estimate[name] - truth).abs()
        assert bool((away <= ERRORS * errors[name])[free[name]].all()), (name, away / errors[name])
        torch.testing.assert_close(
            estimate[name][~free[name]], truth[~free[name]], rtol=0, atol=1e-9
        )
        assert bool(free[name].any())
    # A standard deviation from at least 100 effective draws has a relative error of at most
    # 1 / sqrt(200); the median over elements is no worse, and forgives skewed posteriors.
    reference = config.aligned(fitted(config.name, "map").standard_errors())
    ratios = torch.cat([(errors[name] / reference[name])[free[name]] for name in config.values])
    assert abs(float(ratios.median().log())) <= ERRORS / 200**0.5, ratios


PAIRS = [("mle", "em", 0.0), ("map", "em-posterior", 1.0)]


def test_gradients_and_em_steps_reach_the_same_optimum(config: Any, fitted: Any) -> None:
    for *pair, with_prior in PAIRS:
        if config.unfit & set(pair):
            continue  # every program has its pair of posterior modes
        by_gradient, by_em = (fitted(config.name, name) for name in pair)
        first, second = (
            fit.log_likelihood + with_prior * fit.log_prior for fit in (by_gradient, by_em)
        )
        assert first == pytest.approx(second, rel=1e-6)
        # The objective is flat to second order there, so the points agree to the root of that.
        errors = config.aligned(by_gradient.standard_errors())
        one, other = config.aligned(by_gradient.params), config.aligned(by_em.params)
        for name in config.values:
            away = (one[name] - other[name]).abs()
            assert bool((away <= 0.05 * errors[name].max()).all()), (pair, name)


@pytest.mark.parametrize("seed", range(8))
def test_standard_errors_do_not_depend_on_the_seed_of_the_reading(seed: int, configs: Any) -> None:
    # The support that one site has in the reading run depends on another one's draw.
    config = configs["nested-supports"]
    errors = MLE(seed=seed).fit(config.program, *config.args).standard_errors()
    # Means of 60 readings with standard deviations 1 and 0.5; nothing binds at the optimum.
    assert float(errors["ceiling"]) == pytest.approx(1.0 / 60**0.5, rel=1e-6)
    assert float(errors["level"]) == pytest.approx(0.5 / 60**0.5, rel=1e-6)


def test_em_never_lowers_its_objective(config: Any, fitted: Any) -> None:
    for name in ("em", "em-posterior"):
        if name not in config.unfit:
            steps = fitted(config.name, name).history["objective"].diff().dropna()
            scale = abs(fitted(config.name, name).history["objective"].iloc[-1])
            assert bool((steps >= -1e-9 * max(1.0, scale)).all())
