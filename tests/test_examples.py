"""Every example runs, and writes figures that are not empty."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
EXAMPLES = sorted(p for p in (ROOT / "examples").glob("*.py") if not p.name.startswith("_"))
# What makes an example short enough for a test; the others run as they are.
SHORT = {"anesthesia.py": ["--draws", "100", "--no-progress"]}
SAYS = {
    "anesthesia.py": ["prevalence[1]", "-192.89", "The 38 cells that the MLE says never happen"],
    "declare_your_own.py": ["rate", "broken with probability"],
}


@pytest.mark.slow
@pytest.mark.parametrize("script", EXAMPLES, ids=lambda path: path.name)
def test_example_runs(script: Path, tmp_path: Path) -> None:
    copy = tmp_path / "examples"
    copy.mkdir()
    (copy / script.name).write_text(script.read_text())
    (copy / "data").symlink_to(ROOT / "examples" / "data")
    done = subprocess.run(
        [sys.executable, "-W", "ignore", script.name, *SHORT.get(script.name, [])],
        cwd=copy,
        env={**os.environ, "MPLBACKEND": "Agg"},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    for expected in SAYS[script.name]:
        assert expected in done.stdout
    figures = list((copy / "output").glob("*.png"))
    assert figures
    for figure in figures:
        assert figure.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
        assert figure.stat().st_size > 5_000
