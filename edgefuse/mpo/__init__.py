"""Matrix product operators: any matrix of a model as a chain of small tensors."""
