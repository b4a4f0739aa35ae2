"""Trained weights as models for others."""
