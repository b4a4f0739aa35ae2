"""Engines say in a sentence what they cannot train."""

import pytest

from edgefuse_runtime.engines.onnxruntime import OnnxRuntime
from edgefuse_runtime.engines.onnxruntime_layers import NO_DROPOUT, OnnxRuntimeLayers
from edgefuse_runtime.engines.onnxruntime_training import OnnxRuntimeTraining
from edgefuse_runtime.graph.masks import RandomMask
from edgefuse_runtime.optimizers.registry import OPTIMIZERS, find_optimizer
from edgefuse_runtime.tagged import name_of

PLAIN = {"rates": [1.0], "mask": None, "optimizer": find_optimizer("adamw"), "dropout": False}


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({}, ""),
        ({"rates": [1.0, 2.0]}, "has one learning rate for all parameters"),
        ({"mask": RandomMask(parameters=[], keep=0.3)}, "does not give its gradients out"),
        ({"dropout": True}, "draws no dropout masks"),
        *(
            ({"optimizer": find_optimizer(name)}, f"knows adamw, and no {name}")
            for name in map(name_of, OPTIMIZERS)
            if name != "adamw"
        ),
    ],
)
def test_what_it_cannot_is_a_sentence(change: dict[str, object], sentence: str) -> None:
    refusal = OnnxRuntimeTraining(version="1.19.2").refusal(**{**PLAIN, **change})
    assert bool(refusal) == bool(sentence)
    assert sentence in refusal
    assert OnnxRuntime(version="1.23.0").refusal(**{**PLAIN, **change}) == ""
    layers = OnnxRuntimeLayers(version="1.23.0", layers=[], lowest=0, by_token=False, kept=[])
    assert layers.refusal(**{**PLAIN, **change}) == (NO_DROPOUT if "dropout" in change else "")
