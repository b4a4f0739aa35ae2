"""The inference graph with trained weights: evaluation and prediction."""
