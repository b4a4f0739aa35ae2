"""Graphs are simplified as onnxscript does, but for a rule that costs more than all others."""

from collections import Counter

import onnx_ir as ir
import pytest
from onnxscript import optimizer, rewriter

from edgefuse_export.gradient import gradient_graph
from edgefuse_export.passes import simplify as passes
from edgefuse_export.passes.external_data import as_inputs
from edgefuse_export.passes.simplify import simplify
from edgefuse_export.trace import trace
from tests.pico_models import pico_model
from tests.tuned_pico import TASK, VOCABULARY


def test_one_rule_is_left_out_and_is_still_there_to_leave_out() -> None:
    left_out = {*rewriter._DEFAULT_REWRITE_RULES} - {*passes._RULES}
    assert [rule.name for rule in left_out] == [passes._QUADRATIC]


def operators(model: ir.Model) -> Counter[str]:
    return Counter(node.op_type for node in model.graph)


@pytest.mark.parametrize("kind", ["bert", "llama"])
def test_graphs_are_those_of_onnxscripts_own_optimizer(kind: str) -> None:
    model = pico_model(kind, num_labels=3, layers=1)
    model.set_attn_implementation("eager")
    graph = gradient_graph(trace(TASK, model, vocabulary=VOCABULARY), TASK.outputs)
    as_inputs(graph, {*model.state_dict()})
    other = graph.clone()
    before = operators(graph)
    simplify(graph)
    passes._FIRST(other)
    optimizer.optimize(other)
    passes._read_twice_transposed_as_it_was(other)
    assert operators(graph) == operators(other)
    assert sum(operators(graph).values()) < sum(before.values())
