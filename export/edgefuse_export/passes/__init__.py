"""Rewrites of traced programs and of ONNX graphs, a file each."""
