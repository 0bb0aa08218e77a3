"""What the CPU of a device says of how INT8 has to be made for it."""

from __future__ import annotations

X86 = ("x86_64", "amd64", "i686", "i386")
WIDE_SUMS = ("avx512_vnni", "avx_vnni", "amx_int8")


def needs_reduced_range(machine: str, isa: str) -> bool:
    """Whether INT8 weights have to be of 7 bits: on x86, ONNX Runtime's kernels add pairs of products in 16 bits, where
    255 × 127 twice does not fit, and what does not fit is cut off without a word. A CPU with VNNI or AMX adds them in
    32 bits, and so does Arm.

    Args:
        machine: architecture, as ``uname -m`` prints it.
        isa: vector instruction sets by the names of /proc/cpuinfo; an x86 that does not tell its own is taken for one
            without VNNI, which costs a bit and never a result.
    """
    return machine.lower() in X86 and not any(name in isa.split() for name in WIDE_SUMS)
