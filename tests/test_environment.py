"""Laws of the repository: one list of packages, arrows that run one way, functions on a screen."""
import ast
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import vqlib

ROOT = Path(__file__).resolve().parent.parent
CONDA = {"torch": "pytorch", "matplotlib": "matplotlib-base"}  # names that differ on conda-forge
MODULES = sorted((ROOT / "vqlib").rglob("*.py"))
NAMES = {path: ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
         for path in MODULES}
each = pytest.mark.parametrize("path", MODULES, ids=NAMES.values())

# what each layer may import besides itself; the flat modules of vqlib are the core
LAYERS = {
    "backend": set(),
    "data": {"backend"},
    "core": {"data", "backend"},
    "evaluation": {"core", "data", "backend"},
    "show": {"evaluation", "core", "data", "backend"},
    "studies": {"show", "evaluation", "core", "data", "backend"},
    "report": {"studies", "show", "evaluation", "core", "data", "backend"},
    "cli": {"studies", "show", "evaluation", "core", "data", "backend"},
}
SHOW = {"vqlib.alt_texts", "vqlib.plots", "vqlib.explorers"}  # nothing below knows of them


def layer(name: str) -> str:
    """The layer of a module of vqlib, such as vqlib.data.augment."""
    part = [*name.split("."), "__init__"][1]
    if name in SHOW or f"vqlib.{part}" in SHOW:
        return "show"
    if part in ("__main__", "__init__"):
        return "cli"                                             # the doors may lead anywhere
    return part if part in LAYERS else "core"


def imports(path) -> set[str]:
    """Modules of vqlib that a file imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            full = {f"{node.module}.{alias.name}" for alias in node.names}
            inside = full & {*NAMES.values()}                    # from vqlib import plots
            found |= inside or {node.module}
    return {name for name in found if name.split(".")[0] == "vqlib"}


def bounds(lines):
    """["numpy>=1.26"] -> {"numpy": ">=1.26"}; no bound is ""."""
    return dict(re.fullmatch(r"([A-Za-z0-9-]+)\s*(.*)", line).groups() for line in lines)


def test_conda_and_pip_install_the_same_packages_from_the_same_versions_on():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = bounds([*project["dependencies"], *project["optional-dependencies"]["test"]])
    assert wanted.pop("vqlib") == "[evaluation]"                 # not on conda-forge: by pip
    conda = yaml.safe_load((ROOT / "environment.yml").read_text())
    found = bounds(d for d in conda["dependencies"] if isinstance(d, str))
    assert found.pop("python") == project["requires-python"]
    assert found.pop("pip") == ""
    assert found == {CONDA.get(name, name): bound for name, bound in wanted.items()}
    by_pip = [d for d in conda["dependencies"] if not isinstance(d, str)]
    assert by_pip == [{"pip": ["-e .[evaluation]"]}]


def test_constraints_name_a_version_of_every_declared_package_within_its_bounds():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if line[0] != "#"]
    pinned = {canonicalize_name(r.name): r for r in map(Requirement, lines)}
    for text in project["dependencies"] + extras["evaluation"] + extras["test"]:
        wanted = Requirement(text)
        if wanted.name != "vqlib":
            version, = pinned[canonicalize_name(wanted.name)].specifier
            assert version.operator == "=="
            assert wanted.specifier.contains(version.version), text
    assert not [name for name in pinned if name.startswith(("nvidia", "cuda"))]


def test_conda_packages_come_from_conda_forge_only():
    conda = yaml.safe_load((ROOT / "environment.yml").read_text())
    assert conda["channels"] == ["conda-forge", "nodefaults"]


def test_every_folder_of_the_library_is_installed():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    folders = {NAMES[path] for path in MODULES if path.name == "__init__.py"}
    assert {*project["tool"]["setuptools"]["packages"]} == folders
    assert {path.parent for path in MODULES} == {path.parent for path in MODULES
                                                 if path.name == "__init__.py"}


@each
def test_imports_run_one_way(path):
    mine = layer(NAMES[path])
    upwards = {name: layer(name) for name in imports(path)
               if layer(name) not in LAYERS[mine] | {mine}}
    assert upwards == {}, f"{NAMES[path]} is {mine}, which may import {sorted(LAYERS[mine])} only"


def test_no_module_imports_itself_through_others():
    arrows = {NAMES[path]: imports(path) - {"vqlib"} for path in MODULES}

    def cycle_from(name, way):
        if name in way:
            return [*way[way.index(name) :], name]
        found = (cycle_from(other, [*way, name]) for other in sorted(arrows.get(name, ())))
        return next((cycle for cycle in found if cycle), None)

    cycles = [cycle for cycle in (cycle_from(name, []) for name in arrows) if cycle]
    assert cycles == [], " -> ".join(cycles[0])


def imported(nodes):
    """Top-level packages imported when these statements run; function bodies do not run."""
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module.split(".")[0]
        elif not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            yield from imported(ast.iter_child_nodes(node))


@each
def test_no_module_loads_umap_when_it_is_imported(path):
    assert "umap" not in set(imported(ast.parse(path.read_text()).body))


def test_every_package_that_the_library_imports_is_declared():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    distributions = {"PIL": "pillow", "skimage": "scikit-image", "umap": "umap-learn",
                     "IPython": "ipykernel", "matplotlib_inline": "ipykernel",
                     "traitlets": "ipywidgets", "charset_normalizer": "charset-normalizer"}
    everywhere = {*bounds(project["dependencies"])}
    of_report = {*bounds(project["optional-dependencies"]["report"])}
    for path in MODULES:
        nodes = ast.walk(ast.parse(path.read_text()))
        statements = [node for node in nodes if isinstance(node, ast.Import | ast.ImportFrom)]
        foreign = set(imported(statements)) - set(sys.stdlib_module_names) - {"vqlib"}
        used = {distributions.get(name, name) for name in foreign}
        declared = everywhere | (of_report if layer(NAMES[path]) == "report" else set())
        assert used - declared == set(), NAMES[path]


@pytest.mark.parametrize("package", ["vqlib.report", "vqlib.explorers"])
def test_every_file_of_a_package_is_installed(package):
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    patterns = project["tool"]["setuptools"]["package-data"][package]
    folder = ROOT / package.replace(".", "/")
    installed = {path for pattern in patterns for path in folder.glob(pattern)}
    files = {path for path in folder.rglob("*") if path.suffix not in (".py", ".pyc", "")}
    assert installed == files


def test_nothing_that_is_read_can_run_code():
    """No pickle but torch's of tensors alone, no eval, no arrays of objects."""
    for path in MODULES:
        tree = ast.parse(path.read_text())
        assert not {"pickle", "marshal", "shelve", "dill"} & set(imported(tree.body)), path.name
        for call in (node for node in ast.walk(tree) if isinstance(node, ast.Call)):
            name, given = ast.unparse(call.func), {k.arg: ast.unparse(k.value)
                                                   for k in call.keywords}
            assert name not in ("eval", "exec", "compile", "os.system"), path.name
            assert name != "torch.load" or given.get("weights_only") == "True", path.name
            assert given.get("allow_pickle", "False") == "False", path.name
            assert given.get("shell", "False") == "False", path.name


def test_vqlib_offers_its_names_and_loads_nothing_before_they_are_used():
    for name in vqlib.__all__:
        assert getattr(vqlib, name).__name__ == name if name != "PRESETS" else vqlib.PRESETS
        assert name in dir(vqlib)
    with pytest.raises(AttributeError, match="no attribute 'VQVEA'"):
        _ = vqlib.VQVEA
    script = "import sys, vqlib; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.strip() == "False"


@each
def test_a_function_fits_a_screen(path):
    nodes = ast.walk(ast.parse(path.read_text()))
    lines = {node.name: node.end_lineno - node.lineno + 1 for node in nodes
             if isinstance(node, ast.FunctionDef)}
    assert {name: n for name, n in lines.items() if n > 40} == {}


@each
def test_a_module_opens_with_its_story(path):
    assert len(ast.get_docstring(ast.parse(path.read_text())) or "") > 20
