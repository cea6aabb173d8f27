"""Commands run in this process, which is faster than starting one, and two trained runs for all tests to look at."""

import io
from collections.abc import Callable
from contextlib import redirect_stdout
from pathlib import Path

import pytest
from tiny import CONDENSED, QUIET, TINY

from hf_kcd.cli.main import main


@pytest.fixture
def hf_kcd(capsys) -> Callable[..., str]:
    """Run a command and return what it prints."""

    def run(*words: object) -> str:
        capsys.readouterr()
        main([*map(str, words)])
        return capsys.readouterr().out

    return run


@pytest.fixture(scope="session")
def teacher(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("teacher") / "run"
    main(["train-teacher", *QUIET, "--network", "cifar_resnet8", "--output_dir", str(folder)])
    return folder


@pytest.fixture(scope="session")
def condensed(tmp_path_factory, teacher) -> Path:
    """A condensed run with plots; what it printed is in `printed.txt` beside its folder."""
    folder = tmp_path_factory.mktemp("condensed") / "run"
    with redirect_stdout(io.StringIO()) as printed:
        main(["distill", *TINY, "--teacher", str(teacher), *CONDENSED, "--output_dir", str(folder)])
    (folder.parent / "printed.txt").write_text(printed.getvalue())
    return folder
