"""Board profiles as TOML, their loader, the probe of this machine, and the errors of all houses."""

__version__ = "0.1.0"
