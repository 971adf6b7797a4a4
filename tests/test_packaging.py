"""The wheel works without a checkout, and the declared dependencies are the ones that are imported."""

import ast
import os
import re
import subprocess
import sys
import sysconfig
import tarfile
import tomllib
from collections.abc import Iterable
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
USER_EXTRAS = ("deepspeed", "sentence-transformers", "start")
DISTRIBUTIONS = packages_distributions()


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the sdist, and the wheel that was built from it."""
    folder = tmp_path_factory.mktemp("dist")
    run([sys.executable, "-m", "build", "--no-isolation", "-o", str(folder), str(ROOT)], cwd=folder)
    return folder


@pytest.fixture(scope="module")
def site(built: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder into which the wheel alone is installed."""
    folder = tmp_path_factory.mktemp("site")
    wheel = next(built.glob("*.whl"))
    run([sys.executable, "-m", "pip", "install", "--no-deps", "--no-index", "--target", str(folder), str(wheel)])
    return folder


def run(command: list[str], cwd: Path | None = None, **environment: str) -> str:
    """Standard output of a command that must succeed."""
    done = subprocess.run(command, cwd=cwd, env=os.environ | environment, capture_output=True, text=True)
    assert done.returncode == 0, f"{command} failed:\n{done.stdout}\n{done.stderr}"
    return done.stdout


def files_under(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }


def test_the_wheel_carries_the_package_the_recipes_and_the_training_script(site: Path) -> None:
    installed = files_under(site / "gcl")
    expected = files_under(ROOT / "gcl")
    expected |= {f"conf/{name}": content for name, content in files_under(ROOT / "conf").items()}
    expected["train.py"] = (ROOT / "train.py").read_bytes()
    assert any(name.startswith("conf/experiment/") for name in expected)
    assert sorted(installed) == sorted(expected)
    assert [name for name in expected if installed[name] != expected[name]] == []
    assert {path.name.partition("-")[0] for path in site.iterdir()} <= {"gcl", "gcl_trainer", "bin"}


def test_the_installed_package_is_imported_without_the_checkout(site: Path, tmp_path: Path) -> None:
    # -I and -S: no working directory, no environment, no site-packages; so no editable install either.
    program = f"import sys; sys.path.insert(0, {str(site)!r}); import gcl; print(gcl.__file__)"
    imported = run([sys.executable, "-I", "-S", "-c", program], cwd=tmp_path)
    assert Path(imported.strip()).is_relative_to(site)


def test_an_installed_gcl_finds_its_recipes_without_the_checkout(site: Path, tmp_path: Path) -> None:
    # -S leaves .pth files unread: the dependencies of this environment, without its editable install.
    path = os.pathsep.join([str(site), sysconfig.get_path("purelib"), sysconfig.get_path("platlib")])
    shown = run([sys.executable, "-P", "-S", "-m", "gcl", "train", "--help"], cwd=tmp_path, PYTHONPATH=path)
    assert "experiment" in shown and "quickstart" in shown
    assert str(ROOT) not in shown


def test_the_sdist_leaves_out_runs_shards_and_environments(built: Path) -> None:
    with tarfile.open(next(built.glob("*.tar.gz"))) as archive:
        names = {name.split("/")[1] for name in archive.getnames()}
    assert {"gcl", "conf", "train.py", "tests", "Makefile", "LICENSE", "README.md"} <= names
    assert not names & {"runs", "shards", "wandb", "outputs", "dist", ".venv", ".git"}


def declared(*extras: str) -> dict[str, Requirement]:
    """The requirements of the core and of `extras`, by canonical name."""
    lines = PROJECT["dependencies"] + [line for extra in extras for line in PROJECT["optional-dependencies"][extra]]
    return {canonicalize_name(requirement.name): requirement for requirement in map(Requirement, lines)}


def third_party(nodes: Iterable[ast.AST]) -> set[str]:
    """The top-level names of the modules that `nodes` import from outside Python and this repository."""
    names: set[str] = set()
    ours = {path.stem for folder in (ROOT, ROOT / "tests", ROOT / "benchmarks") for path in folder.glob("*")}
    for node in nodes:
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            names.add(node.module.split(".")[0])
    return names - sys.stdlib_module_names - ours


def undeclared(modules: set[str], requirements: dict[str, Requirement]) -> set[str]:
    """Those of `modules` that none of `requirements` brings."""
    return {
        module
        for module in modules
        if not {canonicalize_name(name) for name in DISTRIBUTIONS.get(module, [module])} & requirements.keys()
    }


@pytest.mark.parametrize(
    "path", [ROOT / "train.py", *sorted((ROOT / "gcl").rglob("*.py"))], ids=lambda path: str(path.relative_to(ROOT))
)
def test_what_is_imported_is_a_declared_dependency(path: Path) -> None:
    nodes = set(ast.walk(ast.parse(path.read_text())))
    inside_functions = {inner for node in nodes if isinstance(node, ast.FunctionDef) for inner in ast.walk(node)}
    assert undeclared(third_party(nodes), declared(*USER_EXTRAS)) == set()
    # What only an extra brings is imported where it is used, so that the core works without it.
    assert undeclared(third_party(nodes - inside_functions), declared()) == set()


def test_what_tests_and_benchmarks_import_comes_with_the_dev_extra() -> None:
    paths = [path for folder in ("tests", "benchmarks") for path in (ROOT / folder).rglob("*.py")]
    imported = {module for path in paths for module in third_party(ast.walk(ast.parse(path.read_text())))}
    assert undeclared(imported, declared("dev", *USER_EXTRAS)) == set()


def test_constraints_are_names_and_versions_that_satisfy_every_requirement() -> None:
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    assert [line for line in lines if not re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9.+!]+", line)] == []
    pins = [line.partition("==") for line in lines]
    pinned: dict[str, str] = {canonicalize_name(name): version for name, _, version in pins}
    assert lines == sorted(lines, key=lambda line: line.partition("==")[0].lower())
    requirements = declared("dev", *USER_EXTRAS)
    del requirements[canonicalize_name(PROJECT["name"])]
    assert [
        str(requirement)
        for name, requirement in requirements.items()
        if name not in pinned or not requirement.specifier.contains(pinned[name], prereleases=True)
    ] == []


def test_make_says_in_one_line_which_python_it_needs(tmp_path: Path) -> None:
    done = subprocess.run(
        ["make", "-C", str(ROOT), "venv", f"VENV={tmp_path}/.venv", "PYTHON=/no/such/python"],
        capture_output=True,
        text=True,
    )
    assert done.returncode != 0
    assert [line for line in done.stderr.splitlines() if not line.startswith("make")] == [
        "gcl needs Python 3.11 or newer with venv; tried /no/such/python; "
        "name one, as in: make venv PYTHON=/path/to/python3.11"
    ]
    assert not (tmp_path / ".venv").exists()
