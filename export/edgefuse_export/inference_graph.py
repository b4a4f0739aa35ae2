"""From the forward pass as torch gives it to inference.onnx: no P, every weight supplied."""

from collections.abc import Collection, Sequence

import onnx_ir as ir
from onnxscript import optimizer

from edgefuse_export.external_data import as_inputs
from edgefuse_export.module import FusedMLP


def finish_inference_graph(
    model: ir.Model, *, tensors: Collection[str], fused: Sequence[FusedMLP]
) -> None:
    """Make the model's tensors inputs, take P out, and simplify, in place.

    Before → after, P being folded into the weight that the runtime supplies:

        Gemm(Mul(activation, multiplicity), weight)  →  Gemm(activation, weight)

    Args:
        model: What `forward_graph` returned.
        tensors: Names in the model's state dict.
        fused: The fused blocks.
    """
    as_inputs(model, tensors)
    inputs = {value.name: value for value in model.graph.inputs}
    for block in fused:
        multiplicity = inputs[block.multiplicity]
        for product in multiplicity.consumers():
            assert product.op_type == "Mul"
            (activation,) = (v for v in product.inputs if v is not multiplicity)
            assert activation is not None
            product.outputs[0].replace_all_uses_with(activation)
            model.graph.remove(product, safe=True)
        model.graph.inputs.remove(multiplicity)
    optimizer.optimize(model)
