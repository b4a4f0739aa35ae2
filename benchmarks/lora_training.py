"""Both sides of training an adapter, each in a process of its own: EdgeFuse, and PyTorch + peft."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.harness import Figures
from benchmarks.torch_training import fit, rows_in
from edgefuse_devices.errors import Interrupted
from edgefuse_runtime.machine import memory

if TYPE_CHECKING:
    from edgefuse_runtime.training.memory_plan import MemoryPlan

LEARNING_RATE = 2e-4

_MIB = 2**20
_PAUSE = 0.02  # seconds between two looks at the memory


def edgefuse(
    *,
    bundle: str,
    run: str,
    train: str,
    batch_size: int,
    threads: int,
    above: int | None = None,
    keep: bool = True,
    most: int | None = None,
) -> Figures:
    """Train one pass over the rows by EdgeFuse.

    Args:
        bundle: Directory of the bundle.
        run: Directory of the run to make.
        train: File of the rows.
        batch_size: Rows in a step.
        threads: Threads to compute with.
        above: Bytes that the process may hold beside what it holds at the start; None for all
            that is free.
        keep: Whether layers' insides may be kept for the backward pass.
        most: Steps to take at the most; None for all.

    Returns:
        `losses` and `seconds` of each step; `rss_mib` and `anonymous_mib`, the process's peaks; and
        `predicted_mib`, what the run expected of the latter.
    """
    import edgefuse_runtime  # noqa: PLC0415

    settings = edgefuse_runtime.TrainingSettings(
        epochs=1,
        learning_rate=LEARNING_RATE,
        batch_size=batch_size,
        threads=threads,
        rows_at_once=None if keep else batch_size,
        kept_layers=None if keep else 0,
    )
    edgefuse_runtime.open_bundle(bundle)  # what it imports is the libraries' own
    budget = None if above is None else memory.anonymous() + above
    plans: list[MemoryPlan] = []
    steps_taken = count(1)
    with _peaks() as peaks, suppress(Interrupted):
        edgefuse_runtime.finetune(
            bundle,
            run,
            train=train,
            settings=settings,
            budget=budget,
            on_plan=plans.append,
            stop=lambda: next(steps_taken) == most,
        )
    lines = (Path(run) / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    steps = [step for step in map(json.loads, lines) if step["event"] == "step"]
    return {
        "losses": [step["loss"] for step in steps],
        "seconds": [batch_size / step["samples_per_second"] for step in steps],
        "budget_mib": None if budget is None else budget / _MIB,
        "predicted_mib": plans[0].bytes / _MIB if plans else None,
        **peaks,
    }


def pytorch(
    *, model: str, adapter: str, train: str, batch_size: int, threads: int, checkpointing: bool
) -> Figures:
    """Train one pass over the rows by PyTorch and peft: sdpa and fused AdamW.

    Args:
        model: Directory of the model.
        adapter: Directory of the adapter to begin from.
        train: File of the rows, which have as many tokens each.
        batch_size: Rows in a step.
        threads: Threads to compute with.
        checkpointing: Whether layers are computed again for the backward pass.

    Returns:
        `losses` and `seconds` of each step; `rss_mib` and `anonymous_mib`, the process's peaks.
    """
    import torch  # noqa: PLC0415

    torch.set_num_threads(threads)
    tokenizer, writer = load(model, adapter)
    if checkpointing:
        writer.enable_input_require_grads()
        writer.gradient_checkpointing_enable()
        writer.train()  # else nothing is checkpointed; there is no dropout
    rows = [
        [*tokenizer(row["text"])["input_ids"], tokenizer.eos_token_id] for row in rows_in(train)
    ]

    def collate(part: Any) -> dict[str, Any]:
        ids = torch.tensor(part)
        return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": ids}

    losses: list[float] = []
    seconds: list[float] = []

    def on_step(loss: float, took: float) -> None:
        losses.append(loss)
        seconds.append(took)

    with _peaks() as peaks:
        fit(
            writer,
            rows,
            [len(row) for row in rows],
            collate,
            epochs=1,
            learning_rate=LEARNING_RATE,
            batch_size=batch_size,
            seed=0,
            on_step=on_step,
        )
    return {"losses": losses, "seconds": seconds, **peaks}


def load(model: str, adapter: str | None) -> tuple[Any, Any]:
    """A tokenizer and a language model in evaluation mode, whose adapter alone trains."""
    import torch  # noqa: PLC0415
    import transformers  # noqa: PLC0415
    from peft import PeftModel  # noqa: PLC0415

    transformers.logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    writer: Any = transformers.AutoModelForCausalLM.from_pretrained(
        model, attn_implementation="sdpa", dtype=torch.float32
    )
    if adapter is not None:
        writer = PeftModel.from_pretrained(writer, adapter, is_trainable=True)
    return transformers.AutoTokenizer.from_pretrained(model), writer.eval()


@contextmanager
def _peaks() -> Iterator[Figures]:
    """Watch this process's memory; the peaks are there at the end.

    Linux keeps the peak of what is resident, and not that of the part which is no file's.
    """
    peaks: Figures = {}
    most = [memory.anonymous()]
    ended = threading.Event()

    def watch() -> None:
        while not ended.wait(_PAUSE):
            most.append(max(most.pop(), memory.anonymous()))

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield peaks
    finally:
        ended.set()
        watcher.join()
        peaks |= {
            "rss_mib": memory.peak_resident() / _MIB,
            "anonymous_mib": max(most[0], memory.anonymous()) / _MIB,
        }
