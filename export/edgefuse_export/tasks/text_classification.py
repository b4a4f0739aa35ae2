"""Text classification: labels, or a number, for a text or a pair of texts."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Self

from edgefuse_devices.errors import DataError, InputError
from edgefuse_devices.options import option
from edgefuse_export.tasks.architecture import check_architecture, takes_token_types
from edgefuse_export.tasks.classes import (
    LABELS_HELP,
    NUM_LABELS_HELP,
    Labels,
    find_labels,
    head_options,
)
from edgefuse_export.tasks.classification_problems import (
    PROBLEM_TYPES,
    ProblemType,
    find_problem,
)
from edgefuse_export.tasks.problem_types import problem_type_option
from edgefuse_export.tasks.task import ExportTask, ModelFacts, WantedTask
from edgefuse_runtime.data.rows import Row, read_rows
from edgefuse_runtime.data.tokenization import TYPE_IDS
from edgefuse_runtime.tasks.labels import LABELLED_ROW
from edgefuse_runtime.tasks.problems.registry import PROBLEMS, ProblemName
from edgefuse_runtime.tasks.text_classification import TARGET, TextClassification

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class TextClassificationExport:
    """How a text classifier is traced.

    Attributes:
        task: Labels, problem type, and whether texts come in pairs.
    """

    targets: ClassVar[tuple[str, ...]] = (TARGET,)
    outputs: ClassVar[tuple[str, ...]] = ("logits",)
    peft_type: ClassVar[str] = "SEQ_CLS"
    needs_head: ClassVar[bool] = False

    task: TextClassification

    @property
    def inputs(self) -> tuple[str, ...]:
        """Token ids, mask and, of pairs, token type ids."""
        of_pairs = (TYPE_IDS,) if self.task.token_types else ()
        return ("input_ids", "attention_mask", *of_pairs)

    @property
    def training_api_loss(self) -> str | None:
        """The loss of the problem type, if onnxruntime-training has it."""
        return self._problem.training_api_loss

    def model_options(self) -> dict[str, Any]:
        """Names of the labels, and the problem type."""
        return head_options(self.task.labels, problem_type=self._problem.in_transformers)

    def loss(self, model: "nn.Module") -> "nn.Module":
        """Mean loss of the problem type, and logits."""
        from edgefuse_export.losses.text_classification import Classifier, PairClassifier

        kind = PairClassifier if self.task.token_types else Classifier
        return kind(model, self._problem.loss_function())

    def token_loss(self, model: "nn.Module") -> None:
        """None: the loss is no mean over tokens that know nothing of each other."""

    def save(self, directory: Path, *, length: int) -> None:
        """Nothing: transformers' own files say it all."""

    @property
    def _problem(self) -> ProblemType:
        return PROBLEM_TYPES[self.task.problem_type]


@dataclass(frozen=True)
class WantedTextClassification(WantedTask):
    """Text classification as a user asks for it.

    Attributes:
        labels: Names of the classes in the order of the logits, or a set of the labels that rows
            have, whose order the head decides, or a file of either; None for the head's own. Of
            rows it says too whether they are pairs.
        num_labels: Count of classes called 0, 1, 2 …, instead of `labels`.
        problem_type: Whether a text gets one of the labels, any number of them, or a number; None
            for what the model's head is for, or one of the labels.
        pairs: Whether rows have a second text.
    """

    name: ClassVar[str] = "text-classification"
    summary: ClassVar[str] = "a label for a text or a pair of texts"

    labels: Labels = option(None, help=LABELS_HELP, type=Path, shown="")
    num_labels: int | None = option(None, help=NUM_LABELS_HELP, shown="")
    problem_type: str | None = problem_type_option()
    pairs: bool = option(
        default=False,
        help="Rows have a second text, text_pair; rows of --labels show it too.",
        shown="",
    )

    def of_model(self, facts: ModelFacts) -> ExportTask:
        """The labels of the head that a model brings, or else those that are asked for.

        Raises:
            ModelError: The model cannot classify in a graph, or its head is another.
            InputError: The labels are not known, or an option does not hold.
            DataError: The rows that are named do not hold.
        """
        check_architecture(facts.config, facts.name, TextClassification)
        problem = find_problem(facts.config, facts.name, self.problem_type, TextClassification)
        wanted = self._of_rows(problem)
        if PROBLEM_TYPES[problem].has_labels:
            labels = find_labels(facts, wanted.labels, self.num_labels, TextClassification)
        else:
            labels = _name_of_number(wanted.labels, self.num_labels)
        token_types = wanted.pairs and takes_token_types(facts, TextClassification)
        return TextClassificationExport(
            TextClassification(
                labels=labels,
                problem_type=problem,
                pairs=wanted.pairs,
                token_types=token_types,
            )
        )

    def of_rows(self, file: Path) -> Self:
        """The same, with the labels that rows have, and pairs where they have them."""
        pairs = _are_pairs(list(read_rows(file, LABELLED_ROW)), wanted=self.pairs)
        known = self.labels is not None or self.num_labels is not None
        return replace(self, labels=self.labels if known else file, pairs=pairs)

    def _of_rows(self, problem: ProblemName) -> "_Wanted":
        """Labels and pairs, of rows where they are named."""
        if not isinstance(self.labels, str | Path) or Path(self.labels).suffix == ".txt":
            return _Wanted(self.labels, self.pairs)
        rows = list(read_rows(Path(self.labels), LABELLED_ROW))
        pairs = _are_pairs(rows, wanted=self.pairs)
        return _Wanted(PROBLEMS[problem].labels_of(rows), pairs)


class _Wanted(NamedTuple):
    labels: Labels
    pairs: bool


_NUMBER = ["score"]


def _name_of_number(labels: Labels, count: int | None) -> list[str]:
    """The one name that the logit of a regression has."""
    if count is not None or labels not in (None, _NUMBER):
        raise InputError(
            "--problem-type regression learns a number, which has no labels",
            "Leave --num-labels out; --labels may name rows, which tell whether there are pairs",
        )
    return _NUMBER


def _are_pairs(rows: list[Row], *, wanted: bool) -> bool:
    """Whether rows have a second text.

    Raises:
        DataError: Some have and others have not, or none has and pairs are wanted.
    """
    with_pair = [row.fields.get("text_pair") is not None for row in rows]
    pairs = wanted or any(with_pair)
    if pairs and not all(with_pair):
        raise DataError(
            f'{rows[with_pair.index(False)].place} has no "text_pair"'
            + (", and other rows have one" if any(with_pair) else ", and --pairs asks for it"),
            "Give each row a second text, or none",
        )
    return pairs
