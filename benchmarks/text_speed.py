"""How fast a language model writes, in a process of its own: EdgeFuse, and transformers."""

import time
from collections.abc import Sequence
from typing import Any

from benchmarks.harness import Figures
from benchmarks.lora_training import load

PROMPTS = (
    "The history of the bicycle begins",
    "Once upon a time, in a small village by the sea,",
    "Here is a long list of things to see in Rome:",
    "Dear neighbours, I am writing to you because",
)


def edgefuse(*, bundle: str, tokens: int, threads: int) -> Figures:
    """Write by EdgeFuse, the likeliest token each time.

    Args:
        bundle: Directory of the bundle.
        tokens: Most tokens of a text.
        threads: Threads to compute with.

    Returns:
        `tokens_per_second`, what is asked included in the time.
    """
    import edgefuse_runtime  # noqa: PLC0415

    predictor = edgefuse_runtime.Predictor(bundle, threads=threads)

    def write(prompts: Sequence[str], most: int) -> int:
        written: Any = [predictor.predict([one], max_new_tokens=most)[0] for one in prompts]
        return sum(text.tokens for text in written)

    return _rate(write, tokens)


def transformers(*, model: str, tokens: int, threads: int) -> Figures:
    """Write by transformers' `generate`, the likeliest token each time.

    Args:
        model: Directory of the model.
        tokens: Most tokens of a text.
        threads: Threads to compute with.

    Returns:
        `tokens_per_second`, what is asked included in the time.
    """
    import torch  # noqa: PLC0415

    torch.set_num_threads(threads)
    tokenizer, writer = load(model, None)

    def write(prompts: Sequence[str], most: int) -> int:
        count = 0
        for prompt in prompts:
            asked = tokenizer(prompt, return_tensors="pt")
            with torch.no_grad():
                written = writer.generate(**asked, do_sample=False, max_new_tokens=most)
            count += written.shape[1] - asked["input_ids"].shape[1]
        return count

    return _rate(write, tokens)


def _rate(write: Any, tokens: int) -> Figures:
    write(PROMPTS[:1], 4)  # what is made at the first call alone
    begin = time.perf_counter()
    count = write(PROMPTS, tokens)
    return {"tokens_per_second": count / (time.perf_counter() - begin)}
