"""Running the output of `convert --to onnx` without EdgeFuse: a session, a tokenizer, JSON."""

import json
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

from edgefuse_runtime.session import onnxruntime


def accuracy(model: Path, data: Path) -> float:
    """Compute the share of labelled texts that a converted model classifies right, from 0 to 1.

    Args:
        model: The directory that `convert --to onnx` made.
        data: JSON lines with `text` and `label`.
    """
    about = json.loads((model / "conversion.json").read_text(encoding="utf-8"))
    rows = [json.loads(line) for line in data.read_text(encoding="utf-8").splitlines()]
    session = onnxruntime().InferenceSession(model / "model.onnx")
    tokenizer = Tokenizer.from_file(str(model / "tokenizer.json"))
    tokenizer.enable_truncation(about["sequence_length"])
    tokenizer.enable_padding(pad_id=about["padding_id"])
    encodings = tokenizer.encode_batch([row["text"] for row in rows])
    columns = {
        "input_ids": [encoding.ids for encoding in encodings],
        "attention_mask": [encoding.attention_mask for encoding in encodings],
    }
    inputs = {name: np.array(columns[name], np.int64) for name in about["inputs"]}
    logits = session.run(["logits"], inputs)[0]
    labels = [about["task"]["labels"][index] for index in logits.argmax(axis=1)]
    return float(np.mean([label == row["label"] for label, row in zip(labels, rows, strict=True)]))
