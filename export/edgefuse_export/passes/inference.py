"""inference.onnx and model.onnx: the forward part of the training graph, without P."""

from collections.abc import Iterator, Sequence

import onnx_ir as ir
from onnx_ir.passes import common

from edgefuse_export.fused_mlp import FusedMLP
from edgefuse_export.tasks.task import ExportTask


def inference_graph(forward: ir.Model, task: ExportTask, *, fused: Sequence[FusedMLP]) -> ir.Model:
    """Cut the task's outputs out of a graph, and P out of what makes them.

    Before → after, P being folded into the weight that the runtime supplies:

        Gemm(Mul(activation, multiplicity), weight)  →  Gemm(activation, weight)

    Args:
        forward: What `gradient_graph` or `forward_graph` returned, simplified, its tensors
            inputs. Not changed.
        task: What the model is trained for.
        fused: The fused blocks.

    Returns:
        A model whose inputs are the batch's and every tensor but the multiplicities.
    """
    model = forward.clone()
    graph = model.graph
    for value in list(graph.outputs):
        if value.name not in task.outputs:
            graph.outputs.remove(value)
    inputs = {value.name: value for value in graph.inputs}
    for target in task.targets:
        read_sizes_elsewhere(inputs[target], [inputs[name] for name in task.inputs])
        graph.inputs.remove(inputs[target])
    leave_out_multiplicities(model, fused)
    assert [value.name for value in graph.inputs][: len(task.inputs)] == list(task.inputs)
    return model


def leave_out_multiplicities(model: ir.Model, fused: Sequence[FusedMLP]) -> None:
    """Cut P out of a graph whose tensors are inputs, in place."""
    inputs = {value.name: value for value in model.graph.inputs}
    for block in fused:
        multiplicity = inputs[block.multiplicity]
        model.graph.inputs.remove(multiplicity)
        for product in multiplicity.consumers():
            if product.op_type == "Mul":
                (activation,) = (v for v in product.inputs if v is not multiplicity)
                assert activation is not None
                product.outputs[0].replace_all_uses_with(activation)
    common.RemoveUnusedNodesPass()(model)


def read_sizes_elsewhere(target: ir.Value, others: Sequence[ir.Value]) -> None:
    """Read sizes, which torch reads off any of the batch's tensors, off those that stay."""
    assert target.shape is not None
    for node in [*target.consumers()]:
        if node.op_type != "Shape":
            continue
        start = node.attributes.get_int("start", 0)
        end = node.attributes.get_int("end", len(target.shape))
        other, place = next(_places(target.shape[start:end], others), (others[0], start))
        node.replace_input_with(0, other)
        node.attributes.add(ir.AttrInt64("start", place))
        node.attributes.add(ir.AttrInt64("end", place + end - start))


def _places(
    sizes: Sequence[int | ir.SymbolicDim], values: Sequence[ir.Value]
) -> Iterator[tuple[ir.Value, int]]:
    """Values whose shape has these sizes side by side, and the axis of the first."""
    for value in values:
        assert value.shape is not None
        for place in range(len(value.shape) - len(sizes) + 1):
            if value.shape[place : place + len(sizes)] == sizes:
                yield value, place
