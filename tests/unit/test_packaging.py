"""What people install: a wheel that works away from the checkout."""

import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from edgefuse_devices import __version__
from tests import board_requirements

ROOT = Path(__file__).parents[2]
PACKAGES = ["edgefuse", "edgefuse_export", "edgefuse_runtime", "edgefuse_devices"]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("dist")
    build = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "-d", str(target)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    (path,) = target.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def files(wheel: Path) -> list[str]:
    with zipfile.ZipFile(wheel) as archive:
        return archive.namelist()


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("installed")
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index"]
    subprocess.run([*pip, "--target", str(target), str(wheel)], check=True, capture_output=True)
    return target


def _python(installed: Path, *arguments: str) -> str:
    environment = os.environ | {"PYTHONPATH": str(installed)}
    command = [sys.executable, *arguments]
    return subprocess.run(
        command, cwd=installed, env=environment, check=True, capture_output=True, text=True
    ).stdout


def test_the_wheel_holds_four_packages_and_nothing_else(files: list[str]) -> None:
    information = f"edgefuse-{__version__}.dist-info"
    assert {name.split("/")[0] for name in files} == {*PACKAGES, information}


@pytest.mark.parametrize("package", PACKAGES)
def test_every_package_is_typed(files: list[str], package: str) -> None:
    assert f"{package}/py.typed" in files


def test_every_board_profile_is_inside(files: list[str]) -> None:
    profiles = sorted(path.name for path in (ROOT / "devices").rglob("*.toml"))
    assert "rpi5.toml" in profiles
    assert sorted(name.split("/")[-1] for name in files if name.endswith(".toml")) == profiles


def test_the_template_of_report_pages_is_inside(files: list[str]) -> None:
    assert "edgefuse/report/page.html.jinja" in files


def test_the_licence_is_inside(files: list[str]) -> None:
    assert f"edgefuse-{__version__}.dist-info/licenses/LICENSE" in files


def test_the_command_line_runs_outside_the_checkout(installed: Path) -> None:
    assert _python(installed, "-m", "edgefuse", "--version").strip() == f"edgefuse {__version__}"


def test_devices_are_found_outside_the_checkout(installed: Path) -> None:
    assert '"rpi5"' in _python(installed, "-m", "edgefuse", "devices", "list", "--json")


@pytest.mark.parametrize("package", PACKAGES)
def test_packages_are_imported_from_the_wheel(installed: Path, package: str) -> None:
    path = _python(installed, "-c", f"import {package}; print({package}.__file__)")
    assert Path(path.strip()) == installed / package / "__init__.py"


def test_the_changelog_speaks_of_this_version() -> None:
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    versions = re.findall(r"^## \[(.+?)\]", changelog, flags=re.MULTILINE)
    assert versions[:2] == ["Unreleased", __version__]


def test_a_board_can_check_what_it_installs() -> None:
    lines = board_requirements.FILE.read_text().splitlines()
    pinned = [line.removesuffix(" \\") for line in lines if "==" in line]
    constraints = (ROOT / "constraints.txt").read_text().splitlines()
    assert {*pinned} <= {line.lower().replace("_", "-") for line in constraints}
    names = {line.partition("==")[0] for line in pinned}
    assert {re.split(r"[<>=]", one)[0].lower() for one in board_requirements.wanted()} <= names
    hashes = [line.strip(" \\") for line in lines if "--hash" in line]
    assert all(re.fullmatch(r"--hash=sha256:[0-9a-f]{64}", one) for one in hashes)
    assert len(hashes) > len(pinned), "a library of C has a file for each processor"
