"""All methods of compression, and the choice of one by its name and options."""

from collections.abc import Mapping

from edgefuse.compression.chains.method import Mpo
from edgefuse.compression.fusions import FUSIONS
from edgefuse.compression.method import Method
from edgefuse_devices.errors import InputError
from edgefuse_devices.names import unknown
from edgefuse_devices.options import make, refuse_options

METHODS: tuple[type[Method], ...] = (*FUSIONS, Mpo)


def find_method(name: str | Method, options: Mapping[str, object] | None = None) -> Method:
    """Make the method of a name and its options.

    Args:
        name: A name as `--method` takes it, or a method, which is given back.
        options: Values by the options' names; None stands for the default.

    Raises:
        InputError: There is no such method, or an option is another method's.
    """
    if isinstance(name, Method):
        refuse_options(options or {}, name)
        return name
    kind = next((method for method in METHODS if method.name == name), None)
    if kind is None:
        raise InputError(*unknown("method", name, [method.name for method in METHODS]))
    return make(kind, options or {}, choice=f"--method {name}")
