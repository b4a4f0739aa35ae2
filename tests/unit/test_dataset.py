"""Data files: what is read, and the sentence for each row that cannot be."""

import pytest

from edgefuse_devices.errors import DataError
from edgefuse_runtime.data.dataset import (
    Example,
    read_examples,
    read_labels,
    read_lines,
    split_lines,
)

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
    assert read(tmp_path, raw) == [Example("lamp", 0)]


def test_line_separators_inside_a_text_end_no_row(tmp_path):
    raw = '{"text": "a\u2028b\u0085c", "label": "heat_up", "id": 7}\n'.encode()
    assert read(tmp_path, raw) == [Example("a\u2028b\u0085c", 2)]


@pytest.mark.parametrize(
    ("label", "labels", "index"),
    [("1", ["0", "1"], 1), ("true", ["False", "True"], 1), ("false", ["false", "true"], 0)],
)
def test_labels_may_be_numbers_and_truth_values(tmp_path, label, labels, index):
    raw = f'{{"text": "x", "label": {label}}}'.encode()
    assert read(tmp_path, raw, labels) == [Example("x", index)]


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


def test_a_list_of_labels_keeps_its_order_and_rows_give_theirs_sorted(tmp_path):
    assert labels_of(tmp_path, "labels.txt", b"warm\ncold\nhot\n") == ["warm", "cold", "hot"]
    rows = b'{"label": "warm"}\n{"label": 3}\n{"label": "cold"}\n{"label": "warm"}'
    assert labels_of(tmp_path, "rows.jsonl", rows) == ["3", "cold", "warm"]


@pytest.mark.parametrize(
    ("name", "raw", "sentence"),
    [
        ("labels.txt", b"a\nb\na\n", r"labels\.txt:3 repeats the label 'a' of line 1"),
        ("labels.txt", b"a\n\nb\n", r"labels\.txt:2 is blank"),
        ("labels.txt", b"a\n", r"labels\.txt has only one label"),
        ("rows.jsonl", b'{"label": "a"}\n{"label": ["a", "b"]}', r"rows\.jsonl:2 .* is a list"),
        ("rows.jsonl", b'{"label": "a"}\n{"label": {"b": 1}}', r"rows\.jsonl:2 .* is an object"),
    ],
)
def test_labels_that_cannot_be_are_named_by_file_and_line(tmp_path, name, raw, sentence):
    with pytest.raises(DataError, match=sentence):
        labels_of(tmp_path, name, raw)
