"""The embedded default: a data set that EdgeFuse makes itself, and a walk through the whole job."""
