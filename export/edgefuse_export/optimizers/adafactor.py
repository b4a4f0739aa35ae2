"""Adafactor over a parameter at a time, as ordinary ONNX operators."""

import numpy as np
import onnx_ir as ir

from edgefuse_export.gradient import IR_VERSION, OPSET
from edgefuse_export.optimizers.elementwise import FLOAT32, Recorder, value
from edgefuse_runtime.optimizers.adafactor import Adafactor

SCALARS = (
    "gradient_scale",
    "fresh",
    "relative_step",
    "shrinkage",
    "is_vector",
    "share",
    "absent",
)
_SMALLEST = float(np.finfo(np.float32).tiny)
_DIMENSIONS = ("matrices", "rows", "columns")


def adafactor_graph(settings: Adafactor) -> ir.Model:
    """One step of torch.optim.Adafactor (Shazeer & Stern, arXiv 1804.04235, algorithms 4 and 5).

    With G = gradient_scale · gradient, of shape (matrices, rows, columns), and f = fresh:

        R ← (1 − f) R + f · mean of G² over columns
        C ← (1 − f) C + f · mean of G² over rows
        V = R C / max(mean of R over rows, ε1)
        U = G / √max(V, ε1²)
        α = relative_step · max(ε2, RMS(parameter)) / max(1, RMS(U) / d)
        parameter ← shrinkage · parameter − α U

    A vector has no factors, but a second moment of each element: as one row it has the same by
    C alone, for R and its mean cancel where no ε1 is in the way.

    Rows that are left out of an embedding have a zero gradient. They count in the means, which
    `share` corrects, and their squares, `absent`, in the parameter's RMS.

    Whatever reads the parameter comes before its new value, which may share its memory.

    Returns:
        A model with inputs `parameter`, `gradient`, `row_moment` (matrices, rows, 1),
        `column_moment` (matrices, 1, columns) and `SCALARS`; outputs `new_parameter`,
        `new_row_moment` and `new_column_moment`.
    """
    graph = Recorder()
    op = graph.op
    parameter, gradient = (value(role, *_DIMENSIONS) for role in ("parameter", "gradient"))
    rows = _moment("row_moment", 2)
    columns = _moment("column_moment", 1)
    scalars = {name: value(name) for name in SCALARS}
    share, fresh = scalars["share"], scalars["fresh"]
    one = graph.constant("one", 1.0)
    axes = {
        axis: graph.tape.initializer(ir.tensor(np.array([axis]), name=f"axis{axis}"))
        for axis in (1, 2)
    }

    def squares(of: ir.Value, axis: int) -> ir.Value:
        return op("ReduceSumSquare", of, axes[axis], keepdims=1)

    def count(of: ir.Value) -> ir.Value:
        return graph.tape.op("Cast", [op("Size", of)], {"to": ir.DataType.FLOAT})

    def over(sums: ir.Value, of: ir.Value) -> ir.Value:
        """Sums of elements of a tensor as means, of its rows left out too."""
        return op("Div", sums, op("Div", count(of), op("Mul", count(sums), share)))

    def mean_square(of: ir.Value) -> ir.Value:
        total = op("ReduceSum", squares(of, 2), keepdims=0)  # row by row: it loses fewer digits
        return over(total, of)

    scale = op("Mul", scalars["gradient_scale"], scalars["gradient_scale"])
    kept, weight = op("Sub", one, fresh), op("Mul", fresh, scale)

    def moment(old: ir.Value, mean: ir.Value) -> ir.Value:
        return op("Add", op("Mul", old, kept), op("Mul", mean, weight))

    row_means = op("Div", squares(gradient, 2), op("Div", count(gradient), count(rows)))
    new_rows = moment(rows, row_means)
    new_columns = moment(columns, over(squares(gradient, 1), gradient))

    # ε1, and for a vector as good as nothing.
    eps = graph.constant("eps1", settings.eps1)
    tiny = graph.constant("smallest", _SMALLEST)
    floor = op("Max", op("Mul", eps, op("Sub", one, scalars["is_vector"])), tiny)
    mean = over(op("ReduceSum", new_rows, axes[1], keepdims=1), new_rows)
    factors = op("Div", new_rows, op("Max", mean, floor))
    least = graph.constant("eps1_squared", settings.eps1**2)
    root = op("Sqrt", op("Max", op("Mul", factors, new_columns), least))
    update = op("Div", op("Mul", gradient, scalars["gradient_scale"]), root)

    threshold = graph.constant("clipping_threshold", settings.clipping_threshold)
    excess = op("Max", one, op("Div", op("Sqrt", mean_square(update)), threshold))
    size = op("Sqrt", op("Add", mean_square(parameter), scalars["absent"]))
    relative = op("Max", size, graph.constant("eps2", settings.eps2))
    step = op("Div", op("Mul", scalars["relative_step"], relative), excess)
    shrunk = op("Mul", parameter, scalars["shrinkage"])
    new_parameter = op("Sub", shrunk, op("Mul", update, step))

    outputs = {"parameter": new_parameter, "row_moment": new_rows, "column_moment": new_columns}
    for old in (parameter, rows, columns):
        new = outputs[str(old.name)]
        new.name, new.type, new.shape = f"new_{old.name}", FLOAT32, old.shape
    return ir.Model(
        ir.Graph(
            [parameter, gradient, rows, columns, *scalars.values()],
            list(outputs.values()),
            nodes=graph.tape.nodes,
            initializers=graph.tape.initializers,
            opset_imports={"": OPSET},
            name="adafactor",
        ),
        ir_version=IR_VERSION,
        producer_name="edgefuse",
    )


def _moment(name: str, axis: int) -> ir.Value:
    """A second moment of shape (matrices, rows, columns) with one of them 1."""
    shape = [1 if index == axis else dimension for index, dimension in enumerate(_DIMENSIONS)]
    return ir.Value(name=name, type=FLOAT32, shape=ir.Shape(shape))
