"""A pico model, its batches, torch's own training of it, and a bundle for the second engine."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
import torch
from torch import nn
from transformers import AutoModelForSequenceClassification, PreTrainedModel

from edgefuse import from_pretrained
from edgefuse.bundling.fused import fused_mlps
from edgefuse.compression.catalog import find_method
from edgefuse.compression.fusion import fuse_model
from edgefuse.compression.plan import plan_layers
from edgefuse.compression.recipe import Recipe
from edgefuse.mlps.mlp import find_mlps
from edgefuse_export.engines.onnxruntime_training import write_training_artifacts
from edgefuse_export.tasks.text_classification import TextClassificationExport
from edgefuse_runtime.data.batching import Feeds
from edgefuse_runtime.engines.engine import Training
from edgefuse_runtime.graph.parameters import Parameter
from edgefuse_runtime.optimizers.adamw import AdamW
from edgefuse_runtime.tasks.text_classification import TextClassification

LABELS = 3
TASK = TextClassificationExport(TextClassification(labels=[str(n) for n in range(LABELS)]))
STEPS = 20
TRAINED = "trained.json"
LEARNING_RATE = 1e-3
OPTIMIZER = AdamW(weight_decay=0.1, max_gradient_norm=1.0)  # both strong enough to be seen


@dataclass(frozen=True)
class Case:
    """What is trained, and how."""

    fused: bool
    tuning: str

    def __str__(self) -> str:
        return f"{'fused' if self.fused else 'unfused'}-{self.tuning}"


CASES = [Case(fused, tuning) for fused in (False, True) for tuning in ("full", "head")]


class _Trained(msgspec.Struct, frozen=True):
    """What the engine has to know beside its artifacts."""

    parameters: list[Parameter]
    optimizer: AdamW


def load(source: Path, case: Case) -> PreTrainedModel:
    model = from_pretrained(source, AutoModelForSequenceClassification, attn_implementation="eager")
    if case.fused:
        layers = plan_layers(find_mlps(model), ratio=0.25)
        recipe = Recipe(find_method("mlp-fusion"), refits=False, teaches=False, seed=0)
        fuse_model(model, layers, recipe)
    return model.eval()


def trained(model: nn.Module, case: Case) -> list[Parameter]:
    return [
        Parameter(
            name=name,
            shape=list(value.shape),
            gradient=f"{name}_grad",
            decay=value.ndim > 1,
        )
        for name, value in model.named_parameters()
        if case.tuning == "full" or name.startswith("classifier")
    ]


def batches() -> Iterator[Feeds]:
    """Twenty batches of other shapes than the traced one, padding included."""
    generator = np.random.default_rng(1)
    for _ in range(STEPS):
        rows, length = generator.integers(2, 7), generator.integers(3, 20)
        mask = np.arange(length) < generator.integers(2, length + 1, (rows, 1))
        yield {
            "input_ids": np.where(mask, generator.integers(5, 90, (rows, length)), 0),
            "attention_mask": mask.astype(np.int64),
            "labels": generator.integers(0, LABELS, rows),
        }


def make_artifacts(
    model: PreTrainedModel, case: Case, folder: Path, task: TextClassificationExport = TASK
) -> Training:
    (folder / "training").mkdir(parents=True)
    parameters = trained(model, case)
    write_training_artifacts(
        model,
        task,
        {name: torch.ones(2, 8, dtype=torch.int64) for name in task.inputs},
        parameters,
        optimizer=OPTIMIZER,
        directory=folder / "training",
        fused=fused_mlps(model),
    )
    known = _Trained(parameters=parameters, optimizer=OPTIMIZER)
    (folder / TRAINED).write_bytes(msgspec.json.encode(known))
    return open_artifacts(folder)


def open_artifacts(folder: Path) -> Training:
    known = msgspec.json.decode((folder / TRAINED).read_bytes(), type=_Trained)
    return Training(
        folder=folder,
        parameters=known.parameters,
        frozen={},
        optimizer=known.optimizer,
        mask=None,
        padding_id=0,
        threads=1,
    )


def train_with_torch(
    model: PreTrainedModel, case: Case, todo: Iterable[Feeds] | None = None
) -> tuple[list[float], list[float]]:
    """Losses and weighed gradient norms of torch's AdamW over `batches()`; trains `model`."""
    chosen = trained(model, case)
    values = {p.name: model.get_parameter(p.name) for p in chosen}
    weights = {}  # of fused rows in the norm, as FusedLinear's docstring asks for
    for block in fused_mlps(model):
        n = model.get_buffer(block.multiplicity)
        weight = torch.where(n > 0, n, 1).rsqrt()
        for name, axis in block.neuron_axes.items():
            rows = axis == 0 and model.get_parameter(name).ndim == 2
            weights[name] = weight[:, None] if rows else weight
    optimizer = torch.optim.AdamW(
        [
            {"params": [values[p.name]], "weight_decay": OPTIMIZER.weight_decay * p.decay}
            for p in chosen
        ],
        lr=LEARNING_RATE,
        betas=(OPTIMIZER.beta1, OPTIMIZER.beta2),
        eps=OPTIMIZER.eps,
    )
    losses, norms = [], []
    for batch in batches() if todo is None else todo:
        model.zero_grad()
        loss = model(**{name: torch.from_numpy(value) for name, value in batch.items()}).loss
        loss.backward()
        norm = torch.stack(
            [(value.grad * weights.get(name, 1)).norm() for name, value in values.items()]
        ).norm()
        for value in values.values():
            value.grad *= (OPTIMIZER.max_gradient_norm / (norm + 1e-6)).clamp(max=1)
        optimizer.step()
        losses.append(loss.item())
        norms.append(norm.item())
    return losses, norms
