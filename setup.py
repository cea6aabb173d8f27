"""Puts recipes, cards and pages, which lie beside the package, into it where a wheel is built; the rest is pyproject.toml."""

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

_SHARED = ("recipes", "model_cards", "docs")


class BuildWithShared(build_py):
    """Builds the package with the shared folders in `hf_kcd/_shared`; an editable install reads them from the clone."""

    def run(self) -> None:
        super().run()
        if self.editable_mode:
            return
        target = Path(self.build_lib) / "hf_kcd" / "_shared"
        # An earlier build in the same folder may have left files that are gone.
        shutil.rmtree(target, ignore_errors=True)
        for name in _SHARED:
            shutil.copytree(name, target / name, ignore=shutil.ignore_patterns("__pycache__", ".*"))


setup(cmdclass={"build_py": BuildWithShared})
