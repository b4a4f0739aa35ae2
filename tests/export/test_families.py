"""Every family, plain and fused, for every task: proven gradients, and losses as torch's."""

from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch

from edgefuse.bundling.export import export
from edgefuse.bundling.load import facts_of, load_with_head
from edgefuse.compression.compress import compress
from edgefuse.hub.model import load_config
from edgefuse.hub.source import find_source
from edgefuse.hub.tokenizer import load_padding_tokenizer
from edgefuse_devices.catalog import load_device
from edgefuse_export.trace import example
from edgefuse_runtime.bundle.bundle import Bundle, open_engine
from edgefuse_runtime.optimizers.adamw import AdamW
from edgefuse_runtime.optimizers.optimizer import decays
from edgefuse_runtime.tagged import name_of
from edgefuse_runtime.tasks.registry import TASKS
from tests.families import FAMILIES, Family, cases, fused_sample, has_classes, sample, wanted
from tests.family_page import PAGE, family_page
from tests.pico_models import save_pico_model
from tests.shared import made_once

pytestmark = pytest.mark.no_cover  # it takes as long again, and shows nothing new

OPTIMIZER = AdamW(max_gradient_norm=0.0)
RATE = 1e-3
STEPS = 10
VOCABULARY = 50


@cache
def plain(family: Family, task: str) -> Path:
    """A model of a family, saved without a head where the task makes a new one."""
    own = next(kind.auto_class for kind in TASKS if name_of(kind) == task)
    auto_class = "AutoModel" if has_classes(task) else own

    def make(folder: Path) -> Path:
        return save_pico_model(folder, family.kind, auto_class=auto_class, layers=family.layers)

    return made_once(f"family-{family.kind}-{auto_class}", make)


def fused(family: Family, task: str, folder: Path) -> Path:
    compress(str(plain(family, task)), folder, ratio=0.25)
    return folder


def losses_on_the_board(bundle: Bundle, batches: list[dict[str, torch.Tensor]]) -> list[float]:
    engine = open_engine(bundle, threads=1)
    feeds = [{name: tensor.numpy() for name, tensor in batch.items()} for batch in batches]
    return [engine.step(one, RATE).loss for one in feeds]


def losses_in_torch(
    model: torch.nn.Module, loss_of: torch.nn.Module, batches: list[dict[str, torch.Tensor]]
) -> list[float]:
    optimizer = torch.optim.AdamW(
        [
            {"params": [p], "weight_decay": OPTIMIZER.weight_decay if decays(p.ndim) else 0.0}
            for p in model.parameters()
        ],
        lr=RATE,
        betas=(OPTIMIZER.beta1, OPTIMIZER.beta2),
        eps=OPTIMIZER.eps,
    )
    losses = []
    for batch in batches:
        optimizer.zero_grad()
        loss = loss_of(*batch.values())[0]
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def check(model: Path, task_name: str, output: Path) -> None:
    """Export a model for a task, and train it on both sides."""
    task = wanted(task_name)
    bundle = export(
        str(model),
        output,
        device=load_device("rpi5"),
        task=task,
        optimizer=OPTIMIZER,
        batch_size=4,
        sequence_length=16,
    )
    certificate = bundle.manifest.certificate
    assert certificate is not None
    assert certificate.loss_difference <= 1e-4
    assert certificate.output_difference <= 1e-4
    assert certificate.worst_gradient_error <= 1e-4

    source = find_source(str(model))
    tokenizer = load_padding_tokenizer(source)
    found = task.of_model(facts_of(source, load_config(source), str(model), tokenizer))
    torch.manual_seed(0)  # of the head
    with_head = load_with_head(source, found, padding_id=bundle.manifest.padding_id)
    for name, value in bundle.trainable().items():
        assert np.array_equal(with_head.get_parameter(name).detach().numpy(), value), name
    batches = [example(found, (4, 9), vocabulary=VOCABULARY, seed=seed) for seed in range(STEPS)]
    board = losses_on_the_board(bundle, batches)
    assert board == pytest.approx(
        losses_in_torch(with_head, found.loss(with_head), batches), abs=1e-4
    )
    assert len(set(board)) == STEPS


SAMPLE = {*sample()}


@pytest.mark.parametrize(
    ("family", "task"),
    [
        pytest.param(
            *case,
            id=f"{case[0].kind}-{case[1]}",
            marks=[] if case in SAMPLE else pytest.mark.matrix,
        )
        for case in cases()
    ],
)
def test_a_family_trains_for_a_task_as_in_torch(family: Family, task: str, tmp_path: Path) -> None:
    check(plain(family, task), task, tmp_path / "bundle")


FUSED = {*fused_sample()}


@pytest.mark.parametrize(
    "family",
    [
        pytest.param(family, id=family.kind, marks=[] if family in FUSED else pytest.mark.matrix)
        for family in FAMILIES
    ],
)
def test_a_fused_family_trains_as_in_torch(family: Family, tmp_path: Path) -> None:
    task = next(task for one, task in cases() if one is family)
    check(fused(family, task, tmp_path / "fused"), task, tmp_path / "bundle")


def test_every_family_has_a_task() -> None:
    assert all(any(not family.refusal(task) for task in TASKS) for family in FAMILIES)


def test_the_sample_has_most_families_and_every_task() -> None:
    assert len({family for family, _ in SAMPLE}) > 2 / 3 * len(FAMILIES)
    assert {task for _, task in SAMPLE} == {task for _, task in cases()}


def test_the_page_has_what_these_tests_show() -> None:
    assert PAGE.read_text(encoding="utf-8") == family_page(), "run `python -m tests.family_page`"
