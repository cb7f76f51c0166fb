"""What the tests of active learning share."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[3]
DATA = Path(os.environ.get("LIKELY_DATA", ROOT.parent / "shared" / "data")) / "active"


@pytest.fixture(scope="session")
def published() -> Callable[[str], Any]:
    """Reads a file of published inputs and outputs; skips where it is not there."""

    def read(name: str) -> Any:
        path = DATA / name
        if not path.is_file():
            pytest.skip(f"no {name} in {DATA}; set LIKELY_DATA")
        return json.loads(path.read_text())

    return read
