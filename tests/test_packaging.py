"""The three folders are what gets installed, and they import one another one way only."""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = ("envs", "models", "inference")
MODULES = sorted(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py"))
MAX_LINES = 400

# The parts of likely.inference that know models and environments: loops, and the command.
UPPER_STOREY = re.compile(r"likely\.inference\.(active|imitation|__main__|_?cli)(\.|$)")


def module_name(path: Path) -> str:
    """Return the import name of a file: models/crowd/x.py is likely.models.crowd.x."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(("likely", *parts)).removesuffix(".__init__")


def imported(tree: ast.AST, name: str, *, is_package: bool) -> Iterator[str]:
    """Yield what a module imports, wherever the statement stands, with relative names resolved."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            source = node.module or ""
            if node.level:
                up = node.level - is_package
                parents = name.split(".")
                base = ".".join(parents[: len(parents) - up])
                source = f"{base}.{source}".rstrip(".")
            yield source
            yield from (f"{source}.{alias.name}" for alias in node.names)


def forbidden(name: str) -> tuple[str, ...]:
    """Return the packages that the module `name` must not import."""
    if name.startswith("likely.envs"):
        return ("pyro", "likely.models", "likely.inference")
    if name.startswith("likely.models"):
        return ("likely.inference",)
    if UPPER_STOREY.match(name):
        return ()
    return ("likely.models", "likely.envs")


def violations(source: str, name: str, *, is_package: bool) -> list[str]:
    """Return the imports in `source` that the module `name` must not make."""
    # `import models` would work only from the repository's own folder.
    banned = (*forbidden(name), *FOLDERS)
    names = imported(ast.parse(source), name, is_package=is_package)
    return sorted({n for n in names for ban in banned if n == ban or n.startswith(f"{ban}.")})


@pytest.fixture(scope="module")
def pyproject() -> dict:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def test_listed_packages_are_the_folders(pyproject: dict) -> None:
    found = [module_name(path) for path in MODULES if path.name == "__init__.py"]
    assert sorted(pyproject["tool"]["setuptools"]["packages"]) == sorted(found)


def test_no_module_lies_outside_a_package() -> None:
    orphans = [path for path in MODULES if not (path.parent / "__init__.py").exists()]
    assert orphans == []


def test_likely_itself_is_a_namespace() -> None:
    assert not (ROOT / "likely").exists()
    assert not (ROOT / "__init__.py").exists()


@pytest.mark.parametrize("folder", FOLDERS)
def test_folder_is_mapped_and_typed(pyproject: dict, folder: str) -> None:
    options = pyproject["tool"]["setuptools"]
    assert options["package-dir"][f"likely.{folder}"] == folder
    assert "py.typed" in options["package-data"][f"likely.{folder}"]
    assert (ROOT / folder / "py.typed").is_file()


def test_direct_dependencies_are_pinned_and_explained(pyproject: dict) -> None:
    project = pyproject["project"]
    extras = project["optional-dependencies"]
    lines = [*project["dependencies"], *extras["fast"], *extras["web"], *extras["dev"]]
    names = {Requirement(line).name.lower() for line in lines}

    constraints = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = [Requirement(line) for line in constraints if line and not line.startswith("#")]
    assert names <= {pin.name.lower() for pin in pins}
    assert all(str(pin.specifier).startswith("==") for pin in pins)

    architecture = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    assert {name for name in names if f"`{name}`" not in architecture} == set()


@pytest.mark.parametrize("path", MODULES, ids=module_name)
def test_imports_go_one_way(path: Path) -> None:
    source = path.read_text(encoding="utf-8")
    assert violations(source, module_name(path), is_package=path.name == "__init__.py") == []


@pytest.mark.parametrize(
    ("name", "source", "expected"),
    [
        ("likely.envs.mdp", "import pyro.distributions as dist", ["pyro.distributions"]),
        ("likely.envs.mdp", "import torch", []),
        ("likely.envs.mdp", "from likely import models", ["likely.models"]),
        ("likely.models.hmm", "import pyro\nfrom likely.envs import DataError", []),
        (
            "likely.models.hmm",
            "def f():\n    from ..inference import MLE",
            ["likely.inference", "likely.inference.MLE"],
        ),
        ("likely.inference.fit", "from . import models", []),
        ("likely.inference.fit", "from .. import models", ["likely.models"]),
        (
            "likely.inference.engines.em",
            "from likely.envs import DataError",
            ["likely.envs", "likely.envs.DataError"],
        ),
        ("likely.inference.active.loop", "from likely.models import NaiveBayes", []),
        ("likely.inference.activelike", "import likely.models", ["likely.models"]),
        ("likely.inference.active", "import models", ["models"]),
    ],
)
def test_import_rule_on_made_up_modules(name: str, source: str, expected: list[str]) -> None:
    assert violations(source, name, is_package=False) == expected


@pytest.mark.parametrize("path", MODULES, ids=module_name)
def test_module_is_short(path: Path) -> None:
    n_lines = len(path.read_text(encoding="utf-8").splitlines())
    assert n_lines <= MAX_LINES


# Heavy libraries that only some calls need: figures, files, tests of assumptions, torch's compiler.
LATE = {"matplotlib", "pyarrow.dataset", "scipy.optimize", "scipy.stats", "sympy", "xarray"}


def test_a_fit_does_not_load_what_it_does_not_need() -> None:
    program = (
        "import sys\n"
        "import likely.models, likely.inference\n"
        f"print(sorted({LATE!r} & set(sys.modules)))\n"
        "crowd = likely.models.Annotations.from_arrays([1, 1, 2], [1, 2, 2], [0, 0, 1])\n"
        "fit = likely.inference.EM(max_iter=5, tol=0.1).fit(likely.models.DawidSkene(2), crowd)\n"
        "fit.latent('truth')\n"
        f"print(sorted({LATE!r} & set(sys.modules)))\n"
        "assert callable(likely.inference.plot_trace)\n"
        "assert 'plot_trace' in dir(likely.inference) and likely.inference.diagnostics\n"
        "try:\n"
        "    likely.inference.no_such_name\n"
        "except AttributeError as error:\n"
        "    print(error)\n"
    )
    printed = run(sys.executable, "-P", "-W", "error", "-c", program).splitlines()
    message = "module 'likely.inference' has no attribute 'no_such_name'"
    assert printed == ["[]", "[]", message]


@pytest.mark.slow
def test_wheel_holds_the_three_packages_and_works_anywhere(tmp_path: Path) -> None:
    # Built from a copy: setuptools reuses whatever an earlier build left in build/.
    checkout = tmp_path / "checkout"
    checkout.mkdir()
    for name in (*FOLDERS, "tests"):
        shutil.copytree(ROOT / name, checkout / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, checkout / name)
    run(sys.executable, "-m", "build", "--wheel", "--no-isolation", cwd=checkout)

    (wheel,) = (checkout / "dist").glob("likely-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    packed = {name for name in names if ".dist-info/" not in name}
    sources = {f"likely/{path.relative_to(ROOT).as_posix()}" for path in MODULES}
    typed = {f"likely/{folder}/py.typed" for folder in FOLDERS}
    assert packed == sources | typed | {"likely/inference/active/web/page.html"}
    assert any(name.endswith("/licenses/LICENSE") for name in names)

    target = tmp_path / "installed"
    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check")
    run(*pip, "install", "--no-deps", "--no-index", "--target", str(target), str(wheel))
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    program = (
        "import likely.models, likely.inference, likely.envs;"
        "print(likely.envs.__file__, likely.models.__file__, likely.inference.__file__)"
    )
    printed = run(
        sys.executable, "-P", "-c", program, cwd=elsewhere, env={"PYTHONPATH": str(target)}
    )
    assert [Path(p).parent for p in printed.split()] == [target / "likely" / f for f in FOLDERS]


def run(*command: str, cwd: Path | None = None, env: dict[str, str] | None = None) -> str:
    """Run a command, fail the test with all it said if it fails, and return what it printed."""
    done = subprocess.run(
        command,
        cwd=cwd,
        env={**os.environ, **(env or {})},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout}\n{done.stderr}"
    return done.stdout
