"""Data files: what is read, and the sentence for each row that cannot be."""

import bz2
import gzip
import lzma
import os
from pathlib import Path

import pytest

from edgefuse_devices.errors import DataError
from edgefuse_runtime.data.texts import read_lines, read_texts, split_lines
from edgefuse_runtime.tasks.labelled_texts import LabelledText, read_examples
from edgefuse_runtime.tasks.labels import read_labels

LABELS = ["light_on", "light_off", "heat_up"]
GOOD = b'{"text": "lamp", "label": "light_on"}\n'


def read(tmp_path, raw, labels=LABELS):
    path = tmp_path / "train.jsonl"
    path.write_bytes(raw)
    return read_examples(path, labels)


@pytest.mark.parametrize(
    "raw",
    [GOOD, GOOD.strip(), b"\xef\xbb\xbf" + GOOD, GOOD.replace(b"\n", b"\r\n"), GOOD + b"\n \r\n\n"],
    ids=["plain", "no newline", "byte-order mark", "CRLF", "blank end"],
)
def test_a_row_is_read_however_the_file_ends_its_lines(tmp_path, raw):
    assert read(tmp_path, raw) == [LabelledText("lamp", 0)]


def test_line_separators_inside_a_text_end_no_row(tmp_path):
    raw = '{"text": "a\u2028b\u0085c", "label": "heat_up", "id": 7}\n'.encode()
    assert read(tmp_path, raw) == [LabelledText("a\u2028b\u0085c", 2)]


@pytest.mark.parametrize(
    ("label", "labels", "index"),
    [("1", ["0", "1"], 1), ("true", ["False", "True"], 1), ("false", ["false", "true"], 0)],
)
def test_labels_may_be_numbers_and_truth_values(tmp_path, label, labels, index):
    raw = f'{{"text": "x", "label": {label}}}'.encode()
    assert read(tmp_path, raw, labels) == [LabelledText("x", index)]


def test_a_label_is_read_whatever_its_case_where_one_class_is_meant(tmp_path):
    rows = b'{"text": "x", "label": "Light_ON"}\n{"text": "y", "label": "us"}'
    assert read(tmp_path, rows, [*LABELS, "US", "us"]) == [
        LabelledText("x", 0),
        LabelledText("y", 4),
    ]
    with pytest.raises(DataError, match="unknown label 'Us'"):
        read(tmp_path, b'{"text": "x", "label": "Us"}', [*LABELS, "US", "us"])


BAD = {
    "broken": (b'{"text": "lamp", ', "is broken JSON"),
    "a list": (b'["lamp", "light_on"]', "is not a JSON object"),
    "no text": (b'{"label": "light_on"}', 'has no "text"'),
    "text is a number": (b'{"text": 3, "label": "light_on"}', 'has no "text"'),
    "empty text": (b'{"text": "", "label": "light_on"}', 'has an empty "text"'),
    "blank text": (b'{"text": " \\n", "label": "light_on"}', 'has an empty "text"'),
    "no label": (b'{"text": "lamp"}', 'has no "label"'),
    "null label": (b'{"text": "lamp", "label": null}', 'has no "label"'),
    "unknown label": (b'{"text": "lamp", "label": "lights_on"}', "unknown label 'lights_on'"),
    "label is a list": (b'{"text": "lamp", "label": ["heat_up"]}', '"label" that is a list'),
    "label is an object": (b'{"text": "x", "label": {"a": 1}}', '"label" that is an object'),
    "a pair": (b'{"text": "a", "text_pair": "b", "label": "heat_up"}', 'has a "text_pair"'),
    "not UTF-8": (b'{"text": "l\xe4mp", "label": "light_on"}', "is not UTF-8"),
    "lone surrogate": (b'{"text": "\\ud800", "label": "light_on"}', "is broken JSON"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_row_is_named_by_file_and_line(tmp_path, case):
    row, sentence = BAD[case]
    with pytest.raises(DataError) as caught:
        read(tmp_path, GOOD + row + b"\n" + GOOD)
    assert f"{tmp_path / 'train.jsonl'}:2 " in caught.value.problem
    assert sentence in caught.value.problem
    assert caught.value.hint


def test_an_unknown_label_names_the_nearest(tmp_path):
    with pytest.raises(DataError, match=r"Did you mean light_on or light_off\?"):
        read(tmp_path, b'{"text": "lamp", "label": "lights_on"}')


def test_a_blank_line_between_rows_is_an_empty_row(tmp_path):
    with pytest.raises(DataError, match=r"train\.jsonl:2 is an empty row"):
        read(tmp_path, GOOD + b"\n" + GOOD)


OTHER_FORMATS = {
    "gzip": (gzip.compress(GOOD), "is compressed by gzip"),
    "bzip2": (bz2.compress(GOOD), "is compressed by bzip2"),
    "xz": (lzma.compress(GOOD), "is compressed by xz"),
    "Excel": (b"PK\x03\x04\x14\0", "is a zip archive or an Excel sheet"),
    "Parquet": (b"PAR1\x15\x04PAR1", "is a Parquet file"),
    "UTF-16": (GOOD.decode().encode("utf-16"), "is UTF-16 text"),
    "git-lfs": (b"version https://git-lfs.github.com/spec/v1\noid", "is a git-lfs pointer"),
    "CSV": (b"text,label\nlamp,light_on\n", "is CSV, not JSON lines"),
    "quoted CSV": (b'"text","label"\n"lamp","light_on"\n', "is CSV, not JSON lines"),
    "TSV": (b"text\tlabel\nlamp, red\tlight_on\n", "is TSV, not JSON lines"),
    "array": (b"[" + GOOD.strip() + b"," + GOOD.strip() + b"]", "is a JSON array"),
    "long array": (b"[\n" + GOOD.strip() + b"\n]\n", "is a JSON array"),
    "long object": (b'{"text": "lamp",\n "label": "light_on"}', "is JSON over several lines"),
    "long objects": (b'{\n"text": "lamp"\n}\n{\n"text": "x"\n}', "is JSON over several lines"),
}


@pytest.mark.parametrize("case", OTHER_FORMATS)
def test_a_file_of_another_format_is_called_what_it_is(tmp_path, case):
    raw, sentence = OTHER_FORMATS[case]
    path = tmp_path / "train.jsonl"
    path.write_bytes(raw)
    for reading in (lambda: read_examples(path, LABELS), lambda: read_texts(path)):
        with pytest.raises(DataError) as caught:
            reading()
        assert f"{path} {sentence}" in caught.value.problem
        assert caught.value.hint


def test_a_file_that_is_named_for_csv_is_csv_whatever_separates_its_columns(tmp_path):
    (tmp_path / "train.csv").write_bytes(b"text;label\nlamp;light_on\n")
    with pytest.raises(DataError, match="is CSV, not JSON lines"):
        read_examples(tmp_path / "train.csv", LABELS)
    (tmp_path / "train.csv").write_bytes(GOOD)
    assert read_examples(tmp_path / "train.csv", LABELS) == [LabelledText("lamp", 0)]


def test_what_can_be_read_only_once_is_refused(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    for reading in (lambda p: read_examples(p, LABELS), read_labels, read_texts, read_lines):
        with pytest.raises(DataError, match="pipe is a pipe, which can be read only once"):
            reading(pipe)
    with pytest.raises(DataError, match="is a device"):
        read_texts(Path(os.devnull))


def test_a_pair_of_texts_is_refused_where_labels_do_not_matter_too(tmp_path):
    (tmp_path / "texts.jsonl").write_bytes(b'{"text": "a", "text_pair": null}\n' * 2)
    assert read_texts(tmp_path / "texts.jsonl") == ["a", "a"]
    (tmp_path / "texts.jsonl").write_bytes(b'{"text": "a", "text_pair": "b"}\n')
    with pytest.raises(DataError, match=r"texts\.jsonl:1 has a .text_pair., and pairs"):
        read_texts(tmp_path / "texts.jsonl")


@pytest.mark.parametrize("raw", [b"", b"\n\n", b"\xef\xbb\xbf"])
def test_a_file_without_rows_is_refused(tmp_path, raw):
    with pytest.raises(DataError, match="has no rows"):
        read(tmp_path, raw)


def test_a_file_that_is_not_there_or_is_a_folder_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"nowhere\.jsonl is not there"):
        read_examples(tmp_path / "nowhere.jsonl", LABELS)
    with pytest.raises(DataError, match="Is a directory"):
        read_examples(tmp_path, LABELS)


def test_lines_of_text_are_read_without_their_blank_end(tmp_path):
    (tmp_path / "texts.txt").write_bytes("\ufefflamp on\r\nwärmer\n\n".encode())
    assert read_lines(tmp_path / "texts.txt") == ["lamp on", "wärmer"]


@pytest.mark.parametrize(
    ("raw", "sentence"),
    [
        (b"", "texts has no text"),
        (b"a\n\nb", "texts:2 is blank"),
        (b"\xff", "texts:1 is not UTF-8"),
    ],
)
def test_bad_lines_of_text_are_named(raw, sentence):
    with pytest.raises(DataError, match=sentence):
        split_lines(raw, "texts")


def labels_of(tmp_path, name, raw):
    (tmp_path / name).write_bytes(raw)
    return read_labels(tmp_path / name)


def test_a_list_of_labels_keeps_its_order_and_those_of_rows_have_none(tmp_path):
    assert labels_of(tmp_path, "labels.txt", b"warm\ncold\nhot\n") == ["warm", "cold", "hot"]
    rows = b'{"label": "warm"}\n{"label": 3}\n{"label": "cold"}\n{"label": "warm"}'
    assert labels_of(tmp_path, "rows.jsonl", rows) == {"3", "cold", "warm"}


@pytest.mark.parametrize(
    ("name", "raw", "sentence"),
    [
        ("labels.txt", b"a\nb\na\n", r"labels\.txt:3 repeats the label 'a' of line 1"),
        ("labels.txt", b"a\n\nb\n", r"labels\.txt:2 is blank"),
        ("labels.txt", b"a\n", r"labels\.txt has only one label"),
        ("rows.jsonl", b'{"label": "a"}\n{"label": ["a", "b"]}', r"rows\.jsonl:2 .* is a list"),
        ("rows.jsonl", b'{"label": "a"}\n{"label": {"b": 1}}', r"rows\.jsonl:2 .* is an object"),
        ("rows.jsonl", b'{"label": "a", "text_pair": "b"}', r"rows\.jsonl:1 has a .text_pair."),
    ],
)
def test_labels_that_cannot_be_are_named_by_file_and_line(tmp_path, name, raw, sentence):
    with pytest.raises(DataError, match=sentence):
        labels_of(tmp_path, name, raw)
