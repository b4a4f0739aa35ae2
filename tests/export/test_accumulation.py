"""A batch that comes in parts trains as the whole batch does."""

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import ClassVar

import msgspec
import numpy as np
import pytest

from edgefuse.bundling.export import export
from edgefuse_devices.catalog import load_device
from edgefuse_devices.errors import RunError
from edgefuse_export.tasks.text_generation import WantedTextGeneration
from edgefuse_runtime.bundle.bundle import Bundle, open_engine
from edgefuse_runtime.data.batching import Feeds
from edgefuse_runtime.engines.engine import Part
from edgefuse_runtime.engines.onnxruntime import OnnxRuntimeEngine
from edgefuse_runtime.engines.onnxruntime_training import OnnxRuntimeTraining
from edgefuse_runtime.files.tensor_file import map_tensors
from edgefuse_runtime.tasks.text_classification import TextClassification
from edgefuse_runtime.training.finetune import finetune
from edgefuse_runtime.training.fit import fit
from edgefuse_runtime.training.run import TrainingSettings, read_record
from tests.pico_models import TEXTS, save_pico_model
from tests.tuned_pico import exported, labelled_rows

SETTINGS = TrainingSettings(epochs=2, learning_rate=1e-2, threads=1)
TOKENS = np.array([5, 7, 9, 20, 31, 32, 47])


def rows(count: int, seed: int) -> Feeds:
    """Rows of 3 to 12 tokens."""
    rng = np.random.default_rng(seed)
    mask = (np.arange(12) < rng.integers(3, 13, (count, 1))).astype(np.int64)
    ids = np.where(mask == 1, rng.choice(TOKENS, mask.shape), 0)
    labels = rng.integers(0, 3, count)
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}


def cut(feeds: Feeds, *ends: int) -> list[Part]:
    """Some rows a part; each is as long as its longest row."""
    parts, count = [], len(feeds["labels"])
    for begin, end in zip((0, *ends), (*ends, count), strict=True):
        length = feeds["attention_mask"][begin:end].sum(axis=1).max()
        part = {n: v[begin:end, :length] if v.ndim > 1 else v[begin:end] for n, v in feeds.items()}
        parts.append(Part(part, (end - begin) / count))
    return parts


@pytest.mark.parametrize(
    ("kind", "tune", "tokens"),
    [
        ("shallow-bert", "full", TOKENS),
        ("shallow-bert", "child-f", TOKENS),
        ("fused-bert", "full", None),
    ],
)
def test_parts_have_the_gradient_of_the_whole(
    kind: str, tune: str, tokens: np.ndarray | None
) -> None:
    bundle = exported(kind, tune)
    whole = open_engine(bundle, threads=1, token_ids=tokens)
    parts = open_engine(bundle, threads=1, token_ids=tokens, accumulates=True)
    assert isinstance(whole, OnnxRuntimeEngine)
    assert isinstance(parts, OnnxRuntimeEngine)
    for seed, ends in enumerate([(4,), (1, 5, 6), (7,), ()]):
        feeds = rows(8, seed)
        parts.set_parameters(whole.parameters())  # Adam makes much of a last digit
        before = whole.step(feeds, 1e-3)
        after = parts.step_in_parts(cut(feeds, *ends), 1e-3)
        assert after.loss == pytest.approx(before.loss, rel=1e-6)
        assert after.gradient_norm == pytest.approx(before.gradient_norm, rel=2e-6)
        largest = np.abs(whole._gradients).max()
        np.testing.assert_allclose(parts._gradients, whole._gradients, rtol=0, atol=1e-6 * largest)
    if tune == "child-f":
        assert (whole._gradients == 0).mean() > 0.3, "the mask is drawn for the step, once"


def test_a_part_that_is_not_finite_changes_nothing() -> None:
    bundle = exported("shallow-bert")
    engine = open_engine(bundle, threads=1, token_ids=TOKENS, accumulates=True)
    good, bad = cut(rows(8, 0), 4)
    engine.set_parameters({n: v * np.float32(1e30) for n, v in engine.parameters().items()})
    before = {name: value.copy() for name, value in engine.parameters().items()}
    with np.errstate(all="ignore"):
        step = engine.step_in_parts([good, bad], 1e-3)
    assert not np.isfinite(step.gradient_norm) or not np.isfinite(step.loss)
    for name, value in engine.parameters().items():
        assert np.array_equal(value, before[name]), name
    engine.set_parameters(bundle.trainable())
    fresh = open_engine(bundle, threads=1, token_ids=TOKENS, accumulates=True)
    assert engine.step_in_parts([good, bad], 1e-3) == fresh.step_in_parts([good, bad], 1e-3)


def settings_of(batch_size: int, parts: int) -> TrainingSettings:
    return msgspec.structs.replace(
        SETTINGS, batch_size=batch_size, gradient_accumulation_steps=parts
    )


def test_a_run_of_small_batches_is_one_of_large_ones() -> None:
    bundle = exported("shallow-bert")
    data = bundle.read(labelled_rows())
    losses: dict[int, list[float]] = {}
    for size, parts in ((6, 1), (2, 3)):
        fit(
            bundle,
            bundle.trainable(),
            data,
            steps=4,
            settings=settings_of(size, parts),
            on_step=lambda outcome, size=size: losses.setdefault(size, []).append(outcome.loss),
        )
    assert losses[2] == pytest.approx(losses[6], abs=1e-5)
    assert len(losses[2]) == 4


def test_parts_with_other_counts_of_tokens_count_by_their_tokens(tmp_path: Path) -> None:
    model = save_pico_model(tmp_path / "m", "llama", auto_class="AutoModelForCausalLM", layers=1)
    bundle = export(
        str(model),
        tmp_path / "bundle",
        device=load_device("rpi5"),
        task=WantedTextGeneration(),
        batch_size=4,
        sequence_length=32,
    )
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS[:9]))
    data = bundle.read(file)
    losses: dict[int, list[float]] = {}
    for size, parts in ((9, 1), (2, 5)):
        fit(
            bundle,
            bundle.trainable(),
            data,
            steps=3,
            settings=settings_of(size, parts),
            on_step=lambda outcome, size=size: losses.setdefault(size, []).append(outcome.loss),
        )
    assert losses[2][0] == pytest.approx(losses[9][0], rel=1e-6)
    assert losses[2] == pytest.approx(losses[9], rel=1e-4)


def test_a_run_that_was_stopped_ends_with_the_same_bits(tmp_path: Path) -> None:
    bundle = exported("shallow-bert")
    settings = settings_of(2, 3)
    options = {"train": labelled_rows(), "settings": settings}
    report = finetune(bundle, tmp_path / "whole", **options)
    assert report.steps == 2 * 2  # 12 rows, 6 a step
    calls = iter(range(100))
    with pytest.raises(Exception, match="stopped after step 3"):
        finetune(bundle, tmp_path / "stopped", **options, stop=lambda: next(calls) == 2)
    assert read_record(tmp_path / "stopped").settings.gradient_accumulation_steps == 3
    other = settings_of(2, 2)
    with pytest.raises(RunError, match="began with gradient_accumulation_steps 3, not 2"):
        finetune(bundle, tmp_path / "stopped", **{**options, "settings": other}, resume=True)
    finetune(bundle, tmp_path / "stopped", **options, resume=True)
    whole, stopped = (map_tensors(tmp_path / n / "last.safetensors") for n in ("whole", "stopped"))
    for name, value in whole.items():
        assert np.array_equal(value, stopped[name]), name


class Pairs(TextClassification, frozen=True, kw_only=True, tag="pairs"):
    """Rows that are held against one another."""

    encoder_decoder: ClassVar[bool] = False

    def terms(self, feeds: Feeds) -> None:  # type: ignore[override]
        return None


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"task": Pairs(labels=["cold", "warm", "hot"])}, "holds the rows of a batch against"),
        (
            {"engine": OnnxRuntimeTraining(version="1.19.2")},
            "onnxruntime-training clips the gradient of each part",
        ),
    ],
)
def test_what_does_not_divide_is_refused_before_anything_is_written(
    changes: dict[str, object], sentence: str, tmp_path: Path
) -> None:
    original = exported("shallow-bert")
    manifest = msgspec.structs.replace(original.manifest, **changes)
    bundle = Bundle(original.path, manifest, original.id)
    with pytest.raises(RunError, match=sentence):
        finetune(bundle, tmp_path / "run", train=labelled_rows(), settings=settings_of(2, 2))
    assert not (tmp_path / "run").exists()


def test_the_command_takes_it(run: Callable[..., SimpleNamespace], tmp_path: Path) -> None:
    bundle = exported("shallow-bert")
    options = ("--batch-size", 2, "--gradient-accumulation-steps", 3, "--epochs", 1, "--json")
    result = run("finetune", bundle.path, tmp_path / "run", "--train", labelled_rows(), *options)
    assert json.loads(result.out)["steps"] == 2
