"""The bundle on disk: its manifest, and opening it."""
