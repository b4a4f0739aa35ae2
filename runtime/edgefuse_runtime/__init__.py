"""A bundle is trained, evaluated and measured, by ONNX Runtime and without torch."""

import os

# Before any import of onnxruntime: its Linux wheels from 1.29 on report usage unless told not to,
# and what is trained on a device is private.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"
