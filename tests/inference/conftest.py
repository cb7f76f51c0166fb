"""A browser, for the tests that need one."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    from browser import opened

    with opened(tmp_path_factory.mktemp("profile")) as browser:
        yield browser
