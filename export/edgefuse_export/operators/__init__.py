"""Translations of ATen gradients to ONNX operators."""
