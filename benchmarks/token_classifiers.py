"""A tagger of words for `tasks`, and the same training by transformers.

`wnut17`: names of persons, places, products and other things in noisy text.
"""

from collections.abc import Sequence
from typing import Any

from benchmarks.data import minilm
from benchmarks.harness import Figures
from benchmarks.task_case import Recipe, TaskCase, parts_of
from benchmarks.torch_training import fit, rows_in

_EVALUATION_BATCH = 64
_IGNORED = -100


def pytorch(
    *, model: str, train: str, test: str, seed: int, threads: int, length: int, **recipe: Any
) -> Figures:
    """Train a token classifier in transformers, as its `run_ner.py` does.

    Args:
        model: Directory of the model.
        train: File of training rows.
        test: File of test rows.
        seed: Seed of the head and of the rows' order.
        threads: Threads to compute with.
        length: Tokens that rows are cut to.
        recipe: Arguments of `fit`.

    Returns:
        `metric`, seqeval's F1 on the test rows; `seconds` of training; and `rss_mib`, the peak of
        the process.
    """
    import torch  # noqa: PLC0415
    import transformers  # noqa: PLC0415
    from seqeval.metrics import f1_score  # noqa: PLC0415

    transformers.logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    torch.set_num_threads(threads)
    torch.manual_seed(seed)
    parts = [rows_in(file) for file in (train, test)]
    labels = sorted({tag for part in parts for row in part for tag in row["tags"]})
    tokenizer = transformers.AutoTokenizer.from_pretrained(model)
    tagger = transformers.AutoModelForTokenClassification.from_pretrained(
        model, num_labels=len(labels), attn_implementation="sdpa"
    ).eval()
    collator = transformers.DataCollatorForTokenClassification(tokenizer)

    def encoded(row: dict[str, Any]) -> dict[str, Any]:
        found = tokenizer(
            row["tokens"], is_split_into_words=True, truncation=True, max_length=length
        )
        words = found.word_ids()
        first = [word is not None and word not in words[:at] for at, word in enumerate(words)]
        known = [
            labels.index(row["tags"][word]) if begins else _IGNORED
            for word, begins in zip(words, first, strict=True)
        ]
        return {**found, "labels": known}

    def collate(rows: Sequence[Any]) -> dict[str, Any]:
        return dict(collator(list(rows)))

    known, asked = ([encoded(row) for row in part] for part in parts)
    trained = fit(
        tagger, known, [len(row["input_ids"]) for row in known], collate, seed=seed, **recipe
    )
    expected: list[list[str]] = []
    predicted: list[list[str]] = []
    with torch.no_grad():
        for start in range(0, len(asked), _EVALUATION_BATCH):
            batch = collate(asked[start : start + _EVALUATION_BATCH])
            best = tagger(**batch).logits.argmax(dim=-1)
            for right, given in zip(batch["labels"], best, strict=True):
                counted = right != _IGNORED
                expected.append([labels[index] for index in right[counted]])
                predicted.append([labels[index] for index in given[counted]])
    return {"metric": float(f1_score(expected, predicted)), **trained}


WNUT17 = TaskCase(
    prepare=parts_of("wnut17"),
    data=("wnut17/train.jsonl", "wnut17/test.jsonl"),
    export=("--task", "token-classification", "--labels", "{labels}"),
    model=minilm,
    metric="f1",
    recipe=Recipe(epochs=3, learning_rate=3e-4),
    rows=1000,
    pytorch=pytorch,
    options={},
)
