"""A part of training: the steps of a run, without the run."""

import numpy as np
import pytest

import edgefuse_runtime.training.fit as module
from edgefuse_devices.errors import RunError
from edgefuse_runtime.engines.engine import Step
from edgefuse_runtime.training.finetune import finetune
from edgefuse_runtime.training.fit import fit
from edgefuse_runtime.training.metrics_log import read_metrics
from edgefuse_runtime.training.records import StepRecord
from edgefuse_runtime.training.run import TrainingSettings
from tests.tiny_bundle import FakeEngine, make_bundle, write_data

SETTINGS = TrainingSettings(epochs=2, learning_rate=0.3, threads=1)


@pytest.fixture
def home(tmp_path, monkeypatch):
    make_bundle(tmp_path / "bundle")
    write_data(tmp_path / "train.jsonl", 30)
    monkeypatch.setattr(module, "open_engine", FakeEngine)
    monkeypatch.setattr("edgefuse_runtime.training.finetune.open_engine", FakeEngine)
    return tmp_path


@pytest.fixture
def bundle(home):
    return make_bundle(home / "other")


def test_its_steps_are_those_of_a_run(home, bundle):
    finetune(bundle, home / "run", train=home / "train.jsonl", settings=SETTINGS)
    lines = read_metrics(home / "run" / "metrics.jsonl")
    losses = [line.loss for line in lines if isinstance(line, StepRecord)]
    seen = []
    fit(
        bundle,
        bundle.trainable(),
        bundle.read(home / "train.jsonl"),
        steps=len(losses),
        settings=SETTINGS,
        on_step=lambda outcome: seen.append(outcome.loss),
    )
    assert seen == losses


def test_it_begins_from_the_parameters_that_it_is_given_and_leaves_them_alone(home, bundle):
    data = bundle.read(home / "train.jsonl")
    first = fit(bundle, bundle.trainable(), data, steps=5, settings=SETTINGS)
    kept = {name: value.copy() for name, value in first.items()}
    second = fit(bundle, first, data, steps=5, settings=SETTINGS)
    assert all(np.array_equal(first[name], kept[name]) for name in first)
    assert any(not np.array_equal(first[name], second[name]) for name in first)
    again = fit(bundle, bundle.trainable(), data, steps=5, settings=SETTINGS)
    assert all(np.array_equal(first[name], again[name]) for name in first)


def test_parameters_that_are_not_finite_are_divergence_too(home, bundle, monkeypatch):
    class Overflows(FakeEngine):
        def parameters(self):
            return {name: value + np.inf for name, value in super().parameters().items()}

    monkeypatch.setattr(module, "open_engine", Overflows)
    data = bundle.read(home / "train.jsonl")
    with pytest.raises(RunError, match="parameters are not finite"):
        fit(bundle, bundle.trainable(), data, steps=1, settings=SETTINGS)


def test_divergence_is_an_error_that_names_the_step(home, bundle, monkeypatch):
    class Diverges(FakeEngine):
        def step(self, feeds, learning_rate):
            return Step(loss=np.nan, gradient_norm=1.0)

    monkeypatch.setattr(module, "open_engine", Diverges)
    data = bundle.read(home / "train.jsonl")
    with pytest.raises(RunError, match=r"loss of step 1 is nan.*lower learning rate than 0\.3"):
        fit(bundle, bundle.trainable(), data, steps=5, settings=SETTINGS)
