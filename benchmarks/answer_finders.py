"""Models for answers for `tasks`, and the same training by transformers.

`xquad` are SQuAD's questions about paragraphs, of which a window holds a part.
"""

from typing import Any

import numpy as np

from benchmarks.data import minilm
from benchmarks.harness import Figures
from benchmarks.task_case import Recipe, TaskCase, parts_of
from benchmarks.torch_training import fit, rows_in
from edgefuse_runtime.tasks.answer_spans import LONGEST
from edgefuse_runtime.tasks.answer_windows import usual_stride
from edgefuse_runtime.tasks.squad_metrics import f1

_EVALUATION_BATCH = 32


def pytorch(
    *, model: str, train: str, test: str, seed: int, threads: int, length: int, **recipe: Any
) -> Figures:
    """Train a model for answers in transformers.

    Args:
        model: Directory of the model.
        train: File of training rows.
        test: File of test rows.
        seed: Seed of the head and of the rows' order.
        threads: Threads to compute with.
        length: Tokens of a window.
        recipe: Arguments of `fit`.
    """
    import torch  # noqa: PLC0415
    import transformers  # noqa: PLC0415

    transformers.logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    torch.set_num_threads(threads)
    torch.manual_seed(seed)
    tokenizer = transformers.AutoTokenizer.from_pretrained(model)
    finder = transformers.AutoModelForQuestionAnswering.from_pretrained(
        model, attn_implementation="sdpa"
    ).eval()

    def cut(rows: list[dict[str, Any]]) -> Any:
        return tokenizer(
            [row["question"].lstrip() for row in rows],
            [row["context"] for row in rows],
            truncation="only_second",
            max_length=length,
            stride=usual_stride(length),
            return_overflowing_tokens=True,
            return_offsets_mapping=True,
        )

    def collate(part: Any) -> dict[str, Any]:
        return dict(tokenizer.pad(list(part), return_tensors="pt"))

    rows = rows_in(train)
    windows = cut(rows)
    known = []
    for index, inputs in enumerate(_inputs(tokenizer, windows)):
        answer = rows[windows["overflow_to_sample_mapping"][index]]["answers"][0]
        begin, end = answer["start"], answer["start"] + len(answer["text"])
        places = [windows.char_to_token(index, place, 1) for place in (begin, end - 1)]
        first, last = (0, 0) if None in places else places
        known.append({**inputs, "start_positions": first, "end_positions": last})
    lengths = [len(row["input_ids"]) for row in known]
    trained = fit(finder, known, lengths, collate, seed=seed, **recipe)

    rows = rows_in(test)
    windows = cut(rows)
    asked = _inputs(tokenizer, windows)
    best = [(-np.inf, "")] * len(rows)
    with torch.no_grad():
        for start in range(0, len(asked), _EVALUATION_BATCH):
            outputs = finder(**collate(asked[start : start + _EVALUATION_BATCH]))
            pairs = zip(outputs.start_logits.numpy(), outputs.end_logits.numpy(), strict=True)
            for index, logits in enumerate(pairs, start=start):
                row = windows["overflow_to_sample_mapping"][index]
                context = np.array([text == 1 for text in windows.sequence_ids(index)])
                score, first, last = _best_span(*logits, context)
                offsets = windows["offset_mapping"][index]
                answer = rows[row]["context"][offsets[first][0] : offsets[last][1]]
                best[row] = max(best[row], (score, answer))
    right = [[answer["text"] for answer in row["answers"]] for row in rows]
    figures = [f1(found, answers) for (_, found), answers in zip(best, right, strict=True)]
    return {"metric": float(np.mean(figures)), **trained}


def _inputs(tokenizer: Any, windows: Any) -> list[dict[str, Any]]:
    names = [name for name in tokenizer.model_input_names if name in windows]
    count = len(windows["input_ids"])
    return [{name: windows[name][index] for name in names} for index in range(count)]


def _best_span(
    start_logits: np.ndarray, end_logits: np.ndarray, context: np.ndarray
) -> tuple[float, int, int]:
    """Score, first and last token of the best span of a window."""
    count = len(context)
    scores = start_logits[:count, None] + end_logits[:count]
    further = np.arange(count) - np.arange(count)[:, None]
    possible = context[:, None] & context & (further >= 0) & (further < LONGEST)
    scores = np.where(possible, scores, -np.inf)
    first, last = np.unravel_index(int(scores.argmax()), scores.shape)
    return float(scores[first, last]), int(first), int(last)


XQUAD = TaskCase(
    prepare=parts_of("xquad"),
    data=("xquad/train.jsonl", "xquad/test.jsonl"),
    export=("--task", "question-answering"),
    model=minilm,
    metric="f1",
    recipe=Recipe(epochs=3, learning_rate=2e-4, batch_size=8, length=256),
    rows=400,
    pytorch=pytorch,
    options={},
)
