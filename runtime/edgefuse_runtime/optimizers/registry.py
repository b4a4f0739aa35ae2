"""All optimizers."""

from edgefuse_runtime.optimizers.adamw import AdamW
from edgefuse_runtime.optimizers.optimizer import Optimizer

OPTIMIZERS: tuple[type[Optimizer], ...] = (AdamW,)
