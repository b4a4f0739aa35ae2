"""Trained weights as models for others: ONNX, transformers, peft.

May import `inference`, `bundle` and what is below them.
"""
