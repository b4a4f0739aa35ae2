"""What `compress` refuses, and that it leaves everything as it was."""

import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import Mock

import pytest
from huggingface_hub import errors as hub
from safetensors.torch import load_file, save_file

from edgefuse.artifact.record import RECORD, read_record
from edgefuse.compression.compress import compress, plan_compression
from edgefuse.compression.progress import FUSING, TEACHING
from edgefuse_devices.errors import ModelError
from tests.pico_models import TEXTS, WIDTH


def test_overwrite_replaces_a_compressed_model_and_nothing_else(
    run: Callable[..., SimpleNamespace], pico_model: Callable[..., Path], tmp_path: Path
) -> None:
    source, output = pico_model("bert"), tmp_path / "fused"
    assert run("compress", source, output, "--width", 4).code == 0
    refused = run("compress", source, output, "--width", 8)
    assert refused.code == 2
    assert "is not empty" in refused.err
    assert "--overwrite" in refused.err
    assert run("compress", source, output, "--width", 8, "--overwrite").code == 0
    record = read_record(output)
    assert record is not None
    assert {layer.width_after for layer in record.layers} == {8}

    assert (
        "holds what looks like a model" in run("compress", source, source).err
    )  # and no word of --overwrite
    assert "--overwrite" not in run("compress", source, source).err
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "thesis.tex").write_text("years of work")
    for options in ((), ("--dry-run",), ("--dry-run", "--method", "mpo", "--bond", 4)):
        refused = run("compress", source, tmp_path / "home", "--overwrite", *options)
        assert refused.code == 2
        assert "did not write" in refused.err
    assert (tmp_path / "home" / "thesis.tex").read_text() == "years of work"


def test_an_output_that_is_a_file_is_refused(
    run: Callable[..., SimpleNamespace], pico_model: Callable[..., Path], tmp_path: Path
) -> None:
    (tmp_path / "notes").write_text("mine")
    result = run("compress", pico_model("bert"), tmp_path / "notes", "--overwrite")
    assert result.code == 2
    assert "is a file" in result.err
    assert (tmp_path / "notes").read_text() == "mine"


@pytest.mark.parametrize("there_before", [False, True])
def test_an_interrupted_compression_leaves_what_was_there(
    there_before: bool, pico_model: Callable[..., Path], tmp_path: Path
) -> None:
    output = tmp_path / "fused"
    if there_before:
        compress(str(pico_model("bert")), output)
    before = {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()}

    def interrupt(_stage: str, _done: int, _total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        compress(str(pico_model("bert")), output, seed=1, overwrite=True, on_progress=interrupt)
    assert {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()} == before
    assert output.exists() == there_before
    assert len(list(tmp_path.iterdir())) == there_before


def test_a_model_larger_than_memory_is_refused_with_text_and_read_from_files_without(
    run: Callable[..., SimpleNamespace],
    pico_model: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    texts = tmp_path / "texts.txt"
    texts.write_text("\n".join(TEXTS))
    small = SimpleNamespace(memory_mib=0.01)
    monkeypatch.setattr("edgefuse.compression.fusion_plan.probe", lambda: small)
    refused = run("compress", pico_model("bert"), tmp_path / "fused", "--calibration", texts)
    assert refused.code == 2
    assert "in float32, and this machine 0.0 GiB of memory" in refused.err
    assert "Compress it without text" in refused.err
    assert list(tmp_path.iterdir()) == [texts]
    assert run("compress", pico_model("bert"), tmp_path / "fused").code == 0


@pytest.mark.parametrize("stage", [FUSING, TEACHING])
def test_an_interruption_in_any_stage_leaves_nothing(
    stage: str, pico_model: Callable[..., Path], tmp_path: Path
) -> None:
    texts = tmp_path / "texts.txt"
    texts.write_text("\n".join(TEXTS))

    def interrupt(reached: str, _done: int, _total: int) -> None:
        if reached == stage:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        compress(
            str(pico_model("bert")),
            tmp_path / "fused",
            width=4,
            tune_text=texts,
            on_progress=interrupt,
        )
    assert list(tmp_path.iterdir()) == [texts]


def test_a_disk_that_is_too_small_is_refused_before_work_begins(
    run: Callable[..., SimpleNamespace],
    pico_model: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=10_000))
    result = run("compress", pico_model("bert"), tmp_path / "fused")
    assert result.code == 2
    assert "only 0 MB are free" in result.err
    assert list(tmp_path.iterdir()) == []


def test_svd_needs_the_space_of_the_thin_matrices_that_it_writes(
    run: Callable[..., SimpleNamespace],
    pico_model: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    source = pico_model("bert")
    needed = 20_000_000 + 4 * plan_compression(str(source), method="svd").parameters_after
    for free, fits in ((needed, True), (needed - 1, False)):
        monkeypatch.setattr(shutil, "disk_usage", lambda _, free=free: SimpleNamespace(free=free))
        done = run("compress", source, tmp_path / f"{fits}", "--method", "svd")
        assert (done.code == 0) == fits
        assert fits or "MB are free" in done.err


def _without_config(folder: Path) -> None:
    (folder / "config.json").unlink()


def _without_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()


def _without_tokenizer(folder: Path) -> None:
    for file in folder.glob("tokenizer*"):
        file.unlink()


def _with_cut_weights(folder: Path) -> None:
    os.truncate(folder / "model.safetensors", 1000)


def _with_a_weight_less(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    del tensors["encoder.layer.1.output.dense.weight"]
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})


def _with_another_width(folder: Path) -> None:
    _configure(folder, intermediate_size=WIDTH + 1)


def _with_broken_config(folder: Path) -> None:
    (folder / "config.json").write_text("{")


def _of_an_unknown_type(folder: Path) -> None:
    _configure(folder, model_type="nonesuch")


def _compressed_by_a_newer_edgefuse(folder: Path) -> None:
    (folder / RECORD).write_text('{"schema_version": 99}')


def _compressed(folder: Path) -> None:
    compress(str(folder), folder / "inner")
    shutil.copy(folder / "inner" / RECORD, folder)


def _configure(folder: Path, **changes: object) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | changes))


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (_without_config, "is no model: it has no config.json"),
        (_without_weights, "cannot be loaded: Error no file named model.safetensors"),
        (_without_tokenizer, "has no tokenizer"),
        (_with_cut_weights, "cannot be loaded: Error while deserializing"),
        (_with_a_weight_less, "lacks 1 of the weights of BertModel"),
        (_with_another_width, "has weights of other sizes than its config.json says"),
        (_with_broken_config, "cannot be loaded: It looks like the config"),
        (_of_an_unknown_type, "nonesuch"),
        (_compressed, "is compressed already"),
        (_compressed_by_a_newer_edgefuse, "was made by a newer EdgeFuse"),
    ],
)
def test_a_model_that_does_not_hold_gets_one_sentence(
    damage: Callable[[Path], None],
    sentence: str,
    run: Callable[..., SimpleNamespace],
    pico_model: Callable[..., Path],
    tmp_path: Path,
) -> None:
    broken = tmp_path / "model"
    shutil.copytree(pico_model("bert"), broken)
    damage(broken)
    result = run("compress", broken, tmp_path / "fused")
    assert result.code == 2
    assert sentence in result.err
    assert result.err.count("\n") == 1
    assert result.out == ""
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("--width", WIDTH + 1), f"A width of {WIDTH + 1} is above the model's own, {WIDTH}"),
        (("--width", 0), "A width of 0 leaves no MLP"),
        (("--ratio", 2), "A ratio of 2 is not above 0 and up to 1"),
        (("--ratio", 0.5, "--width", 4), "--ratio and --width say the same thing twice"),
        (("--layers", "1-3"), "There is no layer 3: the model's MLP layers are 0 to 2"),
        (("--layers", "top"), "'top' names no layers"),
        (("--method", "magic"), "There is no method 'magic'. There are mlp-fusion"),
        (("--calibration", "nowhere.jsonl"), "nowhere.jsonl is not there"),
        (("--tune-text", "nowhere.jsonl"), "nowhere.jsonl is not there"),
        (("--refit",), "A refit needs text to fit to. Give --calibration"),
        (("--method", "clustering"), "does not suit encoder.layer.0: √n on both sides of the act"),
        (("--dry-run", "--method", "clustering"), "does not suit encoder.layer.0"),
        (("--dry-run", "--method", "prune-activation"), "The method prune-activation needs text"),
        (
            ("--dry-run", "--method", "svd", "--width", 1),
            "it wants a larger --ratio or --width",
        ),
        (("--dry-run", "--calibration", "nowhere.jsonl"), "nowhere.jsonl is not there"),
        (("--dry-run", "--refit"), "A refit needs text to fit to"),
        (("--plot", "errors.svg"), "--plot needs text to measure errors on"),
        (("--dry-run", "--plot", "errors.svg"), "--plot needs text to measure errors on"),
        (("--method", "mpo", "--bond", "4", "--plot", "errors.svg"), "which mpo does not measure"),
    ],
)
def test_options_that_do_not_hold_get_one_sentence(
    arguments: tuple[object, ...],
    sentence: str,
    run: Callable[..., SimpleNamespace],
    pico_model: Callable[..., Path],
    tmp_path: Path,
) -> None:
    result = run("compress", pico_model("bert"), tmp_path / "fused", *arguments)
    assert result.code == 2
    assert sentence in result.err
    assert result.err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ('{"text": "fine"}\n{"text": \n', ":2 is broken JSON"),
        ('{"text": "fine"}\n\n{"label": "x"}\n', ":2 is an empty row"),
        ('{"text": 7}\n', ':1 has no "text"'),
        ("\n \n", "has no rows"),
        ("", "has no rows"),
        (b"\xe4\xf6", ":1 is not UTF-8"),
    ],
)
def test_calibration_rows_that_do_not_hold_are_named_by_file_and_line(
    content: str | bytes,
    sentence: str,
    run: Callable[..., SimpleNamespace],
    pico_model: Callable[..., Path],
    tmp_path: Path,
) -> None:
    file = tmp_path / "texts.jsonl"
    file.write_bytes(content.encode() if isinstance(content, str) else content)
    result = run("compress", pico_model("bert"), tmp_path / "fused", "--calibration", file)
    assert result.code == 2
    assert str(file) in result.err
    assert sentence in result.err
    assert not (tmp_path / "fused").exists()


def test_too_little_text_is_refused_with_the_rows_that_would_do(
    run: Callable[..., SimpleNamespace], pico_model: Callable[..., Path], tmp_path: Path
) -> None:
    file = tmp_path / "texts.jsonl"
    letters = "abcdefghijklmnopqrstuvwxyz0123456789"  # each a token

    def compressed(rows: int, *options: object) -> SimpleNamespace:
        file.write_text("".join(f'{{"text": "{letter}"}}\n' for letter in letters[:rows]))
        output = tmp_path / "fused"
        return run("compress", pico_model("bert"), output, "--calibration", file, *options)

    alone = compressed(1)
    assert (alone.code, alone.err.count("\n")) == (2, 1)
    assert "One calibration text is too few" in alone.err
    taught = ("--method", "prune", "--tune-text", file)  # which has no output to fit
    for rows, width, *options in ((2, 3), (2, 8), (4, 16), (12, 32), (4, 16, *taught)):
        refused = compressed(rows, "--width", width, *options)
        assert (refused.code, refused.err.count("\n")) == (2, 1)
        assert f"too few to fit the {width} neurons of encoder.layer.0" in refused.err
        wanted = re.search(r"Give at least (\d+) rows", refused.err)
        assert wanted is not None
        assert not (tmp_path / "fused").exists()
        assert compressed(int(wanted[1]), "--width", width).code == 0
        shutil.rmtree(tmp_path / "fused")
    assert compressed(2, "--method", "prune").code == 0  # nothing is fitted


@pytest.mark.parametrize("name", ["./nowhere", "/nowhere/at/all", "no/such/model", "nowhere/", ""])
def test_a_path_that_is_not_there_never_asks_the_hub(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = Mock()
    monkeypatch.setattr("edgefuse.hub.source.hf_hub_download", asked)
    with pytest.raises(ModelError, match=r"does not exist|has no name"):
        plan_compression(name)
    asked.assert_not_called()


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (hub.LocalEntryNotFoundError("offline"), "the Hugging Face hub cannot be reached"),
        (hub.RepositoryNotFoundError("404", response=Mock()), "no model on the hub"),
        (hub.GatedRepoError("403", response=Mock()), "is gated on the hub"),
        (hub.RevisionNotFoundError("404", response=Mock()), "has no revision 'v9' on the hub"),
        (hub.RemoteEntryNotFoundError("404", response=Mock()), "has no config.json on the hub"),
        (
            hub.HfHubHTTPError("500", response=Mock(status_code=500)),
            "refused to give someone/something: 500",
        ),
    ],
)
def test_what_the_hub_does_not_give_gets_one_sentence(
    error: Exception, sentence: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgefuse.hub.source.hf_hub_download", Mock(side_effect=error))
    with pytest.raises(ModelError) as caught:
        plan_compression("someone/something", revision="v9")
    assert sentence in str(caught.value)


@pytest.mark.parametrize("seed", [-1, 2**32])
def test_a_seed_that_no_generator_takes_is_refused(
    seed: int, run: Callable[..., SimpleNamespace], pico_model: Callable[..., Path], tmp_path: Path
) -> None:
    result = run("compress", pico_model("bert"), tmp_path / "fused", "--seed", seed)
    assert result.code == 2
    assert "seed" in result.err
    assert list(tmp_path.iterdir()) == []
