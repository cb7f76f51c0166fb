"""Importing the environments is light: what few calls need is imported by them."""

from __future__ import annotations

import subprocess
import sys

LATE = {"matplotlib", "minari", "pandas", "pygame", "pyro", "stable_baselines3"}


def test_what_few_calls_need_comes_late() -> None:
    program = (
        "import sys\n"
        "from likely.envs import GridWorld, Trajectories\n"
        "GridWorld(render_mode='rgb_array').render()\n"
        f"print(sorted({LATE!r} & set(sys.modules)))\n"
        "import pandas\n"
        "frame = pandas.DataFrame({'state': [0, 1], 'action': [1, None]})\n"
        "print(Trajectories.from_frame(frame, 'state', 'action'))\n"
    )
    command = [sys.executable, "-P", "-W", "error", "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.stderr == ""
    assert done.stdout.splitlines() == [
        "[]",
        "Trajectories(1 episode, 1 step, states Discrete(2), actions Discrete(2))",
    ]
