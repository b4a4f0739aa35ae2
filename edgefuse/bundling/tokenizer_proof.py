"""Proof that a bundle's tokenizer makes the ids that the model was trained on."""

from importlib.metadata import version
from itertools import zip_longest
from pathlib import Path

from tokenizers import Tokenizer

from edgefuse.hub.silence import silence_transformers
from edgefuse.hub.source import ModelSource, find_file
from edgefuse.hub.token_ids import PROBES, telling_texts
from edgefuse.hub.tokenizer import ModelTokenizer
from edgefuse_devices.errors import ModelError
from edgefuse_runtime.checking.texts import CheckedText, CheckedTexts, ids_of
from edgefuse_runtime.data.tokenization import limit_length, open_tokenizer

_FILE = "tokenizer.json"
_SHORTEST_PAIR = 16
"""Tokens that a pair of texts with all special tokens takes at least."""
_SHOWN = 80
"""Characters of a text that a sentence shows at most."""
_LONGEST = 4096
"""Tokens of a text that is too long, at most."""

Texts = list[tuple[str, str | None]]
"""Texts, each with a second one or None."""
Ids = list[list[int]]


def prove_tokenizer(
    folder: Path,
    source: ModelSource,
    tokenizer: ModelTokenizer,
    *,
    length: int,
    split_words: bool = False,
) -> CheckedTexts:
    """Compare a bundle's tokenizer with the model's own, on texts that tell tokenizers apart.

    Ids have to be those of the model's own tokenizer.json. Of a text with tokens that only other
    files of the model name, they have to be those that transformers makes of all files, and so they
    may be where texts come as words, before which the tokenizer puts a space.

    Args:
        folder: The bundle's folder, with its tokenizer.json.
        source: The model.
        tokenizer: The model's tokenizer as it was loaded.
        length: Count of tokens that texts are cut to.
        split_words: Whether texts come as words.

    Returns:
        The texts and their ids, for a board to compare.

    Raises:
        ModelError: Of a text, the ids differ.
    """
    texts: Texts = [(text, None) for text in telling_texts(tokenizer.wrapper)]
    if length <= _LONGEST:
        texts.append((" ".join(PROBES * (1 + length // 50)), None))  # which is cut
    if length >= _SHORTEST_PAIR:
        texts.append(("a door", " warm lamp"))
    made = ids_of(open_tokenizer(folder / _FILE, length=length), texts)
    references = _references(source, tokenizer, texts, length, split_words=split_words)
    for (text, _), ids, expected in zip(texts, made, references, strict=True):
        if ids not in expected:
            raise _refusal(text, ids, expected[0], source.name)
    return CheckedTexts(
        tokenizers=version("tokenizers"),
        texts=[
            CheckedText(text=text, pair=pair, ids=ids)
            for (text, pair), ids in zip(texts, made, strict=True)
        ],
    )


def _references(
    source: ModelSource,
    tokenizer: ModelTokenizer,
    texts: Texts,
    length: int,
    *,
    split_words: bool,
) -> list[Ids]:
    """Ids that each text may have: by the model's own tokenizer.json, or by transformers."""
    wrapper = tokenizer.wrapper
    with silence_transformers():
        theirs: Ids = [
            wrapper(text, pair, truncation=True, max_length=length)["input_ids"]
            for text, pair in texts
        ]
        file = find_file(source, _FILE)
    if file is None:
        return [[ids] for ids in theirs]
    own = Tokenizer.from_file(file)
    limit_length(own, length, wrapper.truncation_side)
    known = {token.content for token in own.get_added_tokens_decoder().values()}
    named = {str(token) for token in wrapper.added_tokens_decoder.values()} - known
    return [
        [first, other] if split_words or any(token in text for token in named) else [first]
        for (text, _), first, other in zip(texts, ids_of(own, texts), theirs, strict=True)
    ]


def _refusal(text: str, made: list[int], expected: list[int], name: str) -> ModelError:
    shown = repr(text) if len(text) <= _SHOWN else f"{text[:_SHOWN]!r} …"
    pairs = zip_longest(made, expected)
    place, (own, theirs) = next((i, pair) for i, pair in enumerate(pairs) if pair[0] != pair[1])
    return ModelError(
        f"The bundle's tokenizer does not read {shown} as that of {name} does: its id number "
        f"{place} is {own}, and the model's {theirs}",
        "Save the model's tokenizer anew, by `save_pretrained` of the transformers that the model "
        "was trained with",
    )
