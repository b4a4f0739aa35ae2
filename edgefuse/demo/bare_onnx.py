"""Running the output of `convert --to onnx` without EdgeFuse: a session, a tokenizer, JSON."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Encoding, Tokenizer

from edgefuse_runtime.session import onnxruntime


def accuracy(model: Path, data: Path) -> float:
    """Compute the share of labelled texts that a converted model classifies right, from 0 to 1.

    Args:
        model: The directory that `convert --to onnx` made.
        data: JSON lines with `text` and `label`.
    """
    rows = _rows(data)
    logits = _run(model, [row["text"] for row in rows], "logits")
    labels = [_about(model)["task"]["labels"][index] for index in logits.argmax(axis=1)]
    return float(np.mean([label == row["label"] for label, row in zip(labels, rows, strict=True)]))


def recall(model: Path, data: Path) -> float:
    """Compute the share of texts whose nearest text is the one that belongs to them, from 0 to 1.

    Args:
        model: The directory that `convert --to onnx` made.
        data: JSON lines with `anchor` and `positive`; each anchor in one row.
    """
    rows = _rows(data)
    corpus = list(dict.fromkeys(row["positive"] for row in rows))
    anchors, candidates = (
        _run(model, texts, "sentence_embedding")
        for texts in ([row["anchor"] for row in rows], corpus)
    )
    candidates /= np.linalg.norm(candidates, axis=1, keepdims=True)
    found = [corpus[index] for index in (anchors @ candidates.T).argmax(axis=1)]
    return float(np.mean([text == row["positive"] for text, row in zip(found, rows, strict=True)]))


def entity_f1(model: Path, data: Path) -> float:
    """Compute the F1 of the entities that a converted model finds, from 0 to 1.

    Args:
        model: The directory that `convert --to onnx` made.
        data: JSON lines with `text` and `entities`, which begin and end where words do.
    """
    rows, labels = _rows(data), _about(model)["task"]["labels"]
    texts = [row["text"] for row in rows]
    encodings = Tokenizer.from_file(str(model / "tokenizer.json")).encode_batch(texts)
    classes = _run(model, texts, "logits").argmax(axis=2)
    found = [
        _entities(encoding, [labels[index] for index in row])
        for encoding, row in zip(encodings, classes, strict=True)
    ]
    expected = [{(one["start"], one["end"], one["label"]) for one in r["entities"]} for r in rows]
    right = sum(len(one & other) for one, other in zip(found, expected, strict=True))
    return 2 * right / max(sum(map(len, found)) + sum(map(len, expected)), 1)


def _entities(encoding: Encoding, tags: Sequence[str]) -> set[tuple[int, int, str]]:
    """Put words together by the tags of their first pieces."""
    found: list[tuple[int, int, str]] = []
    kind = ""
    for word in sorted({word for word in encoding.word_ids if word is not None}):
        tokens, characters = encoding.word_to_tokens(word), encoding.word_to_chars(word)
        assert tokens is not None and characters is not None  # noqa: PT018 - the word has some
        (first, _), (start, end) = tokens, characters
        prefix, _, now = tags[first].partition("-")
        if now and prefix == "I" and now == kind:
            found[-1] = (found[-1][0], end, now)
        elif now:
            found.append((start, end, now))
        kind = now
    return set(found)


def _rows(data: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in data.read_text(encoding="utf-8").splitlines()]


def _about(model: Path) -> dict[str, Any]:
    about: dict[str, Any] = json.loads((model / "conversion.json").read_text(encoding="utf-8"))
    return about


def _run(model: Path, texts: Sequence[str], output: str) -> NDArray[np.float32]:
    about = _about(model)
    session = onnxruntime().InferenceSession(model / "model.onnx")
    tokenizer = Tokenizer.from_file(str(model / "tokenizer.json"))
    tokenizer.enable_truncation(about["sequence_length"])
    tokenizer.enable_padding(pad_id=about["padding_id"])
    encodings = tokenizer.encode_batch(list(texts))
    columns = {
        "input_ids": [encoding.ids for encoding in encodings],
        "attention_mask": [encoding.attention_mask for encoding in encodings],
    }
    inputs = {name: np.array(columns[name], np.int64) for name in about["inputs"]}
    result: NDArray[np.float32] = session.run([output], inputs)[0]
    return result
