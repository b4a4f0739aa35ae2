"""`e2e`: a restaurant's facts in a sentence, by a language model that writes."""

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.harness import Figures
from benchmarks.lora_training import load
from benchmarks.task_case import Recipe, TaskCase, parts_of
from benchmarks.torch_training import fit, rows_in

_IGNORED = -100
MAX_NEW_TOKENS = 80


def tiny_llama() -> str:
    """The directory of tiny-llama; ends the program where there is none."""
    folder = os.environ.get("EDGEFUSE_TEST_MODELS")
    if not folder:
        sys.exit("EDGEFUSE_TEST_MODELS is not set: name the folder that has tiny-llama")
    return str(Path(folder) / "tiny-llama")


def pytorch(
    *,
    model: str,
    train: str,
    test: str,
    seed: int,
    threads: int,
    length: int,
    adapter: str | None = None,
    valid: str | None = None,
    **recipe: Any,
) -> Figures:
    """Train a causal language model in transformers, on prompts and completions.

    Returns chrF as `metric`, `bleu`, what `fit` returns, and the `loss` of the tokens of `valid`.

    Args:
        model: Directory of the model.
        train: File of rows with `prompt` and `completion`.
        test: File of rows with `prompt` and `references`.
        seed: Seed of the rows' order.
        threads: Threads to compute with.
        length: Tokens that rows are cut to.
        adapter: Directory of an adapter of peft, which trains alone; None for the whole model.
        valid: File of rows with `prompt` and `completion` to measure the loss on.
        recipe: Arguments of `fit`.
    """
    import torch  # noqa: PLC0415
    from sacrebleu.metrics.bleu import BLEU  # noqa: PLC0415
    from sacrebleu.metrics.chrf import CHRF  # noqa: PLC0415
    from torch.nn.utils.rnn import pad_sequence  # noqa: PLC0415

    torch.set_num_threads(threads)
    tokenizer, writer = load(model, adapter)

    def tokenized(row: dict[str, str]) -> tuple[list[int], int]:
        asked = tokenizer(row["prompt"])["input_ids"]
        answer = tokenizer(row["completion"], add_special_tokens=False)["input_ids"]
        return [*asked, *answer, tokenizer.eos_token_id][:length], len(asked)

    def collate(part: Sequence[Any]) -> dict[str, Any]:
        rows = [torch.tensor(ids) for ids, _ in part]
        targets = [torch.tensor([_IGNORED] * asked + ids[asked:]) for ids, asked in part]
        return {
            "input_ids": pad_sequence(rows, batch_first=True),
            "attention_mask": pad_sequence([torch.ones_like(r) for r in rows], batch_first=True),
            "labels": pad_sequence(targets, batch_first=True, padding_value=_IGNORED),
        }

    known = [tokenized(row) for row in rows_in(train)]
    trained = fit(writer, known, [len(ids) for ids, _ in known], collate, seed=seed, **recipe)
    texts: list[str] = []
    references: list[dict[int, str]] = []
    for row in rows_in(test):
        asked = tokenizer(row["prompt"], return_tensors="pt")
        count = asked["input_ids"].shape[1]
        room = min(MAX_NEW_TOKENS, length - count)
        with torch.no_grad():
            written = writer.generate(**asked, do_sample=False, max_new_tokens=room)[0, count:]
        texts.append(str(tokenizer.decode(written, skip_special_tokens=True)))
        references.append(dict(enumerate(row["references"])))
    streams: list[list[Any]] = [
        [good.get(n) for good in references] for n in range(max(map(len, references)))
    ]
    losses = (
        {"loss": _loss(writer, [collate([tokenized(row)]) for row in rows_in(valid)])}
        if valid
        else {}
    )
    return {
        "metric": CHRF().corpus_score(texts, streams).score,
        "bleu": BLEU().corpus_score(texts, streams).score,
        **losses,
        **trained,
    }


def _loss(writer: Any, batches: Sequence[dict[str, Any]]) -> float:
    """Mean loss of all tokens that count."""
    import torch  # noqa: PLC0415

    total = tokens = 0.0
    for batch in batches:
        count = int((batch["labels"][:, 1:] != _IGNORED).sum())
        with torch.no_grad():
            total += count * float(writer(**batch).loss)
        tokens += count
    return total / tokens


E2E = TaskCase(
    prepare=parts_of("e2e"),
    data=("e2e/train.jsonl", "e2e/test.jsonl"),
    export=("--task", "text-generation"),
    model=tiny_llama,
    metric="chrf",
    recipe=Recipe(epochs=2, learning_rate=1e-3, length=160),
    rows=1000,
    pytorch=pytorch,
    options={},
    evaluate=("--generate", "--max-new-tokens", str(MAX_NEW_TOKENS)),
    scale=1.0,
)
