"""Compression for fine-tuning: methods, the recipe of stages, calibration, distillation, fidelity.

May import `artifact` and what is below it; never `tuning`.
"""
