"""What may be in an ONNX file that a session is opened for.

A bundle may come from anyone, and what computes it is a large library of C++. So a file is looked
at before: without that library, and without the package `onnx`, which no board has.
"""

from collections.abc import Collection, Iterator
from functools import cache
from pathlib import Path
from typing import Any

from google.protobuf.descriptor_pb2 import FieldDescriptorProto, FileDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message import DecodeError
from google.protobuf.message_factory import GetMessageClass

from edgefuse_devices.errors import BundleError

_DOMAINS = frozenset({"", "ai.onnx", "com.microsoft"})
"""Whose operators an exported graph has: those of ONNX and of ONNX Runtime."""

_SHOWN = 100

_ENDLESS = frozenset({"Loop"})
"""Operators that say themselves when they end. A Scan ends with what it is given."""

_MESSAGES: dict[str, dict[str, tuple[int, str]]] = {
    "Model": {"graph": (7, "Graph"), "functions": (25, "bytes*")},
    "Graph": {"node": (1, "Node*"), "initializer": (5, "Tensor*"), "sparse": (15, "bytes*")},
    "Node": {
        "op_type": (4, "string"),
        "domain": (7, "string"),
        "attribute": (5, "Attribute*"),
    },
    "Attribute": {
        "t": (5, "Tensor"),
        "g": (6, "Graph"),
        "tensors": (10, "Tensor*"),
        "graphs": (11, "Graph*"),
        "sparse": (22, "bytes"),
        "sparses": (23, "bytes*"),
    },
    "Tensor": {
        "name": (8, "string"),
        "external_data": (13, "Entry*"),
        "data_location": (14, "int32"),
    },
    "Entry": {"key": (1, "string"), "value": (2, "string")},
}
"""Those fields of onnx.proto (https://github.com/onnx/onnx/blob/main/onnx/onnx.proto) that are
looked at, with their numbers and types; a star stands for any number of them."""


def check_graph(file: Path, *, given: Collection[str] = ()) -> None:
    """Refuse an ONNX file that has what no exported graph has.

    Args:
        file: The .onnx file.
        given: Names of initializers whose data the session is given, wherever the file says that
            they are.

    Raises:
        BundleError: It is no ONNX graph, has functions, operators of other domains or such as need
            not end, or reads data outside of its folder.
    """
    try:
        model = _messages()["Model"].FromString(file.read_bytes())
    except DecodeError as error:
        raise _refused(file, "is no ONNX graph, or was cut short") from error
    except OSError as error:
        raise _refused(file, f"cannot be read: {error.strerror}") from error
    if not model.HasField("graph"):
        raise _refused(file, "has no graph")
    if model.functions:
        raise _refused(file, "has functions of its own")
    for graph in _graphs(model.graph):
        _check_operators(graph, file)
        for tensor in _tensors(graph):
            _check_data(tensor, file)
    for tensor in model.graph.initializer:
        if tensor.name not in given:
            _check_data(tensor, file)


def _check_operators(graph: Any, file: Path) -> None:
    sparse = (one.HasField("sparse") or one.sparses for n in graph.node for one in n.attribute)
    if graph.sparse or any(sparse):
        raise _refused(file, "has sparse tensors")
    for node in graph.node:
        # A name that is no text comes as bytes.
        if (
            node.domain not in _DOMAINS
            or node.op_type in _ENDLESS
            or isinstance(node.op_type, bytes)
        ):
            name = f"{node.domain}.{node.op_type}" if node.domain else node.op_type
            raise _refused(file, f"has the operator {name}")


def _check_data(tensor: Any, file: Path) -> None:
    if not tensor.data_location and not tensor.external_data:
        return  # they are in the graph
    entries = tensor.external_data
    location = next((entry.value for entry in entries if entry.key == "location"), "")
    try:
        inside = Path(location).name == location not in ("", "..")
        if inside and not (file.parent / location).is_symlink():
            return
    except (OSError, TypeError, ValueError):  # no name that a file can have
        pass
    shown = str(location)[:_SHOWN] or "nothing"
    raise _refused(file, f"reads {shown}, which is outside its folder")


def _graphs(graph: Any) -> Iterator[Any]:
    """The graph, and those that its operators run."""
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield from _graphs(attribute.g)
            for inner in attribute.graphs:
                yield from _graphs(inner)


def _tensors(graph: Any) -> Iterator[Any]:
    """Constants that are operators or arguments of them, and initializers of graphs in graphs."""
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t
            yield from attribute.tensors
            for inner in (attribute.g, *attribute.graphs):
                yield from inner.initializer


def _refused(file: Path, what: str) -> BundleError:
    return BundleError(f"{file} {what}", "Copy the bundle again, or export it anew")


@cache
def _messages() -> dict[str, Any]:
    """Classes of the messages, which skip all other fields."""
    described = FileDescriptorProto(name="edgefuse.proto", package="edgefuse", syntax="proto2")
    scalars = {
        "string": FieldDescriptorProto.TYPE_STRING,
        "bytes": FieldDescriptorProto.TYPE_BYTES,
        "int32": FieldDescriptorProto.TYPE_INT32,
    }
    for message, fields in _MESSAGES.items():
        own = described.message_type.add(name=message)
        for name, (number, starred) in fields.items():
            field, kind = own.field.add(name=name, number=number), starred.removesuffix("*")
            field.label = (
                FieldDescriptorProto.LABEL_OPTIONAL
                if kind == starred
                else FieldDescriptorProto.LABEL_REPEATED
            )
            if kind in scalars:
                field.type = scalars[kind]
            else:
                field.type = FieldDescriptorProto.TYPE_MESSAGE
                field.type_name = f".edgefuse.{kind}"
    pool = DescriptorPool()
    pool.Add(described)
    return {
        name: GetMessageClass(pool.FindMessageTypeByName(f"edgefuse.{name}")) for name in _MESSAGES
    }
