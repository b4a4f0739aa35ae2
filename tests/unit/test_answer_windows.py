"""Windows are those of transformers, and point to the tokens of the answer or to CLS."""

from collections.abc import Sequence

import numpy as np
import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import BatchEncoding, PreTrainedTokenizerFast

from edgefuse_devices.errors import DataError
from edgefuse_runtime.data.tokenization import limit_length
from edgefuse_runtime.tasks.answer_spans import LONGEST, Search
from edgefuse_runtime.tasks.answer_windows import Window, cut_windows, usual_stride
from edgefuse_runtime.tasks.answered_questions import Answer, Question
from tests.pico_models import TEXTS, pico_tokenizer

CONTEXT = ". ".join(TEXTS)
QUESTIONS = ("is the film good", "where", "what is on in the kitchen")
SPECIAL = {"cls_token": "<s>", "sep_token": "</s>", "pad_token": "<pad>", "bos_token": "<s>"}


def byte_level(**options: str) -> PreTrainedTokenizerFast:
    """A token for every byte, and RoBERTa's four special tokens around a pair."""
    tokens = [*SPECIAL.values(), *sorted(pre_tokenizers.ByteLevel.alphabet())]
    vocabulary = {token: index for index, token in enumerate(dict.fromkeys(tokens))}
    tokenizer = Tokenizer(models.BPE(vocabulary, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.RobertaProcessing(
        ("</s>", vocabulary["</s>"]), ("<s>", vocabulary["<s>"])
    )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **SPECIAL, **options)


def sentence_piece(**options: str) -> PreTrainedTokenizerFast:
    """A token for every character, blanks joined to the words behind them, and one to begin."""
    characters = sorted({*CONTEXT, *"abcdefghijklmnopqrstuvwxyz▁?"})
    vocabulary = {token: index for index, token in enumerate(["<unk>", "<s>", *characters])}
    tokenizer = Tokenizer(models.BPE(vocabulary, [], unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s>:1 $B:1", special_tokens=[("<s>", vocabulary["<s>"])]
    )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", **options)


def bert_that_cuts_the_beginning() -> PreTrainedTokenizerFast:
    wrapper = pico_tokenizer()
    wrapper.truncation_side = "left"
    return wrapper


WRAPPERS = {
    "bert": pico_tokenizer,
    "bert, cut on the left": bert_that_cuts_the_beginning,
    "roberta": byte_level,
    "llama": sentence_piece,
}


def backend_of(wrapper: PreTrainedTokenizerFast, length: int) -> Tokenizer:
    backend = Tokenizer.from_str(wrapper.backend_tokenizer.to_str())
    limit_length(backend, length, wrapper.truncation_side)
    return backend


def nulls(wrapper: PreTrainedTokenizerFast) -> list[int]:
    return [token for token in (wrapper.cls_token_id, wrapper.bos_token_id) if token is not None]


def cut(
    wrapper: PreTrainedTokenizerFast,
    questions: Sequence[Question],
    length: int,
    stride: int | None = None,
) -> list[list[Window]]:
    backend = backend_of(wrapper, length)
    windows = cut_windows(backend, questions, stride=stride, null_tokens=nulls(wrapper))
    return list(windows)


def of_transformers(
    wrapper: PreTrainedTokenizerFast, question: Question, length: int, stride: int
) -> BatchEncoding:
    return wrapper(
        question.text,
        question.context,
        truncation="only_second",
        max_length=length,
        stride=stride,
        return_overflowing_tokens=True,
        return_offsets_mapping=True,
        return_token_type_ids=True,
    )


def about(text: str, context: str = CONTEXT, answer: str = "") -> Question:
    answers = (Answer(answer, context.index(answer)),) if answer else ()
    return Question("rows.jsonl:1", text, context, answers)


@pytest.mark.parametrize("kind", WRAPPERS)
@pytest.mark.parametrize(("length", "stride"), [(40, 7), (48, 0), (62, 20), (600, 128)])
def test_windows_are_those_of_transformers(kind: str, length: int, stride: int) -> None:
    wrapper = WRAPPERS[kind]()
    questions = [about(text) for text in QUESTIONS]
    for question, windows in zip(questions, cut(wrapper, questions, length, stride), strict=True):
        expected = of_transformers(wrapper, question, length, stride)
        assert {window.windows for window in windows} == {len(expected["input_ids"])}
        for index, window in enumerate(windows):
            assert window.row is question
            assert window.token_ids.tolist() == expected["input_ids"][index]
            assert window.token_types.tolist() == expected["token_type_ids"][index]
            texts = expected.sequence_ids(index)
            offsets = expected["offset_mapping"][index]
            own = [place for place, text in zip(offsets, texts, strict=True) if text == 1]
            assert window.offsets.tolist() == [list(place) for place in own]
            assert texts[window.first] == 1
            assert texts[window.first - 1] != 1


@pytest.mark.parametrize("kind", WRAPPERS)
@pytest.mark.parametrize("answer", ["warm", "turn on the lamp", "cold. less", "less is more", "th"])
def test_windows_point_to_the_answer_where_they_hold_all_of_it(kind: str, answer: str) -> None:
    wrapper = WRAPPERS[kind]()
    question = about("where", answer=answer)
    (windows,) = cut(wrapper, [question], 40, 9)
    expected = of_transformers(wrapper, question, 40, 9)
    begin, end = question.answers[0].start, question.answers[0].start + len(answer)
    held = 0
    for index, window in enumerate(windows):
        first = expected.char_to_token(index, begin, 1)
        last = expected.char_to_token(index, end - 1, 1)
        held += first is not None and last is not None
        null = window.token_ids.tolist().index(nulls(wrapper)[0])
        whole = first is not None and last is not None
        assert window.span == ((first, last) if whole else (null, null))
        assert window.null == null
    assert 0 < held < len(windows)


def test_an_answer_longer_than_any_window_is_in_none() -> None:
    (windows,) = cut(pico_tokenizer(), [about("where", answer=CONTEXT)], 16)
    assert {window.span for window in windows} == {(0, 0)}


def test_blanks_around_an_answer_are_none_of_its_tokens() -> None:
    ((window,),) = cut(pico_tokenizer(), [about("where", "a good film", " good ")], 30)
    first = window.first + 1
    assert window.span == (first, first)


def test_all_tokens_of_a_character_belong_to_the_answer() -> None:
    context = "on 💡 off"
    ((window,),) = cut(byte_level(), [about("x", context, "💡")], 60)
    first, last = window.span
    assert last - first + 1 == len("💡".encode())
    places = window.offsets[first - window.first : last - window.first + 1]
    assert places.tolist() == [[3, 4]] * 4  # characters, not bytes


def test_a_tokenizer_without_special_tokens_points_to_the_first() -> None:
    backend = Tokenizer(models.WordLevel({"where": 0, "here": 1, "it": 2, "is": 3}))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    limit_length(backend, 4, "right")
    question = about("where", "here it is here it is", "here")
    (windows,) = cut_windows(backend, [question], stride=1, null_tokens=[])
    assert [window.span for window in windows] == [(1, 1), (0, 0), (0, 0)]


def test_the_tokenizer_cuts_texts_again_as_it_did() -> None:
    backend = backend_of(pico_tokenizer(), 20)
    before = backend.truncation
    list(cut_windows(backend, [about("where")], stride=3, null_tokens=[]))
    assert backend.truncation == before
    with pytest.raises(DataError):
        list(cut_windows(backend, [about("good " * 30)], stride=3, null_tokens=[]))
    assert backend.truncation == before


@pytest.mark.parametrize(("length", "stride"), [(512, 128), (384, 128), (128, 42), (16, 5)])
def test_windows_share_128_tokens_or_a_third(length: int, stride: int) -> None:
    assert usual_stride(length) == stride


def test_a_long_question_gets_windows_that_share_less() -> None:
    wrapper = pico_tokenizer()
    long, short = about("good " * 14), about("good")
    windows = cut(wrapper, [long, short], 24, 9)  # 24 - 3 special - 14 = 7 are left
    for question, own, shared in zip((long, short), windows, (3, 9), strict=True):
        expected = of_transformers(wrapper, question, 24, shared)["input_ids"]
        assert [window.token_ids.tolist() for window in own] == expected


def test_questions_and_contexts_that_no_window_holds_are_refused() -> None:
    wrapper = pico_tokenizer()
    with pytest.raises(DataError, match=r"rows.jsonl:1 has a question of 21 tokens.*window of 24"):
        cut(wrapper, [about("good " * 21)], 24)
    ((window,),) = cut(wrapper, [about("good " * 20, "film")], 24)
    assert len(window.token_ids) == 24
    for question in (about("привет"), about("where", "привет")):
        with pytest.raises(DataError, match=r"rows.jsonl:1 .* without a character that"):
            cut(sentence_piece_without_unknowns(), [question], 24)


def sentence_piece_without_unknowns() -> PreTrainedTokenizerFast:
    letters = {letter: index for index, letter in enumerate("abcdefghijklmnopqrstuvwxyz")}
    return PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.BPE(letters, [])))


def best_by_hand(
    context: str, windows: Sequence[Window], logits: Sequence[np.ndarray]
) -> dict[tuple[int, int], float]:
    """Scores of the 20 best spans, by trying every first and last token."""
    scores: dict[tuple[int, int], float] = {}
    for window, (starts, ends) in zip(windows, logits, strict=True):
        for first, (start, _) in enumerate(window.offsets):
            for last, (_, end) in enumerate(window.offsets):
                if not 0 <= last - first < LONGEST:
                    continue
                score = starts[window.first + first] + ends[window.first + last]
                text = context[start:end]
                begin = int(start) + len(text) - len(text.lstrip())
                place = (begin, begin + len(text.strip()))
                if text.strip():
                    scores[place] = max(float(score), scores.get(place, -np.inf))
    best = sorted(scores.items(), key=lambda entry: -entry[1])[:20]
    return dict(best)


@pytest.mark.parametrize("kind", WRAPPERS)
@pytest.mark.parametrize("seed", range(3))
def test_the_best_span_of_all_windows_is_found(kind: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    (windows,) = cut(WRAPPERS[kind](), [about("where")], 48)
    logits = [rng.normal(size=(2, len(w.token_ids) + 5)).astype(np.float32) for w in windows]
    expected = best_by_hand(CONTEXT, windows, logits)
    search = Search(CONTEXT)
    order = rng.permutation(len(windows))
    for index in order:
        search.add(windows[index], *logits[index])
    (start, end), score = next(iter(expected.items()))
    shares = np.exp(np.array([*expected.values()]) - score)

    found = search.best(unanswerable=False)
    assert (found.start, found.end, found.text) == (start, end, CONTEXT[start:end])
    assert found.probability == pytest.approx(1 / shares.sum(), rel=1e-5)

    nulls = [float(pair[:, w.null].sum()) for w, pair in zip(windows, logits, strict=True)]
    found = search.best(unanswerable=True)
    assert (found.start, found.end) == (start, end)  # all windows would have to say so
    assert min(nulls) < score


def test_no_answer_wins_where_every_window_says_so() -> None:
    (windows,) = cut(pico_tokenizer(), [about("where")], 24)
    search, logits = Search(CONTEXT), np.zeros((2, 24), np.float32)
    for window in windows:
        logits[:, window.null] = 2
        search.add(window, *logits)
    found = search.best(unanswerable=True)
    assert (found.text, found.start, found.end) == ("", 0, 0)
    # 20 are kept: it with a score of 4, and 19 spans with a score of 0.
    assert found.probability == pytest.approx(np.exp(4) / (np.exp(4) + 19))
    assert search.best(unanswerable=False).text
