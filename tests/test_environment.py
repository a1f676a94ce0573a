"""Laws of the repository: one list of packages, light imports, files and functions that can be read in one sitting."""

import ast
import re
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parent.parent
LAYERS = {"vqdata": set(), "vqlib": {"vqdata"}, "vqeval": {"vqdata", "vqlib"}, "vqview": {"vqlib"},
          "ablations": {"vqdata", "vqlib", "vqeval"}}  # what each may load besides itself
MODULES = sorted(p for layer in LAYERS for p in (ROOT / layer).glob("*.py"))
CONDA = {"torch": "pytorch", "matplotlib": "matplotlib-base"}  # names that differ on conda-forge
each = pytest.mark.parametrize("path", MODULES, ids=[f"{p.parent.name}.{p.stem}" for p in MODULES])


def bounds(lines):
    """["numpy>=1.26"] -> {"numpy": ">=1.26"}; no bound is ""."""
    return dict(re.fullmatch(r"([A-Za-z0-9-]+)\s*(.*)", line).groups() for line in lines)


def test_conda_and_pip_install_the_same_packages_from_the_same_versions_on():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = bounds([*project["dependencies"], *project["optional-dependencies"]["test"]])
    # its packages are not on conda-forge: pip brings them
    assert wanted.pop("vqlib") == "[evaluation]"
    conda = yaml.safe_load((ROOT / "environment.yml").read_text())
    found = bounds(d for d in conda["dependencies"] if isinstance(d, str))
    assert found.pop("python") == project["requires-python"]
    assert found.pop("pip") == ""
    assert found == {CONDA.get(name, name): bound for name, bound in wanted.items()}
    assert [d for d in conda["dependencies"] if not isinstance(d, str)] == [
        {"pip": ["-e .[evaluation]"]}
    ]


def test_conda_packages_come_from_conda_forge_only():
    assert yaml.safe_load((ROOT / "environment.yml").read_text())["channels"] == [
        "conda-forge",
        "nodefaults",
    ]


def imported(nodes):
    """Top-level packages that are imported when these statements run; function bodies do not run."""
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module.split(".")[0]
        elif not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            yield from imported(ast.iter_child_nodes(node))


@each
def test_a_module_loads_only_packages_below_its_own(path):
    loaded = set(imported(ast.parse(path.read_text()).body)) & {*LAYERS}
    assert loaded <= LAYERS[path.parent.name] | {path.parent.name}


@each
def test_no_module_loads_umap_when_it_is_imported(path):
    assert "umap" not in set(imported(ast.parse(path.read_text()).body))


def test_every_package_that_the_library_imports_is_declared():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    names = {
        "PIL": "pillow",
        "skimage": "scikit-image",
        "umap": "umap-learn",
        "IPython": "ipykernel",
        "matplotlib_inline": "ipykernel",
    }
    statements = [
        n
        for p in MODULES
        for n in ast.walk(ast.parse(p.read_text()))
        if isinstance(n, (ast.Import, ast.ImportFrom))
    ]
    used = set(imported(statements))
    foreign = {names.get(m, m) for m in used - set(sys.stdlib_module_names) - {*LAYERS}}
    assert foreign - set(bounds(project["dependencies"])) == set()


@each
def test_a_module_has_at_most_250_lines(path):
    assert len(path.read_text().splitlines()) <= 250


@each
def test_a_function_has_at_most_40_lines(path):
    long = {
        n.name: n.end_lineno - n.lineno + 1
        for n in ast.walk(ast.parse(path.read_text()))
        if isinstance(n, ast.FunctionDef)
    }
    assert {name: lines for name, lines in long.items() if lines > 40} == {}


@each
def test_a_module_opens_with_its_story(path):
    assert len(ast.get_docstring(ast.parse(path.read_text())) or "") > 20
