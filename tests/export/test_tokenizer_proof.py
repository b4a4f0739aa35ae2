"""The bundle's tokenizer makes the ids that the model's own files make, or is refused."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from tokenizers import Tokenizer, processors

from edgefuse.bundling.tokenizer_proof import prove_tokenizer
from edgefuse.hub.source import ModelSource, find_source
from edgefuse.hub.tokenizer import ModelTokenizer, load_padding_tokenizer
from edgefuse_devices.errors import ModelError
from edgefuse_runtime.checking.texts import CheckedText, differing
from edgefuse_runtime.data.tokenization import open_tokenizer
from tests.pico_models import pico_tokenizer
from tests.unit.test_tokenizers import (
    BERTS,
    END,
    ENDS,
    ODD,
    ROBERTAS,
    byte_level,
    normalized,
    saved,
    sentence_pieces,
)

LENGTH = 40
PAIR_WITHOUT_END = [
    {"SpecialToken": {"id": "[CLS]", "type_id": 0}},
    {"Sequence": {"id": "A", "type_id": 0}},
    {"Sequence": {"id": "B", "type_id": 1}},
]


def byte_level_with(template: str, *, prefix: bool = False) -> Tokenizer:
    tokenizer = byte_level(prefix=prefix, template=template)
    tokenizer.post_processor = processors.Sequence(
        [processors.ByteLevel(trim_offsets=False), tokenizer.post_processor]
    )
    return tokenizer


KINDS: dict[str, Callable[[Path], Path]] = {
    **ODD,
    "pieces of sentences": lambda folder: saved(
        folder,
        sentence_pieces(),
        "roberta",
        {"tokenizer_class": "PreTrainedTokenizerFast", **ROBERTAS},
    ),
    "begins a text": lambda folder: saved(
        folder,
        byte_level_with(f"{END} $A"),
        "llama",
        {"tokenizer_class": "PreTrainedTokenizerFast", "padding_side": "left", **ENDS},
    ),
    "ends a text": lambda folder: saved(
        folder,
        byte_level_with(f"$A {END}"),
        "llama",
        {"tokenizer_class": "PreTrainedTokenizerFast", **ENDS},
    ),
    "puts a space before a text": lambda folder: saved(
        folder,
        byte_level_with(f"{END} $A {END}", prefix=True),
        "roberta",
        {"tokenizer_class": "PreTrainedTokenizerFast", "add_prefix_space": True, **ENDS},
    ),
    "cuts on the left": lambda folder: saved(
        folder,
        pico_tokenizer("bert").backend_tokenizer,
        "bert",
        {"tokenizer_class": "BertTokenizer", "truncation_side": "left", **BERTS},
    ),
}


def loaded(folder: Path) -> tuple[ModelSource, ModelTokenizer]:
    source = find_source(str(folder))
    return source, load_padding_tokenizer(source)


@pytest.mark.parametrize("kind", KINDS)
def test_texts_are_read_as_by_the_models_own_file_and_cut_on_its_side(
    kind: str, tmp_path: Path
) -> None:
    source, tokenizer = loaded(KINDS[kind](tmp_path / "model"))
    (tmp_path / "bundle").mkdir()
    tokenizer.save_backend(tmp_path / "bundle", length=LENGTH)
    checked = prove_tokenizer(tmp_path / "bundle", source, tokenizer, length=LENGTH)
    own = Tokenizer.from_file(str(tmp_path / "model/tokenizer.json"))
    side = tokenizer.wrapper.truncation_side
    own.enable_truncation(LENGTH, direction=side)
    assert side == ("left" if "left" in kind else "right")
    for one in checked.texts:
        assert one.ids == own.encode(one.text, one.pair).ids
    assert checked.texts[-1].pair == " warm lamp"
    assert max(len(one.ids) for one in checked.texts) == LENGTH
    board = open_tokenizer(tmp_path / "bundle/tokenizer.json", length=LENGTH)
    assert board.padding is None  # whatever side the model's tokenizer pads: `pad` does it
    assert differing(board, checked.texts) == []


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda data: data["normalizer"].update(lowercase=False), "don't|Größe|CamelCase"),
        (lambda data: data.update(post_processor=None), "2023"),
        (lambda data: data.update(added_tokens=[]), r"\[SEP\]"),
        (lambda data: data["truncation"].update(direction="Left"), "CamelCase"),
        (lambda data: data["post_processor"].update(pair=PAIR_WITHOUT_END), "a door"),
    ],
)
def test_a_tokenizer_that_reads_otherwise_is_refused_with_the_text(
    change: Callable[[dict], None], text: str, tmp_path: Path
) -> None:
    tokenizer = normalized(pico_tokenizer("bert").backend_tokenizer.normalizer)
    folder = saved(tmp_path / "m", tokenizer, "bert", {"tokenizer_class": "BertTokenizer", **BERTS})
    source, own = loaded(folder)
    (tmp_path / "bundle").mkdir()
    own.save_backend(tmp_path / "bundle", length=LENGTH)
    file = tmp_path / "bundle/tokenizer.json"
    data = json.loads(file.read_text())
    change(data)
    file.write_text(json.dumps(data))
    with pytest.raises(ModelError, match=rf"does not read .*({text}).* as that of"):
        prove_tokenizer(tmp_path / "bundle", source, own, length=LENGTH)


def test_every_text_that_differs_is_found() -> None:
    tokenizer = pico_tokenizer("bert").backend_tokenizer
    texts = [CheckedText(text=t, ids=tokenizer.encode(t).ids) for t in ("door", "warm", "")]
    assert differing(tokenizer, texts) == []
    wrong = [CheckedText(text="lamp", ids=[1]), *texts[:1], CheckedText(text="", ids=[])]
    assert differing(tokenizer, wrong) == ["lamp", ""]
