"""Reports become pages: whole, escaped, and with nothing to load from elsewhere."""

import re
from html.parser import HTMLParser

import msgspec
import pytest
from typer.testing import CliRunner

from edgefuse.cli._app import app
from edgefuse.report.html import html
from edgefuse.report.markdown import markdown
from edgefuse.report.read import NamedReport, read_report
from edgefuse_devices.catalog import load_device
from edgefuse_devices.errors import InputError, OutputError
from edgefuse_runtime.bundle.manifest import ModelInfo, PredictedMemory, Tuning
from edgefuse_runtime.measuring.process import Workload
from edgefuse_runtime.measuring.report import BenchReport, Latency, measured_on
from edgefuse_runtime.training.records import Report as RunReport

MIB = 2**20
PI, PC = load_device("rpi5"), load_device("n100")
MEMORY = PredictedMemory(parameters=1, gradients=1, optimizer=2, activations=3, frozen=0)
EVIL = "<script>alert(1)</script>|**x**\n[y](http://z)"


def bench_report(**changes):
    report = BenchReport(
        measured_on=measured_on(PC, PI, is_board=False, emulated=False),
        date="2026-01-02T03:04:05+00:00",
        bundle_id="0" * 64,
        model=ModelInfo(
            source="mini", architecture="bert", parameters=100, intermediate_sizes=[8, 8]
        ),
        tuning=Tuning(method="full", trained_parameters=90),
        board=PI,
        machine=PC,
        is_board=False,
        emulated=False,
        workload=Workload(batch_size=8, sequence_length=128, threads=2),
        vocabulary=300,
        distinct_tokens=200,
        load_seconds=1.25,
        step_ms=Latency(p50=400, p90=450, p99=500),
        samples_per_second=20,
        tokens_per_second=2560,
        peak_rss_bytes=600 * MIB,
        base_rss_bytes=50 * MIB,
        parameter_bytes=1,
        gradient_bytes=1,
        optimizer_bytes=2,
        frozen_bytes=0,
        predicted_memory=MEMORY,
        predicted_shape=(8, 128),
        engine="onnxruntime",
        engine_version="1.31.1",
        python_version="3.11.7",
        edgefuse_version="0.1.0",
    )
    return msgspec.structs.replace(report, **changes)


def run_report(**changes):
    report = RunReport(
        bundle_id="0" * 64,
        task="text-classification",
        steps=1200,
        best_epoch=2,
        figures={"accuracy": 0.915, "macro_f1": 0.9, "loss": 0.25},
        training_seconds=60,
        samples_per_second=80,
        tokens_per_second=1000,
        peak_rss_mib=500,
        predicted_memory=MEMORY,
        parameters=100,
        trained_parameters=90,
        threads=2,
        rows_at_once=8,
        machine=PC,
        is_board=False,
        engine="onnxruntime",
        engine_version="1.31.1",
        edgefuse_version="0.1.0",
    )
    return msgspec.structs.replace(report, **changes)


FUSED = ModelInfo(
    source="mini",
    architecture="bert",
    parameters=60,
    intermediate_sizes=[2, 4],
    compression="mlp-fusion",
)


@pytest.fixture
def files(tmp_path):
    """Two benches and a run."""
    (tmp_path / "sst2").mkdir()
    reports = {
        "unfused.json": bench_report(),
        "fused.json": bench_report(model=FUSED, step_ms=Latency(p50=200, p90=250, p99=300)),
        "sst2/report.json": run_report(),
    }
    for name, report in reports.items():
        (tmp_path / name).write_bytes(msgspec.json.encode(report))
    return [tmp_path / name for name in reports]


@pytest.fixture
def reports(files):
    return [read_report(file) for file in files]


def edgefuse_report(*arguments):
    return CliRunner().invoke(app, ["report", *map(str, arguments)])


class Page(HTMLParser):
    """Tags, attributes and text of a page; unclosed tags fail."""

    VOID = ("meta", "br")

    def __init__(self, page):
        super().__init__()
        self.open, self.tags, self.attributes, self.texts = [], [], [], []
        self.feed(page)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)


def test_reports_are_told_apart(reports):
    assert [type(report) for _, report in reports] == [BenchReport, BenchReport, RunReport]
    assert [name for name, _ in reports] == ["unfused", "fused", "sst2"]


def test_a_run_is_read_by_its_directory(files):
    run = files[2].parent
    (run / "run.json").write_text("{}")
    assert read_report(run) == read_report(files[2])


def test_markdown_has_a_table_of_each_kind(reports):
    page = markdown(reports)
    lines = page.splitlines()
    assert "## Training speed" in lines
    assert "## Runs" in lines
    for start in ("| model ", "| run "):
        first = next(i for i, line in enumerate(lines) if line.startswith(start))
        assert len({line.count("|") for line in lines[first : lines.index("", first)]}) == 1
    assert "400.0 / 450.0 / 500.0" in page
    assert "mini (mlp-fusion, width 2–4)" in page
    assert "91.5%" in page


def test_a_doubted_measurement_is_named_on_every_page():
    sentence = "old is not to be compared: the clock is capped; steps became slower."
    doubted = bench_report(doubts=["the clock is capped", "steps became slower"])
    reports = [NamedReport("old", doubted), NamedReport("new", bench_report())]
    for page in (markdown(reports), html(reports)):
        assert page.count(sentence) == 1
        assert "new is not" not in page


def test_where_it_was_measured_is_said_once_for_each_machine(reports):
    for page in (markdown(reports), html(reports)):
        assert page.count(bench_report().measured_on) == 1


@pytest.mark.parametrize(
    ("changes", "cell"),
    [
        ({}, "Intel N100 mini PC (4 cores), not Raspberry Pi 5"),
        ({"machine": PI, "is_board": True}, "Raspberry Pi 5"),
        ({"machine": PI, "emulated": True}, "CPU emulation, not Raspberry Pi 5"),
    ],
)
def test_the_row_says_whose_speed_it_is(tmp_path, changes, cell):
    file = tmp_path / "one.json"
    file.write_bytes(msgspec.json.encode(bench_report(**changes)))
    assert f"| {cell} |" in markdown([read_report(file)])


def test_an_html_page_is_whole_and_loads_nothing(reports):
    page = Page(html(reports))
    assert page.tags.count("table") == 2
    assert not {"script", "link", "img", "iframe"} & {*page.tags}
    assert not {"src", "href"} & {name for name, _ in page.attributes}
    assert "http" not in html(reports)


def test_bars_are_as_long_as_their_figures(reports):
    widths = [float(w) for w in re.findall(r"width: ([\d.]+)%", html(reports))]
    assert widths == [80, 40, 80, 80]


def test_what_reports_say_is_text_and_not_markup(tmp_path):
    model = msgspec.structs.replace(bench_report().model, source=EVIL)
    file = tmp_path / "evil.json"
    file.write_bytes(msgspec.json.encode(bench_report(model=model, measured_on=EVIL)))
    read = [read_report(file)]
    page = Page(html(read))
    assert "script" not in page.tags
    assert EVIL in page.texts
    assert "\\<script\\>alert(1)\\</script\\>\\|\\*\\*x\\*\\* \\[y\\](http://z)" in markdown(read)


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (None, "cannot be read: No such file or directory"),
        (b"no json", "is no report"),
        (b"\xff\xfe", "is no report"),
        (b"[]", "is no report"),
        (b"{}", "is no report"),
        (b'{"report": "bench"}', "is no report"),
        (b'{"report": "another"}', "is no report"),
        (b'{"report": "bench", "schema_version": 99}', "was made by a newer EdgeFuse"),
    ],
)
def test_what_is_no_report_is_refused_by_name(tmp_path, content, problem):
    file = tmp_path / "some.json"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(InputError, match=problem) as error:
        read_report(file)
    assert str(file) in str(error.value)


def test_a_directory_that_is_no_run_is_refused_by_name(tmp_path):
    with pytest.raises(InputError, match=re.escape(str(tmp_path))):
        read_report(tmp_path)


def test_the_command_prints_markdown(files, reports):
    result = edgefuse_report(*files)
    assert result.exit_code == 0, result.output
    assert result.stdout == markdown(reports)


@pytest.mark.parametrize(("name", "make"), [("page.html", html), ("page.md", markdown)])
def test_the_suffix_chooses_the_page(files, reports, tmp_path, name, make):
    output = tmp_path / name
    output.write_text("an older one")
    result = edgefuse_report(*files, "-o", output)
    assert result.exit_code == 0, result.output
    assert output.read_text(encoding="utf-8") == make(reports)


@pytest.mark.parametrize("name", ["page.pdf", "missing/page.html"])
def test_an_output_that_cannot_be_is_refused(files, tmp_path, name):
    result = edgefuse_report(*files, "-o", tmp_path / name)
    assert isinstance(result.exception, OutputError)
