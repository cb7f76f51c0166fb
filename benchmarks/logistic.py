"""MAP of a logistic regression: `MAP` against hand-written L-BFGS and against Pyro's AutoDelta.

10,000 rows, 8 coefficients and an intercept, float64. All maximise the same density: the sites are
real-valued, so the constrained and the unconstrained density agree.

The hand-written peer is torch.optim.LBFGS (strong Wolfe) on the objective a person would type, from
one Newton step from zero, with torch's default tolerances; `MAP` starts where the program says, at
the end of Newton's method on the likelihood. Both starts are found within the timed run. AutoDelta
with Adam runs twice: as Pyro sets it up (start at the prior's median, validation on), and as fast
as it goes (a Newton step from zero, validation off). Both times Adam's learning rate
is the best of five, chosen before the timing, and an oracle stops it: as soon as its loss is within
1e-4 nats of the optimum.
"""

from __future__ import annotations

from _common import arguments, interleave, print_facts, print_table, print_target, save

# isort: split
from collections.abc import Callable
from functools import partial

import pyro
import torch
import torch.nn.functional as F
from pyro.infer import SVI, Trace_ELBO
from pyro.infer.autoguide import AutoDelta, init_to_value
from torch import Tensor

from likely.inference import MAP, Fit
from likely.models import LogisticRegression

ROWS, COEFFICIENTS = 10_000, 8
PRIOR_SCALE = 10.0
NATS = 1e-4
LEARNING_RATES = (0.01, 0.03, 0.05, 0.1, 0.3)
MAP_RUN, MAP_AGAIN = "likely MAP", "likely MAP, again"
BY_HAND = "torch L-BFGS by hand"
ADAM, HELPED = "Pyro AutoDelta, Adam", "Pyro AutoDelta, Adam, helped"


def simulate(rows: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(rows, COEFFICIENTS, generator=generator)
    weights = torch.randn(COEFFICIENTS, generator=generator)
    y = torch.rand(rows, generator=generator) < torch.sigmoid(x @ weights - 0.5)
    return x, y.to(x.dtype)


def newton_start(x: Tensor, y: Tensor) -> Tensor:
    """The first Newton step from zero: least squares on 4 (y − 1/2). Intercept first."""
    design = torch.cat([torch.ones_like(x[:, :1]), x], 1)
    return torch.linalg.solve(design.T @ design, design.T @ (4 * (y - 0.5)))


def hand_written(x: Tensor, y: Tensor) -> tuple[Tensor, int]:
    """Weights [9], the intercept first, and the number of evaluations."""
    weights = newton_start(x, y).requires_grad_(True)
    optimizer = torch.optim.LBFGS(
        [weights], max_iter=1000, history_size=20, line_search_fn="strong_wolfe"
    )
    evaluations = 0

    def closure() -> Tensor:
        nonlocal evaluations
        evaluations += 1
        optimizer.zero_grad()
        logits = x @ weights[1:] + weights[0]
        loss = F.binary_cross_entropy_with_logits(logits, y, reduction="sum")
        loss = loss + 0.5 * (weights / PRIOR_SCALE).square().sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    return weights.detach(), evaluations


def auto_delta(
    x: Tensor, y: Tensor, optimum: float, lr: float, steps: int, helped: bool
) -> tuple[Tensor, int]:
    """Weights [9], the intercept first, and the number of steps (``steps`` if not there yet).

    ``helped`` gives a Newton step from zero and leaves out validation.
    """
    pyro.clear_param_store()
    pyro.set_rng_seed(0)
    program = LogisticRegression()
    init = {}
    if helped:
        start = newton_start(x, y)
        values = {"intercept": start[0], "coefficients": start[1:]}
        init["init_loc_fn"] = init_to_value(values=values)
    guide = AutoDelta(program, **init)
    svi = SVI(program, guide, pyro.optim.Adam({"lr": lr}), Trace_ELBO())
    with pyro.validation_enabled(not helped):
        # The loss of a step is minus the log joint density before it.
        taken = next((i for i in range(steps) if svi.step(x, y) + optimum < NATS), steps)
    found = guide.median()
    return torch.cat([found["intercept"].reshape(1), found["coefficients"]]).detach(), taken


def best_rate(run: Callable[..., tuple[Tensor, int]]) -> float:
    """The learning rate that needs the fewest steps."""
    fewest, best = 3000, LEARNING_RATES[0]
    for lr in LEARNING_RATES:
        _, taken = run(lr=lr, steps=fewest)
        if taken < fewest:
            fewest, best = taken, lr
    return best


def ours(x: Tensor, y: Tensor) -> Fit:
    return MAP().fit(LogisticRegression(), x, y)


def weights_of(fit: Fit) -> Tensor:
    return torch.cat([fit.params["intercept"].reshape(1), fit.params["coefficients"]])


def main() -> None:
    options = arguments(
        "logistic", __doc__, repeats=31, rows={"type": int, "default": ROWS, "help": "observations"}
    )
    torch.set_default_dtype(torch.float64)
    print_facts()
    x, y = simulate(options.rows)
    fit = ours(x, y)
    optimum = fit.log_likelihood + fit.log_prior
    plain = partial(auto_delta, x, y, optimum, helped=False)
    helped = partial(auto_delta, x, y, optimum, helped=True)
    rates = {ADAM: best_rate(plain), HELPED: best_rate(helped)}
    timings, results = interleave(
        {MAP_RUN: lambda: ours(x, y), BY_HAND: lambda: hand_written(x, y)}, options.repeats
    )
    more_timings, more_results = interleave(
        {
            MAP_AGAIN: lambda: ours(x, y),
            ADAM: lambda: plain(lr=rates[ADAM], steps=20_000),
            HELPED: lambda: helped(lr=rates[HELPED], steps=20_000),
        },
        max(3, options.repeats // 4),
    )
    timings |= more_timings
    results |= more_results
    mode = weights_of(fit)
    rows, record = [], {}
    for name, timing in timings.items():
        result = results[name]
        weights = weights_of(result) if isinstance(result, Fit) else result[0]
        steps = result.n_iter if isinstance(result, Fit) else result[1]
        gap = float((weights - mode).abs().max())
        rows.append(
            {
                "": name,
                "CPU ms": timing.cpu_ms,
                "wall ms": timing.wall_ms,
                "steps": steps,
                "max |Δ weight|": gap,
            }
        )
        record[name] = {**timing.record(), "steps": steps, "max_difference": gap}
    print_table(f"MAP of a logistic regression, {options.rows} × {COEFFICIENTS}, float64", rows)
    print("steps: iterations of MAP, evaluations of the hand-written L-BFGS, steps of Adam")
    ratios = {
        "hand_written": timings[MAP_RUN].cpu_ms / timings[BY_HAND].cpu_ms,
        "auto_delta": timings[ADAM].cpu_ms / timings[MAP_AGAIN].cpu_ms,
        "auto_delta_helped": timings[HELPED].cpu_ms / timings[MAP_AGAIN].cpu_ms,
    }
    print(f"learning rates: {rates}")
    print_target("MAP / hand-written L-BFGS, CPU time", ratios["hand_written"], 3, at_most=True)
    print_target("AutoDelta with Adam / MAP, CPU time", ratios["auto_delta"], 10, at_most=False)
    print(f"the same, from a Newton step, no validation: {ratios['auto_delta_helped']:.1f}")
    if record[BY_HAND]["max_difference"] > 1e-6:
        raise SystemExit("the two L-BFGS optima differ by more than 1e-6")
    save(options.output, {"runs": record, "adam_lr": rates, "ratios": ratios})


if __name__ == "__main__":
    main()
