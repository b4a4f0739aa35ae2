"""Reading the reports of `bench` and `finetune`."""

from pathlib import Path
from typing import NamedTuple

import msgspec
from msgspec import Struct

from edgefuse_devices.errors import InputError
from edgefuse_runtime.measuring.report import SCHEMA_VERSION, BenchReport
from edgefuse_runtime.training.records import Report as RunReport
from edgefuse_runtime.training.run import REPORT, is_run


class NamedReport(NamedTuple):
    """A report and its name: that of its file, or of its directory if the file is report.json."""

    name: str
    report: BenchReport | RunReport


class _Kind(Struct):
    report: str = ""
    schema_version: int = 0


def read_report(path: Path) -> NamedReport:
    """Read a report that `edgefuse bench -o` or `edgefuse finetune` wrote.

    Args:
        path: A report's file, or a run's directory.

    Raises:
        InputError: The file is not there, or is no report.
    """
    file = path / REPORT if is_run(path) else path
    hint = "Make one with `edgefuse bench BUNDLE -o report.json` or `edgefuse finetune`"
    try:
        raw = file.read_bytes()
        kind = msgspec.json.decode(raw, type=_Kind)
        if kind.report == "bench" and kind.schema_version > SCHEMA_VERSION:
            raise InputError(
                f"{file} was made by a newer EdgeFuse",
                "Update EdgeFuse on this machine: pip install --upgrade edgefuse",
            )
        report: BenchReport | RunReport
        if kind.report:
            report = msgspec.json.decode(raw, type=BenchReport)
        else:
            report = msgspec.json.decode(raw, type=RunReport)
    except OSError as error:
        raise InputError(f"{file} cannot be read: {error.strerror}", hint) from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InputError(f"{file} is no report: {error}", hint) from error
    name = file.absolute().parent.name if file.name == REPORT else file.stem
    return NamedReport(name, report)
