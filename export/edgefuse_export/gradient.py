"""Reverse-mode differentiation of a traced loss, and its translation to ONNX.

The one file that leans on private parts of torch (2.13): `_decompose_exported_program` with a
loss index is what `torch.export.experimental._export_forward_backward` calls, here with our own
choice of what to decompose.
"""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import onnx_ir as ir
import torch
from torch.export import ExportedProgram
from torch.export.exported_program import _decompose_exported_program
from torch.export.graph_signature import OutputKind
from torch.onnx._internal.exporter import _decomp, _registration

from edgefuse_export.backward_operators import TRANSLATIONS

OPSET = 21
IR_VERSION = 10
"""What ONNX Runtime 1.19 (the last with on-device training) and newer can read."""


def gradient_graph(forward: ExportedProgram) -> ir.Model:
    """Differentiate a traced `Loss` with respect to every parameter that requires a gradient.

    Returns:
        A model whose first output is `loss` and whose others are `gradient.NAME`, in the order of
        the module's parameters. Parameters and buffers are initializers under the names that they
        have in the model.
    """
    joint = _decompose(forward, joint_loss_index=0)
    specs = joint.graph_signature.output_specs
    names = ["loss", *(f"gradient.{_in_model(str(spec.target))}" for spec in specs[1:])]
    for spec in specs:
        spec.kind, spec.target = OutputKind.USER_OUTPUT, None
    return _to_onnx(joint, names)


def forward_graph(forward: ExportedProgram) -> ir.Model:
    """Translate a traced `Logits`; its output is `logits`, the rest as in `gradient_graph`."""
    return _to_onnx(_decompose(forward, joint_loss_index=None), ["logits"])


def _decompose(program: ExportedProgram, *, joint_loss_index: int | None) -> ExportedProgram:
    with _quiet():
        registry = _registration.ONNXRegistry.from_torchlib(opset_version=OPSET)
        kept = set(_decomp.get_onnx_implemented_overloads(registry)) | set(TRANSLATIONS)
        return _decompose_exported_program(
            program,
            cia_to_decomp={},
            python_decomp_table=_decomp.create_onnx_friendly_decomposition_table(kept),
            joint_loss_index=joint_loss_index,
            decompose_custom_triton_ops=False,
        )


def _to_onnx(program: ExportedProgram, outputs: list[str]) -> ir.Model:
    # torch.onnx.export would trace the program once more to decompose it, as it already is.
    program.run_decompositions = lambda _table: program  # type: ignore[method-assign]
    with _quiet():
        exported = torch.onnx.export(
            program,
            dynamo=True,
            opset_version=OPSET,
            optimize=False,
            verbose=False,
            custom_translation_table=TRANSLATIONS,  # type: ignore[arg-type]
        )
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


def _forget_origins(model: ir.Model) -> None:
    """Drop torch's stack traces: they name files of this machine and are most of the graph."""
    model.metadata_props.clear()
    model.graph.metadata_props.clear()
    for node in model.graph.all_nodes():
        node.metadata_props.clear()
        for output in node.outputs:
            output.metadata_props.clear()


def _in_model(name: str) -> str:
    """The name without the prefix of `Logits.model`."""
    return name.removeprefix("model.")


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep torch's remarks on packages that we do not use from the user."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
