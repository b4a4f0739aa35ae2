"""The meaning of the numbers and flags in /proc/cpuinfo."""

from edgefuse_devices.profile import Architecture

RELEVANT_FEATURES: dict[Architecture, frozenset[str]] = {
    "aarch64": frozenset(
        [
            "asimd",
            "asimddp",
            "asimdfhm",
            "asimdhp",
            "asimdrdm",
            "atomics",
            "bf16",
            "fphp",
            "i8mm",
            "sme",
            "sve",
            "sve2",
            "svebf16",
            "svei8mm",
        ]
    ),
    "x86_64": frozenset(
        [
            "amx_bf16",
            "amx_int8",
            "amx_tile",
            "avx",
            "avx2",
            "avx512_bf16",
            "avx512_fp16",
            "avx512_vnni",
            "avx512bw",
            "avx512dq",
            "avx512f",
            "avx512vl",
            "avx_vnni",
            "f16c",
            "fma",
            "sse4_2",
        ]
    ),
}
"""Flags by which kernels for matrix products and element-wise operators are chosen."""

_ARM = "0x41"
_ARM_PARTS = {
    "0xd03": "Cortex-A53",
    "0xd04": "Cortex-A35",
    "0xd05": "Cortex-A55",
    "0xd07": "Cortex-A57",
    "0xd08": "Cortex-A72",
    "0xd09": "Cortex-A73",
    "0xd0a": "Cortex-A75",
    "0xd0b": "Cortex-A76",
    "0xd0c": "Neoverse-N1",
    "0xd0d": "Cortex-A77",
    "0xd0e": "Cortex-A76AE",
    "0xd40": "Neoverse-V1",
    "0xd41": "Cortex-A78",
    "0xd42": "Cortex-A78AE",
    "0xd44": "Cortex-X1",
    "0xd46": "Cortex-A510",
    "0xd47": "Cortex-A710",
    "0xd48": "Cortex-X2",
    "0xd49": "Neoverse-N2",
    "0xd4b": "Cortex-A78C",
    "0xd4d": "Cortex-A715",
    "0xd4e": "Cortex-X3",
    "0xd4f": "Neoverse-V2",
    "0xd80": "Cortex-A520",
    "0xd81": "Cortex-A720",
    "0xd82": "Cortex-X4",
    "0xd84": "Neoverse-V3",
    "0xd85": "Cortex-X925",
    "0xd87": "Cortex-A725",
}


def arm_core_name(implementer: str, part: str) -> str:
    """Name an ARM core by the `CPU implementer` and `CPU part` lines of /proc/cpuinfo.

    The numbers are fields of MIDR_EL1; arch/arm64/include/asm/cputype.h in Linux lists them. The
    name of any other core consists of its numbers.
    """
    if not part:
        return "unknown"
    if implementer == _ARM and part in _ARM_PARTS:
        return _ARM_PARTS[part]
    return f"implementer {implementer or '?'} part {part}"


__all__ = ["RELEVANT_FEATURES", "arm_core_name"]
