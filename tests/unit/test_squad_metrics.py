"""SQuAD's figures: what its normalisation forgives, and the best of several answers."""

import pytest

from edgefuse_runtime.tasks.squad_metrics import exact_match, f1, normalize_answer


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("The  Panthers' defense!", "panthers defense"),
        ("an a THE", ""),
        ("Theatre, a-b", "theatre ab"),  # punctuation goes first, and "ab" is no article
        ("a.", ""),
        ("308\npoints\t", "308 points"),
        ("«Être»", "«être»"),  # ASCII punctuation alone
    ],
)
def test_case_punctuation_articles_and_blanks_do_not_count(text: str, normal: str) -> None:
    assert normalize_answer(text) == normal


@pytest.mark.parametrize(
    ("prediction", "answers", "exact", "overlap"),
    [
        ("the 308 points.", ["308 Points"], 1, 1),
        ("308", ["308 points"], 0, 2 / 3),  # precision 1, recall 1/2
        ("308 points", ["points 308"], 0, 1),  # words in any order
        ("points points", ["points"], 0, 2 / 3),  # a word counts as often as both have it
        ("cats", ["dogs"], 0, 0),
        ("308", ["dogs", "308 points scored", "308 points"], 0, 2 / 3),
        ("in the hall", ["hall", "in the hall"], 1, 1),
        ("", ["308"], 0, 0),
        ("", [], 1, 1),
        ("308", [], 0, 0),
        ("the", ["308"], 0, 0),
        ("", ["the"], 1, 1),  # an answer of which nothing is left is none, as in SQuAD 2.0
        ("308", ["the", "308"], 1, 1),
    ],
)
def test_a_prediction_is_held_against_the_nearest_answer(
    prediction: str, answers: list[str], exact: float, overlap: float
) -> None:
    assert exact_match(prediction, answers) == exact
    assert f1(prediction, answers) == pytest.approx(overlap)
