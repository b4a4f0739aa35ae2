"""Sentence similarity: texts as vectors whose cosines say how alike they are."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, ClassVar, Literal

import numpy as np
from msgspec import Meta, Struct
from numpy.typing import NDArray
from tokenizers import Tokenizer

from edgefuse_devices.errors import InputError
from edgefuse_devices.options import option
from edgefuse_runtime.data.batching import Feeds, evaluation_batches, random_texts
from edgefuse_runtime.data.texts import placed_texts, texts_of
from edgefuse_runtime.data.tokenization import TokenIds, refuse_empty, refuse_tokenless, tokenize
from edgefuse_runtime.tagged import Tagged
from edgefuse_runtime.tasks.retrieval_metrics import Embeddings, nearest
from edgefuse_runtime.tasks.task import Asked, Figure, Model
from edgefuse_runtime.tasks.text_ranking import RankedTuple, Ranking, RankingMetric
from edgefuse_runtime.tasks.text_scoring import ScoredTuple, Scoring, ScoringMetric
from edgefuse_runtime.tasks.text_tuples import TextTuple, text_feeds

ProblemType = Literal["ranking", "regression"]

OUTPUT = "sentence_embedding"
"""What the inference graph gives: a vector for each text, (texts, hidden)."""

_BATCH = 16
_SHOWN = 4
"""Numbers of an embedding that a line for people shows."""


@dataclass(frozen=True)
class AskedText(TextTuple):
    """A tokenized text to predict for.

    Attributes:
        text: The text as given.
    """

    text: str


class Neighbour(Struct, frozen=True, kw_only=True):
    """A text of a file that is near.

    Attributes:
        text: The text.
        cosine: Cosine of both embeddings, 1 for the same direction.
    """

    text: str
    cosine: float


class Embedding(Struct, frozen=True, kw_only=True):
    """What a sentence encoder makes of a text.

    Attributes:
        text: The text as given.
        embedding: The vector of the text.
        nearest: The nearest texts of the file that it was compared with, the nearest first.
    """

    text: str
    embedding: list[float]
    nearest: list[Neighbour]

    def __str__(self) -> str:
        """The nearest texts with their cosines; or the size of the vector and its beginning."""
        if self.nearest:
            lines = (f"  {one.cosine:.3f}\t{one.text}" for one in self.nearest)
            return "\n".join([self.text, *lines])
        begin = " ".join(f"{number:.4f}" for number in self.embedding[:_SHOWN])
        return f"{len(self.embedding)} numbers: {begin} …\t{self.text}"


@dataclass(frozen=True)
class SimilarityOptions:
    """Options of `predict`.

    Attributes:
        against: File of texts to find the nearest of; None finds none.
        top: Texts to find for each one that is asked.
    """

    against: Path | None = option(
        None,
        help="A file of texts, a .txt or rows with a text, whose nearest ones are shown.",
        shown="",
    )
    top: int = option(5, help="Nearest texts to show.")

    _found: dict[int, tuple[list[str], Embeddings]] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    def corpus(self, task: "SentenceSimilarity", model: Model) -> tuple[list[str], Embeddings]:
        """The distinct texts of the file and their vectors, made once.

        Raises:
            InputError: No text is to be found.
            DataError: The file cannot be read.
        """
        if self.top < 1:
            raise InputError(f"--top {self.top} finds nothing", "Give 1 or more")
        if id(model) not in self._found:
            assert self.against is not None
            places: dict[str, str] = {}
            for place, text in placed_texts(self.against):
                places.setdefault(text, place)
            texts = list(places)
            encoded = task.encode(texts, model.tokenizer)
            refuse_tokenless(encoded, list(places.values()))
            self._found[id(model)] = texts, task.embed(encoded, model)
        return self._found[id(model)]


class SentenceSimilarity(Tagged, frozen=True, kw_only=True, tag="sentence-similarity"):
    """Vectors of texts, that near in meaning are near in direction.

    Attributes:
        problem_type: `ranking` for rows with anchors and positives, `regression` for scores.
        negatives: Whether rows of a ranking may have a `negative` too.
        highest_score: Score of texts that say the same; scores are divided by it.
        prompt: Words that the model's own files put before every text.
    """

    figures: ClassVar[tuple[Figure, ...]] = (*Ranking.figures, *Scoring.figures)
    auto_class: ClassVar[str] = "AutoModel"
    encoder_decoder: ClassVar[bool] = False
    prediction_options: ClassVar[type[SimilarityOptions]] = SimilarityOptions

    problem_type: ProblemType = "ranking"
    negatives: bool = False
    highest_score: Annotated[float, Meta(gt=0)] = 1.0
    prompt: str = ""

    @property
    def rows(self) -> Ranking | Scoring:
        """What the rows are, and what they train."""
        if self.problem_type == "ranking":
            return Ranking(self.negatives)
        return Scoring(self.highest_score)

    @property
    def targets(self) -> tuple[str, ...]:
        """Names of the training graph's inputs besides the texts."""
        return self.rows.targets

    @property
    def summary(self) -> str:
        """Name of the task, and what is learned of a row."""
        return f"{self.name}, {self.problem_type}"

    @property
    def smallest_batch(self) -> int:
        """Two rows of a ranking without negatives: one alone would have nothing to tell apart."""
        return 2 if self.problem_type == "ranking" and not self.negatives else 1

    def read(self, file: Path, tokenizer: Tokenizer) -> Sequence[RankedTuple | ScoredTuple]:
        """Read and tokenize rows.

        Raises:
            DataError: A row is broken, or a text has no token; the message names file and line.
        """
        return self.rows.read(file, tokenizer, prompt=self.prompt)

    def examples(self, asked: Sequence[Asked], tokenizer: Tokenizer) -> list[AskedText]:
        """Tokenize texts to embed.

        Raises:
            DataError: A text is blank, or has no token.
        """
        texts = texts_of(asked)
        encoded = self.encode(texts, tokenizer)
        refuse_empty(encoded, "text")
        return [
            AskedText((number,), (token_ids,), text)
            for number, (token_ids, text) in enumerate(zip(encoded, texts, strict=True))
        ]

    def collate(self, examples: Sequence[TextTuple], *, padding_id: int) -> Feeds:
        """Token ids and mask of the distinct texts, (texts, tokens), and the rows' targets."""
        feeds = text_feeds(examples, padding_id=padding_id)
        if isinstance(examples[0], AskedText):
            return feeds
        return {**feeds, **self.rows.collate(examples)}  # type: ignore[arg-type] # of its own rows

    def terms(self, feeds: Feeds) -> float | None:
        """Count the rows; None of a ranking, where rows are held against one another."""
        return self.rows.terms(feeds)

    def learned_tokens(self, feeds: Feeds) -> None:
        """None: the loss is no mean over tokens that know nothing of each other."""

    def random_feeds(
        self,
        rng: np.random.Generator,
        shape: tuple[int, int],
        token_ids: NDArray[np.int64],
        *,
        padded: bool = False,
    ) -> Feeds:
        """A batch of random token ids, of as many texts as the rows may have, and targets."""
        rows, tokens = shape
        texts = self.rows.texts_per_row * rows
        feeds = random_texts(rng, (texts, tokens), token_ids, padded=padded)
        return {**feeds, **self.rows.random_targets(rng, rows)}

    def metric(self) -> RankingMetric | ScoringMetric:
        """Recall@1 and MRR@10, or Spearman's correlation."""
        return self.rows.metric()

    def predict(
        self, examples: Sequence[AskedText], model: Model, options: SimilarityOptions
    ) -> list[Embedding]:
        """The vector of each text, and the nearest texts of a file."""
        embeddings = model.run(text_feeds(examples, padding_id=model.padding_id))[OUTPUT]
        neighbours: list[list[Neighbour]] = [[] for _ in examples]
        if options.against is not None:
            texts, corpus = options.corpus(self, model)
            neighbours = [
                [Neighbour(text=texts[i], cosine=c) for i, c in zip(*found, strict=True)]
                for found in nearest(embeddings, corpus, options.top)
            ]
        return [
            Embedding(text=one.text, embedding=vector.tolist(), nearest=near)
            for one, vector, near in zip(examples, embeddings, neighbours, strict=True)
        ]

    def encode(self, texts: Sequence[str], tokenizer: Tokenizer) -> list[TokenIds]:
        """Token ids of texts, with the prompt before each."""
        return tokenize(tokenizer, [f"{self.prompt}{text}" for text in texts])

    def embed(self, encoded: Sequence[TokenIds], model: Model) -> Embeddings:
        """Vectors of any number of tokenized texts, in their order: (texts, hidden)."""
        lengths = np.array([len(token_ids) for token_ids in encoded], np.intp)
        found: dict[int, Embeddings] = {}
        for batch in evaluation_batches(lengths, _BATCH):
            tuples = [TextTuple((int(row),), (encoded[row],)) for row in batch]
            vectors = model.run(text_feeds(tuples, padding_id=model.padding_id))[OUTPUT]
            found.update(zip(batch.tolist(), vectors, strict=True))
        return np.stack([found[row] for row in range(len(encoded))])
