"""The frozen base in few bits: `blocks.py` makes codes and scales, `frozen.py` those of a model."""
