"""What is left of a model when its bonds are cut by singular values, and by what the task needs.

all-MiniLM-L6-v2 as matrix product operators at full bonds, embeddings among them, trained for 600
steps on SST-2 as `edgefuse squeeze` does before its first cut. Then the chains are cut at once to
that part of their parameters, and nothing is trained: `accuracy` in percent and `loss` on 1,000
rows of `valid`, the model's `parameters`, and what part of the cut is `from_embeddings`.

`singular-values` leaves out what adds least to the matrices' relative errors for each parameter, by
the paper's fast estimate; `importance` what adds least to the loss, by its gradients on 50 batches.
"""

import tempfile
from copy import deepcopy
from functools import cache, partial
from pathlib import Path
from typing import Any

from benchmarks import harness
from benchmarks.data import first_rows, minilm, path_of

_PARTS = (0.05, 0.15, 0.25, 0.35)
_CHOICES = ("singular-values", "importance")
_EMBEDDINGS = "bert.embeddings.word_embeddings"


def measure(choice: str, part: float, case: harness.Case) -> harness.Figures:
    """The model with that part of its chains cut, so chosen; with nothing cut for a part of 0."""
    from edgefuse.compression.chains.bonds import relative_costs  # noqa: PLC0415
    from edgefuse.layers.chains.decomposition import canonical  # noqa: PLC0415
    from edgefuse.layers.chains.modules import chains_of  # noqa: PLC0415
    from edgefuse.squeezing.cutting import cut_chains, make_canonical  # noqa: PLC0415
    from edgefuse.squeezing.importance import importance  # noqa: PLC0415
    from edgefuse.squeezing.training import measure as figures_of  # noqa: PLC0415

    trained, task, train, valid = _trained(quick=case.quick)
    model = deepcopy(trained)
    make_canonical(model)
    before = _sizes(model)
    count = int(part * sum(before.values()))
    if part and choice == "importance":
        batches = {"count": 2 if case.quick else 50, "batch_size": 16, "seed": 0}
        cut_chains(model, count, importance(model, task, train, **batches, on_batch=lambda _: None))
    elif part:
        chains = chains_of(model).items()
        cut_chains(model, count, {n: relative_costs(canonical(c.tensors)) for n, c in chains})
    after = _sizes(model)
    gone = {name: before[name] - after[name] for name in before}
    figures = figures_of(model, task, valid)
    return {
        "parameters": model.num_parameters(),
        "accuracy": 100 * figures["accuracy"],
        "loss": figures["loss"],
        "from_embeddings": gone[_EMBEDDINGS] / sum(gone.values()) if part else None,
    }


def _sizes(model: Any) -> dict[str, int]:
    from edgefuse.layers.chains.modules import chains_of  # noqa: PLC0415

    return {name: sum(t.numel() for t in c.tensors) for name, c in chains_of(model).items()}


@cache
def _trained(*, quick: bool) -> tuple[Any, Any, Any, Any]:
    """The model, its task, and the rows to train and to measure on."""
    import torch  # noqa: PLC0415
    import transformers  # noqa: PLC0415

    import edgefuse  # noqa: PLC0415
    from edgefuse.hub.source import find_source  # noqa: PLC0415
    from edgefuse.hub.tokenizer import load_tokenizer  # noqa: PLC0415
    from edgefuse.squeezing.training import train  # noqa: PLC0415
    from edgefuse.tuning.ways.mpo import Mpo  # noqa: PLC0415
    from edgefuse_export.tasks.text_classification import TextClassificationExport  # noqa: PLC0415
    from edgefuse_runtime.data.batching import kept  # noqa: PLC0415
    from edgefuse_runtime.tasks.labels import labels_of_rows  # noqa: PLC0415
    from edgefuse_runtime.tasks.text_classification import TextClassification  # noqa: PLC0415

    labels = labels_of_rows(path_of("sst2/train.jsonl"))
    task = TextClassificationExport(TextClassification(labels=sorted(labels)))

    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        harness.edgefuse(
            "compress",
            minilm(),
            str(work / "chains"),
            *("--method", "mpo", "--matrices", "mlp,attention,embeddings", "--max-error", "0"),
        )
        torch.manual_seed(0)
        model = edgefuse.from_pretrained(
            work / "chains", transformers.AutoModelForSequenceClassification, **task.model_options()
        )
        tokenizer = load_tokenizer(find_source(str(work / "chains")))
        files = [
            first_rows(work / f"{part}.jsonl", f"sst2/{part}.jsonl", count)
            for part, count in (("train", 6000), ("valid", 64 if quick else 1000))
        ]
        rows, valid = (kept(task.task.read(f, tokenizer.limited(128))) for f in files)
    train(
        model,
        task,
        rows,
        way=Mpo(),
        steps=4 if quick else 600,
        batch_size=16,
        learning_rate=5e-5,
        seed=0,
        on_step=lambda _: None,
    )
    return model, task, rows, valid


if __name__ == "__main__":
    harness.main(
        "squeeze_choice",
        {
            "uncut": partial(measure, "", 0.0),
            **{
                f"{choice}@{1 - part:g}": partial(measure, choice, part)
                for part in _PARTS
                for choice in _CHOICES
            },
        },
        description=__doc__,
        packages=("torch", "transformers"),
        inputs=[path_of(f"sst2/{part}.jsonl") for part in ("train", "valid")],
        quick=("uncut", "singular-values@0.75", "importance@0.75"),
    )
