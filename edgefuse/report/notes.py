"""What a page of reports says under its tables: where each was measured, and what disturbed it."""

from collections.abc import Sequence

from edgefuse.report.read import NamedReport
from edgefuse_runtime.measuring.report import BenchReport


def notes(reports: Sequence[NamedReport]) -> list[str]:
    """Sentences about the reports of `bench`, each once."""
    benches = [(name, one) for name, one in reports if isinstance(one, BenchReport)]
    measured = [bench.measured_on for _, bench in benches]
    doubted = [
        f"{name} is not to be compared: {'; '.join(bench.doubts)}."
        for name, bench in benches
        if bench.doubts
    ]
    return list(dict.fromkeys([*measured, *doubted]))
