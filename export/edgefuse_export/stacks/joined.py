"""The parts of a model put together again: its forward pass in one graph, for inference."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import onnx_ir as ir

from edgefuse_export.stacks.graphs import StackGraphs
from edgefuse_runtime.graph.stack import HIDDEN, OUTPUT, context_name


def join(graphs: StackGraphs, *, batch: Sequence[str]) -> ir.Model:
    """Make one graph of the parts' forward graphs.

    A kind's graph is copied for each of its layers: ONNX Runtime knows the shapes of what is
    between the parts by itself, so that they need not agree on names of sizes.

    Args:
        graphs: The parts.
        batch: Names of the batch's tensors, in the order that the graph shall take them.

    Returns:
        A model whose inputs are the batch's and every tensor, by its name in the model, and whose
        outputs are loss and outputs of the task.
    """
    inputs: dict[str, ir.Value] = {}
    for part in (graphs.entrance, graphs.exit_forward):
        for value in part.graph.inputs:
            if (name := str(value.name)) in batch:
                inputs.setdefault(name, _like(value, name))
    imports = dict(graphs.entrance.graph.opset_imports)
    whole = Whole(ir.Graph([], [], nodes=[], opset_imports=imports, name="inference"), inputs)
    reached = whole.append(graphs.entrance, "entrance/", {})
    hidden = reached[HIDDEN]
    for index, kind in enumerate(graphs.of_kind):
        given = {
            context_name(own): reached[context_name(place)]
            for own, place in enumerate(graphs.contexts[index])
        }
        given[HIDDEN] = hidden
        prefix = graphs.stack.prefix(index)
        hidden = whole.append(graphs.kinds[kind].forward, prefix, given, prefix=prefix)[OUTPUT]
    graph = whole.graph
    for name, value in whole.append(graphs.exit_forward, "exit/", {HIDDEN: hidden}).items():
        value.name = name
        graph.outputs.append(value)
    graph.inputs.extend(inputs[name] for name in (*batch, *sorted(inputs.keys() - {*batch})))
    return ir.Model(graph, ir_version=graphs.entrance.ir_version, producer_name="edgefuse")


@dataclass(frozen=True)
class Whole:
    """A graph that grows.

    Attributes:
        graph: Nodes and initializers of the parts until now.
        inputs: Inputs of the graph by their names, the batch's and those of the tensors until now.
    """

    graph: ir.Graph
    inputs: dict[str, ir.Value]

    def append(
        self, part: ir.Model, place: str, given: Mapping[str, ir.Value], *, prefix: str = ""
    ) -> dict[str, ir.Value]:
        """Copy a part's nodes.

        Args:
            part: The part.
            place: What the names of its values shall begin with.
            given: Values of the graph that are inputs of the part.
            prefix: What the names of its tensors begin with in the model.

        Returns:
            The part's outputs by their names.
        """
        copied = part.clone().graph
        outputs = {str(value.name): value for value in copied.outputs}
        copied.outputs.clear()
        for value in [*copied.inputs]:
            name = str(value.name)
            source = given.get(name)
            if source is None:
                whole = prefix + name
                source = self.inputs.setdefault(whole, _like(value, whole))
            value.replace_all_uses_with(source)
            outputs = {n: source if made is value else made for n, made in outputs.items()}
        copied.inputs.clear()
        for initializer in [*copied.initializers.values()]:
            copied.initializers.pop(str(initializer.name))
            initializer.name = f"{place}{initializer.name}"
            self.graph.register_initializer(initializer)
        nodes = [*copied]
        copied.remove(nodes)
        for node in nodes:
            node.name = f"{place}{node.name}"
            for output in node.outputs:
                output.name = f"{place}{output.name}"
                output.shape = None
        self.graph.extend(nodes)
        return outputs


def _like(value: ir.Value, name: str) -> ir.Value:
    return ir.Value(name=name, type=value.type, shape=value.shape)
