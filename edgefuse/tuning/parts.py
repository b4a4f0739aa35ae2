"""The parts of a model: its embeddings, layers and head, and whose a parameter is."""

from torch import nn
from transformers import PreTrainedModel

from edgefuse.layers.chains.modules import MPOEmbedding
from edgefuse_devices.errors import ModelError


def is_embedding(model: PreTrainedModel, name: str) -> bool:
    """Whether a parameter is an embedding table, or a tensor of one that is a chain.

    What scores tokens is the other end of the embeddings, with which it was trained.
    """
    module, _, _ = name.rpartition(".")
    above, _, _ = module.rpartition(".")  # of the list of auxiliary tensors
    return (
        isinstance(model.get_submodule(module), nn.Embedding | MPOEmbedding)
        or isinstance(model.get_submodule(above), MPOEmbedding)
        or scores_tokens(model, name)
    )


def backbone_prefix(model: PreTrainedModel) -> str:
    """What the names of the backbone's parameters begin with: `bert.`, or nothing without head."""
    return "" if model.base_model is model else f"{model.base_model_prefix}."


def is_head(model: PreTrainedModel, name: str) -> bool:
    """Whether a parameter belongs to the head or to the pooler under it."""
    if scores_tokens(model, name):
        return False
    # A pooler belongs to the encoder's class but is read by nothing else than the head.
    prefix = backbone_prefix(model)
    return bool(prefix) and (not name.startswith(prefix) or is_pooler(name))


def is_pooler(name: str) -> bool:
    """Whether a parameter belongs to the pooler, which only a head reads."""
    return ".pooler." in f".{name}"


def scores_tokens(model: PreTrainedModel, name: str) -> bool:
    """Whether a parameter is of the layer that scores all tokens, as a language model has it."""
    scores = model.get_output_embeddings()  # type: ignore[no-untyped-call]
    return scores is not None and model.get_submodule(name.rpartition(".")[0]) is scores


def head_names(model: PreTrainedModel) -> list[str]:
    """Names of the head's parameters."""
    return [name for name, _ in model.named_parameters() if is_head(model, name)]


def head_modules(model: PreTrainedModel) -> list[str]:
    """Names of the modules that hold the head: `classifier` and `bert.pooler`, say."""
    found = []
    for name in head_names(model):
        encoder, pooler, _ = name.partition(".pooler.")
        found.append(f"{encoder}.pooler" if pooler else name.partition(".")[0])
    return list(dict.fromkeys(found))


def transformer_layers(model: PreTrainedModel) -> list[nn.Module]:
    """Find the layers with weights of their own, bottom first: a decoder's are above its encoder's.

    They are the first list of modules that are no embeddings, for lists of experts and the like lie
    deeper; or what lies in the lists of that list, as in Funnel's blocks.

    Raises:
        ModelError: The layers are no modules, as XLM's, whose parts lie in lists of their own.
    """
    if model.config.is_encoder_decoder:
        decoder = model.get_decoder()  # type: ignore[no-untyped-call]
        return [*_layers_of(model.get_encoder()), *_layers_of(decoder)]
    return _layers_of(model.base_model)


def _layers_of(stack: nn.Module) -> list[nn.Module]:
    lists = (
        module
        for module in stack.modules()
        if isinstance(module, nn.ModuleList)
        and not isinstance(next(iter(module), None), nn.Embedding)
    )
    layers = [
        layer
        for entry in next(lists, ())
        for layer in (entry if isinstance(entry, nn.ModuleList) else (entry,))
    ]
    if layers and type(layers[0]).__name__.lower().endswith("attention"):
        raise ModelError(
            f"{type(stack).__name__} keeps all attentions in one list and the MLPs in another, so "
            "that no layer can be told from the next",
            "Train it by another way, --tune lora for one",
        )
    return layers


def layer_names(model: PreTrainedModel) -> list[str]:
    """Names of the layers' parameters."""
    inside = {id(p) for layer in transformer_layers(model) for p in layer.parameters()}
    return [name for name, parameter in model.named_parameters() if id(parameter) in inside]


def norm_names(model: PreTrainedModel) -> list[str]:
    """Names of the parameters of the layers' norms."""
    inside = {id(module) for layer in transformer_layers(model) for module in layer.modules()}
    return [
        f"{name}.{parameter}"
        for name, module in model.named_modules()
        if id(module) in inside and type(module).__name__.endswith("Norm")
        for parameter, _ in module.named_parameters(recurse=False)
    ]
