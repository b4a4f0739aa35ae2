"""What the published fusing, by weights alone, costs in accuracy: all-MiniLM-L6-v2 on SST-2.

4,000 training rows, 2 epochs, the 872 sentences of GLUE's development set, by the commands that
people type: compress, export, finetune, evaluate. `drop` is in points of accuracy below the same
run unfused; with several seeds (of head and shuffling) figures are means and `accuracy_sd` the
standard deviation over them.
"""

import tempfile
from functools import cache, partial
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from benchmarks import harness
from benchmarks.data import first_rows, minilm, path_of

_ROWS, _EPOCHS, _LEARNING_RATE = 4000, 2, 1e-4
_SEEDS, _QUICK_SEEDS = (0, 1, 2), (0,)
_TRAIN, _TEST = "sst2/train.jsonl", "sst2/test.jsonl"


def accuracy(ratio: float | None, case: harness.Case) -> harness.Figures:
    """Accuracy of a ratio of the width, and how far it is below the unfused model."""
    seeds = _QUICK_SEEDS if case.quick else _SEEDS
    runs = [_run(ratio, seed) for seed in seeds]
    accuracy = [100 * run["accuracy"] for run in runs]
    unfused = mean(100 * _run(None, seed)["accuracy"] for seed in seeds)
    return {
        "accuracy_mean": mean(accuracy),
        "accuracy_sd": stdev(accuracy) if len(accuracy) > 1 else 0.0,
        "drop": unfused - mean(accuracy),
        "macro_f1_mean": 100 * mean(run["macro_f1"] for run in runs),
        "parameters": runs[0]["parameters"],
        "output_error": runs[0]["output_error"],
        "peak_rss_mib": max(run["peak_rss_mib"] for run in runs),
        "seeds": len(seeds),
    }


@cache
def _run(ratio: float | None, seed: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        train = first_rows(work / "train.jsonl", _TRAIN, _ROWS)
        model, error = minilm(), None
        if ratio is not None:
            fused, calibration = str(work / "fused"), str(path_of("sst2/valid.jsonl"))
            halved = ("--ratio", str(ratio), "--method", "published", "--calibration", calibration)
            record = harness.edgefuse("compress", model, fused, *halved)["compression"]
            error = mean(layer["output_error"] for layer in record["layers"])
            model = fused
        bundle, run = str(work / "bundle"), str(work / "run")
        classes, seeded = ("--device", "host", "--labels", str(train)), ("--seed", str(seed))
        manifest = harness.edgefuse("export", model, bundle, *classes, *seeded)["manifest"]
        settings = ("--epochs", str(_EPOCHS), "--learning-rate", str(_LEARNING_RATE), *seeded)
        report = harness.edgefuse("finetune", bundle, run, "--train", str(train), *settings)
        scores = harness.edgefuse("evaluate", run, str(path_of(_TEST)))
        return {
            **scores["figures"],
            "parameters": manifest["model"]["parameters"],
            "output_error": error,
            "peak_rss_mib": report["peak_rss_mib"],
        }


if __name__ == "__main__":
    harness.main(
        "real_text",
        {"sst2/unfused": partial(accuracy, None), "sst2/fused@0.5": partial(accuracy, 0.5)},
        description=__doc__,
        packages=("onnxruntime", "torch", "transformers", "scikit-learn"),
        inputs=[path_of(_TRAIN), path_of(_TEST)],
    )
