"""Classifiers of pairs for `tasks`, and the same training by transformers.

`mrpc`: do two sentences say the same? `stsb`: how alike are they, from 0 to 5?
"""

from collections.abc import Sequence
from typing import Any

from benchmarks.data import minilm
from benchmarks.harness import Figures
from benchmarks.task_case import Recipe, TaskCase, parts_of
from benchmarks.torch_training import fit, rows_in

_EVALUATION_BATCH = 64


def pytorch(
    *,
    model: str,
    train: str,
    test: str,
    seed: int,
    threads: int,
    length: int,
    problem_type: str,
    target: str,
    **recipe: Any,
) -> Figures:
    """Train a classifier of pairs, or a regression, in transformers.

    Args:
        model: Directory of the model.
        train: File of training rows.
        test: File of test rows.
        seed: Seed of the head and of the rows' order.
        threads: Threads to compute with.
        length: Tokens that pairs are cut to.
        problem_type: `single_label_classification` or `regression`.
        target: Name of the rows' field with label or score.
        recipe: Arguments of `fit`.
    """
    import torch  # noqa: PLC0415
    import transformers  # noqa: PLC0415
    from scipy.stats import pearsonr  # noqa: PLC0415
    from sklearn.metrics import accuracy_score  # noqa: PLC0415

    transformers.logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    torch.set_num_threads(threads)
    torch.manual_seed(seed)
    rows = [rows_in(file) for file in (train, test)]
    regression = problem_type == "regression"
    labels = [] if regression else sorted({row[target] for row in rows[0]})
    tokenizer = transformers.AutoTokenizer.from_pretrained(model)
    classifier = transformers.AutoModelForSequenceClassification.from_pretrained(
        model,
        num_labels=len(labels) or 1,
        problem_type=problem_type,
        attn_implementation="sdpa",
    ).eval()

    def tokenized(part: list[dict[str, Any]]) -> list[dict[str, Any]]:
        texts = [row["text"] for row in part], [row["text_pair"] for row in part]
        found = tokenizer(*texts, truncation=True, max_length=length)
        return [{name: found[name][index] for name in found} for index in range(len(part))]

    def target_of(row: dict[str, Any]) -> float | int:
        return float(row[target]) if regression else labels.index(row[target])

    def collate(part: Sequence[Any]) -> dict[str, Any]:
        return dict(tokenizer.pad(list(part), return_tensors="pt"))

    known = [
        {**ids, "labels": target_of(row)}
        for ids, row in zip(tokenized(rows[0]), rows[0], strict=True)
    ]
    lengths = [len(row["input_ids"]) for row in known]
    trained = fit(classifier, known, lengths, collate, seed=seed, **recipe)
    asked, predictions = tokenized(rows[1]), []
    with torch.no_grad():
        for start in range(0, len(asked), _EVALUATION_BATCH):
            logits = classifier(**collate(asked[start : start + _EVALUATION_BATCH])).logits
            predictions += (logits[:, 0] if regression else logits.argmax(dim=-1)).tolist()
    right = [target_of(row) for row in rows[1]]
    if regression:
        return {"metric": float(pearsonr(predictions, right).statistic), **trained}
    return {"metric": float(accuracy_score(right, predictions)), **trained}


MRPC = TaskCase(
    prepare=parts_of("mrpc"),
    data=("mrpc/train.jsonl", "mrpc/test.jsonl"),
    export=("--task", "text-classification", "--labels", "{labels}"),
    model=minilm,
    metric="accuracy",
    recipe=Recipe(epochs=2, learning_rate=1e-4),
    rows=1000,
    pytorch=pytorch,
    options={"problem_type": "single_label_classification", "target": "label"},
)

STSB = TaskCase(
    prepare=parts_of("stsb"),
    data=("stsb/train.jsonl", "stsb/test.jsonl"),
    export=(
        *("--task", "text-classification", "--problem-type", "regression"),
        *("--labels", "{labels}"),
    ),
    model=minilm,
    metric="pearson",
    recipe=Recipe(epochs=2, learning_rate=1e-4),
    rows=1000,
    pytorch=pytorch,
    options={"problem_type": "regression", "target": "score"},
)
