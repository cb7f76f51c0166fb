"""Behaviour cloning of CartPole's scripted expert, against one epoch of `imitation`.

50 demonstrations of 500 steps; what both sides learnt is then played for 100 episodes. The peer
(imitation 1.0.1 with stable-baselines3) runs in an environment of its own below
``benchmarks/output/peers``, which the first run makes, with the pinned torch; where it cannot be
installed, this says so and compares with the published figure of 2.1 to 3.6 s.
"""

from __future__ import annotations

from _common import (
    OUTPUT,
    arguments,
    clock,
    print_facts,
    print_table,
    print_target,
    save,
)

# isort: split
import json
import os
import statistics
import subprocess
import sys
import tempfile
import venv
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch

from likely.envs import Trajectories, cartpole_expert, rollout
from likely.inference import MLE
from likely.inference.imitation import behaviour_cloning, evaluate_returns
from likely.models import SoftmaxPolicy

PEER = ("imitation==1.0.1",)
PUBLISHED = 2.1, 3.6
EPISODES, PLAYED = 50, 100
# The demonstrations are separable: their likelihood has no maximum, and the search ends, saying
# so, when all that is left to gain lies at infinity. Long before, no action changes any more.
WHOLE, SHORT = 1000, 20
TARGET = 0.1
PEER_SCRIPT = """
import json, sys, time
import gymnasium, numpy as np, torch
from imitation.algorithms import bc
from imitation.data.types import Transitions
torch.set_num_threads(int(sys.argv[2]))
data = np.load(sys.argv[1])
seen = Transitions(
    obs=data["states"].astype(np.float32), acts=data["actions"],
    infos=np.array([{}] * len(data["actions"])), next_obs=data["after"].astype(np.float32),
    dones=data["over"],
)
env = gymnasium.make("CartPole-v1")
trainer = bc.BC(
    observation_space=env.observation_space, action_space=env.action_space, demonstrations=seen,
    rng=np.random.default_rng(0), device="cpu",
)
wall, cpu = time.perf_counter(), time.process_time()
trainer.train(n_epochs=1, progress_bar=False, log_interval=10**9)
wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
total = []
for seed in range(int(sys.argv[3])):
    state, _ = env.reset(seed=seed)
    over, paid = False, 0.0
    while not over:
        action, _ = trainer.policy.predict(state, deterministic=False)
        state, reward, terminated, truncated, _ = env.step(action)
        over, paid = terminated or truncated, paid + reward
    total.append(paid)
print(json.dumps({"wall": wall, "cpu": cpu, "return": float(np.mean(total))}))
"""


def measure(folder: Path, max_iter: int) -> dict[str, Any]:
    """Time of one cloning in this process, after one that is not timed."""
    data = np.load(folder / "demonstrations.npz")
    seen = Trajectories.from_arrays(
        data["whole"],
        data["actions"],
        lengths=data["lengths"],
        action_space=2,
    )

    def run() -> Any:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return behaviour_cloning(seen, SoftmaxPolicy(2), MLE(max_iter=max_iter))

    run()
    wall, cpu = clock()
    found = run()
    wall_end, cpu_end = clock()
    earned = evaluate_returns("CartPole-v1", found, episodes=PLAYED, seed=1)
    return {
        "wall": wall_end - wall,
        "cpu": cpu_end - cpu,
        "return": earned.mean,
        "iterations": found.fit.n_iter,
        "converged": found.fit.converged,
    }


def demonstrations(folder: Path) -> None:
    seen = rollout("CartPole-v1", cartpole_expert, EPISODES, seed=0)
    states, actions = seen.state_action_pairs()
    last = seen.step == seen.lengths[seen.episode] - 1
    np.savez(
        folder / "demonstrations.npz",
        whole=seen.states.numpy(),
        lengths=seen.lengths.numpy(),
        states=states.numpy(),
        actions=actions.numpy(),
        after=seen.next_states.numpy(),
        over=(last & seen.terminated[seen.episode]).numpy(),
    )


def peer_python() -> str | None:
    """The interpreter of the peer's environment, made at the first run; None if it cannot be."""
    folder = OUTPUT / "peers" / "imitation-venv"
    python = folder / ("Scripts" if os.name == "nt" else "bin") / "python"
    check = [str(python), "-c", "import imitation.algorithms.bc"]
    if python.exists() and subprocess.run(check, capture_output=True).returncode == 0:
        return str(python)
    own = f"torch=={torch.__version__}"
    print(f"installing {', '.join(PEER)} with {own} into {folder}")
    try:
        venv.create(folder, with_pip=True, clear=True)
        # Our very torch: what else pip might choose brings another build.
        install = [str(python), "-m", "pip", "install", "--quiet", own, *PEER]
        subprocess.run(install, check=True, timeout=900)
        subprocess.run(check, check=True)
    except (OSError, subprocess.SubprocessError) as error:
        print(f"imitation cannot be installed here: {error}")
        return None
    return str(python)


def main() -> None:
    if sys.argv[1:2] == ["--measure"]:
        print(json.dumps(measure(Path(sys.argv[2]), int(sys.argv[3]))))
        return
    options = arguments("imitation", __doc__, repeats=5)
    print_facts()
    python = peer_python()
    found: dict[str, list[dict[str, Any]]] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        demonstrations(folder)
        commands = {
            "likely, to its end": [sys.executable, __file__, "--measure", name, str(WHOLE)],
            f"likely, {SHORT} iterations": [
                *(sys.executable, __file__, "--measure", name, str(SHORT))
            ],
        }
        if python is not None:
            data = str(folder / "demonstrations.npz")
            threads = str(torch.get_num_threads())
            commands["imitation, 1 epoch"] = [
                *(python, "-W", "ignore", "-c", PEER_SCRIPT, data, threads, str(PLAYED))
            ]
        for _ in range(options.repeats):
            for label, command in commands.items():
                done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
                found.setdefault(label, []).append(json.loads(done.stdout.splitlines()[-1]))
    rows = [
        {
            "": label,
            "CPU s": statistics.median(run["cpu"] for run in runs),
            "wall s": statistics.median(run["wall"] for run in runs),
            "return": statistics.mean(run["return"] for run in runs),
        }
        for label, runs in found.items()
    ]
    print_table(
        f"Cloning {EPISODES} episodes of CartPole-v1, mean return of {PLAYED} episodes", rows
    )
    seconds = {row[""]: float(row["CPU s"]) for row in rows}
    peer = seconds.get("imitation, 1 epoch")
    if peer is None:
        peer = PUBLISHED[0]
        print(f"imitation was NOT measured in this run; published: {PUBLISHED[0]}-{PUBLISHED[1]} s")
    first, second, *_ = seconds
    ratio = seconds[first] / peer
    print_target(f"{first}, CPU time by the peer's", ratio, TARGET, at_most=True)
    print(f"{second}: {seconds[second] / peer:.2f} of the peer's")
    save(options.output, {"runs": found, "table": rows})


if __name__ == "__main__":
    main()
