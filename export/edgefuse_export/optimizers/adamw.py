"""AdamW over blocks of elements, as ordinary ONNX operators."""

import onnx_ir as ir
from onnx_ir import tape

from edgefuse_export.gradient import IR_VERSION, OPSET
from edgefuse_runtime.optimizers.adamw import AdamW

SCALARS = ("gradient_scale", "step_size", "eps", "shrinkage")


def adamw_graph(settings: AdamW) -> ir.Model:
    """One step of AdamW (Loshchilov & Hutter, arXiv 1711.05101, algorithm 2).

    The moments are kept without their factors, M = m / (1 − β1) and V = v / (1 − β2), which spares
    two passes over the elements. With g' = gradient_scale · gradient:

        M ← β1 M + g'
        V ← β2 V + g'²
        parameter ← shrinkage · parameter − step_size · M / (√V + eps)

    Clipping, bias correction and schedule are in the scalars, which the runtime computes at every
    step t from the learning rate η, with c = √((1 − β2) / (1 − β2ᵗ)):

        gradient_scale = min(1, max_norm / (norm + 1e-6))
        step_size = η / c · (1 − β1) / (1 − β1ᵗ)
        eps = ε / c
        shrinkage = 1 − η · weight_decay, or 1

    Every input but the scalars is of shape (blocks, elements), and a Scan does block after block,
    so that the dozen passes over one find it in the core's cache. Of a block, each input is read by
    one element-wise operator before the output of the same role is written, so that outputs may be
    bound to the memory of the inputs.

    Returns:
        A model with inputs `parameter`, `gradient`, `first_moment`, `second_moment` and `SCALARS`,
        outputs `new_parameter`, `new_first_moment` and `new_second_moment`.
    """
    float32 = ir.TensorType(ir.DataType.FLOAT)

    def value(name: str, *shape: str) -> ir.Value:
        return ir.Value(name=name, type=float32, shape=ir.Shape(shape))

    roles = ("parameter", "gradient", *settings.states)
    block = [value(f"block.{role}", "elements") for role in roles]
    parameter, gradient, first, second = block
    scalars = [value(name) for name in SCALARS]
    gradient_scale, step_size, eps, shrinkage = scalars
    recorder = tape.Tape()

    def constant(name: str, number: float) -> ir.Value:
        return recorder.initializer(ir.tensor(number, dtype=ir.DataType.FLOAT, name=name))

    def op(kind: str, *inputs: ir.Value) -> ir.Value:
        return recorder.op(kind, inputs)

    scaled = op("Mul", gradient, gradient_scale)
    new_first = op("Add", op("Mul", first, constant("beta1", settings.beta1)), scaled)
    new_second = op(
        "Add", op("Mul", second, constant("beta2", settings.beta2)), op("Mul", scaled, scaled)
    )
    direction = op("Div", new_first, op("Add", op("Sqrt", new_second), eps))
    new_parameter = op("Sub", op("Mul", parameter, shrinkage), op("Mul", direction, step_size))
    new = {"parameter": new_parameter, "first_moment": new_first, "second_moment": new_second}
    for role, result in new.items():
        result.name, result.type, result.shape = f"block.new_{role}", float32, parameter.shape
    body = ir.Graph(
        block,
        list(new.values()),
        nodes=recorder.nodes,
        initializers=recorder.initializers,
        name="block",
    )
    tensors = [value(role, "blocks", "elements") for role in roles]
    outputs = [value(f"new_{role}", "blocks", "elements") for role in new]
    attributes = [ir.AttrGraph("body", body), ir.AttrInt64("num_scan_inputs", len(tensors))]
    graph = ir.Graph(
        [*tensors, *scalars],
        outputs,
        nodes=[ir.Node("", "Scan", tensors, attributes, outputs=outputs)],
        opset_imports={"": OPSET},
        name="adamw",
    )
    return ir.Model(graph, ir_version=IR_VERSION, producer_name="edgefuse")
