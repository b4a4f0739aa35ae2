"""Rows of sentence similarity, its batches and its figures."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

from edgefuse.demo.command_search import COMMANDS, make_search_splits
from edgefuse.demo.smart_home import make_splits
from edgefuse_devices.errors import DataError
from edgefuse_export.tasks.sentence_similarity import WantedSentenceSimilarity
from edgefuse_runtime.tasks.correlation import pearson, spearman
from edgefuse_runtime.tasks.retrieval_metrics import nearest
from edgefuse_runtime.tasks.sentence_similarity import SentenceSimilarity

WORDS = ["stop", "go", "on", "turn", "lamp", "film", "sad", "good", "door", "open", "shut"]
RANKING = SentenceSimilarity()
TRIPLES = SentenceSimilarity(negatives=True)
SCORES = SentenceSimilarity(problem_type="regression", highest_score=5.0)


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    vocabulary = {word: index for index, word in enumerate(["[PAD]", "[UNK]", *WORDS])}
    made = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    return made


def written(path: Path, rows: Sequence[dict[str, Any]]) -> Path:
    file = path / "rows.jsonl"
    file.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return file


def pairs(*rows: tuple[str, ...]) -> list[dict[str, str]]:
    return [dict(zip(("anchor", "positive", "negative"), row, strict=False)) for row in rows]


def decoded(feeds: dict[str, np.ndarray], indices: np.ndarray) -> list[str]:
    ids = feeds["input_ids"][indices]
    return [" ".join(WORDS[i - 2] for i in row if i > 1) for row in ids]


def test_a_text_that_occurs_again_is_embedded_once_and_is_one_candidate(
    tokenizer: Tokenizer, tmp_path: Path
) -> None:
    rows = pairs(("go on", "go"), ("turn on", "go"), ("stop", "shut"))
    examples = RANKING.read(written(tmp_path, rows), tokenizer)
    feeds = RANKING.collate(examples, padding_id=0)
    assert feeds["input_ids"].shape == feeds["attention_mask"].shape == (5, 2)
    assert decoded(feeds, feeds["anchors"]) == ["go on", "turn on", "stop"]
    assert decoded(feeds, feeds["candidates"]) == ["go", "shut"]
    assert feeds["labels"].tolist() == [0, 0, 1]
    assert feeds["comparable"].all()


def test_what_belongs_to_an_anchor_by_another_row_is_no_negative_of_it(
    tokenizer: Tokenizer, tmp_path: Path
) -> None:
    rows = pairs(("go", "go on", "film"), ("stop", "shut", "go on"), ("go", "on"), ("go on", "go"))
    examples = TRIPLES.read(written(tmp_path, rows), tokenizer)
    feeds = TRIPLES.collate(examples[:2] + examples[3:], padding_id=0)
    candidates = decoded(feeds, feeds["candidates"])
    assert candidates == ["go on", "shut", "go", "film"]
    assert feeds["labels"].tolist() == [0, 1, 2]
    compared = [
        {text for text, counts in zip(candidates, row, strict=True) if counts}
        for row in feeds["comparable"]
    ]
    # "go" is the first row's own anchor; "go on" is a negative of the second row, as it says.
    assert compared == [{"go on", "shut", "film"}, {*candidates}, {"shut", "go", "film"}]
    alone = TRIPLES.collate([examples[0], examples[2]], padding_id=0)
    assert decoded(alone, alone["candidates"]) == ["go on", "on", "film"]
    assert alone["comparable"].tolist() == [[True, False, True], [False, True, True]]


def test_scores_are_divided_by_the_highest(tokenizer: Tokenizer, tmp_path: Path) -> None:
    rows = [
        {"text": "sad film", "text_pair": "good film", "score": 1},
        {"text": "good film", "text_pair": "good film", "score": "5.0"},
    ]
    feeds = SCORES.collate(SCORES.read(written(tmp_path, rows), tokenizer), padding_id=0)
    assert decoded(feeds, feeds["firsts"]) == ["sad film", "good film"]
    assert decoded(feeds, feeds["seconds"]) == ["good film", "good film"]
    assert feeds["scores"].tolist() == pytest.approx([0.2, 1.0])
    assert len(feeds["input_ids"]) == 2


def test_a_prompt_stands_before_every_text(tokenizer: Tokenizer, tmp_path: Path) -> None:
    task = SentenceSimilarity(prompt="turn ")
    (example,) = task.read(written(tmp_path, pairs(("on", "go"))), tokenizer)
    assert [ids.tolist() for ids in example.encoded] == [
        tokenizer.encode("turn on").ids,
        tokenizer.encode("turn go").ids,
    ]


@pytest.mark.parametrize(
    ("task", "row", "sentence"),
    [
        (RANKING, {"anchor": "go"}, r'rows.jsonl:2 has no "positive"'),
        (RANKING, {"anchor": "go", "positive": " "}, r':2 has an empty "positive"'),
        (RANKING, {"anchor": "go", "positive": 3}, r':2 has no "positive"'),
        (RANKING, {"text": "go", "text_pair": "on", "score": 1}, "--problem-type regression"),
        (RANKING, {"anchor": "go", "positive": "on", "negative": "no"}, "Export with --negatives"),
        (TRIPLES, {"anchor": "go", "positive": "on", "negative": "on"}, 'as "positive" and "nega'),
        (SCORES, {"anchor": "go", "positive": "on"}, "--problem-type ranking"),
        (SCORES, {"text": "go", "score": 1}, r':2 has no "text_pair"'),
        (SCORES, {"text": "go", "text_pair": "on"}, r':2 has no "score"'),
        (SCORES, {"text": "go", "text_pair": "on", "score": "high"}, "'high', which is no number"),
        (SCORES, {"text": "go", "text_pair": "on", "score": True}, "True, which is no number"),
        (SCORES, {"text": "go", "text_pair": "on", "score": -1}, "score -1, outside 0 to 5"),
        (SCORES, {"text": "go", "text_pair": "on", "score": 7.5}, "as --highest-score 5 for STS-B"),
    ],
)
def test_broken_rows_are_refused_with_file_and_line(
    task: SentenceSimilarity,
    row: dict[str, Any],
    sentence: str,
    tokenizer: Tokenizer,
    tmp_path: Path,
) -> None:
    good = {"anchor": "go", "positive": "on"}
    if task is SCORES:
        good = {"text": "go", "text_pair": "on", "score": 2}
    with pytest.raises(DataError, match=sentence):
        task.read(written(tmp_path, [good, row]), tokenizer)


def test_a_text_without_a_token_is_named_by_its_place(tokenizer: Tokenizer, tmp_path: Path) -> None:
    file = tmp_path / "rows.csv"
    file.write_text('anchor,positive\n"go\non",on\n?,go\n')
    deaf = Tokenizer.from_str(tokenizer.to_str())
    deaf.normalizer = normalizers.Replace("?", "")
    with pytest.raises(DataError, match=r"rows\.csv:4 has no character"):
        RANKING.read(file, deaf)


def test_a_ranking_without_negatives_holds_two_rows_together() -> None:
    assert [task.smallest_batch for task in (RANKING, TRIPLES, SCORES)] == [2, 1, 1]


def test_correlations_are_scipys() -> None:
    rng = np.random.default_rng(0)
    first, second = rng.integers(0, 6, 50) / 5, rng.normal(size=50)
    assert pearson(first, second) == pytest.approx(stats.pearsonr(first, second).statistic)
    assert spearman(first, second) == pytest.approx(stats.spearmanr(first, second).statistic)
    assert spearman(first, np.ones(50)) == 0


def test_an_anchor_does_not_find_itself(tokenizer: Tokenizer, tmp_path: Path) -> None:
    """`go` is a positive too, and nearest to itself."""
    rows = pairs(("go", "on"), ("stop", "go"))
    examples = RANKING.read(written(tmp_path, rows), tokenizer)
    vectors = {"go": [1.0, 0.0], "on": [0.9, 0.1], "stop": [0.0, 1.0]}
    metric = RANKING.metric()
    feeds = RANKING.collate(examples, padding_id=0)
    every = np.arange(len(feeds["input_ids"]))
    embeddings = np.array([vectors[text] for text in decoded(feeds, every)], np.float32)
    metric.update(examples, feeds, {"sentence_embedding": embeddings})
    # `stop` is nearer to `on` than to `go`, which is its positive and second.
    assert metric.result() == {"recall_at_1": 0.5, "mrr_at_10": 0.75}


def test_vectors_that_are_all_the_same_find_nothing_but_by_chance() -> None:
    vectors = np.ones((50, 4), np.float32)
    found = nearest(vectors, vectors, 3)
    assert sum(indices[0] == query for query, (indices, _) in enumerate(found)) == 1


def test_the_nearest_texts_come_with_their_cosines() -> None:
    corpus = np.array([[0, 2], [3, 3], [1, 0]], np.float32)
    ((indices, cosines),) = nearest(np.array([[5, 0]], np.float32), corpus, 9)
    assert indices == [2, 1, 0]
    assert cosines == pytest.approx([1, np.sqrt(0.5), 0], abs=1e-6)


def test_sentences_of_the_demo_have_one_command_for_each_action() -> None:
    splits = make_search_splits(train=60, valid=20, test=20)
    commands = [row["text"] for row in splits.pop("commands")]
    assert len(set(commands)) == len(COMMANDS)
    assert not [command for command in commands if "{" in command]
    labelled = make_splits(train=60, valid=20, test=20)
    for name, rows in splits.items():
        assert [COMMANDS[row["label"]] for row in labelled[name]] == [r["positive"] for r in rows]
        assert {row["positive"] for row in rows} <= {*commands}


def test_rows_show_what_they_teach(tmp_path: Path) -> None:
    asked = WantedSentenceSimilarity()
    scored = written(tmp_path, [{"text": "go", "text_pair": "on", "score": 1}])
    assert asked.of_rows(scored).problem_type == "regression"
    assert not asked.of_rows(written(tmp_path, pairs(("go", "on")))).negatives
    assert asked.of_rows(written(tmp_path, pairs(("go", "on"), ("a", "b", "c")))).negatives
