"""Models in GGUF files: found, checked and read with all that is in them, and refused otherwise."""

import shutil
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from transformers import AutoModelForCausalLM

import edgefuse
from edgefuse.compression.compress import compress
from edgefuse.hub import gguf as gguf_files
from edgefuse.hub.model import load_config, load_model
from edgefuse.hub.source import find_file, find_source
from edgefuse.hub.tokenizer import load_padding_tokenizer
from edgefuse_devices.errors import ModelError
from tests.pico_causal import causal_tokenizer, save_causal_model
from tests.pico_gguf import save_gguf

IDS = torch.tensor([[5, 9, 23, 7, 40, 31]])


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "there").mkdir()
    save_gguf(tmp_path / "there/pico.gguf")
    return tmp_path / "there/pico.gguf"


def test_a_gguf_file_gives_its_model(tmp_path: Path) -> None:
    written = save_gguf(tmp_path / "pico.gguf")
    source = find_source(str(tmp_path / "pico.gguf"))
    read = load_model(source, load_config(source))
    assert (source.label, source.revision) == ("pico", None)
    assert type(read) is type(written)
    torch.testing.assert_close(read(IDS).logits, written(IDS).logits)


def test_a_gguf_file_gives_its_tokenizer_and_chat_template(file: Path) -> None:
    tokenizer, own = load_padding_tokenizer(find_source(str(file))), causal_tokenizer(chats=True)
    text = "turn on the lamp<|end|> in 15 minutes<|endoftext|>"
    assert tokenizer.wrapper(text)["input_ids"] == own(text)["input_ids"]
    assert tokenizer.backend.encode(text).ids == own(text)["input_ids"]
    assert tokenizer.highest_id == own.vocab_size - 1
    assert tokenizer.wrapper.chat_template == own.chat_template
    assert tokenizer.padding_id == own.eos_token_id


@pytest.mark.parametrize(("pre", "splits"), [("gpt-2", ["Ġ", "Ġ15"]), ("smollm", ["ĠĠ", "1", "5"])])
def test_digits_stand_alone_where_the_file_asks(
    pre: str, splits: list[str], tmp_path: Path
) -> None:
    save_gguf(tmp_path / "pico.gguf", pre=pre)
    backend = load_padding_tokenizer(find_source(str(tmp_path / "pico.gguf"))).backend
    assert [part for part, _ in backend.pre_tokenizer.pre_tokenize_str("  15")] == splits


def test_what_lies_beside_a_gguf_file_is_not_the_models(file: Path) -> None:
    save_causal_model(file.parent, layers=1, seed=3, begins=True)
    source = find_source(str(file))
    assert find_file(source, "tokenizer.json") is None
    assert load_config(source).num_hidden_layers == 2
    own = causal_tokenizer()("the lamp")["input_ids"]
    assert load_padding_tokenizer(source).wrapper("the lamp")["input_ids"] == own


def test_a_directory_with_one_gguf_file_is_that_file(file: Path) -> None:
    assert find_source(str(file.parent)).gguf == find_source(str(file)).gguf is not None


def test_a_gguf_model_is_plain_and_can_be_saved(file: Path, tmp_path: Path) -> None:
    model = edgefuse.from_pretrained(file, AutoModelForCausalLM)
    model.save_pretrained(tmp_path / "saved")
    again = edgefuse.from_pretrained(tmp_path / "saved", AutoModelForCausalLM)
    assert "quantization_config" not in (tmp_path / "saved/config.json").read_text()
    torch.testing.assert_close(again(IDS).logits, model(IDS).logits)


def test_a_gguf_model_is_compressed_with_its_head_and_tokenizer(file: Path, tmp_path: Path) -> None:
    compress(str(file), tmp_path / "narrow", ratio=0.5)
    with safe_open(tmp_path / "narrow/model.safetensors", "pt") as tensors:
        assert tensors.get_slice("model.layers.0.mlp.up_proj.weight").get_shape() == [16, 16]
        assert "lm_head.weight" in tensors.keys()  # noqa: SIM118 - it is no mapping
    assert find_source(str(tmp_path / "narrow")).gguf is None
    read = load_padding_tokenizer(find_source(str(tmp_path / "narrow"))).wrapper
    assert read("the lamp")["input_ids"] == causal_tokenizer()("the lamp")["input_ids"]


def test_nothing_of_reading_a_gguf_file_is_shown(
    file: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    edgefuse.from_pretrained(file, AutoModelForCausalLM)
    assert capfd.readouterr() == ("", "")


def cut(file: Path, share: float) -> None:
    content = file.read_bytes()
    file.write_bytes(content[: int(len(content) * share)])


@pytest.mark.parametrize(
    ("spoil", "problem"),
    [
        (lambda file: cut(file, 0.9), "broken or was cut off"),
        (lambda file: cut(file, 0.1), "broken or was cut off"),
        (lambda file: cut(file, 0), "no GGUF file: it does not begin with GGUF"),
        (lambda file: file.write_bytes(b"<html>404</html>"), "no GGUF file"),
        (lambda file: shutil.copy(file, file.with_name("b.gguf")), "holds 2 GGUF files"),
        (
            lambda file: save_gguf(file, general__type="adapter"),
            "without a model: it holds adapter",
        ),
    ],
)
def test_a_broken_file_is_refused_in_a_sentence(spoil, problem: str, file: Path) -> None:
    spoil(file)
    named = file.parent if "2" in problem else file
    with pytest.raises(ModelError, match=problem) as refusal:
        find_source(str(named))
    assert str(named) in refusal.value.problem
    assert refusal.value.hint


def test_an_architecture_that_transformers_does_not_read_is_named(tmp_path: Path) -> None:
    save_gguf(tmp_path / "pico.gguf", architecture="gptj")
    with pytest.raises(ModelError, match="architecture gptj") as refusal:
        load_config(find_source(str(tmp_path / "pico.gguf")))
    assert "that the file was made from" in refusal.value.hint


def test_a_tokenizer_of_an_unknown_kind_is_refused(tmp_path: Path) -> None:
    save_gguf(tmp_path / "pico.gguf")
    source = find_source(str(tmp_path / "pico.gguf"))
    without = gguf_files.GGUF("llama", None, None)
    with pytest.raises(ModelError, match="no tokenizer"):
        load_padding_tokenizer(type(source)(source.name, source.label, None, without))


def test_a_missing_package_is_named_with_its_extra(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gguf_files, "find_spec", lambda _: None)
    with pytest.raises(ModelError, match="package gguf") as refusal:
        find_source(str(file))
    assert "edgefuse[gguf]" in refusal.value.hint


def test_a_gguf_file_has_no_revisions(file: Path) -> None:
    with pytest.raises(ModelError, match="is a file, and revisions are of models on the hub"):
        find_source(str(file), "main")


def test_another_file_is_no_model(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("a model")
    with pytest.raises(ModelError, match="is a file, not a model's directory"):
        find_source(str(tmp_path / "notes.txt"))
