"""Which class each logit stands for: a head's own order, or the one that somebody gave."""

import pytest
from transformers import BertConfig

from edgefuse_devices.errors import InputError, ModelError
from edgefuse_export.tasks.classes import choose_labels, find_labels
from edgefuse_export.tasks.classification_problems import find_problem
from edgefuse_export.tasks.task import ModelFacts
from edgefuse_runtime.tasks.task import Task
from edgefuse_runtime.tasks.text_classification import TextClassification
from edgefuse_runtime.tasks.token_classification import TokenClassification

TWELVE = [f"LABEL_{index}" for index in range(12)]
BINARY = ["NEGATIVE", "POSITIVE"]
NUMBERS = [str(index) for index in range(12)]


def head(*names: str, **options: object) -> BertConfig:
    """The configuration of a model that was saved as a classifier."""
    return BertConfig(
        architectures=["BertForSequenceClassification"],
        id2label=dict(enumerate(names)),
        label2id={name: index for index, name in enumerate(names)},
        **options,
    )


def order_of(config: BertConfig, given: list[str] | frozenset[str]) -> list[str]:
    return choose_labels(config, given, "model", TextClassification)


@pytest.mark.parametrize("given", [frozenset(NUMBERS), sorted(NUMBERS), frozenset({"11", "3"})])
def test_whole_numbers_are_indices_of_the_head(given: list[str] | frozenset[str]) -> None:
    assert order_of(head(*TWELVE), given) == NUMBERS


@pytest.mark.parametrize(
    "given",
    [frozenset({"positive", "negative"}), ["Positive", "NEGATIVE"], frozenset({"positive"})],
)
def test_names_of_the_head_keep_its_order_and_its_spelling(
    given: list[str] | frozenset[str],
) -> None:
    assert order_of(head(*BINARY), given) == BINARY


def test_names_that_differ_in_case_alone_are_told_apart() -> None:
    names = ["us", "US", "them"]
    assert order_of(head(*names), frozenset({"US", "THEM"})) == names
    with pytest.raises(ModelError, match=r"\(us, US, them\), and 2 are given \(Us, them\)"):
        order_of(head(*names), frozenset({"Us", "them"}))


def test_a_list_gives_the_classes_of_a_head_other_names() -> None:
    assert order_of(head("LABEL_0", "LABEL_1"), ["good", "bad"]) == [
        "good",
        "bad",
    ]
    assert order_of(head(*BINARY), ["schlecht", "gut"]) == [
        "schlecht",
        "gut",
    ]
    assert order_of(head(*BINARY), ["negative", "good"]) == [
        "negative",
        "good",
    ]


@pytest.mark.parametrize(
    ("names", "given", "sentence"),
    [
        (["LABEL_0", "LABEL_1"], frozenset({"good", "bad"}), "others are given (bad, good)"),
        (BINARY, frozenset({"good", "POSITIVE"}), "others are given (POSITIVE, good)"),
        (BINARY, ["positive", "good"], "others are given (good, positive)"),  # of the head's second
        (BINARY, frozenset({"1", "2"}), "others are given (1, 2)"),
        (["LABEL_0", "LABEL_1"], frozenset({"a", "b", "c"}), "3 are given (a, b, c)"),
        (["1", "2", "3"], frozenset({"0", "1", "2"}), "others are given (0, 1, 2)"),
        (TWELVE, NUMBERS[:5], "a head for 12 classes"),
    ],
)
def test_labels_that_leave_it_open_which_class_is_which_are_refused(
    names: list[str], given: list[str] | frozenset[str], sentence: str
) -> None:
    with pytest.raises(ModelError) as caught:
        order_of(head(*names), given)
    assert sentence in caught.value.problem
    assert names[0] in caught.value.problem
    assert "encoder alone" in caught.value.hint


def test_labels_of_a_new_head_are_sorted_numbers_by_their_value() -> None:
    encoder = BertConfig(architectures=["BertModel"])
    assert order_of(encoder, frozenset(NUMBERS)) == NUMBERS
    assert order_of(encoder, frozenset({"b", "a", "10"})) == [
        "10",
        "a",
        "b",
    ]
    assert order_of(encoder, ["b", "a"]) == ["b", "a"]


def found(config: BertConfig, wanted: str | None = None) -> str:
    return find_problem(config, "model", wanted, TextClassification)


@pytest.mark.parametrize(
    ("names", "problem", "called"),
    [
        (BINARY, "multi_label_classification", "several labels a text"),
        (BINARY, "regression", "regression"),
        (["LABEL_0"], None, "regression"),
    ],
)
def test_a_head_of_another_problem_is_refused(
    names: list[str], problem: str | None, called: str
) -> None:
    with pytest.raises(ModelError, match=f"a head for .*{called}"):
        found(head(*names, problem_type=problem), "single-label")
    encoder = BertConfig(architectures=["BertModel"], problem_type=problem)
    assert found(encoder, "single-label") == found(encoder) == "single-label"


def test_a_head_of_the_problem_that_is_wanted_is_taken() -> None:
    for names, saved, problem in (
        (BINARY, "single_label_classification", "single-label"),
        (BINARY, "multi_label_classification", "multi-label"),
        (["LABEL_0"], "regression", "regression"),
    ):
        config = head(*names, problem_type=saved)
        assert found(config) == found(config, problem) == found(config, saved) == problem
    assert found(head(*BINARY)) == "single-label"
    assert found(head(*BINARY), "multi-label") == "multi-label"  # its configuration does not say
    assert found(head("LABEL_0")) == "regression"
    with pytest.raises(ModelError, match=r"for one label a text, .*with --problem-type single"):
        found(head(*BINARY), "regression")
    with pytest.raises(ModelError, match="a head for 2 numbers at once"):
        found(head(*BINARY, problem_type="regression"))
    with pytest.raises(InputError, match="Did you mean multi-label"):
        found(head(*BINARY), "multilabel")


@pytest.mark.parametrize(("names", "found"), [(BINARY, BINARY), (TWELVE, NUMBERS)])
@pytest.mark.parametrize("task", [TextClassification, TokenClassification])
def test_without_labels_a_head_has_its_own_names(
    names: list[str], found: list[str], task: type[Task]
) -> None:
    config = head(*names)
    config.architectures = [f"Bert{task.auto_class.removeprefix('AutoModel')}"]
    assert find_labels(ModelFacts("model", config), None, None, task) == found
