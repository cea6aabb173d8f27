"""The versions of the libraries and the processor, which are stated beside a result."""

import platform
from importlib.metadata import version
from pathlib import Path


def library_versions() -> dict[str, str]:
    """Return the versions of the libraries that affect a result."""
    return {name: version(name) for name in ("hf-kcd", "torch", "transformers", "accelerate", "datasets", "timm")}


def cpu_name() -> str:
    """Return the processor's name, as far as the system knows it."""
    known = Path("/proc/cpuinfo")
    lines = known.read_text(encoding="utf-8").splitlines() if known.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
