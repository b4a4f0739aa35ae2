"""The tables of report pages."""

from collections.abc import Sequence

from edgefuse.report.read import NamedReport
from edgefuse.report.table import Table
from edgefuse_devices.profile import DeviceProfile
from edgefuse_runtime.measuring.report import BenchReport
from edgefuse_runtime.tasks.registry import figures_as_text
from edgefuse_runtime.training.records import Report as RunReport

MIB = 2**20
BENCH_COLUMNS = (
    "model",
    "trained",
    "batch",
    "machine",
    "threads",
    "step ms p50 / p90 / p99",
    "samples/s",
    "tokens/s",
    "load s",
    "peak MiB",
    "engine",
)
RUN_COLUMNS = (
    "parameters",
    "trained",
    "steps",
    "samples/s",
    "peak MiB",
    "machine",
    "threads",
    "engine",
)


def tables(reports: Sequence[NamedReport]) -> list[Table]:
    """Make a table of benches and one of runs, where there are any."""
    benches = [bench_row(report) for _, report in reports if isinstance(report, BenchReport)]
    runs = [(name, report) for name, report in reports if isinstance(report, RunReport)]
    both = [Table(BENCH_COLUMNS, benches, "Training speed"), _runs(runs)]
    return [table for table in both if table.rows]


def bench_row(report: BenchReport) -> Sequence[str]:
    """Make the row of a bench: a cell for each of `BENCH_COLUMNS`."""
    work, step = report.workload, report.step_ms
    return (
        model_name(report),
        f"{report.tuning.trained_parameters:,} ({report.tuning.method})",
        f"{work.batch_size} × {work.sequence_length}",
        machine_name(report),
        str(work.threads),
        f"{step.p50:,.1f} / {step.p90:,.1f} / {step.p99:,.1f}",
        f"{report.samples_per_second:,.1f}",
        f"{report.tokens_per_second:,.0f}",
        f"{report.load_seconds:.2f}",
        f"{report.peak_rss_bytes / MIB:,.0f}",
        f"{report.engine} {report.engine_version}",
    )


def model_name(report: BenchReport) -> str:
    """Name the model, with the width of its MLPs if they were fused."""
    model = report.model
    if model.compression is None:
        return model.source
    widths = sorted({*model.intermediate_sizes})
    span = str(widths[0]) if len(widths) == 1 else f"{widths[0]}–{widths[-1]}"
    return f"{model.source} ({model.compression}, width {span})"


def machine_name(report: BenchReport) -> str:
    """Name the machine, and the board that it is not."""
    if report.emulated:
        return f"CPU emulation, not {report.board.title}"
    if report.is_board:
        return report.machine.title
    return f"{_machine(report.machine)}, not {report.board.title}"


def _runs(runs: Sequence[tuple[str, RunReport]]) -> Table:
    """A row a run, with a column for each figure that any of their tasks has."""
    figures = [figures_as_text(report.task, report.figures) for _, report in runs]
    titles = list(dict.fromkeys(title for own in figures for title in own))
    rows = [
        (name, *(own.get(title, "") for title in titles), *_run_row(report))
        for (name, report), own in zip(runs, figures, strict=True)
    ]
    return Table(("run", *titles, *RUN_COLUMNS), rows, "Runs")


def _run_row(report: RunReport) -> Sequence[str]:
    """A cell for each of `RUN_COLUMNS`."""
    return (
        f"{report.parameters:,}",
        f"{report.trained_parameters:,}",
        f"{report.steps:,}",
        f"{report.samples_per_second:,.1f}",
        f"{report.peak_rss_mib:,.0f}",
        report.machine.title if report.is_board else f"{_machine(report.machine)}, not the board",
        str(report.threads),
        f"{report.engine} {report.engine_version}",
    )


def _machine(machine: DeviceProfile) -> str:
    plural = "" if machine.cores == 1 else "s"
    return f"{machine.title} ({machine.cores} core{plural})"
