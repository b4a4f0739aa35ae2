"""The schedule is transformers' and the figures are scikit-learn's."""

import numpy as np
import pytest
import torch
from sklearn.metrics import accuracy_score, f1_score, log_loss
from transformers import get_linear_schedule_with_warmup

from edgefuse_runtime.tasks.classification_metrics import ClassificationMetric, softmax
from edgefuse_runtime.training.schedule import learning_rate


@pytest.mark.parametrize(("total", "ratio"), [(20, 0.1), (33, 0.1), (7, 0.0), (5, 1.0), (1, 0.1)])
def test_the_learning_rate_is_that_of_transformers(total, ratio):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.3)
    warmup = int(np.ceil(ratio * total))
    schedule = get_linear_schedule_with_warmup(optimizer, warmup, total)
    for step in range(total):
        ours = learning_rate(step, peak=0.3, total_steps=total, warmup_ratio=ratio)
        assert ours == pytest.approx(schedule.get_last_lr()[0], abs=1e-12)
        optimizer.step()
        schedule.step()


@pytest.mark.parametrize("seed", range(5))
def test_figures_are_those_of_scikit_learn(seed):
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(50, 4), scale=3).astype(np.float32)
    references = rng.integers(0, 4, size=50)
    references[references == 2] = 3  # a class that is only ever predicted
    predictions = logits.argmax(axis=1)
    metric = ClassificationMetric(4)
    for rows in np.array_split(np.arange(50), 7):  # batch by batch
        metric.update(logits[rows], references[rows])
    assert metric.accuracy == accuracy_score(references, predictions)
    expected = f1_score(references, predictions, average="macro")
    assert metric.macro_f1 == pytest.approx(expected)
    probabilities = softmax(logits)
    assert metric.loss == pytest.approx(
        log_loss(references, probabilities, labels=range(4)), rel=1e-5
    )


def test_extreme_logits_stay_finite():
    logits = np.array([[1e4, -1e4]], np.float32)
    metric = ClassificationMetric(2)
    metric.update(logits, np.array([1]))
    assert metric.loss == pytest.approx(2e4)
    np.testing.assert_array_equal(softmax(logits), [[1, 0]])
