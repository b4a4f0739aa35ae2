"""Data that no command can use are refused by every command that reads them, before it works."""

import os
from pathlib import Path

import msgspec
import pytest
from tokenizers import Tokenizer, models

from edgefuse_runtime.bundle.bundle import Bundle, describe_files, write_manifest
from tests.tiny_bundle import LABELS, make_bundle, write_data

UNKNOWN = "привет"


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    """The tiny bundle with a tokenizer that drops what it does not know and adds nothing."""
    made = make_bundle(tmp_path / "bundle")
    vocabulary = {letter: 3 + index % 15 for index, letter in enumerate("abcdefghijklmno")}
    Tokenizer(models.BPE(vocabulary, [])).save(str(made.path / "tokenizer.json"))
    return write_manifest(
        made.path, msgspec.structs.replace(made.manifest, files=describe_files(made.path))
    )


def reading(bundle: Bundle, data: object, good: Path) -> list[tuple[object, ...]]:
    """Commands of the board that read labelled rows."""
    run = bundle.path.with_name("run")
    return [
        ("evaluate", bundle.path, data),
        ("finetune", bundle.path, run, "--train", data),
        ("finetune", bundle.path, run, "--train", good, "--valid", data),
    ]


def test_a_row_without_any_token_is_named_before_the_first_step(bundle, tmp_path, run):
    good = write_data(tmp_path / "train.jsonl", 9)
    rows = [{"text": "a", "label": LABELS[0]}, {"text": UNKNOWN, "label": LABELS[1]}]
    data = tmp_path / "rows.jsonl"
    data.write_bytes(b"\n".join(map(msgspec.json.encode, rows)))
    for command in reading(bundle, data, good):
        result = run(*command)
        assert result.code == 2
        assert "rows.jsonl:2 has no character that the model's tokenizer knows" in result.err
        assert not (tmp_path / "run").exists()
    result = run("predict", bundle.path, "a", UNKNOWN)
    assert result.code == 2
    assert "text:2 has no character" in result.err


def test_a_blank_text_is_refused_as_a_blank_line_is(bundle, run):
    for texts in ([""], ["a", " \t"]):
        result = run("predict", bundle.path, *texts)
        assert result.code == 2
        assert f"text:{len(texts)} is blank" in result.err


def test_data_that_can_be_read_only_once_train_and_measure_nothing(bundle, tmp_path, run):
    good = write_data(tmp_path / "train.jsonl", 9)
    os.mkfifo(tmp_path / "pipe")
    reader, writer = os.pipe()  # as <(…) is one
    os.close(writer)
    for data in (tmp_path / "pipe", f"/dev/fd/{reader}"):
        for command in (*reading(bundle, data, good), ("predict", bundle.path, "--file", data)):
            result = run(*command)
            assert result.code == 2
            assert "is a pipe, which can be read only once" in " ".join(result.err.split())
            assert not (tmp_path / "run").exists()
    os.close(reader)


def test_pairs_of_texts_are_refused_not_trained_on_by_half(bundle, tmp_path, run):
    good = write_data(tmp_path / "train.jsonl", 9)
    data = tmp_path / "pairs.jsonl"
    data.write_bytes(msgspec.json.encode({"text": "a", "text_pair": "b", "label": LABELS[0]}))
    for command in reading(bundle, data, good):
        result = run(*command)
        assert result.code == 2
        assert 'pairs.jsonl:1 has a "text_pair"' in result.err
        assert not (tmp_path / "run").exists()
