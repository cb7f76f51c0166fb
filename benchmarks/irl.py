"""Maximum causal entropy inverse reinforcement learning on the 4 × 7 cliff world, 40 steps.

`MLE` of `MaxEntIRL` from the expert's exact occupancy, a weight for each of the 28 cells, from no
reward to an occupancy that differs by at most a millionth. The `imitation` package's MCEIRL takes
gradient steps on the same problem; it wants older versions than ours, so `--peer` names the
interpreter of an environment that has it. Without one its published figure is compared with, and
said so: 19 s, at a gap of .013 then.

Beside it, what one density and gradient cost: the forward occupancy pass against automatic
differentiation of the backward recursion.
"""

from __future__ import annotations

from _common import arguments, interleave, print_facts, print_table, print_target, save

# isort: split
import json
import subprocess
import warnings
from functools import partial
from typing import Any

import torch
from torch import Tensor

from likely.envs import cliff_world, soft_backward_induction
from likely.inference import MLE, ConvergenceWarning, DegenerateWarning
from likely.models import MaxEntIRL, Visits
from likely.models._soft_policy import soft_log_policy

HORIZON = 40
# Seconds and gap, where the package is not installed.
PUBLISHED = (19.0, 0.013)
WORLD = cliff_world()
MDP = WORLD.mdp
EXPERT = soft_backward_induction(MDP, HORIZON).policy
DATA = Visits.from_policy(MDP, EXPERT, HORIZON)
PROGRAM = MaxEntIRL(MDP, "state", HORIZON)


def gap(weights: Tensor) -> float:
    """Largest difference of the expected visits of a cell, of 40."""
    met = PROGRAM.occupancy({"reward_weights": weights}).sum(-1)
    return float((met - DATA.counts.sum((0, 2))).abs().max())


def ours() -> Tensor:
    with warnings.catch_warnings():
        # Cells that the expert hardly ever meets are flat directions.
        warnings.simplefilter("ignore", ConvergenceWarning)
        warnings.simplefilter("ignore", DegenerateWarning)
        return MLE().fit(PROGRAM, DATA).params["reward_weights"]


def with_gradient(make: Any) -> Tensor:
    weights = torch.zeros(28, dtype=torch.float64, requires_grad=True)
    (found,) = torch.autograd.grad((make(weights) * DATA.counts).sum(), weights)
    return found


def by_occupancy(weights: Tensor) -> Tensor:
    return soft_log_policy(MDP, weights, horizon=HORIZON)


def by_recursion(weights: Tensor) -> Tensor:
    return torch.log_softmax(soft_backward_induction(MDP, HORIZON, reward=weights).q, -1)


# Runs with the interpreter of another environment, as the package wants older versions than ours.
PEER = """
import json, time
import numpy as np
from imitation.algorithms.mce_irl import MCEIRL, mce_occupancy_measures
from imitation.rewards.reward_nets import BasicRewardNet
from seals.diagnostics.cliff_world import CliffWorldEnv

env = CliffWorldEnv(height=4, width=7, horizon=40, use_xy_obs=False)
_, visits = mce_occupancy_measures(env)
for steps in (1000, 3000):
    net = BasicRewardNet(
        env.observation_space,
        env.action_space,
        hid_sizes=[],
        use_action=False,
        use_done=False,
        use_next_state=False,
    )
    learner = MCEIRL(visits, env, net, rng=np.random.default_rng(0))
    begun = time.process_time()
    found = learner.train(max_iter=steps)
    spent = time.process_time() - begun
    print(json.dumps([steps, spent, float(np.abs(visits - found).max())]), flush=True)
"""


def theirs(python: str) -> list[tuple[int, float, float]]:
    """Steps, CPU seconds and gap of `imitation`'s MCEIRL, one weight a cell.

    By default it stops after 1000 of its steps, wherever that is.
    """
    done = subprocess.run([python, "-c", PEER], capture_output=True, text=True, check=True)
    rows = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("[")]
    return [(int(steps), float(seconds), float(left)) for steps, seconds, left in rows]


def main() -> None:
    peer_option = {"default": None, "help": "interpreter that has the package imitation"}
    options = arguments("irl", __doc__, repeats=5, peer=peer_option)
    torch.set_default_dtype(torch.float64)
    print_facts()
    timings, results = interleave({"MLE": ours}, options.repeats)
    seconds = timings["MLE"].cpu_ms / 1e3
    peers = [(0, *PUBLISHED)] if options.peer is None else theirs(options.peer)
    source = "published" if options.peer is None else "this run"
    found = gap(results["MLE"])
    print_table(
        "From exact occupancy, cliff world, horizon 40",
        [
            {"": "MLE", "CPU s": seconds, "gap": found, "from": "this run"},
            *(
                {
                    "": f"imitation MCEIRL{f', {steps} steps' if steps else ''}",
                    "CPU s": peer,
                    "gap": left,
                    "from": source,
                }
                for steps, peer, left in peers
            ),
        ],
    )
    runs = {"occupancy pass": by_occupancy, "differentiated recursion": by_recursion}
    kernels, _ = interleave(
        {name: partial(with_gradient, make) for name, make in runs.items()}, 6 * options.repeats
    )
    print_table(
        "Log-policy and its gradient",
        [{"": name, "CPU ms": timing.cpu_ms} for name, timing in kernels.items()],
    )
    print_target("gap in millionths", 1e6 * found, 1, at_most=True)
    for steps, peer, left in peers:
        what = f"{steps} steps, " if steps else ""
        name = f"MCEIRL ({what}gap {left:.2g}, {source})"
        print_target(f"{name} over MLE, CPU time", peer / seconds, 10, at_most=False)
    record = {
        "mle": timings["MLE"].record(),
        "gap": found,
        "peer": [
            {"steps": steps, "seconds": peer, "gap": left, "from": source}
            for steps, peer, left in peers
        ],
        "kernels": {name: timing.record() for name, timing in kernels.items()},
    }
    save(options.output, record)


if __name__ == "__main__":
    main()
