from collections import Counter

import pytest
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

from edgefuse.demo.lexicon import TEST_FRAMES
from edgefuse.demo.smart_home import LABELS, Row, make_splits


@pytest.fixture(scope="module")
def splits() -> dict[str, list[Row]]:
    return make_splits(seed=0)


def _columns(rows: list[Row]) -> tuple[list[str], list[str]]:
    return [row["text"] for row in rows], [row["label"] for row in rows]


def test_a_seed_gives_the_same_sentences_and_another_seed_others(
    splits: dict[str, list[Row]],
) -> None:
    assert make_splits(seed=0) == splits
    assert make_splits(seed=1) != splits


def test_no_sentence_occurs_twice_within_or_across_splits(splits: dict[str, list[Row]]) -> None:
    texts = [row["text"] for rows in splits.values() for row in rows]
    assert len(texts) == len(set(texts)) == 1200 + 200 + 500


@pytest.mark.parametrize("name", ["train", "valid", "test"])
def test_labels_are_spread_evenly(splits: dict[str, list[Row]], name: str) -> None:
    counts = Counter(row["label"] for row in splits[name])
    assert set(counts) == set(LABELS)
    assert max(counts.values()) - min(counts.values()) <= 1


def test_every_slot_is_filled(splits: dict[str, list[Row]]) -> None:
    assert not [row for rows in splits.values() for row in rows if "{" in row["text"]]


def test_some_frames_are_kept_for_the_test_split(splits: dict[str, list[Row]]) -> None:
    kept = ["I want you to", "tomorrow, now", "sorry, I meant"]
    assert all(any(words in frame for frame in TEST_FRAMES) for words in kept)
    for words in kept:
        assert not [row for row in splits["train"] + splits["valid"] if words in row["text"]]
        assert [row for row in splits["test"] if words in row["text"]]


@pytest.mark.parametrize("longest", [1, 2])
def test_a_bag_of_words_learns_something_and_does_not_solve_it(
    splits: dict[str, list[Row]], longest: int
) -> None:
    bag = make_pipeline(
        TfidfVectorizer(token_pattern=r"[\w']+", ngram_range=(1, longest)),
        LogisticRegression(C=10, max_iter=2000),
    )
    bag.fit(*_columns(splits["train"]))
    assert 0.4 < bag.score(*_columns(splits["test"])) < 0.75
