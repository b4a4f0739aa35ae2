"""How texts are written: which token, when it ends, what is shown on the way, how it is judged."""

import random
from collections.abc import Mapping, Sequence
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from sacrebleu.metrics import BLEU, CHRF
from transformers import TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

from edgefuse_devices.errors import InputError
from edgefuse_runtime.tasks.generation import GenerationOptions, Writer
from edgefuse_runtime.tasks.sampling import Sampler, probabilities
from edgefuse_runtime.tasks.text_metrics import TextMetric
from edgefuse_runtime.tasks.text_stream import decode, part_before, stream_before, stream_text
from tests.pico_causal import byte_tokenizer

TEXT = "turn on the lamp, très bien: 你好, 👩‍🚀 and naïve"


@pytest.mark.parametrize(
    ("temperature", "top_k", "top_p"), [(0.7, 0, 1.0), (1.5, 5, 1.0), (1.0, 0, 0.6), (0.9, 8, 0.5)]
)
def test_tokens_are_drawn_by_the_chances_of_transformers(
    temperature: float, top_k: int, top_p: float
) -> None:
    logits = np.random.default_rng(0).normal(scale=2, size=40).astype(np.float32)
    scores = TemperatureLogitsWarper(temperature)(None, torch.from_numpy(logits)[None])
    if top_k:
        scores = TopKLogitsWarper(top_k)(None, scores)
    if top_p < 1:
        scores = TopPLogitsWarper(top_p)(None, scores)
    expected = scores.softmax(dim=-1)[0].numpy()
    np.testing.assert_allclose(
        probabilities(logits, temperature, top_k, top_p), expected, atol=1e-6
    )


def test_a_seed_draws_the_same_tokens_and_another_one_others() -> None:
    logits = np.zeros(1000, np.float32)

    def drawn(seed: int) -> list[int]:
        sampler = Sampler(1.0, seed=seed)
        return [sampler.choose(logits) for _ in range(5)]

    assert drawn(1) == drawn(1) != drawn(2)


def writer(texts: Sequence[str], rooms: Sequence[int] | None = None) -> Writer:
    """A model that knows these texts by heart, and nothing else."""
    tokenizer = byte_tokenizer()
    end = tokenizer.token_to_id("<|end|>")
    known = [[*tokenizer.encode(text).ids, end] for text in texts]

    def step(written: Mapping[int, Sequence[int]]) -> np.ndarray:
        logits = np.zeros((len(written), tokenizer.get_vocab_size()), np.float32)
        for line, (row, ids) in zip(logits, written.items(), strict=True):
            assert known[row][: len(ids)] == ids
            line[known[row][len(ids)]] = 9
        return logits

    return Writer(step, rooms or [1000] * len(texts), {end}, tokenizer)


def asked(*prompts: str) -> list[SimpleNamespace]:
    return [SimpleNamespace(prompt=prompt, number=n) for n, prompt in enumerate(prompts)]


def test_texts_of_a_batch_end_each_at_its_own_end() -> None:
    long, none = "the movie was very dull", ""
    texts = writer([TEXT, none, long], rooms=[1000, 1000, 4])
    written = texts.write(asked("a", "b", "c"), GenerationOptions())
    assert [one.text for one in written[:2]] == [TEXT, none]
    assert [one.finish_reason for one in written] == ["stop", "stop", "length"]
    assert long.startswith(written[2].text)
    assert written[2].tokens == 4
    assert [one.prompt for one in written] == ["a", "b", "c"]
    short = texts.write(asked("a", "b", "c"), GenerationOptions(max_new_tokens=2))
    assert [one.tokens for one in short] == [2, 0, 2]


def test_pieces_come_token_by_token_and_never_as_half_a_character() -> None:
    pieces = list(writer([TEXT]).stream(asked("a")[0], GenerationOptions()))
    assert "".join(pieces) == TEXT
    assert len(pieces) > 20
    assert not any("\ufffd" in piece for piece in pieces)


def test_bytes_that_never_become_a_character_are_shown_at_the_end() -> None:
    tokenizer = byte_tokenizer()
    ids = tokenizer.encode("warm 你").ids[:-1]
    assert "".join(stream_text(tokenizer, ids)) == decode(tokenizer, ids) == "warm \ufffd"


@pytest.mark.parametrize("stop", [("the",), ("p, tr", "lamp,"), ("你好, 👩",), ("zzz", "naïvety")])
def test_a_text_ends_before_a_stop_text_as_a_whole_and_in_pieces(stop: tuple[str, ...]) -> None:
    expected = TEXT[: min((TEXT.index(one) for one in stop if one in TEXT), default=len(TEXT))]
    options = GenerationOptions(stop=stop)
    long = "the movie was very dull"
    written, other = writer([TEXT, long]).write(asked("a", "b"), options)
    assert (written.text, written.finish_reason) == (expected, "stop")
    assert (other.text == long) == ("the" not in stop)
    pieces = list(writer([TEXT]).stream(asked("a")[0], options))
    assert "".join(pieces) == expected
    assert all(pieces)
    if expected != TEXT:
        assert written.tokens < len(byte_tokenizer().encode(TEXT).ids)


def test_a_stop_text_at_the_limit_has_stopped_the_text() -> None:
    count = len(byte_tokenizer().encode("turn on").ids)
    options = GenerationOptions(max_new_tokens=count, stop=("on",))
    (written,) = writer(["turn on the lamp"]).write(asked("a"), options)
    assert (written.text, written.finish_reason) == ("turn ", "stop")


@pytest.mark.parametrize("seed", range(20))
def test_a_stop_text_is_found_however_a_text_is_cut(seed: int) -> None:
    rng = random.Random(seed)
    text = "".join(rng.choices("ab\n", k=30))
    stops = ["".join(rng.choices("ab\n", k=rng.randrange(2, 6))) for _ in range(2)]
    pieces, begin = [], 0
    while begin < len(text):
        end = begin + rng.randrange(1, 5)
        pieces.append(text[begin:end])
        begin = end
    asked_for = iter(pieces)
    assert "".join(stream_before(stops, asked_for)) == part_before(stops, text)
    taken = pieces[: len(pieces) - len([*asked_for])]  # no more than it takes
    assert not any(stop in "".join(taken[:-1]) for stop in stops)


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"stop": ("",)}, "--stop is empty"),
        ({"max_new_tokens": 0}, "--max-new-tokens is 0"),
        ({"temperature": -1.0}, "--temperature is -1"),
        ({"temperature": float("nan")}, "--temperature is nan"),
        ({"top_k": -1}, "--top-k is -1"),
        ({"top_p": 0.0}, "--top-p is 0"),
        ({"seed": -1}, "--seed is -1"),
    ],
)
def test_an_option_out_of_range_is_refused(options: dict[str, object], complaint: str) -> None:
    with pytest.raises(InputError, match=complaint):
        GenerationOptions(**options)


def corpus(seed: int, references: int, longest: int = 14) -> list[tuple[str, list[str]]]:
    """Texts and good ones, which share some words."""
    rng = random.Random(seed)
    words = ["The", "lamp,", "is", "on.", "the", "3.5", "door-bell", "4-5", "&quot;it&amp;"]
    words += ["café", "你好", "(open)", "$2,000", "a"]

    def text() -> str:
        return " ".join(rng.choices(words, k=rng.randrange(1, longest)))

    return [(text(), [text() for _ in range(references)]) for _ in range(12)]


@pytest.mark.parametrize(
    "pairs",
    [
        corpus(0, 1),
        corpus(1, 3),
        corpus(2, 1, longest=3),
        [("the lamp is on", ["the lamp is on"])],
        [("", ["the lamp"]), ("x y", ["the lamp"])],
        [("the lamp is off now", ["the lamp is on now and then, they say"])],
    ],
)
def test_chrf_and_bleu_are_sacrebleus(pairs: list[tuple[str, list[str]]]) -> None:
    metric = TextMetric()
    for text, references in pairs:
        metric.update(text, references)
    texts = [text for text, _ in pairs]
    streams = [list(column) for column in zip(*(good for _, good in pairs), strict=True)]
    found = metric.result()
    assert found["chrf"] == pytest.approx(CHRF().corpus_score(texts, streams).score, abs=1e-9)
    assert found["bleu"] == pytest.approx(BLEU().corpus_score(texts, streams).score, abs=1e-9)


def test_a_text_matches_exactly_whatever_stands_around_it() -> None:
    metric = TextMetric()
    metric.update(" on\n", ["off", "on"])
    metric.update("On", ["on"])
    assert metric.result()["exact_match"] == 0.5
