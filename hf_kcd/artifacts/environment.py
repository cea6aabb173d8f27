"""What made a result: the versions of the libraries, and the processor."""

import platform
from importlib.metadata import version
from pathlib import Path


def library_versions() -> dict[str, str]:
    """List the versions of the libraries that decide a result."""
    return {name: version(name) for name in ("hf-kcd", "torch", "transformers", "accelerate", "datasets", "timm")}


def cpu_name() -> str:
    """Name the processor, as well as the system knows it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
