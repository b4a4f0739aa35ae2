"""Graphs of optimizers that move every element by itself."""

from collections.abc import Callable, Mapping, Sequence

import onnx_ir as ir
from onnx_ir import tape

from edgefuse_export.gradient import IR_VERSION, OPSET

FLOAT32 = ir.TensorType(ir.DataType.FLOAT)

Values = Mapping[str, ir.Value]


class Recorder:
    """Records ordinary ONNX operators over float32 values.

    Attributes:
        tape: The operators and constants so far.
    """

    def __init__(self) -> None:
        self.tape = tape.Tape()

    def constant(self, name: str, number: float) -> ir.Value:
        """A number as a value."""
        return self.tape.initializer(ir.tensor(number, dtype=ir.DataType.FLOAT, name=name))

    def op(self, kind: str, *inputs: ir.Value, **attributes: int) -> ir.Value:
        """The one output of an operator."""
        return self.tape.op(kind, inputs, attributes)


Rule = Callable[[Recorder, Values], Values]
"""Maps parameter, gradient, states and scalars by their names to new values of all but the
gradient and the scalars. It has to read each input that it has a new value of by one operator, or
before that value is computed: the new value may share its memory."""


def value(name: str, *shape: str) -> ir.Value:
    """A float32 value with dimensions that may be any."""
    return ir.Value(name=name, type=FLOAT32, shape=ir.Shape(shape))


def elementwise_graph(
    name: str, rule: Rule, *, states: Sequence[str], scalars: Sequence[str]
) -> ir.Model:
    """Make the graph of a rule.

    Every input but the scalars is of shape (blocks, elements), and a Scan does block after block,
    so that the dozen passes over one find it in the core's cache.

    Args:
        name: Name of the optimizer.
        rule: The rule.
        states: Names of what the optimizer keeps.
        scalars: Names of the scalars of a step.

    Returns:
        A model with inputs `parameter`, `gradient`, the states and the scalars; outputs
        `new_parameter` and a `new_STATE` for every state.
    """
    roles = ("parameter", "gradient", *states)
    block = {role: value(f"block.{role}", "elements") for role in roles}
    numbers = {scalar: value(scalar) for scalar in scalars}
    recorder = Recorder()
    new = rule(recorder, {**block, **numbers})
    for role, result in new.items():
        result.name, result.type = f"block.new_{role}", FLOAT32
        result.shape = ir.Shape(["elements"])
    body = ir.Graph(
        list(block.values()),
        list(new.values()),
        nodes=recorder.tape.nodes,
        initializers=recorder.tape.initializers,
        name="block",
    )
    tensors = [value(role, "blocks", "elements") for role in roles]
    outputs = [value(f"new_{role}", "blocks", "elements") for role in new]
    attributes = [ir.AttrGraph("body", body), ir.AttrInt64("num_scan_inputs", len(tensors))]
    graph = ir.Graph(
        [*tensors, *numbers.values()],
        outputs,
        nodes=[ir.Node("", "Scan", tensors, attributes, outputs=outputs)],
        opset_imports={"": OPSET},
        name=name,
    )
    return ir.Model(graph, ir_version=IR_VERSION, producer_name="edgefuse")
