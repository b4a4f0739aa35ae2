"""Board profiles as TOML, their loader and the probe of the machine at hand."""

__version__ = "0.1.0"
