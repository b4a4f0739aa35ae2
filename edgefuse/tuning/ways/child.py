"""Child-Tuning: a part of the layers' weights trains at a time.

Xu et al., "Raise a Child in Large Language Model: Towards Effective and Generalizable
Fine-tuning", EMNLP 2021, arXiv 2109.05687. As in the authors' code, gradients are masked after
clipping, and embeddings and head train whole.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from edgefuse.tuning.way import Context, Prepared, Way
from edgefuse_devices.errors import InputError, ModelError
from edgefuse_devices.options import option

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class _Child(Way):
    """What both variants have.

    Attributes:
        keep: Share of the layers' weights that trains, above 0 and at most 1.
    """

    family: ClassVar[str] = "child"
    learning_rate: ClassVar[float] = 5e-5

    keep: float = option(0.3, help="Share of the layers' weights that child-f and child-d train.")

    def _choose(self, model: "PreTrainedModel") -> list[str]:
        """Let everything train, and give the names of the layers' parameters.

        Raises:
            InputError: The share is none.
        """
        from edgefuse.tuning.parts import layer_names

        if not 0 < self.keep <= 1:
            raise InputError(
                f"--child-keep {self.keep} is no share of the weights", "Give 0.3, say"
            )
        model.requires_grad_()
        return layer_names(model)


@dataclass(frozen=True)
class ChildF(_Child):
    """Everything trains, but a random part of the layers' gradients counts at every step.

    An entry is kept with probability `keep`, and what is kept is divided by it.
    """

    title: ClassVar[str] = "child-f"
    summary: ClassVar[str] = "all, but a random part of the layers' weights at every step"

    def prepare(self, model: "PreTrainedModel", context: Context) -> Prepared:  # noqa: ARG002
        """Let everything train under a mask that is drawn anew at every step.

        Raises:
            InputError: The probability is none.
        """
        from edgefuse_runtime.graph.masks import RandomMask

        return Prepared(mask=RandomMask(parameters=self._choose(model), keep=self.keep))


@dataclass(frozen=True)
class ChildD(_Child):
    """Embeddings, head and the weights of the layers that matter most to the task train.

    Attributes:
        data: File of labelled rows of the task.
    """

    title: ClassVar[str] = "child-d"
    summary: ClassVar[str] = "embeddings, head, and what of the layers the task depends on most"

    data: Path | None = option(
        None, help="Labelled rows by which child-d chooses what trains.", shown=""
    )

    def prepare(self, model: "PreTrainedModel", context: Context) -> Prepared:
        """Let everything train, and choose the layers' weights that move.

        Raises:
            InputError: The share is none, or there are no rows to choose by.
            ModelError: The loss of a row alone does not depend on the layers.
        """
        from edgefuse.tuning.fisher import diagonal_fisher, largest
        from edgefuse_runtime.graph.masks import FixedMask

        names = self._choose(model)
        mask = FixedMask(parameters=names)
        if context.read is None:
            return Prepared(mask=mask)
        if self.data is None:
            raise InputError(
                "--tune child-d measures on the task which weights matter, and has no rows of it",
                "Name labelled rows with --child-data train.jsonl",
            )
        fisher = diagonal_fisher(model, names, context.read(self.data), context.loss)
        if not any(
            values.any() for values in fisher.values()
        ):  # such as that of in-batch negatives
            raise ModelError(
                "--tune child-d measures row by row, and a row alone teaches this task nothing",
                "Choose --tune child-f, which needs no rows",
            )
        return Prepared(mask=mask, kept=largest(fisher, self.keep))
