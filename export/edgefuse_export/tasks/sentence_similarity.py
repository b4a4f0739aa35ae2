"""Sentence similarity: texts as vectors whose cosines say how alike they are."""

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self, get_args

from edgefuse_devices.errors import InputError
from edgefuse_devices.names import unknown
from edgefuse_devices.options import option
from edgefuse_export.tasks.architecture import check_architecture
from edgefuse_export.tasks.problem_types import problem_type_option
from edgefuse_export.tasks.sentence_modules import POOLINGS, SentenceModules, read_modules
from edgefuse_export.tasks.task import ExportTask, ModelFacts, WantedTask
from edgefuse_runtime.data.rows import read_rows
from edgefuse_runtime.tasks.sentence_similarity import OUTPUT, ProblemType, SentenceSimilarity
from edgefuse_runtime.tasks.similar_texts import RANKED_ROW, SCORED_ROW

if TYPE_CHECKING:
    from torch import nn
    from transformers import PretrainedConfig

    from edgefuse_export.losses.sentence_similarity import Pooling


@dataclass(frozen=True)
class SentenceSimilarityExport:
    """How a sentence encoder is traced.

    Attributes:
        task: What rows train.
        modules: What follows the transformer.
        hidden: Numbers of an embedding.
    """

    inputs: ClassVar[tuple[str, ...]] = ("input_ids", "attention_mask")
    outputs: ClassVar[tuple[str, ...]] = (OUTPUT,)
    peft_type: ClassVar[str] = "FEATURE_EXTRACTION"
    training_api_loss: ClassVar[str | None] = None
    needs_head: ClassVar[bool] = False

    task: SentenceSimilarity
    modules: SentenceModules
    hidden: int

    @property
    def targets(self) -> tuple[str, ...]:
        """Which texts the rows compare, and what shall come of it."""
        return self.task.targets

    def model_options(self) -> dict[str, Any]:
        """None: there is no head."""
        return {}

    def loss(self, model: "nn.Module") -> "nn.Module":
        """The loss of the rows, and the embeddings."""
        from edgefuse_export.losses.sentence_similarity import InBatchNegatives, SquaredCosineError

        ranks = self.task.problem_type == "ranking"
        kind = InBatchNegatives if ranks else SquaredCosineError
        return kind(model, self.modules.pooling, normalize=self.modules.normalize)

    def token_loss(self, model: "nn.Module") -> None:
        """None: the loss is no mean over tokens that know nothing of each other."""

    def save(self, directory: Path, *, length: int) -> None:
        """Write the files by which sentence-transformers loads the model."""
        self.modules.write(directory, hidden=self.hidden, length=length)


@dataclass(frozen=True)
class WantedSentenceSimilarity(WantedTask):
    """Sentence similarity as a user asks for it.

    Attributes:
        problem_type: `ranking` for rows with anchors and positives, `regression` for scores; None
            for the first.
        negatives: Whether rows of a ranking may have a `negative` too.
        highest_score: Score of texts that say the same; scores are divided by it.
        pooling: One of `POOLINGS`; None for the model's own.
    """

    name: ClassVar[str] = "sentence-similarity"
    summary: ClassVar[str] = "a vector for a text, near those of texts that mean the same"

    problem_type: str | None = problem_type_option()
    negatives: bool = option(
        default=False, help="Rows may have a negative beside anchor and positive.", shown=""
    )
    highest_score: float = option(
        1.0,
        help="Score of texts that say the same, 5 in STS-B; scores are divided by it.",
        shown="1",
    )
    pooling: str | None = option(
        None,
        help="What makes one vector of a text's tokens: mean, cls or lasttoken.",
        shown="the model's own",
    )

    def of_model(self, facts: ModelFacts) -> ExportTask:
        """The task with the pooling that a model's own files say, or its architecture.

        Raises:
            ModelError: The model gives no hidden states in a graph, or more follows them than a
                pooling.
            InputError: An option does not hold.
        """
        problem_type, pooling = self._chosen()
        check_architecture(facts.config, facts.name, SentenceSimilarity)
        modules = read_modules(facts, pooling)
        if modules is None:
            modules = SentenceModules(pooling or usual_pooling(facts.config))
        task = SentenceSimilarity(
            problem_type=problem_type,
            negatives=self.negatives,
            highest_score=self.highest_score,
            prompt=modules.prompt,
        )
        return SentenceSimilarityExport(task, modules, facts.config.hidden_size)

    def of_rows(self, file: Path) -> Self:
        """The same, with the problem type that rows show, where no option says it."""
        if self.problem_type is not None:
            return self
        rows = list(read_rows(file, f"{RANKED_ROW}. {SCORED_ROW}"))
        if "score" in rows[0].fields:
            return replace(self, problem_type="regression")
        negatives = any(row.fields.get("negative") is not None for row in rows)
        return replace(self, negatives=self.negatives or negatives)

    def _chosen(self) -> tuple[ProblemType, "Pooling | None"]:
        """Problem type and pooling.

        Raises:
            InputError: An option does not hold.
        """
        problem_type: Any = self.problem_type or "ranking"
        if problem_type not in get_args(ProblemType):
            raise InputError(*unknown("problem type", problem_type, get_args(ProblemType)))
        pooling: Any = self.pooling
        if pooling is not None and pooling not in POOLINGS:
            raise InputError(*unknown("pooling", pooling, POOLINGS))
        if self.negatives and problem_type != "ranking":
            raise InputError(
                "--negatives is of rows with anchors, not of rows with scores", "Leave it out"
            )
        if self.highest_score != 1.0 and problem_type == "ranking":
            raise InputError(
                "--highest-score is of rows with scores, not of rows with anchors",
                "Leave it out, or choose --problem-type regression",
            )
        if not 0 < self.highest_score < math.inf:
            raise InputError(
                f"--highest-score {self.highest_score:g} is no number to divide scores by",
                "Give the score of texts that say the same, 5 for STS-B",
            )
        return problem_type, pooling


def usual_pooling(config: "PretrainedConfig") -> "Pooling":
    """The mean of an encoder's tokens; a decoder's last token, for it alone has read all others."""
    from transformers import AutoModelForCausalLM, AutoModelForMaskedLM

    reads_both_ways = type(config) in AutoModelForMaskedLM._model_mapping  # noqa: SLF001
    writes = type(config) in AutoModelForCausalLM._model_mapping  # noqa: SLF001
    return "lasttoken" if writes and not reads_both_ways else "mean"
