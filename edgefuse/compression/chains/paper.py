"""Name and source of the method."""

NAME = "mpo"
PAPER = (
    "Liu et al., Enabling Lightweight Fine-tuning for Pre-trained Language Model Compression based "
    "on Matrix Product Operators, ACL 2021, arXiv 2106.02205"
)
