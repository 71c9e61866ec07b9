"""Where a figure was taken: operating system, processor, instruction set, versions."""

from __future__ import annotations

import functools
import os
import platform
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

#: What matters to int8 and fp16 kernels, as /proc/cpuinfo and sysctl spell it, to the name a report uses.
_ISA = {
    "sse4_1": "sse4.1",
    "avx": "avx",
    "avx2": "avx2",
    "fma": "fma",
    "f16c": "f16c",
    "avx512f": "avx512f",
    "avx512_vnni": "avx512_vnni",
    "avx_vnni": "avx_vnni",
    "avx512_bf16": "avx512_bf16",
    "amx_int8": "amx_int8",
    "asimd": "neon",
    "neon": "neon",
    "asimdhp": "fp16",
    "asimddp": "dotprod",
    "i8mm": "i8mm",
    "bf16": "bf16",
    "sve": "sve",
    "sve2": "sve2",
}
_SYSCTL_ISA = {
    "hw.optional.neon": "neon",
    "hw.optional.arm.AdvSIMD": "neon",
    "hw.optional.arm.FEAT_FP16": "fp16",
    "hw.optional.arm.FEAT_DotProd": "dotprod",
    "hw.optional.arm.FEAT_I8MM": "i8mm",
    "hw.optional.arm.FEAT_BF16": "bf16",
    "hw.optional.avx2_0": "avx2",
    "hw.optional.avx512f": "avx512f",
}
_DISTRIBUTIONS = (
    "toonedge",
    "numpy",
    "pillow",
    "onnxruntime",
    "ai-edge-litert",
    "tflite-runtime",
    "tensorflow",
    "executorch",
    "torch",
    "coremltools",
)


@dataclass(frozen=True, kw_only=True)
class Host:
    """The machine and what is installed on it.

    Attributes:
        os: e.g. ``"Linux 6.1.0 x86_64"``.
        cpu: the processor's name as the system gives it; ``"unknown"`` when it gives none.
        isa: the instruction-set extensions that change int8 and fp16 kernels, e.g. ``("avx2", "avx512_vnni")``.
        cores: logical processors this process may use.
        threads: worker threads each runtime was given.
        versions: distribution names and versions, Python included.
    """

    os: str
    cpu: str
    isa: tuple[str, ...]
    cores: int
    threads: int
    versions: dict[str, str] = field(default_factory=dict)


def describe_host(threads: int) -> Host:
    """This machine, with the thread count the runtimes are given."""
    system = platform.uname()
    cpuinfo = _read_cpuinfo()
    versions = {"python": platform.python_version()}
    for name in _DISTRIBUTIONS:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:  # not installed: not part of this host
            continue
    return Host(
        os=f"{system.system} {system.release} {system.machine}",
        cpu=cpu_name(cpuinfo),
        isa=isa_names(cpuinfo),
        cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        threads=threads,
        versions=versions,
    )


def cpu_name(cpuinfo: Mapping[str, str]) -> str:
    """The processor's name from the fields of /proc/cpuinfo, or from sysctl on macOS."""
    for key in ("model name", "Model", "Hardware", "Processor", "cpu model", "machdep.cpu.brand_string"):
        if cpuinfo.get(key):
            return cpuinfo[key]
    return platform.processor() or "unknown"


def isa_names(cpuinfo: Mapping[str, str]) -> tuple[str, ...]:
    """The extensions of interest among the flags of /proc/cpuinfo (x86 ``flags``, arm ``Features``) or sysctl."""
    flags = f"{cpuinfo.get('flags', '')} {cpuinfo.get('Features', '')}".split()
    names = [name for flag, name in _ISA.items() if flag in flags]
    names += [name for key, name in _SYSCTL_ISA.items() if cpuinfo.get(key) == "1"]
    return tuple(dict.fromkeys(names))


@functools.cache
def host_isa() -> tuple[str, ...]:
    """``Host.isa`` of this machine; empty where the system does not say (Windows)."""
    return isa_names(_read_cpuinfo())


def parse_cpuinfo(text: str) -> dict[str, str]:
    """The first value of every field of /proc/cpuinfo."""
    fields: dict[str, str] = {}
    for line in text.splitlines():
        key, separator, value = line.partition(":")
        if separator:
            fields.setdefault(key.strip(), value.strip())
    return fields


def _read_cpuinfo() -> dict[str, str]:
    path = Path("/proc/cpuinfo")
    if path.is_file():
        return parse_cpuinfo(path.read_text(errors="replace"))
    if platform.system() == "Darwin":
        result = subprocess.run(["/usr/sbin/sysctl", "-a"], capture_output=True, text=True, check=False, timeout=10)
        wanted = {"machdep.cpu.brand_string", *_SYSCTL_ISA}
        return {key: value for key, value in parse_cpuinfo(result.stdout).items() if key in wanted}
    return {}
