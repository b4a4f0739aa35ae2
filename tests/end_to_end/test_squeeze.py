"""`edgefuse squeeze`: bonds are cut until accuracy falls too far, however often it is stopped."""

import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import msgspec
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

import edgefuse
from edgefuse.artifact.record import read_record
from edgefuse.compression.compress import compress
from edgefuse.layers.chains.modules import Chain
from edgefuse.mlps.matrices import KINDS
from edgefuse.report.squeeze_plot import plot_squeeze
from edgefuse.squeezing import rounds as rounds_module
from edgefuse.squeezing import workspace as workspace_module
from edgefuse.squeezing.record import Round, SqueezeRecord, SqueezeSettings, read_squeeze
from edgefuse.squeezing.squeeze import squeeze
from edgefuse.squeezing.workspace import discard
from edgefuse_devices.errors import (
    DataError,
    InputError,
    Interrupted,
    ModelError,
    OutputError,
    RunError,
)
from edgefuse_export.tasks.text_classification import WantedTextClassification

CLASSIFIER = transformers.AutoModelForSequenceClassification
SETTINGS = SqueezeSettings(
    max_drop=15, step=0.3, first_steps=30, steps=2, batch_size=8, learning_rate=5e-3
)
ROWS = [("turn on the lamp", "on"), ("turn off the light", "off"), ("play music please", "play")]


@pytest.fixture(scope="module")
def chains(pico_model: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("squeeze") / "chains"
    compress(str(pico_model("bert")), directory, method="mpo", matrices=KINDS, max_error=0)
    return directory


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("rows") / "rows.jsonl"
    fillers = ("now", "in the kitchen", "it is warm", "very good", "and stop", "less")
    lines = [{"text": f"{text} {f}", "label": label} for text, label in ROWS for f in fillers]
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return file


def squeezed(
    chains: Path,
    output: Path,
    rows: Path,
    settings: SqueezeSettings = SETTINGS,
    **options: object,
) -> SqueezeRecord:
    return squeeze(
        str(chains),
        output,
        task=WantedTextClassification(),
        train_file=rows,
        valid_file=rows,
        settings=settings,
        **options,
    )


class Watch:
    """Progress as a test sees it: the last round, stage and step."""

    def __init__(self) -> None:
        self.at = (0, "", 0)

    def __call__(self, stage: str, done: int, _total: int) -> None:
        where, _, what = stage.partition(": ")
        self.at = (int(where.split()[1].rstrip(",")), what, done)


def test_the_first_round_trains_for_three_passes_unless_told(
    chains: Path, rows: Path, tmp_path: Path
) -> None:
    settings = msgspec.structs.replace(SETTINGS, first_steps=None, max_drop=100, budget=1.0)
    record = squeezed(chains, tmp_path / "out", rows, settings)
    assert record.rounds[0].steps == 3 * 3  # of 18 rows, 8 a step


def test_central_tensors_stay_and_auxiliary_ones_have_a_rate_of_their_own(
    pico_model: Callable[..., Path], rows: Path, tmp_path: Path
) -> None:
    within = tmp_path / "chains"  # the budget, so that nothing is cut
    compress(str(pico_model("bert")), within, method="mpo", matrices=KINDS, bond=2)
    settings = msgspec.structs.replace(SETTINGS, first_steps=4, budget=1.0)
    before, moved = weights(within), {}
    central = [name for name in before if name.endswith(".central")]
    auxiliary = [name for name in before if ".auxiliary." in name]
    assert len(central) == 6 + 12 + 1
    for rate in (1.0, 0.01):
        output = tmp_path / f"at-{rate}"
        squeezed(within, output, rows, msgspec.structs.replace(settings, auxiliary_rate=rate))
        after = {name.removeprefix("bert."): tensor for name, tensor in weights(output).items()}
        assert all(torch.equal(after[name], before[name]) for name in central)
        moved[rate] = sum(float((after[name] - before[name]).abs().sum()) for name in auxiliary)
    assert 0 < moved[0.01] < 0.1 * moved[1.0]


def test_parameters_fall_until_accuracy_does(chains: Path, rows: Path, tmp_path: Path) -> None:
    told: dict[str, list[int]] = {}

    def on_progress(stage: str, done: int, total: int) -> None:
        told.setdefault(stage, []).append(done)
        assert done <= total

    record = squeezed(chains, tmp_path / "out", rows, on_progress=on_progress)
    assert told["Round 0: training"] == list(range(1, SETTINGS.first_steps + 1))
    assert all(steps == sorted(steps) for steps in told.values())
    cut = [stage for stage in told if stage.endswith("what the task needs")]
    assert len(cut) == len(record.rounds) - 1
    assert f"at {record.rounds[0].figure:.1%}" in cut[0]
    assert record.rounds[0].figure > 0.9  # it learned
    kept = [one.parameters for one in record.rounds if one.kept]
    assert kept == sorted(kept, reverse=True)
    assert len(kept) > 2
    assert len(set(kept)) == len(kept)
    assert [one.kept for one in record.rounds].count(False) == 2
    assert record.rounds[0].steps == SETTINGS.first_steps
    assert {one.steps for one in record.rounds[1:]} == {0, SETTINGS.steps}
    assert not record.rounds[-1].kept
    before, after = _parts_that_cuts_left(record.rounds)
    assert max(before) < 0.8 < min(after)  # cuts of 0.3, then of 0.15
    least = record.rounds[0].figure - SETTINGS.max_drop / 100
    assert [one.figure >= least for one in record.rounds] == [one.kept for one in record.rounds]
    assert not (tmp_path / "out.squeezing").exists()
    assert read_squeeze(tmp_path / "out") == record

    model = edgefuse.from_pretrained(tmp_path / "out", CLASSIFIER)
    assert model.num_parameters() == record.rounds[record.kept].parameters
    assert model.config.id2label == {0: "off", 1: "on", 2: "play"}
    compressed = read_record(tmp_path / "out")
    assert compressed is not None
    assert compressed.method == "mpo+squeeze"
    assert compressed.parameters_after == model.num_parameters()
    modules = {n: m for n, m in model.named_modules() if isinstance(m, Chain)}
    assert {m.name: tuple(m.bonds) for m in compressed.matrices} == {
        name: chain.bonds for name, chain in modules.items()
    }
    with torch.no_grad():
        encoded = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")(
            [text for text, _ in ROWS], padding=True, return_tensors="pt"
        )
        assert model(**encoded).logits.argmax(dim=-1).tolist() == [1, 0, 2]


def test_it_ends_at_the_budget_and_takes_no_more(chains: Path, rows: Path, tmp_path: Path) -> None:
    settings = msgspec.structs.replace(SETTINGS, max_drop=100, budget=0.7)
    record = squeezed(chains, tmp_path / "out", rows, settings)
    assert all(one.kept for one in record.rounds)
    assert record.rounds[-2].parameters > 0.7 * record.parameters_before
    one_direction = 0.01  # of a bond; the last cut ends within that of the budget
    assert 0.7 - one_direction < record.rounds[-1].parameters / record.parameters_before <= 0.7


def _parts_that_cuts_left(rounds: list[Round]) -> tuple[list[float], list[float]]:
    """Until one was taken back, and after that."""
    parts: tuple[list[float], list[float]] = ([], [])
    last, failed = rounds[0], False
    for one in rounds[1:]:
        parts[failed].append(one.parameters / last.parameters)
        last, failed = (one, failed) if one.kept else (last, True)
    return parts


@pytest.fixture(scope="module")
def whole(chains: Path, rows: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a squeeze makes that nobody stops."""
    directory = tmp_path_factory.mktemp("whole") / "whole"
    squeezed(chains, directory, rows)
    return directory


def weights(directory: Path) -> dict[str, torch.Tensor]:
    return load_file(directory / "model.edgefuse.safetensors")


@pytest.mark.parametrize("trained", [0, 1])
def test_a_stopped_squeeze_goes_on_to_the_same_weights(
    trained: int, whole: Path, chains: Path, rows: Path, tmp_path: Path
) -> None:
    rounds = [index for index, one in enumerate(read_squeeze(whole).rounds) if one.steps]
    watch = Watch()
    with pytest.raises(Interrupted, match=f"in round {rounds[trained]}, after 2"):
        squeezed(
            chains,
            tmp_path / "out",
            rows,
            on_progress=watch,
            stop=lambda: watch.at == (rounds[trained], "training", 2),
        )
    assert not (tmp_path / "out").exists()
    assert squeezed(chains, tmp_path / "out", rows, resume=True) == read_squeeze(whole)
    ours, theirs = weights(tmp_path / "out"), weights(whole)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in ours.items())


def test_one_stopped_after_a_round_was_taken_back_goes_on_to_the_same_weights(
    whole: Path, chains: Path, rows: Path, tmp_path: Path
) -> None:
    rounds = read_squeeze(whole).rounds
    after = next(index for index, one in enumerate(rounds) if not one.kept) + 1
    watch = Watch()
    with pytest.raises(Interrupted, match=f"round {after}"):
        squeezed(
            chains,
            tmp_path / "out",
            rows,
            on_progress=watch,
            stop=lambda: watch.at[0] == after,
        )
    assert squeezed(chains, tmp_path / "out", rows, resume=True) == read_squeeze(whole)
    assert all(torch.equal(one, weights(whole)[n]) for n, one in weights(tmp_path / "out").items())


@pytest.mark.parametrize("fails", [True, False])
def test_the_picture_shows_rounds_that_were_taken_back_apart(fails: bool, tmp_path: Path) -> None:
    rounds = [
        Round(parameters=count, figure=accuracy, steps=5, kept=accuracy > 0.8)
        for count, accuracy in ((1000, 0.9), (800, 0.7), (900, 0.9))
    ]
    record = SqueezeRecord(
        source="chains",
        chains=[],
        parameters_before=950,
        settings=SETTINGS,
        train="",
        valid="",
        task={"name": "text-classification"},
        rounds=rounds if fails else rounds[::2],
    )
    plot_squeeze(record, tmp_path / "one.svg")
    picture = (tmp_path / "one.svg").read_text()
    assert "<!-- rounds -->" in picture
    assert ("<!-- rounds taken back -->" in picture) == fails
    assert "accuracy on validation rows, %" in picture
    losses = msgspec.structs.replace(record, task={"name": "text-generation"})
    plot_squeeze(losses, tmp_path / "two.svg")
    picture = (tmp_path / "two.svg").read_text()
    assert "<!-- loss on validation rows -->" in picture
    assert "<!-- 0.15 worse than the first round -->" in picture


def test_one_stopped_before_a_cut_goes_on_to_the_same_weights(
    whole: Path, chains: Path, rows: Path, tmp_path: Path
) -> None:
    watch = Watch()
    with pytest.raises(Interrupted, match="before the cut of round 2"):
        squeezed(chains, tmp_path / "out", rows, on_progress=watch, stop=lambda: watch.at[0] == 2)
    assert squeezed(chains, tmp_path / "out", rows, resume=True) == read_squeeze(whole)
    assert all(torch.equal(one, weights(whole)[n]) for n, one in weights(tmp_path / "out").items())


def test_one_killed_between_model_and_record_goes_on_too(
    whole: Path, chains: Path, rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The model of round 1 is written, and squeeze.json does not know it yet."""
    write = workspace_module.write_squeeze

    def killed(directory: Path, record: SqueezeRecord) -> None:
        if len(record.rounds) == 2:
            raise KeyboardInterrupt
        write(directory, record)

    with monkeypatch.context() as patch:
        patch.setattr(workspace_module, "write_squeeze", killed)
        with pytest.raises(KeyboardInterrupt):
            squeezed(chains, tmp_path / "out", rows)
    assert (tmp_path / "out.squeezing" / "round-1").is_dir()
    assert squeezed(chains, tmp_path / "out", rows, resume=True) == read_squeeze(whole)


def test_sigterm_stops_the_command_and_resume_goes_on(
    chains: Path, rows: Path, tmp_path: Path, run: Callable[..., SimpleNamespace]
) -> None:
    output, work = tmp_path / "out", tmp_path / "out.squeezing"
    command = ["squeeze", chains, output, "--train", rows, "--valid", rows]
    command += ["--first-steps", 50, "--steps", 0, "--max-drop", 100, "--budget", 1, "--step", 0.9]
    process = subprocess.Popen(
        [sys.executable, "-m", "edgefuse", *map(str, command)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    while not (work / "squeeze.json").exists():  # the last that is written before the first step
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    errors = process.communicate(timeout=60)[1]
    assert process.returncode == 130
    assert "edgefuse: stopped in round 0, after " in errors
    assert "with --resume to go on" in errors
    assert not output.exists()
    assert run(*command, "--resume").code == 0
    assert (output / "squeeze.json").exists()
    assert not work.exists()


def test_what_was_begun_is_not_begun_again_or_otherwise(
    chains: Path, rows: Path, tmp_path: Path
) -> None:
    output = tmp_path / "out"
    with pytest.raises(RunError, match=r"no squeeze of .* to go on with"):
        squeezed(chains, output, rows, resume=True)
    with pytest.raises(Interrupted):
        squeezed(chains, output, rows, stop=lambda: True)
    with pytest.raises(OutputError, match="is there already"):
        squeezed(chains, output, rows)
    other = SqueezeSettings(max_drop=1)
    with pytest.raises(RunError, match="other settings"):
        squeezed(chains, output, rows, settings=other, resume=True)
    fewer = tmp_path / "fewer.jsonl"
    fewer.write_text("".join(rows.read_text().splitlines(keepends=True)[:-1]))
    with pytest.raises(RunError, match="other data"):
        squeezed(chains, output, fewer, resume=True)
    another = tmp_path / chains.name
    shutil.copytree(chains, another)
    tensors = weights(another)
    tensors["encoder.layer.0.output.dense.bias"] += 1.0
    save_file(tensors, another / "model.edgefuse.safetensors", {"format": "pt"})
    with pytest.raises(RunError, match="begun with another model"):
        squeezed(another, output, rows, resume=True)
    few = SqueezeSettings(max_drop=0, step=0.5, first_steps=2, steps=1, learning_rate=1e-3)
    assert squeezed(chains, output, rows, settings=few, overwrite=True).rounds[0].kept
    with pytest.raises(OutputError, match="not empty"):
        squeezed(chains, output, rows, settings=few)
    assert squeezed(chains, output, rows, settings=few, resume=True) == read_squeeze(output)
    with pytest.raises(RunError, match=r"squeezed from another model, .* other settings.*anew"):
        squeezed(chains, output, rows, settings=other, resume=True)


@pytest.mark.parametrize("which", ["train_file", "valid_file"])
def test_a_data_file_that_is_not_there_is_refused(
    chains: Path, rows: Path, tmp_path: Path, which: str
) -> None:
    files = {"train_file": rows, "valid_file": rows, which: tmp_path / "nosuch.jsonl"}
    with pytest.raises(DataError, match=r"nosuch\.jsonl is not there"):
        squeeze(
            str(chains),
            tmp_path / "out",
            task=WantedTextClassification(),
            settings=SETTINGS,
            **files,
        )
    assert not list(tmp_path.iterdir())


def test_lines_of_text_are_no_rows(chains: Path, tmp_path: Path) -> None:
    (tmp_path / "lines.txt").write_text("good\nbad\n")
    with pytest.raises(DataError, match=r"lines\.txt:1 is broken JSON.*A row looks like"):
        squeezed(chains, tmp_path / "out", tmp_path / "lines.txt")


def test_a_model_without_chains_is_refused(
    pico_model: Callable[..., Path], rows: Path, tmp_path: Path
) -> None:
    with pytest.raises(ModelError, match="no matrix product operators") as refused:
        squeezed(pico_model("bert"), tmp_path / "out", rows)
    assert "--method mpo --max-error 0" in str(refused.value)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "setting",
    [
        {"max_drop": -1.0},
        {"budget": -0.1},
        {"budget": 0.0},
        {"budget": 80.0},
        {"budget": float("nan")},
        {"step": 0.0},
        {"step": 1.0},
        {"batch_size": 0},
        {"learning_rate": 0.0},
        {"learning_rate": float("inf")},
        {"auxiliary_rate": float("inf")},
        {"max_drop": float("inf")},
        {"seed": -1},
        {"seed": 2**70},
    ],
)
def test_numbers_out_of_range_are_refused(setting: dict[str, float]) -> None:
    name = next(iter(setting)).replace("_", "-")
    with pytest.raises(InputError, match=f"--{name} .*when left out"):
        SqueezeSettings(**setting)


def test_the_command_squeezes_and_draws(
    chains: Path, rows: Path, tmp_path: Path, run: Callable[..., SimpleNamespace]
) -> None:
    output, picture = tmp_path / "out", tmp_path / "squeeze.svg"
    options = ("--train", rows, "--valid", rows, "--first-steps", 30, "--steps", 5, "--step", 0.3)
    options = (*options, "--learning-rate", 0.005, "--max-drop", 20)
    done = run("squeeze", chains, output, *options, "--plot", picture, "--json")
    assert done.code == 0, done.err
    found = json.loads(done.out)
    assert found["output"] == str(output)
    assert found["squeeze"]["rounds"][0]["kept"]
    assert picture.read_text().startswith("<?xml")
    shown = run("squeeze", chains, output, *options, "--overwrite")
    assert shown.code == 0
    assert "of the plain model's" in shown.out
    wrong = run("squeeze", chains, tmp_path / "x", *options, "--plot", tmp_path / "x.docx")
    assert wrong.code == 2
    assert not (tmp_path / "x").exists()
    shutil.rmtree(output)


def test_a_cut_that_was_just_too_much_is_halved_near_the_budget_too(
    chains: Path, rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    least = []

    def falls(model: torch.nn.Module, *_: object) -> dict[str, float]:
        count = sum(p.numel() for p in model.parameters())
        least.append(count)
        return {"accuracy": 1.0 if count == max(least) else 0.0}

    monkeypatch.setattr(rounds_module, "measure", falls)
    settings = msgspec.structs.replace(SETTINGS, first_steps=1, steps=0, step=0.9, budget=1.0)
    first, *failed = squeezed(chains, tmp_path / "out", rows, settings).rounds
    cuts = [first.parameters - one.parameters for one in failed]
    assert len(cuts) == 2
    assert 0.4 < cuts[1] / cuts[0] < 0.8


@pytest.mark.parametrize("budget", [1.0, 0.0001])
def test_the_command_says_whether_the_budget_was_reached(
    budget: float, chains: Path, rows: Path, tmp_path: Path, run: Callable[..., SimpleNamespace]
) -> None:
    data = ("--train", rows, "--valid", rows, "--first-steps", 1, "--steps", 0)
    options = ("--budget", budget, "--max-drop", 100, "--step", 0.9)
    done = run("squeeze", chains, tmp_path / "out", *data, *options)
    assert done.code == 0, done.err
    assert ("The budget was not reached" in done.out) == (budget < 1)


def test_a_model_within_its_budget_is_trained_and_not_cut(
    chains: Path, rows: Path, tmp_path: Path, run: Callable[..., SimpleNamespace]
) -> None:
    data = ("--train", rows, "--valid", rows, "--first-steps", 1, "--steps", 0, "--max-drop", 100)
    assert run("squeeze", chains, tmp_path / "one", *data, "--budget", 0.8).code == 0
    again = run("squeeze", tmp_path / "one", tmp_path / "two", *data, "--budget", 1)
    assert "Nothing was cut: it was within the budget already" in again.out


def test_a_head_for_other_classes_is_refused_before_anything_is_left(
    chains: Path, rows: Path, tmp_path: Path
) -> None:
    settings = msgspec.structs.replace(SETTINGS, first_steps=1, max_drop=100, budget=0.8)
    squeezed(chains, tmp_path / "three", rows, settings)
    two = tmp_path / "two.jsonl"
    two.write_text('{"text": "warm", "label": "red"}\n{"text": "cold", "label": "blue"}\n')
    with pytest.raises(ModelError, match=r"a head for 3 classes .*and 2 are given \(blue, red\)"):
        squeezed(tmp_path / "three", tmp_path / "out", two, settings)
    assert not (tmp_path / "out.squeezing").exists()


def test_texts_longer_than_the_model_takes_are_cut(
    chains: Path, rows: Path, tmp_path: Path
) -> None:
    long = tmp_path / "long.jsonl"
    long.write_text(rows.read_text().replace(" now", " now" * 100))
    settings = msgspec.structs.replace(SETTINGS, first_steps=2, max_drop=100, budget=0.9)
    assert squeezed(chains, tmp_path / "out", long, settings).rounds[0].kept


def test_one_killed_while_it_clears_up_leaves_nothing_in_the_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(path: Path, **_: object) -> None:
        if path.exists():
            raise KeyboardInterrupt

    work = tmp_path / "work"
    for _ in range(2):  # what the first leaves is in nobody's way either
        (work / "round-0").mkdir(parents=True)
        with monkeypatch.context() as patch:
            patch.setattr("edgefuse.squeezing.workspace.shutil.rmtree", killed)
            with pytest.raises(KeyboardInterrupt):
                discard(work)
        if work.exists():
            discard(work)
        assert not work.exists()


def test_an_empty_working_folder_is_taken(chains: Path, rows: Path, tmp_path: Path) -> None:
    (tmp_path / "out.squeezing").mkdir()
    settings = msgspec.structs.replace(SETTINGS, first_steps=1, max_drop=100, budget=0.9)
    squeezed(chains, tmp_path / "out", rows, settings)
    (tmp_path / "more.squeezing").mkdir()
    (tmp_path / "more.squeezing" / "thesis.tex").write_text("years of work")
    with pytest.raises(OutputError, match="EdgeFuse did not write"):
        squeezed(chains, tmp_path / "more", rows, settings, overwrite=True)
