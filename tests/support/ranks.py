"""Tests in several processes: a script that every rank runs, and what each has found."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

# What every script begins with. It ends by calling `tell(found)`.
PREAMBLE = """
import json, os, sys, time, warnings
from datetime import timedelta
import torch
from torch import distributed

rank, size, where, mode = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4]
torch.set_num_threads(1)
warnings.simplefilter("ignore")
distributed.init_process_group(
    "gloo", init_method=f"file://{where}/meeting", rank=rank, world_size=size,
    timeout=timedelta(seconds=int(sys.argv[5])),
)
found = {}


def message(work):
    try:
        work()
    except Exception as error:
        return type(error).__name__, str(error)
    return None, ""


def tell(found):
    with open(f"{where}/{rank}.json", "w") as file:
        json.dump(found, file)
    # Not by way of the group, whose other members may be gone.
    os._exit(0)
"""


def launch(script: str, folder: Path, size: int, mode: str, patience: int = 60) -> list[int]:
    """Run a script in so many processes, whose group waits so many seconds; their exit codes."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MPLBACKEND": "Agg"}
    rest = [str(size), str(folder), mode, str(patience)]
    started = [
        subprocess.Popen(
            [sys.executable, "-P", "-c", PREAMBLE + script, str(rank), *rest], env=environment
        )
        for rank in range(size)
    ]
    try:
        return [process.wait(timeout=300) for process in started]
    finally:
        for process in started:
            process.kill()
            process.wait()


def told(folder: Path, rank: int) -> dict[str, Any]:
    """What a rank found."""
    found: dict[str, Any] = json.loads((folder / f"{rank}.json").read_text())
    return found
