"""decode.onnx: written, and held against inference.onnx."""

import numpy as np
import onnx_ir as ir

from edgefuse_runtime.bundle.bundle import DECODING, Bundle
from edgefuse_runtime.checking.tolerances import OUTPUT_TOLERANCE
from edgefuse_runtime.inference.model import InferenceModel

_LONGEST = 12
"""Tokens of the longest text that is checked."""

_STEPS = 2
"""Tokens that texts are continued by, one after another."""


def write_decoding(bundle: Bundle, graph: ir.Model) -> bool:
    """Write decode.onnx if it continues texts as inference.onnx reads them.

    Attention that keeps something else than the keys and values of its tokens cannot be told from
    others in any other way.

    Args:
        bundle: A bundle with its tensors and inference.onnx.
        graph: What an engine's `decoding` gave.

    Returns:
        Whether it does.
    """
    file = bundle.path / DECODING
    ir.save(graph, file)
    right = _is_right(bundle)
    if not right:
        file.unlink()
    return right


def _is_right(bundle: Bundle) -> bool:
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
    return np.allclose(found, expected, rtol=0, atol=OUTPUT_TOLERANCE * scale)
