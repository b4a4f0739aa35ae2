"""The schedule is transformers' and the figures are scikit-learn's."""

import numpy as np
import pytest
import torch
from scipy.stats import pearsonr, spearmanr
from sklearn.metrics import (
    accuracy_score,
    f1_score,
    log_loss,
    mean_absolute_error,
    mean_squared_error,
)
from transformers import get_linear_schedule_with_warmup

from edgefuse_runtime.tasks.classification_metrics import ClassificationMetric, softmax
from edgefuse_runtime.tasks.multi_label_metrics import MultiLabelMetric, sigmoid
from edgefuse_runtime.tasks.problems.registry import PROBLEMS, every_figure
from edgefuse_runtime.tasks.registry import primary_of
from edgefuse_runtime.tasks.regression_metrics import RegressionMetric
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


@pytest.mark.parametrize("seed", range(3))
def test_figures_of_several_labels_are_those_of_scikit_learn(seed):
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(50, 5), scale=3).astype(np.float32)
    references = rng.integers(2, size=(50, 5)).astype(np.float32)
    references[:, 3], logits[:, 3] = 0, -1  # a label that never occurs and is never predicted
    metric = MultiLabelMetric(5)
    for rows in np.array_split(np.arange(50), 7):
        metric.update(logits[rows], references[rows])
    predictions, figures = sigmoid(logits) > 0.5, metric.result()
    for average in ("micro", "macro"):
        expected = f1_score(references, predictions, average=average, zero_division=0)
        assert figures[f"{average}_f1"] == pytest.approx(expected)
    assert figures["exact_match"] == accuracy_score(references, predictions)
    loss = torch.nn.functional.binary_cross_entropy_with_logits(
        torch.from_numpy(logits), torch.from_numpy(references)
    )
    assert figures["loss"] == pytest.approx(loss.item(), rel=1e-5)
    assert next(iter(figures)) == "micro_f1"


def test_probabilities_of_extreme_logits_stay_finite():
    np.testing.assert_array_equal(sigmoid(np.array([[1e4, -1e4, 0]], np.float32)), [[1, 0, 0.5]])


@pytest.mark.parametrize("seed", range(3))
def test_figures_of_numbers_are_those_of_scipy_and_scikit_learn(seed):
    rng = np.random.default_rng(seed)
    references = rng.integers(6, size=(60, 1)).astype(np.float32)  # with many alike
    predictions = (references + rng.normal(size=(60, 1), scale=2)).round(1).astype(np.float32)
    metric = RegressionMetric()
    for rows in np.array_split(np.arange(60), 7):
        metric.update(predictions[rows], references[rows])
    one, other = predictions[:, 0].astype(float), references[:, 0].astype(float)
    assert metric.result() == pytest.approx(
        {
            "pearson": pearsonr(one, other).statistic,
            "spearman": spearmanr(one, other).statistic,
            "mean_absolute_error": mean_absolute_error(other, one),
            "loss": mean_squared_error(other, one),
        }
    )


@pytest.mark.parametrize(
    ("predictions", "references"), [([0.1] * 3, [1, 2, 3]), ([1, 2, 3], [2, 2, 2]), ([1], [2])]
)
def test_numbers_that_are_all_alike_do_not_correlate(predictions, references):
    metric = RegressionMetric()
    metric.update(np.array([predictions], np.float32).T, np.array([references], np.float32).T)
    figures = metric.result()
    assert (figures["pearson"], figures["spearman"]) == (0, 0)


@pytest.mark.parametrize("problem", PROBLEMS.values())
def test_figures_of_a_problem_are_shown_in_its_own_order(problem):
    own = [figure.name for figure in problem.figures]
    assert [figure.name for figure in every_figure() if figure.name in own] == own
    assert primary_of(every_figure(), dict.fromkeys(own, 0.0)).name == own[0]
