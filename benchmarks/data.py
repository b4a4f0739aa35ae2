"""Real data, which is not part of the project: EDGEFUSE_TEST_DATA says where it is."""

import json
import os
import sys
from pathlib import Path
from typing import Any


def path_of(name: str) -> Path:
    """Path of a data file such as `sst2/train.jsonl`; ends the program where there is none."""
    folder = os.environ.get("EDGEFUSE_TEST_DATA")
    if not folder:
        sys.exit(f"EDGEFUSE_TEST_DATA is not set: name the folder that has {name}")
    path = Path(folder) / name
    if not path.is_file():
        sys.exit(f"{path} is not there: EDGEFUSE_TEST_DATA names the wrong folder")
    return path


def rows_of(name: str) -> list[dict[str, Any]]:
    """Rows of a JSON-lines file."""
    return [json.loads(line) for line in path_of(name).read_text("utf-8").splitlines()]
