"""A bundle is trained, evaluated and measured, by ONNX Runtime and without torch."""
