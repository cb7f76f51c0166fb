"""nutpie as the sampler behind `NUTS`."""

from __future__ import annotations

import importlib.util
import threading
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from likely.inference.engines.chains import Chain
from likely.inference.errors import NonFiniteError, OptionError

if TYPE_CHECKING:
    from likely.inference.engines.nuts import NUTS

# nutpie's names for what Pyro's sampler reports as well.
_STATS = {
    "lp": "logp",
    "acceptance_rate": "mean_tree_accept",
    "n_steps": "n_steps",
    "step_size": "step_size",
    "diverging": "diverging",
}


def require_nutpie() -> None:
    """Raise an `OptionError` where nutpie is not installed."""
    if importlib.util.find_spec("nutpie") is None:
        raise OptionError(
            "backend='nutpie' needs the package nutpie, which is not installed: "
            "pip install 'likely[fast]', or use backend='pyro'"
        )


def sample(
    options: NUTS, potential: Callable[[torch.Tensor], torch.Tensor], starts: Sequence[torch.Tensor]
) -> list[Chain]:
    """Draw with nutpie; chains share one core, since Pyro's handlers are not safe for threads.

    Parameters
    ----------
    options : NUTS
    potential : callable
        Negative log-density of a flat unconstrained point [n].
    starts : sequence of Tensor, [n]
        A start for each chain.
    """
    import nutpie

    device, dtype = starts[0].device, starts[0].dtype
    size = starts[0].numel()

    failures: list[Exception] = []
    # nutpie's threads may outlive an error; once this is closed they no longer run the program.
    lock, closed = threading.Lock(), False

    def make_logp() -> Callable[..., Any]:
        def logp(x: np.ndarray, **_: Any) -> tuple[float, np.ndarray]:
            with lock:
                if failures or closed:
                    return float("nan"), np.zeros(size)
                try:
                    return evaluate(x)
                except Exception as error:
                    failures.append(error)
                    return float("nan"), np.zeros(size)

        return logp

    def evaluate(x: np.ndarray) -> tuple[float, np.ndarray]:
        point = torch.as_tensor(np.array(x), dtype=dtype, device=device).requires_grad_(True)
        value = potential(point)
        (gradient,) = torch.autograd.grad(value, point)
        return -float(value.detach()), -gradient.double().cpu().numpy()

    def make_expand(*_: Any) -> Callable[..., Any]:
        return lambda x, **_: {"x": np.array(x)}

    served = iter(range(len(starts) * 10_000))

    def start(_: int) -> np.ndarray:
        # Called once for each chain, and again if a start is refused.
        return starts[next(served) % len(starts)].double().cpu().numpy()

    compiled = nutpie.compiled_pyfunc.from_pyfunc(
        size,
        make_logp,
        make_expand,
        [np.dtype("float64")],
        [(size,)],
        ["x"],
        make_initial_point_fn=start,
    )
    try:
        trace = nutpie.sample(
            compiled,
            draws=options.draws,
            tune=options.warmup,
            chains=options.chains,
            cores=1,
            seed=options.seed,
            save_warmup=False,
            progress_bar=options.progress,
            target_accept=options.target_accept,
            maxdepth=options.max_tree_depth,
        )
    except RuntimeError as error:
        if failures:
            raise failures[0] from None
        raise NonFiniteError(f"nutpie could not sample the log-density: {error}") from error
    finally:
        with lock:
            closed = True
    if failures:
        raise failures[0]
    draws = np.asarray(trace["posterior"]["x"])
    found = trace["sample_stats"]
    stats = {ours: np.asarray(found[theirs]) for ours, theirs in _STATS.items() if theirs in found}
    return [
        Chain(draws[chain], {name: value[chain] for name, value in stats.items()})
        for chain in range(draws.shape[0])
    ]
