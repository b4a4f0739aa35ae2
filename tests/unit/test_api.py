"""The Python API: a few documented names, and the command line has no other way in."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import edgefuse
import edgefuse_runtime
from edgefuse_devices import errors

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "api.md"

WORKSTATION = {
    *("plan_compression", "compress", "squeeze", "plan", "export"),
    *("from_pretrained", "multiplicities", "fold"),
}
WORKSTATION_SETTINGS = {"AdamW", "Adafactor", "Lion", "Sgd", "SqueezeSettings"}
BOARD = {
    *("Predictor", "bench", "check", "convert", "doctor", "evaluate", "finetune"),
    *("open_bundle", "read_run"),
}
BOARD_SETTINGS = {"TrainingSettings"}

# What commands may import besides the names of the two packages, and why.
EXCEPTIONS = {
    "edgefuse.compression.catalog": "flags of `compress` are made of the fields of methods",
    "edgefuse.tuning.ways": "flags of `export` are made of the fields of ways",
    "edgefuse_export.tasks.registry": "and of those of tasks",
    "edgefuse_runtime.optimizers.registry": "and of those of optimizers",
    "edgefuse_runtime.data.asked": "`predict` reads rows and texts of a file",
    "edgefuse_runtime.data.lines": "and lines of standard input",
    "edgefuse_runtime.progress": "the type of observers",
    "edgefuse_runtime.tagged": "names of optimizers",
    "edgefuse_runtime.tasks.registry": "figures of a task, and flags of its options of `predict`",
}


def test_the_workstations_names_are_pinned() -> None:
    public = WORKSTATION | WORKSTATION_SETTINGS | set(errors.__all__) | {"__version__"}
    assert set(edgefuse.__all__) == public


def test_the_boards_names_are_pinned() -> None:
    assert set(edgefuse_runtime.__all__) == BOARD | BOARD_SETTINGS


@pytest.mark.parametrize("package", [edgefuse, edgefuse_runtime], ids=lambda p: p.__name__)
def test_every_name_is_there_and_documented(package) -> None:
    page = PAGE.read_text(encoding="utf-8")
    for name in package.__all__:
        assert getattr(package, name) is not None
        assert f"{name}" in page
        with pytest.raises(AttributeError, match="nothing"):
            package.nothing  # noqa: B018


@pytest.mark.parametrize("package", ["edgefuse", "edgefuse_runtime"])
def test_importing_a_package_takes_no_library(package: str) -> None:
    heavy = {"torch", "transformers", "onnxruntime", "numpy", "peft", "optimum"}
    program = f"import sys, {package}; print(*{heavy} & set(sys.modules))"
    command = [sys.executable, "-c", program]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout.split() == []


def imported_modules(tree: ast.AST) -> set[str]:
    """Modules that a file imports when it runs, not for types alone."""
    found: set[str] = set()
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        if isinstance(node, ast.ImportFrom):
            found.add(node.module or "")
        found |= imported_modules(node)
    return found


@pytest.mark.parametrize("file", sorted(ROOT.glob("edgefuse/cli/*.py")), ids=lambda f: f.stem)
def test_commands_call_nothing_but_the_api(file: Path) -> None:
    allowed = ("edgefuse.cli", "edgefuse.report", "edgefuse.demo", "edgefuse_devices")
    imported = imported_modules(ast.parse(file.read_text(encoding="utf-8")))
    ours = {name for name in imported if name.startswith("edgefuse")}
    inner = {name for name in ours if not name.startswith(allowed)}
    assert inner <= {"edgefuse", "edgefuse_runtime", *EXCEPTIONS}
