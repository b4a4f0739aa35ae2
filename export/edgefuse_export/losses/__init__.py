"""Losses: modules around a model of transformers that graphs are traced of, a file a task.

Apart from `tasks`, for they import torch.
"""
