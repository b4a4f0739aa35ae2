"""Prefix tuning, made by peft: keys and values that every layer's attention sees before the text.

Li and Liang, "Prefix-Tuning: Optimizing Continuous Prompts for Generation", ACL 2021, arXiv
2101.00190.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from edgefuse.tuning.way import Context, Prepared, Way
from edgefuse_devices.errors import InputError
from edgefuse_devices.options import option

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_LENGTH = 10


@dataclass(frozen=True)
class Prefix(Way):
    """Keys and values before the text train, and the head.

    A peft adapter to go on from brings its own length.

    Attributes:
        length: Count of positions that the prefixes take; None for 10.
        projection: Width of a perceptron that makes them while they train, which steadies long
            training; 0 for none.
    """

    family: ClassVar[str] = "prefix"
    title: ClassVar[str] = "prefix"
    summary: ClassVar[str] = "keys and values before the text, in every layer, and the head"
    learning_rate: ClassVar[float] = 1e-3
    goes_on_from: ClassVar[str | None] = "PREFIX_TUNING"

    length: int | None = option(
        None, help="Positions of prefix before the text.", shown=str(_LENGTH)
    )
    projection: int = option(
        0, help="Width of a perceptron that makes prefixes while they train, 0 for none."
    )

    def prepare(self, model: "PreTrainedModel", context: Context) -> Prepared:
        """Put prefixes before the backbone's attention.

        Raises:
            InputError: The length or the width is none.
            ModelError: The model's attention takes no keys and values from outside, or not such as
                peft makes.
        """
        from edgefuse.tuning.prefixes import load_prefixes, make_prefixes

        if self.length is not None and self.length < 1:
            raise InputError(f"--prefix-length {self.length} leaves nothing to train", "Give 10")
        if self.projection < 0:
            raise InputError(
                f"--prefix-projection {self.projection} is no width",
                "Give 128, say, or leave it out for no perceptron",
            )
        if context.peft_adapter:
            return load_prefixes(model, context.peft_adapter, context.task_type)
        return make_prefixes(
            model,
            context.task_type,
            length=_LENGTH if self.length is None else self.length,
            projection=self.projection,
        )
