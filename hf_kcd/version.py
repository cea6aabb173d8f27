"""The version of the package, read by the build and by everything that states what made a result."""

__version__ = "0.1.0"
