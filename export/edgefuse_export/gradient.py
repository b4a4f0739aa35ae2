"""Reverse-mode differentiation of a traced loss, and its translation to ONNX.

A loss and its gradients are traced together, once. What torch itself has for it
(`torch.export.experimental._export_forward_backward`) traces thrice, and takes three times as long.

It leans on private parts of torch (2.13): `_decompose_exported_program` is what an exported
program's `run_decompositions` calls, here with our own choice of what to decompose; and
`exported_program_to_ir` is what `torch.onnx.export` calls, here with a registry of operators that
is made once, and not for each graph.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from operator import getitem
from typing import Any

import onnx_ir as ir
import torch
from onnxscript.version_converter import convert_version
from torch import Tensor, fx
from torch._export.utils import _special_op_to_preserve_cia
from torch._guards import detect_fake_mode
from torch._subclasses.functional_tensor import dispatch_functionalize
from torch.export import ExportedProgram
from torch.export._trace import _ignore_backend_decomps
from torch.export.exported_program import _decompose_exported_program
from torch.export.graph_signature import (
    ExportGraphSignature,
    OutputKind,
    OutputSpec,
    TensorArgument,
)
from torch.fx.experimental.proxy_tensor import make_fx
from torch.onnx._internal.exporter import _core, _decomp, _dispatching, _registration

from edgefuse_devices.errors import ModelError
from edgefuse_export.operators.backward import TRANSLATIONS
from edgefuse_export.places import listed
from edgefuse_export.silence import silence

_EXECUTING = re.compile(r"While executing %(\w+)")
_WHOLE: dict[Any, Any] = dict.fromkeys(
    (torch.ops.aten.linear.default, torch.ops.aten.matmul.default), _special_op_to_preserve_cia
)
"""What is not taken apart where nothing is differentiated: torch asks these what to do."""

OPSET = 21
IR_VERSION = 10
"""What ONNX Runtime 1.19 (the last with on-device training) and newer can read."""


def gradient_graph(
    forward: ExportedProgram, outputs: Sequence[str], *, inputs: Sequence[str] = ()
) -> ir.Model:
    """Differentiate a traced loss with respect to everything that requires a gradient.

    Args:
        forward: The traced program, as `trace` gives it.
        outputs: Names of what the traced module gives besides the loss.
        inputs: Names of what it takes; none for those of its arguments.

    Returns:
        A model whose outputs are `loss`, those, and a `gradient.NAME` for every parameter and every
        input that requires a gradient.
        Parameters and buffers are initializers under the names that they have in the model.
    """
    joint, gradients = _joint(forward)
    given = dict(zip(forward.graph_signature.user_inputs, inputs, strict=False))
    names = ["loss", *outputs, *(f"gradient.{given.get(name, name)}" for name in gradients)]
    _refuse_unknown_operators(joint, forward)
    return _to_onnx(joint, names, inputs or forward.graph_signature.user_inputs)


def _joint(forward: ExportedProgram) -> tuple[ExportedProgram, list[str]]:
    """A program that gives the gradients too, and the names of what they are of."""
    specs = forward.graph_signature.input_specs
    placeholders = [node for node in forward.graph.nodes if node.op == "placeholder"]
    values = [node.meta["val"] for node in placeholders]
    trained = [i for i, v in enumerate(values) if isinstance(v, Tensor) and v.requires_grad]

    def loss_and_gradients(*arguments: Any) -> tuple[Tensor, ...]:
        outputs = fx.Interpreter(forward.graph_module).run(*arguments)
        return *outputs, *torch.autograd.grad(outputs[0], [arguments[i] for i in trained])

    try:
        graph_module = _traced(loss_and_gradients, values)
        if any(map(_changes_something, graph_module.graph.nodes)):
            graph_module = _traced(dispatch_functionalize(loss_and_gradients), values)
    except (AssertionError, RuntimeError, TypeError, ValueError) as error:
        raise _refusal(forward, error) from error
    graph = graph_module.graph
    graph.eliminate_dead_code()
    taken = [str(node.name) for node in graph.nodes if node.op == "placeholder"]
    results: Any = graph.output_node().args[0]
    program = ExportedProgram(
        graph_module,
        graph,
        ExportGraphSignature(
            [
                replace(spec, arg=TensorArgument(name))
                for spec, name in zip(specs, taken, strict=True)
            ],
            [OutputSpec(OutputKind.USER_OUTPUT, TensorArgument(r.name), None) for r in results],
        ),
        forward.state_dict,
        forward.range_constraints,
        forward.module_call_graph,
        forward.example_inputs,
        forward.constants,
    )
    return program, [_in_model(specs[i].target or specs[i].arg.name) for i in trained]


def _traced(function: Callable[..., object], values: Sequence[object]) -> fx.GraphModule:
    """What a function computes of values that are none: their sizes are symbols."""
    mode = detect_fake_mode(values)
    assert mode is not None
    with silence("torch.onnx"), _ignore_backend_decomps(), mode:
        return make_fx(function, decomposition_table=_decompositions())(*values)


def _changes_something(node: fx.Node) -> bool:
    schema = getattr(node.target, "_schema", None)
    return schema is not None and schema.is_mutable


def forward_graph(
    forward: ExportedProgram, outputs: Sequence[str], *, inputs: Sequence[str] = ()
) -> ir.Model:
    """Translate a traced loss as it is: a `gradient_graph` without gradients.

    Products are not taken apart: a graph that writes a token at a time has no time for the shapes.
    """
    program = _decompose(forward)
    _refuse_unknown_operators(program, forward)
    return _to_onnx(program, ["loss", *outputs], inputs)


def _decompose(forward: ExportedProgram) -> ExportedProgram:
    with silence("torch.onnx"):
        try:
            program: ExportedProgram = _decompose_exported_program(
                forward,
                cia_to_decomp=_WHOLE,
                python_decomp_table=_decompositions(),
                joint_loss_index=None,
                decompose_custom_triton_ops=False,
            )
        except (AssertionError, RuntimeError, TypeError, ValueError) as error:
            raise _refusal(forward, error) from error
    return program


def _refusal(forward: ExportedProgram, error: Exception) -> ModelError:
    """What to say of a program that cannot be differentiated: the operator, and where it is."""
    nodes = {node.name: node for node in forward.graph.nodes}
    executing = _EXECUTING.search("\n".join([str(error), *getattr(error, "__notes__", ())]))
    failed = nodes.get(executing[1]) if executing else None
    reason = _innermost(error)
    if failed is not None:
        places = [_module_of(node) for node in nodes.values() if node.target is failed.target]
        reason = f"{failed.target} in {listed(filter(None, places)) or 'the loss'}: {reason}"
    return ModelError(
        f"The model computes something that cannot be differentiated: {reason}",
        "Use another model, such as BERT, ModernBERT, Llama or GPT-2",
    )


@cache
def _registry() -> _registration.ONNXRegistry:
    """All operators that can be translated, ours among them."""
    registry = _registration.ONNXRegistry.from_torchlib(opset_version=OPSET)
    for target, translation in TRANSLATIONS.items():
        registry.register_op(target, translation)
    return registry


@cache
def _decompositions() -> dict[Any, Any]:
    """What to do with operators that cannot be translated."""
    kept = set(_decomp.get_onnx_implemented_overloads(_registry()))
    table = dict(_decomp.create_onnx_friendly_decomposition_table(kept))
    table[torch.ops.aten.new_empty_strided.default] = _empty  # ONNX knows no strides
    return table


def _empty(like: Tensor, size: Sequence[int], _stride: Sequence[int], **options: Any) -> Tensor:
    return like.new_empty(size, **options)


def _refuse_unknown_operators(program: ExportedProgram, forward: ExportedProgram) -> None:
    """Refuse a program of which some operators have no translation, before any is translated.

    Args:
        program: The program, decomposed.
        forward: The program that it was made of.

    Raises:
        ModelError: The message names all of them, and the modules that compute them.
    """
    registry = _registry()
    nodes = [node for node in program.graph.nodes if node.op == "call_function"]
    unknown = {
        str(node.target)
        for node in nodes
        if node.target is not getitem
        and not _only_checks(node)
        and _dispatching.dispatch(node, registry)[0] is None
    }
    if unknown:
        # Operators of a joint graph know no module; a gradient is where its operator is.
        alone = _decompose(forward).graph.nodes
        operators = []
        for name in sorted(unknown):
            names = {name, name.replace("_backward", "")}
            places = [_module_of(node) for node in alone if str(node.target) in names]
            operators.append(f"{name} in {listed(filter(None, places)) or 'the loss'}")
        raise ModelError(
            f"The model computes something that cannot be exported: {'; '.join(operators)}",
            "Use another model, such as BERT, ModernBERT, Llama or GPT-2",
        )


def _only_checks(node: fx.Node) -> bool:
    """Whether an operator asserts something: the translation leaves it out."""
    return "assert" in str(node.target)


def _module_of(node: fx.Node) -> str:
    """Name of the module that computes an operator; nothing for the loss."""
    stack = node.meta.get("nn_module_stack") or {}
    name = next((name for name, _ in reversed(stack.values())), "")
    return _in_model(str(name)).removeprefix("model")


def _to_onnx(program: ExportedProgram, outputs: Sequence[str], inputs: Sequence[str]) -> ir.Model:
    # The translation would trace the program once more to decompose it, as it already is.
    program.run_decompositions = lambda _table: program
    with silence("torch.onnx"):
        try:
            model: ir.Model = _core.exported_program_to_ir(program, registry=_registry())
            convert_version(model, OPSET, fallback=True)
        except Exception as error:  # whatever torch and onnxscript stumble over
            raise ModelError(
                f"The model computes something that cannot be exported: {_innermost(error)}",
                "Use another model, such as BERT, ModernBERT, Llama or GPT-2",
            ) from error
    for value, name in zip(model.graph.outputs, outputs, strict=True):
        value.name = name
    for value, name in zip(model.graph.inputs, inputs, strict=False):
        value.name = name
    for name in list(model.graph.initializers):
        value = model.graph.initializers.pop(name)
        value.name = _in_model(name)
        model.graph.register_initializer(value)
    _forget_origins(model)
    model.ir_version = IR_VERSION
    return model


def _innermost(error: BaseException) -> str:
    """The first line of what was raised first: it names the operator."""
    while error.__cause__ is not None:
        error = error.__cause__
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")


def _forget_origins(model: ir.Model) -> None:
    """Drop torch's stack traces: they name files of this machine and are most of the graph."""
    model.metadata_props.clear()
    model.graph.metadata_props.clear()
    for node in model.graph.all_nodes():
        node.metadata_props.clear()
        for output in node.outputs:
            output.metadata_props.clear()


def _in_model(name: str) -> str:
    """The name without the prefix of the loss module's `model`."""
    return name.removeprefix("model.")
