"""Reports as one HTML page, without scripts and with nothing to load."""

from collections.abc import Callable, Sequence
from html import escape

from edgefuse.report.read import NamedReport
from edgefuse.report.tables import MIB, Table, machine_name, model_name, tables
from edgefuse_runtime.measuring.report import BenchReport

_STYLE = """
:root { color-scheme: light dark; --bar: light-dark(#2a6fdb, #6ea8ff); --line: #8886; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 75rem; margin: 2rem auto; padding: 0 1rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .7rem; border-bottom: 1px solid var(--line); text-align: left; }
dl { display: grid; grid-template-columns: minmax(8rem, 24rem) 1fr; gap: .4rem 1rem; }
dd { margin: 0; display: flex; align-items: center; gap: .5rem; white-space: nowrap; }
dd i { height: 1rem; background: var(--bar); border-radius: 2px; }
"""


def html(reports: Sequence[NamedReport]) -> str:
    """A page: a table of each kind of report, bars of time and memory, and where measured."""
    benches = [report for _, report in reports if isinstance(report, BenchReport)]
    parts = [_table(table) for table in tables(reports)]
    if benches:
        parts += [
            _bars("Step time, median", benches, lambda b: b.step_ms.p50, "ms"),
            _bars("Peak resident memory", benches, lambda b: b.peak_rss_bytes / MIB, "MiB"),
            "<ul>",
            *(f"<li>{escape(line)}</li>" for line in dict.fromkeys(b.measured_on for b in benches)),
            "</ul>",
        ]
    body = "\n".join(parts)
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>EdgeFuse report</title>
<style>{_STYLE}</style>
</head>
<body>
<h1>EdgeFuse report</h1>
{body}
</body>
</html>
"""


def _table(table: Table) -> str:
    head = "".join(f"<th>{escape(name)}</th>" for name in table.columns)
    rows = "\n".join(
        "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in table.rows
    )
    return (
        f'<h2>{escape(table.title)}</h2>\n<div class="wide"><table>\n'
        f"<thead><tr>{head}</tr></thead>\n<tbody>\n{rows}\n</tbody>\n</table></div>"
    )


def _bars(
    title: str, benches: Sequence[BenchReport], figure: Callable[[BenchReport], float], unit: str
) -> str:
    longest = max(map(figure, benches))
    items = "\n".join(
        f"<dt>{escape(f'{model_name(b)}, {machine_name(b)}')}</dt>"
        f'<dd><i style="width: {80 * figure(b) / longest:.1f}%"></i>{figure(b):,.1f} {unit}</dd>'
        for b in benches
    )
    return f"<h2>{escape(title)}</h2>\n<dl>\n{items}\n</dl>"
