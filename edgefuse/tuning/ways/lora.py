"""LoRA, made by peft: W + (α/r)·B A with W frozen.

Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models", arXiv 2106.09685.
"""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from edgefuse.tuning.way import Context, Prepared, Way
from edgefuse_devices.errors import InputError
from edgefuse_devices.options import option

if TYPE_CHECKING:
    from peft import LoraConfig, TaskType
    from transformers import PreTrainedModel

_RANK = 8


@dataclass(frozen=True)
class Lora(Way):
    """Low-rank updates of linear layers train, and the head.

    A peft adapter to go on from brings its own rank, α and targets.

    Attributes:
        rank: r; None for 8.
        alpha: α; None for 2 r.
        targets: Endings of the layers' names; none for all linear layers under the head.
    """

    family: ClassVar[str] = "lora"
    title: ClassVar[str] = "lora"
    summary: ClassVar[str] = "low-rank updates of linear layers, and the head"
    learning_rate: ClassVar[float] = 1e-3
    goes_on_from: ClassVar[str | None] = "LORA"

    rank: int | None = option(None, help="Rank of the updates of lora.", shown=str(_RANK))
    alpha: float | None = option(
        None, help="Updates are multiplied by alpha / rank.", shown="2 × rank"
    )
    targets: tuple[str, ...] = option(
        (),
        help="Ends of the names of layers to update, with commas between.",
        shown="all-linear",
    )

    def prepare(self, model: "PreTrainedModel", context: Context) -> Prepared:
        """Put factors into the layers; B is zero at the start, so that nothing changes yet.

        Raises:
            InputError: A target matches nothing, or the rank is above a matrix's.
            ModelError: There is nothing to update, or the adapter is of another form.
        """
        from edgefuse.tuning.low_rank import load_updates, make_updates

        if context.peft_adapter:
            return load_updates(model, context.peft_adapter, context.task_type)
        return make_updates(model, self._config(model, context.task_type))

    def _config(self, model: "PreTrainedModel", task_type: "TaskType") -> "LoraConfig":
        from peft import LoraConfig
        from transformers.pytorch_utils import Conv1D

        from edgefuse.tuning.parts import head_modules
        from edgefuse.tuning.targets import choose_targets

        rank = _RANK if self.rank is None else self.rank
        targets = choose_targets(model, self.targets)
        _check_rank(model, targets, rank)
        alpha = 2 * rank if self.alpha is None else self.alpha
        if not 0 < alpha < math.inf:
            raise InputError(f"--lora-alpha {alpha:g} leaves nothing to train", "Give 2 × the rank")
        return LoraConfig(
            task_type=task_type,
            r=rank,
            lora_alpha=alpha,  # type: ignore[arg-type]
            target_modules=targets,
            fan_in_fan_out=isinstance(model.get_submodule(targets[0]), Conv1D),
            modules_to_save=head_modules(model),
        )


def _check_rank(model: "PreTrainedModel", targets: list[str], rank: int) -> None:
    if rank < 1:
        raise InputError(f"--lora-rank {rank} leaves nothing to train", "Give 8, or less")
    shapes = {name: model.get_parameter(f"{name}.weight").shape for name in targets}
    smallest = min(shapes, key=lambda name: min(shapes[name]))
    rows, columns = shapes[smallest]
    if rank > min(rows, columns):
        raise InputError(
            f"--lora-rank {rank} is above {min(rows, columns)}, the rank of "
            f"{smallest}, {rows} × {columns}",
            "Give a lower one, or leave that layer out with --lora-targets",
        )
