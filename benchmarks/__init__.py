"""Side-by-side measurements, a file a question: `python -m benchmarks.NAME [--quick] [--json]`."""
