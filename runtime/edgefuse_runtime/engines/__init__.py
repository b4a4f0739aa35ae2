"""Forward, backward and optimizer over a bundle, a file an engine."""
