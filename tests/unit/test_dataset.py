"""Data files: what is read, and the sentence for each row that cannot be."""

import bz2
import csv
import gzip
import json
import lzma
import os
from collections.abc import Sequence
from contextlib import suppress
from io import BytesIO
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from edgefuse_devices.errors import DataError
from edgefuse_runtime.data.asked import read_asked, rows_asked
from edgefuse_runtime.data.data_file import LONGEST_LINE
from edgefuse_runtime.data.lines import read_lines, split_lines
from edgefuse_runtime.data.rows import Row, read_rows
from edgefuse_runtime.data.texts import pair_of, read_texts, text_of
from edgefuse_runtime.tasks.labels import read_labels
from edgefuse_runtime.tasks.problems.multi_label import MultiLabel
from edgefuse_runtime.tasks.problems.regression import Regression
from edgefuse_runtime.tasks.problems.single_label import SingleLabel

LABELS = ["light_on", "light_off", "heat_up"]
GOOD = b'{"text": "lamp", "label": "light_on"}\n'


class LabelledText(NamedTuple):
    text: str
    label: int


def read_examples(path: Path, labels: Sequence[str]) -> list[LabelledText]:
    form = "A row has a text and a label"
    rows = list(read_rows(path, form))
    texts = [text_of(row, form) for row in rows]
    targets = SingleLabel(labels).targets(rows)
    return [LabelledText(*one) for one in zip(texts, targets, strict=True)]


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


TABLES = {
    "CSV": b"text,label\nlamp,light_on\n",
    "quoted CSV": b'"text","label"\n"lamp","light_on"\n',
    "TSV": b"text\tlabel\nlamp\tlight_on\n",
    "byte-order mark, CRLF": b"\xef\xbb\xbftext,label\r\nlamp,light_on\r\n\r\n",
    "columns that pandas numbers, and others": b",label,id,text\n0,light_on,,lamp\n",
}


@pytest.mark.parametrize("case", TABLES)
def test_a_table_with_a_header_is_read_whatever_the_file_is_called(tmp_path, case):
    assert read(tmp_path, TABLES[case]) == [LabelledText("lamp", 0)]
    assert read_texts(tmp_path / "train.jsonl") == ["lamp"]


def test_a_table_of_pandas_is_read_as_it_was_written(tmp_path):
    texts = ['a "b", c', "two\nlines", "tab\there", "ß 你好", "\u2028"]
    rows = [{"text": text, "label": str(index)} for index, text in enumerate(texts)]
    for name, separator in (("rows.csv", ","), ("rows.csv", ";"), ("rows.tsv", "\t")):
        with (tmp_path / name).open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, ["text", "label"], delimiter=separator)
            writer.writeheader()
            writer.writerows(rows)
        assert [row.fields for row in read_rows(tmp_path / name, "")] == rows


def test_a_row_is_named_by_the_line_on_which_it_begins(tmp_path):
    (tmp_path / "rows.csv").write_bytes(b'text\n"a\nb"\nc\n')
    places = [row.place.rpartition(":")[2] for row in read_rows(tmp_path / "rows.csv", "")]
    assert places == ["2", "4"]


def test_a_file_that_is_named_for_csv_may_hold_json_lines(tmp_path):
    (tmp_path / "train.csv").write_bytes(GOOD)
    assert read_examples(tmp_path / "train.csv", LABELS) == [LabelledText("lamp", 0)]


BAD_TABLES = {
    "too many cells": (b"text,label\nlamp,red,heat_up\n", ":2 has 3 cells, and the header names 2"),
    "too few cells": (b"text,label\nlamp,heat_up\nred\n", ":3 has 1 cells"),
    "a column twice": (b"text,label,text\na,heat_up,b\n", ":1 names the column 'text' twice"),
    "an open quote": (b'text,label\n"lamp,heat_up\n', ":2 is broken CSV"),
    "a quote inside": (b'text,label\n"a "b" c",heat_up\n', ":2 is broken CSV"),
    "an empty row": (b"text,label\n\nlamp,heat_up\n", ":2 is an empty row"),
    "a header alone": (b"text,label\n", "has no rows"),
    "no header": (b"lamp,light_on\nlamp,light_on\n", ':2 has no "text"'),
    "an empty cell": (b"text,label\n,light_on\n", ':2 has no "text"'),
    "not UTF-8": (b"text,label\nl\xe4mp,light_on\n", ":2 is not UTF-8"),
}


@pytest.mark.parametrize("case", BAD_TABLES)
def test_a_bad_row_of_a_table_is_named_by_file_and_line(tmp_path, case):
    raw, sentence = BAD_TABLES[case]
    (tmp_path / "rows.csv").write_bytes(raw)
    with pytest.raises(DataError) as caught:
        read_examples(tmp_path / "rows.csv", LABELS)
    assert f"{tmp_path / 'rows.csv'}" in caught.value.problem
    assert sentence in caught.value.problem
    assert caught.value.hint


@pytest.mark.parametrize(
    "row",
    [
        b'{"text": "a", "text": "b", "label": "heat_up"}',
        b'{"text": "a", "label": "heat_up", "id": {"n": 1, "n": 2}}',
        b'{"text": "a: b", "label": "heat_up", "\\u0074ext": "c"}',
    ],
)
def test_a_key_that_is_there_twice_is_refused(tmp_path, row):
    with pytest.raises(DataError, match=r"train\.jsonl:2 has the key '(text|n)' twice"):
        read(tmp_path, GOOD + row)
    fine = b'{"text": "a: {b: 1}", "label": "heat_up", "id": {"label": 1, "n": [{"n": 2}]}}'
    assert read(tmp_path, fine) == [LabelledText("a: {b: 1}", 2)]


@pytest.mark.parametrize(
    ("labels", "sentence"),
    [
        (b'1 "1"', ":2 has a label that is a text, and that of .*:1 is a whole number"),
        (b"1 true", ":2 has a label that is a truth value, and that of .*:1 is a whole number"),
        (b"1 1.0", ":2 has the label 1.0, a number with a decimal point.* --problem-type regr"),
        (b"0 -1", ":2 has the label -1, with which GLUE marks"),
    ],
)
def test_labels_that_may_be_one_class_or_several_are_refused(tmp_path, labels, sentence):
    raw = b"\n".join(b'{"text": "a", "label": %s}' % label for label in labels.split())
    with pytest.raises(DataError, match=sentence):
        read(tmp_path, raw, ["0", "1", "true"])


def test_what_is_asked_is_texts_or_rows(tmp_path):
    for name in ("texts.txt", "texts"):
        (tmp_path / name).write_bytes(b"lamp, red\nx\n")
        assert read_asked(tmp_path / name) == ["lamp, red", "x"]
    for name, raw in (("rows.csv", b"text\nlamp\n"), ("rows", b'{"text": "lamp"}')):
        (tmp_path / name).write_bytes(raw)
        assert read_asked(tmp_path / name) == [{"text": "lamp"}]
    (tmp_path / "marked").write_bytes(b'\xef\xbb\xbf{"text": "lamp"}\n')
    assert read_asked(tmp_path / "marked") == [{"text": "lamp"}]
    one, other = rows_asked(["lamp", {"text": "x", "id": 1}], ["text"], "")
    assert (one.fields, other.fields) == ({"text": "lamp"}, {"text": "x", "id": 1})
    (row,) = rows_asked(['{"text": "a", "text_pair": "b"}'], ["text", "text_pair"], "")
    assert row.fields == {"text": "a", "text_pair": "b"}
    with pytest.raises(DataError, match='text:2 is a text alone, and the model reads "a" and "b"'):
        rows_asked([{}, "lamp"], ["a", "b"], "")
    with pytest.raises(DataError, match="text:2 is blank"):
        rows_asked(["lamp", " "], ["text"], "")


def test_texts_are_those_of_any_tasks_rows(tmp_path):
    rows = [
        {"text": "a", "text_pair": "b", "label": 1},
        {"prompt": "c", "completion": "d"},
        {"tokens": ["e", "f"], "tags": ["O", "O"]},
        {"messages": [{"role": "user", "content": "g"}, {"role": "tool", "content": None}]},
        {"id": 7, "context": "h", "question": "i", "answers": {"text": ["h"], "start": [0]}},
    ]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert read_texts(tmp_path / "rows.jsonl") == ["a", "b", "c", "d", "e f", "g", "i", "h"]
    rows[2]["tokens"], rows[3]["messages"] = "e f", json.dumps(rows[3]["messages"])
    (tmp_path / "cells.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert read_texts(tmp_path / "cells.jsonl") == read_texts(tmp_path / "rows.jsonl")


def test_what_can_be_read_only_once_is_refused(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    for reading in (lambda p: read_examples(p, LABELS), read_labels, read_texts, read_lines):
        with pytest.raises(DataError, match="pipe is a pipe, which can be read only once"):
            reading(pipe)
    with pytest.raises(DataError, match="is a device"):
        read_texts(Path(os.devnull))


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.csv", "texts.txt"])
def test_a_line_that_no_tokenizer_has_memory_for_is_refused(tmp_path, name):
    beginning = {"rows.jsonl": '{"text": "', "rows.csv": "text\n", "texts.txt": ""}[name]
    (tmp_path / name).write_text(beginning + "a" * (LONGEST_LINE + 1))
    line = 2 if name == "rows.csv" else 1
    with pytest.raises(DataError, match=rf"{name}:{line} has more than 1 MiB"):
        read_texts(tmp_path / name)


@pytest.mark.parametrize("raw", [b'[\n"\xff"]', b'{"text":\n"\xff"}'])
def test_json_of_other_forms_that_is_not_utf_8_is_named_by_its_line(tmp_path, raw):
    (tmp_path / "rows.jsonl").write_bytes(raw)
    with pytest.raises(DataError, match=r"rows\.jsonl:[12] is (not UTF-8|broken JSON)"):
        list(read_rows(tmp_path / "rows.jsonl", ""))


@pytest.mark.parametrize("deep", [900, 980, 990, 992, 994, 1000, 5000])
def test_a_row_of_any_depth_is_read_or_refused(tmp_path, deep):
    (tmp_path / "rows.jsonl").write_text('{"text": "a:", "n": ' + "[" * deep + "]" * deep + "}")
    found = []
    with suppress(DataError):
        found += read_rows(tmp_path / "rows.jsonl", "")
    assert [row.fields["text"] for row in found] == (["a:"] if found else [])


def test_blank_lines_without_end_take_no_memory(tmp_path):
    (tmp_path / "rows.jsonl").write_bytes(GOOD + b"\n" * 100_000)
    assert len(list(read_rows(tmp_path / "rows.jsonl", ""))) == 1
    (tmp_path / "rows.csv").write_bytes(b"text\na\n" + b"\n" * 2000 + b"b\n")
    with pytest.raises(DataError, match=r"rows\.csv:3 is an empty row"):
        list(read_rows(tmp_path / "rows.csv", ""))
    quoted = b'text\n"a' + b"\n" * 2000 + b'b"\n'
    (tmp_path / "rows.csv").write_bytes(quoted)
    with pytest.raises(DataError, match="has too many blank lines before it"):
        list(read_rows(tmp_path / "rows.csv", ""))


def test_a_cell_that_no_tokenizer_has_memory_for_is_refused(tmp_path):
    cell = b"\n".join([b"a" * 1000] * 1100)
    (tmp_path / "rows.csv").write_bytes(b'text\n"' + cell + b'"\n')
    with pytest.raises(DataError, match=r"rows\.csv:2 has a cell of more than 1 MiB"):
        list(read_rows(tmp_path / "rows.csv", ""))


def test_a_last_row_of_empty_cells_is_a_row(tmp_path):
    (tmp_path / "rows.tsv").write_bytes(b"text\tlabel\na\tb\n\t\n")
    assert [row.fields for row in read_rows(tmp_path / "rows.tsv", "")] == [
        {"text": "a", "label": "b"},
        {},
    ]


def test_scores_are_looked_at_where_only_their_name_is_asked_for():
    for fields in ({"text": "a"}, {"text": "a", "score": -1}):
        with pytest.raises(DataError, match="score"):
            Regression.labels_of([Row("f:1", fields)])


def test_the_first_rows_are_given_before_the_last_are_read(tmp_path):
    (tmp_path / "rows.jsonl").write_bytes(GOOD * 3 + b"broken")
    rows = read_rows(tmp_path / "rows.jsonl", "")
    assert [next(rows).fields["text"] for _ in range(3)] == ["lamp"] * 3
    with pytest.raises(DataError, match=":4 is broken JSON"):
        next(rows)


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
        split_lines(BytesIO(raw), "texts")


def labels_of(tmp_path, name, raw):
    (tmp_path / name).write_bytes(raw)
    return read_labels(tmp_path / name)


def test_a_list_of_labels_keeps_its_order_and_those_of_rows_have_none(tmp_path):
    assert labels_of(tmp_path, "labels.txt", b"warm\ncold\nhot\n") == ["warm", "cold", "hot"]
    rows = b'{"label": "warm"}\n{"label": "3"}\n{"label": "cold"}\n{"label": "warm"}'
    assert labels_of(tmp_path, "rows.jsonl", rows) == {"3", "cold", "warm"}
    assert labels_of(tmp_path, "rows.csv", b"label\n0\n1\n-1\n") == {"0", "1", "-1"}


@pytest.mark.parametrize(
    ("name", "raw", "sentence"),
    [
        ("labels.txt", b"a\nb\na\n", r"labels\.txt:3 repeats the label 'a' of line 1"),
        ("labels.txt", b"a\n\nb\n", r"labels\.txt:2 is blank"),
        ("labels.txt", b"a\n", r"labels\.txt has only one label"),
        ("rows.jsonl", b'{"label": "a"}\n{"label": ["a", "b"]}', r"rows\.jsonl:2 .* is a list"),
        ("rows.jsonl", b'{"label": "a"}\n{"label": {"b": 1}}', r"rows\.jsonl:2 .* is an object"),
        ("rows.jsonl", b'{"label": -1}\n{"label": -1}', r"rows\.jsonl:1 has the label -1"),
        ("rows.csv", b"label\n0.5\n1.5\n", r"rows\.csv:2 has the label 0\.5, a number with"),
    ],
)
def test_labels_that_cannot_be_are_named_by_file_and_line(tmp_path, name, raw, sentence):
    with pytest.raises(DataError, match=sentence):
        labels_of(tmp_path, name, raw)


def rows_of(tmp_path, name, raw):
    (tmp_path / name).write_bytes(raw)
    return list(read_rows(tmp_path / name, "A row has a text"))


def test_several_labels_are_a_list_or_names_in_a_cell(tmp_path):
    lists = b'{"label": ["b", "A"]}\n{"label": []}\n{"label": ["b"]}'
    cells = b'label\n"b, a"\n[]\n"[""b""]"\n'
    for name, raw in (("rows.jsonl", lists), ("rows.csv", cells)):
        rows = rows_of(tmp_path, name, raw)
        held = np.array(list(MultiLabel(["a", "b", "c"]).targets(rows)))
        assert held.tolist() == [[1, 1, 0], [0, 0, 0], [0, 1, 0]]
    assert MultiLabel.labels_of(rows) == {"a", "b"}
    numbers = rows_of(tmp_path, "numbers.jsonl", b'{"label": [1, 2]}\n{"label": [2]}')
    assert MultiLabel.labels_of(numbers) == {"1", "2"}


@pytest.mark.parametrize(
    ("row", "sentence"),
    [
        (b'{"label": 1}', ':1 has a "label" that is no list'),
        (b'{"text": "a"}', ':1 has no "label"'),
        (b'{"label": "[a"}', ':1 has "label" of broken JSON'),
        (b'{"label": "%s"}' % (b"[" * 99_999), ':1 has "label" of broken JSON'),
        (b'{"label": ["a", 1]}', ":1 has a label that is a whole number, and that of .*:1 is a te"),
        (b'{"label": [0.5]}', ":1 has the label 0.5, a number with a decimal point"),
        (b'{"label": ["d"]}', ":1 has the unknown label 'd'"),
    ],
)
def test_several_labels_that_do_not_hold_are_named(tmp_path, row, sentence):
    with pytest.raises(DataError, match=sentence):
        list(MultiLabel(["a", "b", "c"]).targets(rows_of(tmp_path, "rows.jsonl", row)))


def test_scores_are_numbers_or_cells(tmp_path):
    for name, raw in (
        ("rows.jsonl", b'{"score": 1}\n{"score": -2.5}\n{"score": "3e1"}'),
        ("rows.csv", b"score\n1\n-2.5\n3e1\n"),
    ):
        scores = Regression(["score"]).targets(rows_of(tmp_path, name, raw))
        assert list(scores) == [1, -2.5, 30]


@pytest.mark.parametrize(
    ("row", "sentence"),
    [
        (b'{"label": 1.5}', ':1 has no "score".*call "label" so'),
        (b'{"score": true}', ':1 has a "score" that is no number: True'),
        (b'{"score": "nan"}', ':1 has a "score" that is no number'),
        (b'{"score": [1]}', ':1 has a "score" that is no number'),
        (b'{"score": -1}\n{"score": -1.0}', ":1 has the score -1, and so have all rows"),
    ],
)
def test_scores_that_do_not_hold_are_named(tmp_path, row, sentence):
    with pytest.raises(DataError, match=sentence):
        list(Regression(["score"]).targets(rows_of(tmp_path, "rows.jsonl", row)))


def test_a_pair_is_two_texts(tmp_path):
    raw = b'{"text": "a", "text_pair": "b"}\n{"text": "a", "text_pair": null}'
    one, other = rows_of(tmp_path, "rows.jsonl", raw)
    assert pair_of(one, "") == ("a", "b")
    assert text_of(other, "") == "a"
    with pytest.raises(DataError, match=r':1 has a "text_pair", and the model reads single texts'):
        text_of(one, "")
    with pytest.raises(DataError, match=r':2 has no "text_pair", and the model reads pairs'):
        pair_of(other, "")
