"""What a model finds in a text: its entities, and the words with their tags."""

from collections.abc import Sequence

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from edgefuse_runtime.data.words import NO_WORD, Words
from edgefuse_runtime.tasks.classification_metrics import softmax
from edgefuse_runtime.tasks.tagging import Tagging


class TaggedWord(Struct, frozen=True, kw_only=True):
    """A word of a text and its most probable tag.

    Attributes:
        text: The word.
        tag: The tag.
        score: Probability of the tag.
        start: Index of the word's first character in the text.
        end: Index of the character behind the last.
    """

    text: str
    tag: str
    score: float
    start: int
    end: int


class FoundEntity(Struct, frozen=True, kw_only=True):
    """An entity that was found in a text.

    Attributes:
        text: The part of the text.
        label: Type of the entity.
        score: Mean probability of the tags of its words.
        start: Index of its first character in the text.
        end: Index of the character behind the last.
    """

    text: str
    label: str
    score: float
    start: int
    end: int


class Prediction(Struct, frozen=True, kw_only=True):
    """What a model finds in a text.

    Attributes:
        text: The text as given; a space between two words that came as a list.
        entities: The entities, in the order of the text.
        words: The words that have a token, with their tags.
    """

    text: str
    entities: list[FoundEntity]
    words: list[TaggedWord]

    def __str__(self) -> str:
        """The text, and a line for each entity: label, score, offsets and text, with tabs."""
        lines = [
            f"\t{one.label}\t{one.score:.3f}\t{one.start}-{one.end}\t{one.text}"
            for one in self.entities
        ]
        return "\n".join([self.text, *lines])


def find_entities(
    words: Words, logits: Sequence[NDArray[np.float32]], tagging: Tagging
) -> Prediction:
    """Read the tag of each word at its first piece, and put words of an entity together.

    This is what the pipeline of transformers does with `aggregation_strategy="first"`.

    Args:
        words: The text.
        logits: Logits of each of its windows, of shape (tokens or more, classes).
        tagging: What each class says of a word.
    """
    indices, rows = [], []
    for window, given in zip(words.windows, logits, strict=True):
        first = np.flatnonzero(window.words != NO_WORD)
        indices.append(window.words[first])
        rows.append(given[first])
    probabilities = softmax(np.concatenate(rows))
    classes, scores = probabilities.argmax(axis=1), probabilities.max(axis=1)
    spans = [words.spans[index] for index in np.concatenate(indices)]
    entities = tagging.entities(classes, np.zeros_like(classes))
    return Prediction(
        text=words.text,
        entities=[
            FoundEntity(
                text=words.text[spans[first][0] : spans[behind - 1][1]],
                label=tagging.types[kind],
                score=float(scores[first:behind].mean()),
                start=spans[first][0],
                end=spans[behind - 1][1],
            )
            for first, behind, kind in entities.tolist()
        ],
        words=[
            TaggedWord(
                text=words.text[start:end],
                tag=tagging.labels[index],
                score=score,
                start=start,
                end=end,
            )
            for (start, end), index, score in zip(
                spans, classes.tolist(), scores.tolist(), strict=True
            )
        ],
    )
