"""All optimizers, and the choice of one by its name and options."""

from collections.abc import Mapping

from edgefuse_devices.errors import InputError
from edgefuse_devices.names import unknown
from edgefuse_devices.options import make
from edgefuse_runtime.optimizers.adafactor import Adafactor
from edgefuse_runtime.optimizers.adamw import AdamW
from edgefuse_runtime.optimizers.lion import Lion
from edgefuse_runtime.optimizers.optimizer import Optimizer
from edgefuse_runtime.optimizers.sgd import Sgd
from edgefuse_runtime.tagged import name_of

OPTIMIZERS: tuple[type[Optimizer], ...] = (AdamW, Sgd, Lion, Adafactor)


def find_optimizer(name: str, options: Mapping[str, object] | None = None) -> Optimizer:
    """Make the optimizer of a name and its options.

    Args:
        name: Name of the optimizer.
        options: Values by the names of its fields; None stands for the default.

    Raises:
        InputError: There is no such optimizer, or an option is another one's.
    """
    kinds = {name_of(kind): kind for kind in OPTIMIZERS}
    if name not in kinds:
        raise InputError(*unknown("optimizer", name, list(kinds)))
    return make(kinds[name], options or {}, choice=f"--optimizer {name}")
