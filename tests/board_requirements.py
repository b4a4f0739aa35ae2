"""requirements-board.txt: what a board installs, with hashes: `python -m tests.board_requirements`.

It asks pip what the dependencies and the extra `runtime` come to on each Python and processor that
a board may have, in the versions of constraints.txt.
"""

import json
import subprocess
import sys
import tomllib
from collections import defaultdict
from pathlib import Path
from tempfile import TemporaryDirectory

ROOT = Path(__file__).parents[1]
FILE = ROOT / "requirements-board.txt"
PYTHONS = ("3.11", "3.12", "3.13")
PROCESSORS = ("aarch64", "x86_64")

_GLIBC = (17, 24, 26, 27, 28, 31, 34, 35, 36)  # 2.36 is that of Raspberry Pi OS 12
_PREFACE = """\
# What a board installs, with the SHA-256 of each file, for Python 3.11 to 3.13 on ARM64 and x86-64.
# pip refuses a file that is another:
#
#     pip install --require-hashes --only-binary :all: -r requirements-board.txt
#     pip install --no-deps edgefuse
#
# `python -m tests.board_requirements` writes it anew.
"""


def wanted() -> list[str]:
    """What pyproject.toml says that a board needs."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return [*project["dependencies"], *project["optional-dependencies"]["runtime"]]


def write() -> None:
    """Ask pip, and write the file."""
    hashes: dict[str, set[str]] = defaultdict(set)
    for python in PYTHONS:
        for processor in PROCESSORS:
            for name, digest in _resolved(python, processor):
                hashes[name].add(digest)
    lines = [
        " \\\n".join([name, *(f"    --hash=sha256:{digest}" for digest in sorted(found))])
        for name, found in sorted(hashes.items())
    ]
    FILE.write_text("\n".join([_PREFACE.rstrip(), *lines, ""]))


def _resolved(python: str, processor: str) -> list[tuple[str, str]]:
    """Name with version, and SHA-256, of each file that pip would install."""
    platforms = [f"manylinux_2_{minor}_{processor}" for minor in _GLIBC]
    platforms += [f"manylinux2014_{processor}", f"linux_{processor}"]
    with TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        subprocess.run(
            [
                *(sys.executable, "-m", "pip", "install", "--dry-run", "--ignore-installed"),
                *("--quiet", "--disable-pip-version-check", "--only-binary", ":all:"),
                *("--python-version", python, "--target", folder, "--report", str(report)),
                *(part for platform in platforms for part in ("--platform", platform)),
                *("--constraint", str(ROOT / "constraints.txt"), *wanted()),
            ],
            check=True,
        )
        installed = json.loads(report.read_text())["install"]
    return [
        (
            f"{one['metadata']['name'].lower().replace('_', '-')}=={one['metadata']['version']}",
            one["download_info"]["archive_info"]["hashes"]["sha256"],
        )
        for one in installed
    ]


if __name__ == "__main__":
    write()
