"""An empty Hub with a login and a fresh cache for each test, a trained run, and programs that a stranger starts."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import datasets
import huggingface_hub
import pytest
from hub.local_hub import LocalHub
from hub.published import TINY, command


@pytest.fixture
def hub(session_hub: LocalHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[LocalHub]:
    """The Hub without repositories and faults; this process is logged in as "me" and has an empty cache."""
    session_hub.clear()
    monkeypatch.setenv("HF_TOKEN", session_hub.token("me"))
    # huggingface_hub reads its constants at each call, other programs read the environment.
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub_cache"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub_cache"))
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "datasets_cache")
    huggingface_hub.HfFileSystem.clear_instance_cache()
    datasets.disable_progress_bars()
    yield session_hub
    session_hub.clear()


@pytest.fixture(scope="session")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A condensed run: `test_resnet`, which timm has, with a `cifar_resnet8` from a folder of this machine as its teacher."""
    folder = tmp_path_factory.mktemp("runs")
    once = [*TINY, "--num_train_epochs", 1, "--no_plots"]
    command("train-teacher", *once, "--network", "cifar_resnet8", "--output_dir", folder / "teacher")
    condense = ["--condense", "--epochs_per_stage", 1, "--final_ratio", 0.5, "--num_train_epochs", 3]
    pair = ["--student", "test_resnet", "--teacher", folder / "teacher"]
    command("distill", *TINY, *pair, *condense, "--output_dir", folder / "first")
    return folder / "first"


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """No sleep in this process waits; the list holds the seconds."""
    seconds: list[float] = []
    monkeypatch.setattr(time, "sleep", seconds.append)
    return seconds


@pytest.fixture
def run_fresh(hub: LocalHub, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., subprocess.CompletedProcess]:
    """A function that runs code and its arguments as a stranger: another process, folder and home, and nobody logged in."""

    def run(code: str, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        kept = ("HF_ENDPOINT", "HF_HUB_DISABLE_XET", "HF_HUB_DISABLE_TELEMETRY", "HF_HUB_DISABLE_PROGRESS_BARS")
        environment = {key: value for key, value in os.environ.items() if not key.startswith("HF_") or key in kept}
        environment |= {"HF_HOME": str(tmp_path_factory.mktemp("home")), "HF_UPDATE_DOWNLOAD_COUNTS": "0", **variables}
        words, folder = [sys.executable, "-W", "ignore", "-c", code, *arguments], tmp_path_factory.mktemp("elsewhere")
        return subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)

    return run
