"""Reverse-mode differentiation of a traced loss, and its translation to ONNX.

It leans on private parts of torch (2.13): `_decompose_exported_program` with a
loss index is what `torch.export.experimental._export_forward_backward` calls, here with our own
choice of what to decompose.
"""

from collections.abc import Sequence

import onnx_ir as ir
import torch
from torch.export import ExportedProgram
from torch.export.exported_program import _decompose_exported_program
from torch.export.graph_signature import OutputKind
from torch.onnx._internal.exporter import _decomp, _registration

from edgefuse_devices.errors import ModelError
from edgefuse_export.operators.backward import TRANSLATIONS
from edgefuse_export.silence import silence

OPSET = 21
IR_VERSION = 10
"""What ONNX Runtime 1.19 (the last with on-device training) and newer can read."""


def gradient_graph(forward: ExportedProgram, outputs: Sequence[str]) -> ir.Model:
    """Differentiate a traced loss with respect to every parameter that requires a gradient.

    Args:
        forward: The traced program, as `trace` gives it.
        outputs: Names of what the task's module gives besides the loss.

    Returns:
        A model whose outputs are `loss`, those, and a `gradient.NAME` for every parameter.
        Parameters and buffers are initializers under the names that they have in the model.
    """
    joint = _decompose(forward, joint_loss_index=0)
    names = ["loss", *outputs]
    for spec in joint.graph_signature.output_specs:
        if spec.kind == OutputKind.GRADIENT_TO_PARAMETER:
            names.append(f"gradient.{_in_model(str(spec.target))}")
        spec.kind, spec.target = OutputKind.USER_OUTPUT, None
    return _to_onnx(joint, names)


def forward_graph(forward: ExportedProgram, outputs: Sequence[str]) -> ir.Model:
    """Translate a traced loss as it is: a `gradient_graph` without gradients."""
    return _to_onnx(_decompose(forward, joint_loss_index=None), ["loss", *outputs])


def _decompose(forward: ExportedProgram, *, joint_loss_index: int | None) -> ExportedProgram:
    with silence("torch.onnx"):
        registry = _registration.ONNXRegistry.from_torchlib(opset_version=OPSET)
        kept = set(_decomp.get_onnx_implemented_overloads(registry)) | set(TRANSLATIONS)
        program: ExportedProgram = _decompose_exported_program(
            forward,
            cia_to_decomp={},
            python_decomp_table=_decomp.create_onnx_friendly_decomposition_table(kept),  # type: ignore[arg-type]
            joint_loss_index=joint_loss_index,
            decompose_custom_triton_ops=False,
        )
    return program


def _to_onnx(program: ExportedProgram, outputs: list[str]) -> ir.Model:
    # torch.onnx.export would trace the program once more to decompose it, as it already is.
    program.run_decompositions = lambda _table: program
    with silence("torch.onnx"):
        try:
            exported = torch.onnx.export(
                program,
                dynamo=True,
                opset_version=OPSET,
                optimize=False,
                verbose=False,
                custom_translation_table=TRANSLATIONS,
            )
        except torch.onnx.OnnxExporterError as error:
            raise ModelError(
                f"The model computes something that cannot be exported: {_innermost(error)}",
                "Use another model, such as BERT, ModernBERT, Llama or GPT-2",
            ) from error
    assert exported is not None
    model = exported.model
    for value, name in zip(model.graph.outputs, outputs, strict=True):
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
