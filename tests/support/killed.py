"""Runs that are killed in the middle, in a process of their own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import torch

# A callback that leaves no time for anything.
PREAMBLE = """
import os, signal, sys
def kill(row):
    if row["iteration"] == 2:
        os.kill(os.getpid(), signal.SIGKILL)
"""

# Of children that import a test module, which imports modules of this folder.
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parent)}


def killed(script: str, folder: Path) -> int:
    """How many iterations are in ``folder`` after a script with ``callback=kill`` was killed."""
    command = [sys.executable, "-P", "-c", PREAMBLE + script, str(folder)]
    done = subprocess.run(command, capture_output=True, timeout=300, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()
    return len(torch.load(folder / "state.pt", weights_only=True)["state"]["rows"])
