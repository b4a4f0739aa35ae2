"""Reports as one HTML page, without scripts and with nothing to load."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from jinja2 import Environment, PackageLoader, StrictUndefined

from edgefuse.report.notes import notes
from edgefuse.report.read import NamedReport
from edgefuse.report.tables import MIB, machine_name, model_name, tables
from edgefuse_runtime.measuring.report import BenchReport

_TEMPLATE = "page.html.jinja"
_LONGEST = 80
"""Width of the longest bar, in percent of the room that its figure shares."""


class _Bar(NamedTuple):
    name: str
    width: float
    figure: str


class _Chart(NamedTuple):
    title: str
    bars: list[_Bar]


def html(reports: Sequence[NamedReport]) -> str:
    """Render a page: tables, bars of time and memory, and notes on each bench."""
    benches = [report for _, report in reports if isinstance(report, BenchReport)]
    charts = [
        _chart("Step time, median", benches, lambda bench: bench.step_ms.p50, "ms"),
        _chart("Peak resident memory", benches, lambda bench: bench.peak_rss_bytes / MIB, "MiB"),
    ]
    environment = Environment(
        loader=PackageLoader(__package__, ""),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        keep_trailing_newline=True,
    )
    return environment.get_template(_TEMPLATE).render(
        tables=tables(reports),
        charts=charts if benches else [],
        notes=notes(reports),
    )


def _chart(
    title: str, benches: Sequence[BenchReport], figure: Callable[[BenchReport], float], unit: str
) -> _Chart:
    longest = max(map(figure, benches), default=1)
    bars = [
        _Bar(
            name=f"{model_name(bench)}, {machine_name(bench)}",
            width=_LONGEST * figure(bench) / longest,
            figure=f"{figure(bench):,.1f} {unit}",
        )
        for bench in benches
    ]
    return _Chart(title, bars)
