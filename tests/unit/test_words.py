"""Words have the token ids that transformers gives them, and their first pieces are found."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from tokenizers import (
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from edgefuse.hub.silence import silence_transformers
from edgefuse.hub.source import find_source
from edgefuse.hub.tokenizer import ModelTokenizer, load_padding_tokenizer
from edgefuse_devices.errors import ModelError
from edgefuse_runtime.data.words import NO_WORD, Words, encode_words, split_texts
from tests.pico_models import TEXTS, pico_config, pico_tokenizer

WORDS = [
    ["turn", "on", "the", "unknown", "lamp", "."],
    ["Größe", "don't", "2023", "你好", "@user", "😀"],
    ["\u200d", "lamp"],
]
VOCABULARY = 500  # enough for each word of the pico texts to be a piece
MARKS = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
SPECIAL = {
    "bos_token": "<s>",
    "cls_token": "<s>",
    "eos_token": "</s>",
    "sep_token": "</s>",
    "pad_token": "<pad>",
    "unk_token": "<unk>",
    "mask_token": "<mask>",
}
SPLIT = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s+"


def byte_level(pre_tokenizer: pre_tokenizers.PreTokenizer) -> Tokenizer:
    """A byte-level BPE that was trained on the pico texts, and adds <s> and </s>."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizer
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=MARKS,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([f" {text}" for text in TEXTS], trainer)
    tokenizer.post_processor = processors.RobertaProcessing(
        ("</s>", 2), ("<s>", 0), trim_offsets=True, add_prefix_space=False
    )
    return tokenizer


def llamas(pre_tokenizer: pre_tokenizers.PreTokenizer | None) -> Tokenizer:
    """A BPE over words that begin with ▁; Llama 2's has no pre-tokenizer."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True))
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Split("▁", "merged_with_next")  # to train by words
    trainer = trainers.BpeTrainer(vocab_size=150, special_tokens=MARKS, show_progress=False)
    tokenizer.train_from_iterator(TEXTS, trainer)
    if pre_tokenizer is None:  # Tokenizer.pre_tokenizer takes no None
        tokenizer = Tokenizer.from_str(
            json.dumps(json.loads(tokenizer.to_str()) | {"pre_tokenizer": None})
        )
    else:
        tokenizer.normalizer = normalizers.NFC()
        tokenizer.pre_tokenizer = pre_tokenizer
    return tokenizer


def saved(folder: Path, tokenizer: Tokenizer, kind: str, name: str) -> Path:
    folder.mkdir(parents=True)
    pico_config(kind).save_pretrained(folder)
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {"tokenizer_class": name, **SPECIAL}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return folder


def berts(folder: Path) -> Path:
    pico_config("bert").save_pretrained(folder)
    with silence_transformers():
        pico_tokenizer("bert").save_pretrained(folder)
    return folder


ROBERTAS = pre_tokenizers.ByteLevel(add_prefix_space=False)
QWENS = pre_tokenizers.Sequence(
    [
        pre_tokenizers.Split(Regex(SPLIT), "isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ]
)
KINDS: dict[str, Callable[[Path], Path]] = {
    "BERT": berts,
    "RoBERTa": lambda f: saved(f, byte_level(ROBERTAS), "roberta", "RobertaTokenizer"),
    "GPT-2": lambda f: saved(f, byte_level(ROBERTAS), "gpt2", "GPT2Tokenizer"),
    "Llama 3": lambda f: saved(f, byte_level(QWENS), "llama", "PreTrainedTokenizerFast"),
    "Llama 2": lambda f: saved(f, llamas(None), "llama", "PreTrainedTokenizerFast"),
}


@pytest.fixture(scope="module", params=KINDS)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return KINDS[request.param](tmp_path_factory.mktemp("words") / "model")


@pytest.fixture(scope="module")
def tokenizer(folder: Path) -> ModelTokenizer:
    return load_padding_tokenizer(find_source(str(folder)), split_words=True)


def pieces(words: Words, index: int, tokenizer: Tokenizer) -> list[str]:
    """What follows a word's first piece up to the next word's, decoded."""
    (window,) = words.windows
    (first,) = np.flatnonzero(window.words == index)
    later = np.flatnonzero(window.words > index)
    last = later[0] if len(later) else len(window.token_ids)
    return tokenizer.decode(window.token_ids[first:last].tolist()).strip(" ▁")


def test_ids_of_words_are_transformers(tokenizer: ModelTokenizer, tmp_path: Path) -> None:
    ours = [row.token_ids.tolist() for row in encode_words(tokenizer.limited(60), WORDS)]
    assert ours == tokenizer.wrapper(WORDS, is_split_into_words=True)["input_ids"]
    tokenizer.save(tmp_path)
    with silence_transformers():
        again = AutoTokenizer.from_pretrained(tmp_path)
    assert ours == again(WORDS, is_split_into_words=True)["input_ids"]


def test_words_that_come_alone_are_read_as_in_a_text(tokenizer: ModelTokenizer) -> None:
    text = "turn off the light in the bedroom"
    (alone,) = encode_words(tokenizer.limited(60), [text.split()])
    (whole,) = split_texts(tokenizer.limited(60), [text])
    assert alone.token_ids.tolist() == whole.token_ids.tolist()
    assert alone.spans == whole.spans
    assert [*map(pieces_of(alone, tokenizer), range(7))] == text.split()
    assert np.array_equal(alone.windows[0].words, whole.windows[0].words)


def pieces_of(words: Words, tokenizer: ModelTokenizer) -> Callable[[int], str]:
    assert tokenizer.backend is not None
    backend = tokenizer.backend
    return lambda index: pieces(words, index, backend)


def test_long_texts_go_on_in_windows(tokenizer: ModelTokenizer) -> None:
    text = " ".join([*TEXTS, "Größe 2023 don't"])
    (whole,) = split_texts(tokenizer.limited(1000), [text])
    (cut,) = split_texts(tokenizer.limited(9), [text])
    (again,) = encode_words(tokenizer.limited(9), [[text[slice(*span)] for span in whole.spans]])
    assert len(cut.windows) > 5
    assert max(len(window.token_ids) for window in cut.windows) == 9
    assert cut.spans == whole.spans
    assert cut.kept == 0
    for words in (cut, again):
        found = np.concatenate([window.words for window in words.windows])
        assert found[found != NO_WORD].tolist() == list(range(len(whole.spans)))


def test_a_byte_level_tokenizer_without_the_space_gave_other_ids(tmp_path: Path) -> None:
    folder = KINDS["RoBERTa"](tmp_path / "model")
    plain = load_padding_tokenizer(find_source(str(folder)))
    mended = load_padding_tokenizer(find_source(str(folder)), split_words=True)
    assert plain.backend is not None
    words = [TEXTS[0].split()]
    (before,), (after,) = (encode_words(one.limited(99), words) for one in (plain, mended))
    assert before.token_ids.tolist() != after.token_ids.tolist()
    with silence_transformers():
        theirs = AutoTokenizer.from_pretrained(folder, add_prefix_space=True)
    assert after.token_ids.tolist() == theirs(words, is_split_into_words=True)["input_ids"][0]


def test_a_tokenizer_that_reads_words_otherwise_is_refused(tmp_path: Path) -> None:
    tokenizer = byte_level(ROBERTAS)
    tokenizer.normalizer = normalizers.Prepend("x")
    folder = saved(tmp_path / "model", tokenizer, "llama", "PreTrainedTokenizerFast")
    with pytest.raises(ModelError, match="makes other tokens of single words than of a text"):
        load_padding_tokenizer(find_source(str(folder)), split_words=True)


def spans_of(text: str, tokenizer: Tokenizer) -> list[str]:
    (words,) = split_texts(tokenizer, [text])
    return [text[slice(*span)] for span in words.spans]


def test_words_of_a_text_are_the_pre_tokenizers_and_digits_stay_together() -> None:
    text = " Ada's  2023\tLove-lace,\u00a0don't."
    bert = pico_tokenizer("bert").backend_tokenizer
    expected = ["Ada", "'", "s", "2023", "Love", "-", "lace", ",", "don", "'", "t", "."]
    assert spans_of(text, bert) == expected
    assert spans_of("in 2023", byte_level(QWENS)) == ["in", "2023"]
    assert spans_of("the lamp, 20 on.", llamas(None)) == ["the", "lamp,", "20", "on."]


def test_a_character_of_several_pieces_is_in_one_word() -> None:
    assert spans_of("é 😀 on", byte_level(ROBERTAS)) == ["é", "😀", "on"]


def test_a_plain_class_of_transformers_keeps_special_tokens(tmp_path: Path) -> None:
    folder = KINDS["Llama 3"](tmp_path / "model")
    mended = load_padding_tokenizer(find_source(str(folder)), split_words=True)
    assert type(mended.wrapper) is type(PreTrainedTokenizerFast.from_pretrained(folder))
    assert {**mended.wrapper.special_tokens_map} == SPECIAL
    assert mended.padding_id == MARKS.index("<pad>")
