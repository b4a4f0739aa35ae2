"""A torch module becomes a gradient graph, and the graph a bundle."""
