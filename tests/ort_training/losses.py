"""Train the same models by either engine, from bundles that `edgefuse export` makes.

python -m tests.ort_training.losses ENGINE FOLDER
    makes FOLDER/models where it is missing, FOLDER/ENGINE with a bundle per case, and
    FOLDER/ENGINE.json with the losses of each case
"""

import json
import subprocess
import sys
from pathlib import Path

from edgefuse_runtime.bundle.bundle import open_bundle, open_engine
from tests.ort_training.training_case import LABELS, LEARNING_RATE, batches
from tests.pico_models import save_pico_model

CASES = (
    ("bert", "head"),
    ("bert", "adapter"),
    ("bert", "prefix"),
    ("bert", "bitfit"),
    ("fused-bert", "full"),
    ("fused-bert", "lora"),
    ("chains", "mpo"),
)
"""Models and ways of tuning."""


def record_losses(engine: str, folder: Path) -> dict[str, list[float]]:
    models = folder / "models"
    if not models.exists():
        _make_models(models)
    losses = {}
    for model, tuning in CASES:
        case = f"{model}-{tuning}"
        bundle = folder / engine / case
        options = ["--device", "host", "--task", "text-classification", "--sequence-length", "32"]
        options += ["--tune", tuning, "--engine", engine, "--num-labels", str(LABELS)]
        _edgefuse("export", models / model, bundle, *options)
        trained = open_engine(open_bundle(bundle), threads=1)
        losses[case] = [trained.step(batch, LEARNING_RATE).loss for batch in batches()]
    return losses


def _make_models(folder: Path) -> None:
    save_pico_model(folder / "bert", "bert", num_labels=LABELS, layers=1)
    _edgefuse("compress", folder / "bert", folder / "fused-bert", "--ratio", "0.25")
    chains = ["--method", "mpo", "--max-error", "0.2", "--matrices", "mlp,attention,embeddings"]
    _edgefuse("compress", folder / "fused-bert", folder / "chains", *chains)


def _edgefuse(*arguments: str | Path) -> None:
    command = [sys.executable, "-m", "edgefuse", *arguments, "--json"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


if __name__ == "__main__":
    name, directory = sys.argv[1], Path(sys.argv[2])
    recorded = record_losses(name, directory)
    (directory / f"{name}.json").write_text(json.dumps(recorded))
