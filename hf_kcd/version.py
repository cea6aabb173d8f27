"""The version of the package and of the libraries beside it, read by the build and by everything that states what made a result."""

from importlib.metadata import version

__version__ = "0.1.0"


def library_versions() -> dict[str, str]:
    """List the versions of the libraries that decide a result."""
    return {name: version(name) for name in ("hf-kcd", "torch", "transformers", "accelerate", "datasets", "timm")}
