"""The inference graph with trained weights: evaluation and prediction.

May import `bundle` and what is below it.
"""
