"""What is known of memory: of a graph's values, of the machine, and what follows for a run."""

import re
import tracemalloc

import msgspec
import numpy as np
import onnx_ir as ir
import pytest

from edgefuse.cli._sizes import parse_size
from edgefuse_devices.errors import InputError, RunError
from edgefuse_export.memory import footprint
from edgefuse_runtime.bundle.bundle import Bundle
from edgefuse_runtime.data.batching import Dataset, order_bytes, training_batches
from edgefuse_runtime.engines.onnxruntime_layers import Layer, OnnxRuntimeLayers
from edgefuse_runtime.graph.footprint import Footprint, Term
from edgefuse_runtime.machine import memory
from edgefuse_runtime.training.memory_plan import plan_memory, usual_budget
from tests.tiny_bundle import make_bundle, write_data

MIB = 2**20


def test_sizes_follow_rows_and_tokens():
    both = Footprint([[Term(8.0, 1, 1)], [Term(2.0, 1, 2), Term(100.0, 0, 0)]])
    assert both.at(2, 3) == 2 * 2 * 9 + 100
    assert both.at(50, 2) == 8 * 100
    assert both.beside([Term(5.0, 1, 0)]).at(2, 3) == 136 + 10
    # The same exponents add up, and what another one exceeds everywhere is left out.
    joined = both.or_of([Footprint([[Term(3.0, 1, 1), Term(4.0, 1, 1)]])])
    assert sorted(map(len, joined.moments)) == [1, 2]
    assert joined.at(2, 3) == both.at(2, 3)
    assert Footprint([]).at(9, 9) == 0


def test_a_graphs_footprint_is_the_most_that_lives_at_once_for_any_batch():
    x = ir.Value(name="x", type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape(["b", "t", 8]))
    graph = ir.Graph([x], [], nodes=[], opset_imports={"": 21})
    shape = ir.Shape(["b", "t", 8])

    def op(kind: str, *inputs: ir.Value, shape: ir.Shape = shape) -> ir.Value:
        node = ir.node(kind, list(inputs))
        node.outputs[0].name = f"v{len(list(graph))}"
        node.outputs[0].type, node.outputs[0].shape = x.type, shape
        graph.append(node)
        return node.outputs[0]

    one = op("Exp", x)
    turned = op("Transpose", one)  # read by a product alone, it is none in memory
    turned.producer().attributes.add(ir.AttrInt64s("perm", [0, 2, 1]))
    turned.shape = ir.Shape(["b", 8, "t"])
    scores = op("MatMul", one, turned, shape=ir.Shape(["b", "t", "t"]))
    graph.outputs.append(op("Neg", scores, shape=ir.Shape(["b", "t", "t"])))
    model = ir.Model(graph, ir_version=10)
    found = footprint(model, lambda rows, tokens: {"x": (rows, tokens, 8)}, vocabulary=0)
    for rows, tokens in ((1, 1), (3, 5), (16, 512)):
        assert found.at(rows, tokens) == 4 * (rows * tokens * 8 + rows * tokens**2)


@pytest.mark.parametrize(
    ("text", "size"),
    [("700MiB", 700 * MIB), ("1.5 GiB", 3 * 2**29), ("512mb", 512_000_000), ("64kib", 2**16)],
)
def test_sizes_are_read_as_people_write_them(text: str, size: int):
    assert parse_size(text, "--memory") == size


@pytest.mark.parametrize("text", ["700", "lots", "-3MiB", "0MiB", "3 TiBs", ""])
def test_what_is_no_size_is_refused(text: str):
    with pytest.raises(InputError, match=re.escape(f"--memory {text} is no size")):
        parse_size(text, "--memory")


@pytest.mark.parametrize("version", [1, 2])
def test_limits_of_groups_count(tmp_path, monkeypatch, version: int):
    monkeypatch.setattr(memory, "_CGROUPS", tmp_path)
    table = tmp_path / "cgroup"
    monkeypatch.setattr(memory, "_CGROUP", table)
    root = tmp_path if version == 2 else tmp_path / "memory"
    group = root / "outer" / "inner"
    group.mkdir(parents=True)
    table.write_text("0::/outer/inner\n" if version == 2 else "4:cpu,memory:/outer/inner\n")
    limit, usage, cached = {
        1: ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
        2: ("memory.max", "memory.current", "inactive_file"),
    }[version]
    (group / limit).write_text("max\n" if version == 2 else str(2**63 - 4096))
    (group / usage).write_text(f"{90 * MIB}\n")
    (group / "memory.stat").write_text(f"anon 1\n{cached} 0\n")
    (group.parent / limit).write_text(f"{100 * MIB}\n")
    (group.parent / usage).write_text(f"{90 * MIB}\n")
    (group.parent / "memory.stat").write_text(f"anon 1\n{cached} {4 * MIB}\n")
    assert memory.free() == 14 * MIB


def test_the_process_holds_less_than_it_has_resident():
    assert 0 < memory.anonymous() <= memory.resident() + MIB
    held = np.ones(32 * MIB // 8)
    assert memory.anonymous() > held.nbytes


class TestPlan:
    """`plan_memory` on a bundle whose footprint is 1 MiB for each token of a row."""

    @pytest.fixture
    def bundle(self, tmp_path) -> Bundle:
        plain = make_bundle(tmp_path / "bundle")
        engine = OnnxRuntimeLayers(
            version="0",
            layers=[Layer(kind=0, prefix=f"{index}.", contexts=[]) for index in range(5)],
            lowest=1,
            by_token=False,
            kept=[[Term(float(MIB), 1, 1)]],
        )
        manifest = msgspec.structs.replace(
            plain.manifest, footprint=Footprint([[Term(float(MIB), 1, 1)]]), engine=engine
        )
        return Bundle(plain.path, manifest, "")

    @pytest.fixture
    def dataset(self, bundle: Bundle, tmp_path) -> Dataset:
        return bundle.read(write_data(tmp_path / "train.jsonl", 9))

    def plan(self, bundle: Bundle, dataset: Dataset, mib: float, **options):
        given = {"batch_size": 8, "in_parts": False, "held": 50 * MIB, **options}
        return plan_memory(bundle, dataset, budget=int(mib * MIB), **given)

    def test_the_longest_row_decides_how_many_rows_are_computed_at_once(self, bundle, dataset):
        longest = int(dataset.lengths.max())
        beside = 50 + 24 + 0.1
        for rows in (1, 3, 8):
            found = self.plan(bundle, dataset, beside + 1.3 * rows * longest)
            assert (found.rows_at_once, found.kept_layers) == (rows, 0)
            assert found.bytes <= (beside + 1.3 * rows * longest) * MIB

    def test_what_is_left_keeps_the_insides_of_upper_layers(self, bundle, dataset):
        longest = int(dataset.lengths.max())
        whole = 50 + 24 + 0.1 + 1.3 * 8 * longest
        assert self.plan(bundle, dataset, whole + 2.5 * 1.3 * 8 * longest).kept_layers == 2
        assert self.plan(bundle, dataset, 100 * whole).kept_layers == 4  # of those that learn

    def test_a_row_that_does_not_fit_is_refused_with_what_would(self, bundle, dataset):
        longest = int(dataset.lengths.max())
        whole = 50 + 24 + 1.3 * longest
        says = rf"a row of {longest} tokens takes about {whole:.0f} MiB, and 60 MiB"
        with pytest.raises(RunError, match=says) as refused:
            self.plan(bundle, dataset, 60)
        enough = int(re.search(r"--memory (\d+)MiB", str(refused.value))[1])
        assert enough - 10 < whole + 0.1 <= enough
        assert self.plan(bundle, dataset, enough).rows_at_once == 1
        assert self.plan(bundle, dataset, 60, refuse=False).rows_at_once == 1


def test_without_being_told_half_of_the_board_is_used_if_it_is_free(tmp_path, monkeypatch):
    device = make_bundle(tmp_path / "bundle").manifest.device
    board = msgspec.structs.replace(device, memory_mib=1000)
    monkeypatch.setattr(memory, "free", lambda: 10_000 * MIB)
    assert usual_budget(board, held=0) == 500 * MIB
    monkeypatch.setattr(memory, "free", lambda: 100 * MIB)
    assert usual_budget(board, held=30 * MIB) == 120 * MIB


def test_the_order_of_rows_counts():
    rows, batch_size = 40_000, 4
    lengths = np.full(rows, 7)
    tracemalloc.start()
    batches = training_batches(lengths, batch_size, seed=0, epoch=0)
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(batches) == rows / batch_size
    assert held == pytest.approx(order_bytes(rows, batch_size), rel=0.1)
