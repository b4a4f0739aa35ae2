"""The published ablations of MLP Fusion, one file each, built correctly so that they are fair."""
