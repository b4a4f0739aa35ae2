"""Token ids are those of the model's own tokenizer.json, whatever transformers makes of it."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import AutoModel, AutoTokenizer

from edgefuse.compression.calibration import batches_of
from edgefuse.hub.silence import silence_transformers
from edgefuse.hub.source import find_source
from edgefuse.hub.tokenizer import load_padding_tokenizer, load_tokenizer
from edgefuse_devices.errors import ModelError
from tests.pico_models import pico_config, pico_tokenizer

TEXTS = [
    "2023 100000 don't  double  space",
    "Hello WORLD 12345",
    " leading",
    "<|endoftext|> </s> [SEP]user",
    "Ünïcode Größe 你好 привет",
]
END = "<|endoftext|>"
ENDS = {"eos_token": END, "unk_token": END, "bos_token": END}
BERTS = {
    "unk_token": "[UNK]",
    "pad_token": "[PAD]",
    "cls_token": "[CLS]",
    "sep_token": "[SEP]",
    "mask_token": "[MASK]",
}
ROBERTAS = {
    "bos_token": "<s>",
    "cls_token": "<s>",
    "eos_token": "</s>",
    "sep_token": "</s>",
    "pad_token": "<pad>",
    "unk_token": "<unk>",
}


def saved(
    folder: Path, tokenizer: Tokenizer, kind: str, settings: dict[str, object], **config: object
) -> Path:
    """Save a model of that kind, without weights, with such a tokenizer."""
    folder.mkdir(parents=True)
    pico_config(kind).save_pretrained(folder)
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | config))
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return folder


def byte_level(*, prefix: bool = False, digits: bool = False, template: str = "") -> Tokenizer:
    """A small byte-level BPE, whose merges join digits."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: index for index, token in enumerate([END, *alphabet])}
    merges = [("2", "0"), ("20", "2"), ("1", "0"), ("0", "0"), ("1", "2"), ("12", "3"), ("Ġ", "d")]
    for left, right in merges:
        vocabulary[left + right] = len(vocabulary)
    tokenizer = Tokenizer(models.BPE(vocabulary, merges))
    level = pre_tokenizers.ByteLevel(add_prefix_space=prefix)
    split = [pre_tokenizers.Digits(individual_digits=True)] if digits else []
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([*split, level]) if split else level
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([END])
    if template:
        tokenizer.post_processor = processors.TemplateProcessing(
            single=template, pair="$A $B", special_tokens=[(END, vocabulary[END])]
        )
    return tokenizer


def sentence_pieces() -> Tokenizer:
    """A small Unigram model as XLM-RoBERTa's, which reads everything in lower case."""
    letters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789'<>|[]/."
    pieces = ["<s>", "<pad>", "</s>", "<unk>", "▁", *letters, "▁hello", "▁do", "<mask>"]
    vocabulary = [(piece, -float(index % 7)) for index, piece in enumerate(pieces)]
    tokenizer = Tokenizer(models.Unigram(vocabulary, unk_id=3))
    steps = [normalizers.NFKC(), normalizers.Lowercase()]
    tokenizer.normalizer = normalizers.Sequence(steps)
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="$A $B", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    tokenizer.add_special_tokens(["<s>", "<pad>", "</s>", "<unk>", "<mask>"])
    return tokenizer


def normalized(normalizer: normalizers.Normalizer) -> Tokenizer:
    """The pico WordPiece tokenizer with another normalizer."""
    tokenizer = pico_tokenizer("bert").backend_tokenizer
    tokenizer.normalizer = normalizer
    return tokenizer


ODD: dict[str, Callable[[Path], Path]] = {
    "qwen2 with a plain byte-level BPE": lambda folder: saved(
        folder, byte_level(), "qwen2", {"tokenizer_class": "PreTrainedTokenizerFast", **ENDS}
    ),
    "qwen2 with an end of text": lambda folder: saved(
        folder,
        byte_level(template=f"$A {END}"),
        "qwen2",
        {"tokenizer_class": "Qwen2Tokenizer", "add_bos_token": False, **ENDS},
    ),
    "gpt2 over digits": lambda folder: saved(
        folder, byte_level(digits=True), "gpt2", {"tokenizer_class": "GPT2Tokenizer", **ENDS}
    ),
    "gpt2 with a prefix space": lambda folder: saved(
        folder, byte_level(prefix=True), "gpt2", {"tokenizer_class": "GPT2Tokenizer", **ENDS}
    ),
    "gpt_neox with an end of text": lambda folder: saved(
        folder,
        byte_level(template=f"$A {END}"),
        "gpt_neox",
        {"tokenizer_class": "GPTNeoXTokenizer", **ENDS},
    ),
    "xlm-roberta in lower case": lambda folder: saved(
        folder,
        sentence_pieces(),
        "roberta",
        {"tokenizer_class": "XLMRobertaTokenizer", **ROBERTAS},
        model_type="xlm-roberta",
    ),
    "bert with another normalizer": lambda folder: saved(
        folder,
        normalized(normalizers.Sequence([normalizers.NFC(), normalizers.Replace("ü", "u")])),
        "bert",
        {"tokenizer_class": "BertTokenizer", "do_lower_case": True, **BERTS},
    ),
    "bert that keeps capitals": lambda folder: saved(
        folder,
        normalized(normalizers.BertNormalizer(lowercase=False)),
        "bert",
        {"tokenizer_class": "BertTokenizer", **BERTS},
    ),
}


@pytest.mark.parametrize("case", ODD)
def test_token_ids_are_those_of_the_models_own_file(case: str, tmp_path: Path) -> None:
    folder = ODD[case](tmp_path / "model")
    expected = [
        encoding.ids
        for encoding in Tokenizer.from_file(str(folder / "tokenizer.json")).encode_batch(TEXTS)
    ]
    with silence_transformers():
        theirs = AutoTokenizer.from_pretrained(folder)(TEXTS)["input_ids"]
    assert theirs != expected, "transformers has mended this; take another case"
    tokenizer = load_padding_tokenizer(find_source(str(folder)))
    assert [ids.tolist() for ids in tokenizer.encode(TEXTS, length=512)] == expected
    assert tokenizer.padding_id is not None

    tokenizer.save_backend(tmp_path, length=512)
    board = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    assert [encoding.ids for encoding in board.encode_batch(TEXTS)] == expected

    tokenizer.save(folder)  # over the source's own files
    again = load_tokenizer(find_source(str(folder)))
    assert [ids.tolist() for ids in again.encode(TEXTS, length=512)] == expected
    if "qwen2" not in case:  # whose tokenizer transformers builds anew whatever its files say
        with silence_transformers():
            theirs = AutoTokenizer.from_pretrained(folder)(TEXTS)["input_ids"]
        assert theirs == expected


def test_calibration_reads_by_the_models_own_file_too(tmp_path: Path) -> None:
    folder = ODD["gpt2 over digits"](tmp_path / "model")
    config = pico_config("gpt2")
    config.vocab_size = 300
    tokenizer = load_tokenizer(find_source(str(folder)))
    (batch,) = batches_of(AutoModel.from_config(config).eval(), tokenizer, ["2023 10"])
    own = Tokenizer.from_file(str(folder / "tokenizer.json"))
    assert batch["input_ids"].tolist() == [own.encode("2023 10").ids]


@pytest.mark.parametrize(
    ("tokenizer", "kind", "settings", "token"),
    [
        (byte_level(), "llama", {"add_bos_token": True, **ENDS}, END),
        (
            normalized(normalizers.BertNormalizer()),
            "bert",
            {"tokenizer_class": "BertTokenizer", **BERTS},
            r"\[CLS\]",
        ),
    ],
)
def test_tokens_around_a_text_that_the_own_file_lacks_are_refused(
    tokenizer: Tokenizer, kind: str, settings: dict[str, object], token: str, tmp_path: Path
) -> None:
    if kind == "bert":
        data = json.loads(tokenizer.to_str()) | {"post_processor": None}
        tokenizer = Tokenizer.from_str(json.dumps(data))
    folder = saved(tmp_path / "model", tokenizer, kind, settings)
    with pytest.raises(ModelError, match=rf"contradicts itself: .*adds .?{token}"):
        load_tokenizer(find_source(str(folder)))


def test_a_token_that_other_files_name_is_added_and_one_that_a_class_makes_up_is_not(
    tmp_path: Path,
) -> None:
    tokenizer = byte_level()
    size = tokenizer.get_vocab_size()
    settings = {"tokenizer_class": "GPT2Tokenizer", **ENDS, "pad_token": "<pad>"}
    named = load_padding_tokenizer(
        find_source(str(saved(tmp_path / "a", tokenizer, "gpt2", settings)))
    )
    assert named.padding_id == named.highest_id == size
    words = Tokenizer(models.WordLevel({"[UNK]": 0, "door": 1}, unk_token="[UNK]"))
    settings = {"tokenizer_class": "GPT2Tokenizer", "pad_token": "[UNK]"}
    made_up = load_tokenizer(find_source(str(saved(tmp_path / "b", words, "gpt2", settings))))
    assert made_up.highest_id == 1


@pytest.mark.parametrize("model", [models.WordLevel({"door": 0}), models.Unigram([("a", 0.0)])])
def test_a_tokenizer_that_fails_at_unknown_words_is_refused(
    model: models.Model, tmp_path: Path
) -> None:
    settings = {"tokenizer_class": "PreTrainedTokenizerFast"}
    folder = saved(tmp_path / "model", Tokenizer(model), "llama", settings)
    with pytest.raises(ModelError, match="has no token for words that it does not know"):
        load_tokenizer(find_source(str(folder)))


def test_special_tokens_that_are_to_be_split_are_refused_where_a_file_must_say_it(
    tmp_path: Path,
) -> None:
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "split_special_tokens": True, **ENDS}
    source = find_source(str(saved(tmp_path / "model", byte_level(), "llama", settings)))
    (ids,) = load_tokenizer(source).encode([END], length=99)
    assert len(ids) == len(END)
    with pytest.raises(ModelError, match="splits special tokens"):
        load_padding_tokenizer(source)


@pytest.mark.parametrize("side", ["left", "right"])
def test_long_texts_are_cut_on_the_models_own_side(side: str, tmp_path: Path) -> None:
    tokenizer = pico_tokenizer("bert")
    tokenizer.truncation_side = side
    tokenizer.save_pretrained(tmp_path)
    pico_config("bert").save_pretrained(tmp_path)
    path = tmp_path / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"truncation_side": side}))
    text = "the door is open and the movie was warm"
    expected = tokenizer(text, truncation=True, max_length=6)["input_ids"]
    loaded = load_padding_tokenizer(find_source(str(tmp_path)))
    (ids,) = loaded.encode([text], length=6)
    assert ids.tolist() == expected
    loaded.save_backend(tmp_path, length=6)
    board = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    assert board.truncation["direction"] == side
    assert board.encode(text).ids == expected
    assert np.array_equal(ids, torch.tensor(expected))
