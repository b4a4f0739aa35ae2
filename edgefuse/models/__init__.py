"""Models in and out: loading what transformers knows, and compressed model directories."""
