"""Every example in a docstring runs, and prints what it says.

``pytest --doctest-modules`` would import each file a second time, as ``models.x`` beside
``likely.models.x``, so the examples run here, under the names that users import.
"""

from __future__ import annotations

import doctest
import importlib
from pathlib import Path

import pyro
import pytest
import torch

ROOT = Path(__file__).resolve().parent.parent
MODULES = sorted(
    ".".join(("likely", *path.relative_to(ROOT).with_suffix("").parts)).removesuffix(".__init__")
    for folder in ("envs", "models", "inference")
    for path in (ROOT / folder).rglob("*.py")
    if path.name != "__main__.py"
)
OPTIONS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


@pytest.mark.parametrize("name", MODULES)
def test_docstring_examples(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    module = importlib.import_module(name)
    report: list[str] = []
    runner = doctest.DocTestRunner(optionflags=OPTIONS, verbose=False)
    with torch.random.fork_rng(devices=[]), pyro.get_param_store().scope():
        for test in doctest.DocTestFinder(exclude_empty=True).find(module, name):
            runner.run(test, out=report.append)
    assert not report, "".join(report)
