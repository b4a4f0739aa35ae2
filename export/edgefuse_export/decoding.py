"""decode.onnx: written, and held against inference.onnx."""

import msgspec
import numpy as np
import onnx_ir as ir

from edgefuse_export.passes.products import multiply_codes
from edgefuse_runtime.bundle.bundle import DECODING, Bundle
from edgefuse_runtime.checking.tolerances import OUTPUT_TOLERANCE
from edgefuse_runtime.inference.model import InferenceModel

_LONGEST = 12
"""Tokens of the longest text that is checked."""

_IN_8_BITS = 0.05
"""Tolerance of logits whose products are computed in 8 bits."""

_STEPS = 2
"""Tokens that texts are continued by, one after another."""


def write_decoding(bundle: Bundle, graph: ir.Model) -> Bundle | None:
    """Write decode.onnx if it continues texts as inference.onnx reads them.

    With a base in few bits it is written a second time, with products of 8 bits.

    Attention that keeps something else than the keys and values of its tokens cannot be told from
    others in any other way.

    Args:
        bundle: A bundle with its tensors and inference.onnx.
        graph: What an engine's `decoding` gave.

    Returns:
        The bundle, with what its manifest says of the graph; None where it does not.
    """
    file = bundle.path / DECODING
    ir.save(graph, file)
    if not _is_right(bundle, OUTPUT_TOLERANCE):
        file.unlink()
        return None
    base = bundle.manifest.base
    if base is None:
        return bundle
    faster = graph.clone()
    base = msgspec.structs.replace(base, multiplied=multiply_codes(faster))
    if not base.multiplied:
        return bundle
    ir.save(faster, file)
    manifest = msgspec.structs.replace(bundle.manifest, base=base)
    multiplying = Bundle(bundle.path, manifest, bundle.id)
    if _is_right(multiplying, _IN_8_BITS):
        return multiplying
    ir.save(graph, file)
    return bundle


def _is_right(bundle: Bundle, tolerance: float) -> bool:
    model = InferenceModel(bundle, bundle.trainable(), threads=1)
    vocabulary = sorted(bundle.tokenizer().get_vocab().values())
    longest = max(2, min(_LONGEST, bundle.manifest.sequence_length - _STEPS))
    ids = np.random.default_rng(0).choice(vocabulary, (2, longest + _STEPS)).tolist()
    ends = range(longest, longest + _STEPS + 1)
    texts = [[ids[0][:end], ids[1][1:end]] for end in ends]
    try:
        continued = model.continuation()
        found = [continued(batch) for batch in texts]
    except Exception:  # noqa: BLE001 - onnxruntime's own exceptions share no base but this
        return False
    expected = [model.read(batch) for batch in texts]
    scale = max(float(np.abs(logits).max()) for logits in expected)
    return np.allclose(found, expected, rtol=0, atol=tolerance * scale)
