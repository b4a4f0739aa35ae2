"""`edgefuse bench`."""

from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Annotated

import typer

import edgefuse_runtime
from edgefuse.cli._options import BatchSize, Bundle, Json, Threads
from edgefuse.cli._output import print_json, print_table, print_text
from edgefuse.cli._progress import progress_bars
from edgefuse.report.table import Table

if TYPE_CHECKING:
    from edgefuse_runtime.measuring.report import BenchReport


def bench(
    bundle: Bundle,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="File to write the report to, such as report.json."),
    ] = None,
    batch_size: BatchSize = None,
    sequence_length: Annotated[
        int | None, typer.Option(min=1, help="Tokens in a row.  [default: the bundle's]")
    ] = None,
    steps: Annotated[int, typer.Option(min=1, help="Steps to measure.")] = 50,
    warmup: Annotated[int, typer.Option(min=0, help="Steps before the measured ones.")] = 5,
    threads: Threads = None,
    as_json: Json = False,
) -> None:
    """Measure the time and memory that training a bundle takes on this machine.

    Trains on random batches of full length, in a process that does nothing else. The trained
    weights are not kept.

        edgefuse bench bundle -o report.json
    """
    import msgspec

    from edgefuse.report.write import check_output_file, write_file

    if output:
        check_output_file(output)
    with progress_bars() as on_progress:
        report = edgefuse_runtime.bench(
            bundle,
            batch_size=batch_size,
            sequence_length=sequence_length,
            threads=threads,
            warmup=warmup,
            steps=steps,
            on_progress=on_progress,
        )
    if output:
        write_file(output, msgspec.json.format(msgspec.json.encode(report), indent=2) + b"\n")
    if as_json:
        print_json(report)
    else:
        _show(report, bundle)
        if output:
            print_text(
                f"Wrote {output}. Make a page of it: "
                f"edgefuse report {quote(str(output))} -o report.html"
            )


def _show(report: "BenchReport", bundle: Path) -> None:
    from edgefuse.report.markdown import markdown_table
    from edgefuse.report.tables import BENCH_COLUMNS, MIB, bench_row, model_name

    def mib(size: int) -> str:
        return f"{size / MIB:,.0f}"

    work, step = report.workload, report.step_ms
    rows, length = report.predicted_shape
    figures = {
        "model": f"{model_name(report)}, {report.tuning.method}",
        "batch": f"{work.batch_size} rows of {work.sequence_length} tokens",
        "step time": f"p50 {step.p50:,.1f} ms, p90 {step.p90:,.1f} ms, p99 {step.p99:,.1f} ms "
        f"({work.steps} steps after {work.warmup})",
        "speed": f"{report.samples_per_second:,.1f} samples/s, "
        f"{report.tokens_per_second:,.0f} tokens/s",
        "load time": f"{report.load_seconds:.2f} s, first step {report.first_step_ms or 0:,.1f} ms",
        "peak memory": f"{mib(report.peak_rss_bytes)} MiB: Python and libraries "
        f"{mib(report.base_rss_bytes)}, training "
        f"{mib(report.peak_rss_bytes - report.base_rss_bytes)}",
        "predicted": f"{mib(report.predicted_memory.total)} MiB for training at {rows} × {length}, "
        "every token occurring",
        "trained parameters": f"{mib(report.parameter_bytes)} MiB, gradients "
        f"{mib(report.gradient_bytes)}, optimizer {mib(report.optimizer_bytes)}; "
        f"frozen {mib(report.frozen_bytes)}",
        "distinct tokens": f"{report.distinct_tokens:,} of {report.vocabulary:,}",
        "threads": work.threads,
        "temperature": "unknown"
        if report.temperatures is None
        else "{:.0f} °C before, {:.0f} °C after".format(*report.temperatures),
        "engine": f"{report.engine} {report.engine_version}",
    }
    print_table(Table.of(["", str(bundle)], figures.items()))
    print_text(report.measured_on, "")
    if report.doubts:
        print_text(f"Not to be compared: {'; '.join(report.doubts)}.", "")
    print_text(*markdown_table(Table(BENCH_COLUMNS, [bench_row(report)])), "")
