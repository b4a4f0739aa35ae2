"""Why a model has no MLP that EdgeFuse knows, by its structure."""

from torch import nn

_RECURRENCE = ".A_log"
_BIASED_EXPERTS = "gate_up_proj_bias"


def why_unknown(model: nn.Module) -> str:
    """Give the reason as a clause that follows a colon.

    Args:
        model: A model in which no MLP was found.
    """
    parameters = [name for name, _ in model.named_parameters()]
    experts = next((n for n in parameters if n.endswith(_BIASED_EXPERTS)), "")
    if experts:
        module = experts.rpartition(".")[0]
        return f"its experts have biases, and gate and up in alternating rows ({module})"
    if any(name.endswith(_RECURRENCE) for name in parameters):
        module = next(n for n in parameters if n.endswith(_RECURRENCE)).removesuffix(_RECURRENCE)
        return f"its layers are state-space mixers without an MLP ({module})"
    convolutions = [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.Conv1d) and module.kernel_size == (1,)
    ]
    if convolutions:
        return f"it projects by convolutions instead of matrices ({convolutions[0]})"
    return "no module of it has two projections around an activation"
