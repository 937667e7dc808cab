"""The arrows between the rooms, read from the imports of every file."""

import ast
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

import datasets

REPOSITORY = Path(__file__).resolve().parents[1]
ROOMS = ("datasets", "models", "pipeline", "jobs")

FORBIDDEN = {
    "datasets": {"models", "pipeline", "jobs", "ray", "mlflow", "tests"},
    "models": {"datasets", "pipeline", "jobs", "ray", "mlflow", "tests"},
    "pipeline": {"jobs", "tests"},
    "jobs": {"tests"},
}
"""What no file of a room imports, not even inside a function."""

LATE = {"av", "cv2", "pycocotools", "supervision", "trackers"}
"""Imported inside functions only, so that `datasets` and `models` load where they are absent."""

HEAVY = {"torch", "torchvision", "ray", "mlflow"}

LIGHT_MODULES = (
    "pipeline.config",
    "pipeline.prepare",
    "pipeline.recipes.*",
    "pipeline.segment",
    "pipeline.store",
    "pipeline.associate",
    "pipeline.evaluate",
    "pipeline.export",
    "pipeline.leaderboard",
    "pipeline.metrics.*",
    "datasets.registry",
    "models.detectors.config",
    "models.qdtrack.config",
    "models.qdtrack.association",
    "models.pointtrack.association",
    "models.pointtrack.config",
    "models.pointtrack.items",
    "models.pointtrack.points",
    "models.pointtrack.schedule",
    "models.baselines.mask_overlap",
    "models.baselines.motion",
    "models.baselines.overlap",
    "jobs.evaluate",
    "jobs.export",
    "jobs.leaderboard",
)
"""Load nothing heavy, directly or through others of ours: scoring starts in a second."""


@dataclass(frozen=True)
class Import:
    module: str
    line: int
    at_top: bool
    is_relative: bool


def imports_of(source: str) -> Iterator[Import]:
    """Every import of a file; those under TYPE_CHECKING never happen and are left out."""
    waiting: list[tuple[ast.AST, bool]] = [(ast.parse(source), True)]
    while waiting:
        node, at_top = waiting.pop()
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(alias.name, node.lineno, at_top, False)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            yield Import(base, node.lineno, at_top, node.level > 0)
            for alias in node.names:  # a name may be a module of the package
                yield Import(f"{base}.{alias.name}", node.lineno, at_top, node.level > 0)
        elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            waiting += [(child, at_top) for child in node.orelse]
        else:
            is_function = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
            inside = at_top and not is_function
            waiting += [(child, inside) for child in ast.iter_child_nodes(node)]


def module_name(path: Path) -> str:
    parts = path.relative_to(REPOSITORY).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


FILES = {
    module_name(path): path for room in ROOMS for path in sorted((REPOSITORY / room).rglob("*.py"))
}
IMPORTS = {name: list(imports_of(path.read_text())) for name, path in FILES.items()}


def package_of(module: str) -> str:
    return module.split(".")[0]


def loaded_by(module: str) -> dict[str, str]:
    """What importing a module loads at once, each with the module of ours that asks for it."""
    found: dict[str, str] = {}
    waiting = [(module, "itself")]
    while waiting:
        name, asked_by = waiting.pop()
        if name in found:
            continue
        found[name] = asked_by
        parents = [name.rsplit(".", n)[0] for n in range(1, name.count(".") + 1)]
        waiting += [(parent, asked_by) for parent in parents]
        waiting += [(one.module, name) for one in IMPORTS.get(name, []) if one.at_top]
    return found


@pytest.mark.parametrize("module", FILES)
def test_arrows_point_one_way(module: str) -> None:
    forbidden = FORBIDDEN[package_of(module)]
    wrong = [
        f"{FILES[module]}:{one.line} imports {one.module}"
        for one in IMPORTS[module]
        if package_of(one.module) in forbidden
    ]
    assert wrong == []


@pytest.mark.parametrize("module", FILES)
def test_imports_are_absolute(module: str) -> None:
    assert [one.line for one in IMPORTS[module] if one.is_relative] == []


@pytest.mark.parametrize("module", [m for m in FILES if package_of(m) in ("datasets", "models")])
def test_video_and_image_libraries_are_imported_late(module: str) -> None:
    assert [o for o in IMPORTS[module] if o.at_top and package_of(o.module) in LATE] == []


def test_only_the_run_log_imports_mlflow() -> None:
    users = {
        name
        for name, found in IMPORTS.items()
        if any(package_of(o.module) == "mlflow" for o in found)
    }
    assert users == {"pipeline.runlog", "pipeline.runlog_connection"}


@pytest.mark.parametrize("pattern", LIGHT_MODULES)
def test_light_modules_load_nothing_heavy(pattern: str) -> None:
    prefix = pattern.removesuffix(".*")
    modules = [m for m in FILES if m == prefix or (pattern != prefix and m.startswith(prefix))]
    assert modules, f"{pattern} is gone: name the module that took its place"
    for module in modules:
        heavy = {m: by for m, by in loaded_by(module).items() if package_of(m) in HEAVY}
        assert heavy == {}, f"{module} loads them, through the modules named"


PACKAGES = {name for name, path in FILES.items() if path.name == "__init__.py"}


@pytest.mark.parametrize("module", sorted(PACKAGES - {"pipeline.recipes"}))  # a table by name
def test_packages_run_no_code(module: str) -> None:
    statements = ast.parse(FILES[module].read_text()).body
    assert all(isinstance(s, ast.Expr) and isinstance(s.value, ast.Constant) for s in statements)


def test_datasets_is_ours() -> None:
    # The name is Hugging Face's, too.
    assert datasets.__file__ == str(REPOSITORY / "datasets" / "__init__.py")


def test_our_names_shadow_no_standard_module() -> None:
    assert not set(ROOMS) & sys.stdlib_module_names


class TestReading:
    """What the checks above rely on."""

    def test_places_of_imports_are_told_apart(self) -> None:
        source = """
import a.b
from c import d
if TYPE_CHECKING:
    import never
else:
    import e
try:
    import f
except ImportError:
    pass
class K:
    import g
    def method(self):
        import h
def function():
    from i import j
from . import k
"""
        found = {(one.module, one.at_top) for one in imports_of(source)}
        assert found == {
            ("a.b", True),
            ("c", True),
            ("c.d", True),
            ("e", True),
            ("f", True),
            ("g", True),
            ("h", False),
            ("i", False),
            ("i.j", False),
            ("", True),
            (".k", True),
        }
        assert {one.module for one in imports_of(source) if one.is_relative} == {"", ".k"}

    def test_loading_is_followed_through_modules_and_packages(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for name, code in {
            "p": "import torch",
            "p.light": "from q import far",
            "q.far": "def f():\n    import ray",
        }.items():
            monkeypatch.setitem(IMPORTS, name, list(imports_of(code)))
        loaded = loaded_by("p.light")
        assert loaded["torch"] == "p"
        assert loaded["q.far"] == "p.light"
        assert "ray" not in loaded
