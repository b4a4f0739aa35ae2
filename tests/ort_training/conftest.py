"""One environment has onnxruntime or onnxruntime-training: each collects what it can run."""

from importlib.metadata import PackageNotFoundError, version

try:
    version("onnxruntime-training-cpu")
    collect_ignore = ["test_stock_environment.py"]
except PackageNotFoundError:
    collect_ignore = ["test_engine.py", "test_against_stock_engine.py"]
