"""Continue training a pico bundle from a saved state, and print the losses as JSON."""

import json
import sys
from pathlib import Path

import numpy as np

from edgefuse_runtime.engines.onnxruntime_training import OnnxRuntimeTrainingEngine
from tests.ort_training.training_case import LEARNING_RATE, batches, open_artifacts

bundle, state, done = sys.argv[1:]
engine = OnnxRuntimeTrainingEngine(open_artifacts(Path(bundle)))
engine.load_state(dict(np.load(state)))
losses = [engine.step(batch, LEARNING_RATE).loss for batch in list(batches())[int(done) :]]
print(json.dumps(losses))
