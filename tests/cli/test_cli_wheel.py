"""What somebody has who installs the wheel: every command works from an empty folder, with the recipes of the package."""

import json
import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
from safetensors.torch import load_file

ROOT = Path(__file__).parents[2]
BUILD = "import sys, setuptools.build_meta as build; print(getattr(build, sys.argv[1])(sys.argv[2]))"
NOT_SOURCE = shutil.ignore_patterns(".*", "__pycache__", "build", "dist", "*.egg-info", "runs", "demo", "shared")

pytestmark = pytest.mark.slow


def build(kind: str, source: Path, target: Path) -> Path:
    """Run a hook of the build backend as pip does, without fetching the backend."""
    done = subprocess.run(
        [sys.executable, "-c", BUILD, kind, str(target)], cwd=source, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    return target / done.stdout.splitlines()[-1]


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> Path:
    """A folder with hf_kcd alone: the sources' sdist, unpacked elsewhere, its wheel, and that installed."""
    folder = tmp_path_factory.mktemp("wheel")
    shutil.copytree(ROOT, folder / "clone", ignore=NOT_SOURCE)
    with tarfile.open(build("build_sdist", folder / "clone", folder)) as sdist:
        sdist.extractall(folder / "sdist", filter="data")
    (source,) = (folder / "sdist").iterdir()
    wheel = build("build_wheel", source, folder)
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--no-compile"]
    subprocess.run([*pip, "--target", folder / "site", wheel], check=True, timeout=300)
    return folder / "site"


@pytest.fixture
def run(installed, tmp_path, monkeypatch):
    """Start the installed command in an empty folder; its dependencies are those of this Python."""
    monkeypatch.chdir(tmp_path)
    path = os.pathsep.join(entry for entry in (str(installed), *map(os.path.abspath, sys.path)) if entry != str(ROOT))
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}

    def start(*words: object, script: bool = False) -> str:
        command = [installed / "bin" / "hf-kcd"] if script else [sys.executable, "-W", "ignore", "-m", "hf_kcd"]
        done = subprocess.run(
            [*map(str, (*command, *words))], env=environment, capture_output=True, text=True, timeout=300
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    return start


def test_a_wheel_of_the_sdist_has_the_recipes_cards_and_pages(installed):
    assert not (installed / "recipes").exists() and not (installed / "tests").exists()
    for name in ("recipes", "model_cards", "docs"):
        here, there = ROOT / name, installed / "hf_kcd" / "_shared" / name
        files = {path.relative_to(here) for path in here.rglob("*") if path.is_file() and path.suffix != ".pyc"}
        assert files == {path.relative_to(there) for path in there.rglob("*") if path.is_file()}
        assert all((here / file).read_bytes() == (there / file).read_bytes() for file in files)
    for file in (ROOT / "hf_kcd").rglob("*"):
        if file.suffix in (".py", ".md", ".typed"):
            assert (installed / "hf_kcd" / file.relative_to(ROOT / "hf_kcd")).is_file(), file


def test_an_empty_folder_is_enough_to_try_train_evaluate_and_publish(installed, tmp_path, run):
    assert str(installed) in run("recipes", "digits", script=True)
    run("demo", "--quick", "--seeds", "1")
    short = ["--train_points", "120", "--num_train_epochs", "2", "--lr_decay_epochs", "1", "--use_cpu"]
    words = ["--config", "digits/resnet20_resnet8", "--teacher", "demo/teacher", *short, "--epochs_per_stage", "1"]
    run("distill", *words, "--output_dir", "runs/first")
    run("evaluate", "runs/first", "--data", "digits", "--json", "accuracy.json")
    last = json.loads(Path("runs/first/results.json").read_text(encoding="utf-8"))["accuracy"]["last"]
    assert json.loads(Path("accuracy.json").read_text(encoding="utf-8"))["top1"] == pytest.approx(last["top1"])
    assert "nothing was uploaded" in run("push", "runs/first", "me/digits", "--dry_run", "hub")
    assert Path("hub/mask/mask.safetensors").is_file()
    assert load_file("hub/student/model.safetensors").keys() == load_file("runs/first/model.safetensors").keys()
    assert {path.name for path in tmp_path.iterdir()} == {"demo", "runs", "accuracy.json", "hub"}
