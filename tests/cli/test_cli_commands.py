"""The commands as a user meets them: real processes on the embedded digits, their words, their files, their exit codes."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path

import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import load_file

from hf_kcd import KnowledgeMask
from hf_kcd.cli.main import main

ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
COMMANDS = (
    "demo",
    "distill",
    "train-teacher",
    "evaluate",
    "models",
    "methods",
    "convert",
    "mask",
    "plot",
    "card",
    "push",
)
TINY = ["--data", "digits", "--train_points", "120", "--num_train_epochs", "2", "--seed", "3"]
CONDENSED = ["--method", "ce", "--condense", "--epochs_per_stage", "1", "--final_ratio", "0.5"]


def hf_kcd(*words: object, cwd: Path | None = None, code: int = 0) -> subprocess.CompletedProcess:
    """Run the command line as a process of its own and check its exit code."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "hf_kcd.cli.main", *map(str, words)],
        cwd=cwd,
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done


def here(capsys, *words: object) -> str:
    """Run a command in this process, which saves starting one, and give what it prints."""
    main([*map(str, words)])
    return capsys.readouterr().out


def error_here(capsys, *words: object, code: int = 2) -> str:
    """Run a command that fails, check that it says so in one line, and give the line."""
    with pytest.raises(SystemExit) as exit_:
        main([*map(str, words)])
    assert exit_.value.code == code
    lines = capsys.readouterr().err.splitlines()
    assert [line for line in lines if line.startswith("hf-kcd: error: ")] == lines[-1:]
    return lines[-1]


@pytest.fixture(scope="module")
def teacher(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("teacher") / "run"
    hf_kcd("train-teacher", *TINY, "--network", "cifar_resnet8", "--output_dir", folder, "--no_plots")
    return folder


@pytest.fixture(scope="module")
def condensed(tmp_path_factory, teacher) -> Path:
    folder = tmp_path_factory.mktemp("condensed") / "run"
    words = [*TINY, "--teacher", teacher, "--condense", "--epochs-per-stage", "1", "--final-ratio", "0.5"]
    done = hf_kcd("distill", *words, "--output_dir", folder)
    # 120 points in the first epoch, 120 * sqrt(0.5) = 84 in the second.
    assert "85.00%" in done.stdout
    assert "top-1" in done.stdout and str(folder) in done.stdout
    return folder


def test_help_of_hf_kcd_names_every_command():
    text = hf_kcd("--help").stdout
    assert all(f"\n  {command} " in text for command in COMMANDS)


def test_version_is_the_packages(capsys):
    assert here(capsys, "--version") == f"hf-kcd {version('hf-kcd')}\n"


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_a_command_reads_without_doing_anything(command, capsys):
    with contextlib.suppress(SystemExit):
        main([command, "--help"])
    assert f"usage: hf-kcd {command}" in capsys.readouterr().out


def test_help_of_distill_puts_what_newcomers_need_first(capsys):
    with contextlib.suppress(SystemExit):
        main(["distill", "--help"])
    text = capsys.readouterr().out
    order = ["--config", "--data ", "--student ", "--teacher ", "--num_train_epochs", "--condense", "--final_ratio"]
    order += ["Everything else of transformers.TrainingArguments", "--adam_beta1"]
    places = [text.index(word) for word in order]
    assert places == sorted(places)


def test_run_folder_holds_all_that_a_run_leaves(condensed):
    results = json.loads((condensed / "results.json").read_text())
    assert results["cost"]["paid"] == results["cost"]["planned"] == pytest.approx((120 + 84) / 240)
    assert results["command"].startswith("hf-kcd distill --data digits")
    assert KnowledgeMask.from_pretrained(condensed / "mask").num_points == 120
    assert KnowledgeMask.from_pretrained(condensed / "stages" / "stage-01").stage == 1
    assert {"config.json", "model.safetensors", "recipe.yaml"} <= {path.name for path in condensed.iterdir()}
    with Image.open(condensed / "plots" / "curves.png") as picture:
        assert min(picture.size) > 300
    assert not list(condensed.glob("**/training_args.bin"))


def test_recipe_of_a_run_gives_the_same_results_again(condensed, tmp_path):
    recipe = yaml.safe_load((condensed / "recipe.yaml").read_text())
    assert recipe["final_ratio"] == 0.5 and recipe["train_points"] == 120 and recipe["condense"] is True
    assert "output_dir" not in recipe and not any("token" in key for key in recipe)
    hf_kcd("distill", "--config", condensed / "recipe.yaml", "--output_dir", tmp_path / "again", "--no_plots")
    first, second = (load_file(folder / "model.safetensors") for folder in (condensed, tmp_path / "again"))
    assert all(torch.equal(first[name], second[name]) for name in first)
    masks = [KnowledgeMask.from_pretrained(folder / "mask") for folder in (condensed, tmp_path / "again")]
    assert masks[0].hamming_distance(masks[1]) == 0
    assert torch.equal(masks[0].value, masks[1].value)


def test_mask_of_a_run_is_shown_compared_and_trained_on(condensed, tmp_path, capsys):
    assert "120 points in 10 classes" in here(capsys, "mask", "show", condensed / "mask")
    stage = condensed / "stages" / "stage-01"
    table = here(capsys, "mask", "compare", condensed, stage, "--plot", tmp_path / "h.png")
    # 120 * sqrt(0.5) after the first epoch, half of them after the last: the mask is what training ends with.
    assert "84 of 120" in table and "60 of 120" in table
    assert (tmp_path / "h.png").stat().st_size
    words = [*TINY, "--method", "ce", "--mask", condensed / "mask", "--num_train_epochs", "1", "--no_plots"]
    hf_kcd("distill", *words, "--output_dir", tmp_path / "on_mask")
    results = json.loads((tmp_path / "on_mask" / "results.json").read_text())
    assert results["cost"]["points"] == 60


def test_evaluate_agrees_with_the_run(condensed, tmp_path, capsys):
    text = here(capsys, "evaluate", condensed, "--data", "digits", "--json", tmp_path / "accuracy.json")
    found = json.loads((tmp_path / "accuracy.json").read_text())
    last = json.loads((condensed / "results.json").read_text())["accuracy"]["last"]
    assert (found["top1"], found["top5"]) == (pytest.approx(last["top1"]), pytest.approx(last["top5"]))
    assert f"{found['top1']:.2f} %" in text


def test_plot_redraws_one_run_and_compares_several(condensed, teacher, tmp_path, capsys):
    curves = condensed / "plots" / "curves.png"
    curves.unlink()
    here(capsys, "plot", condensed)
    assert curves.stat().st_size
    assert (condensed / "plots" / "most_valuable.png").stat().st_size
    assert "KC-KD" in here(capsys, "plot", condensed, teacher, "--output", tmp_path / "both.png")
    assert (tmp_path / "both.png").stat().st_size


def test_finished_run_is_not_written_over(condensed, capsys):
    before = (condensed / "results.json").read_bytes()
    line = error_here(capsys, "distill", *TINY, "--method", "ce", "--output_dir", condensed)
    assert "finished run" in line and "--resume" in line
    assert (condensed / "results.json").read_bytes() == before


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["distil"], "Did you mean 'distill'"),
        (["distill", "--data", "cifar10", "--method", "ce", "--output_dir", "x"], "Did you mean 'cifar100'"),
        (["distill", "--student", "cifar_resnet9", "--method", "ce", "--output_dir", "x"], "cifar_resnet8"),
        (["distill", "--output_dir", "x"], "needs a teacher"),
        (["distill", "--teacher", "cifar_resnet20", "--output_dir", "x"], "without weights"),
        (["train-teacher", "--teacher", "cifar_resnet20", "--output_dir", "x"], "trained alone"),
        (["evaluate", "cifar_resnet8", "--data", "digits"], "without weights"),
        (["mask", "show", "nowhere"], "nowhere"),
        (["plot", "nowhere"], "nowhere"),
    ],
)
def test_what_is_asked_wrongly_ends_in_one_line_and_code_2(words, said, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert said in error_here(capsys, *words)
    # Nothing is left behind that would be in the way of the corrected command.
    assert not list(tmp_path.iterdir())


def test_training_that_diverges_ends_in_one_line_and_code_1(tmp_path, capsys):
    words = [*TINY, "--method", "ce", "--learning_rate", "1e30", "--output_dir", tmp_path / "run"]
    assert "step" in error_here(capsys, "distill", *words, code=1)
    assert not (tmp_path / "run" / "results.json").exists()


def test_traceback_is_there_for_who_wants_it(monkeypatch):
    monkeypatch.setenv("HF_KCD_TRACEBACK", "1")
    with pytest.raises(ValueError, match="distil"):
        main(["distil"])


def start_and_signal(words: list[object], folder: Path, number: signal.Signals) -> subprocess.Popen:
    """Start a run and send a signal to it after its first checkpoint."""
    process = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-m", "hf_kcd.cli.main", *map(str, words)],
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 300
    while not list(folder.glob("checkpoint-*/trainer_state.json")):
        assert process.poll() is None and time.monotonic() < deadline, process.communicate()
        time.sleep(0.005)
    process.send_signal(number)
    return process


def test_run_killed_midway_resumes_to_the_same_bits(tmp_path, capsys):
    words = ["distill", "--data", "digits", "--train_points", "600", *CONDENSED]
    words += ["--num_train_epochs", "5", "--seed", "1", "--no_plots", "--output_dir"]
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    hf_kcd(*words, whole)
    process = start_and_signal([*words, killed], killed, signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert not (killed / "results.json").exists()
    assert "--resume" in error_here(capsys, *words, killed)

    done = hf_kcd("distill", "--config", killed / "recipe.yaml", "--output_dir", killed, "--resume")
    assert "Continuing from" in done.stdout
    for file in ("model.safetensors", "mask/mask.safetensors"):
        first, second = (load_file(folder / file) for folder in (whole, killed))
        assert first.keys() == second.keys()
        assert all(torch.equal(first[name], second[name]) for name in first)
    paid = [json.loads((folder / "results.json").read_text())["cost"]["points"] for folder in (whole, killed)]
    assert paid[0] == paid[1]


def test_a_reader_who_has_read_enough_is_no_error():
    process = subprocess.Popen(
        [sys.executable, "-m", "hf_kcd.cli.main", "models", "cifar_resnet8"],
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    process.stdout.close()
    assert process.wait(60) == 1 and process.stderr.read() == ""
    process.stderr.close()


def test_interrupt_says_how_to_go_on(tmp_path):
    words = ["distill", *TINY, "--method", "ce", "--num_train_epochs", "200", "--output_dir", tmp_path / "run"]
    process = start_and_signal(words, tmp_path / "run", signal.SIGINT)
    _, errors = process.communicate()
    assert process.returncode == 130
    assert "--resume" in errors.splitlines()[-1]
    assert "Traceback" not in errors


def test_resume_without_a_checkpoint_starts_from_the_beginning(tmp_path):
    words = [*TINY, "--method", "ce", "--num_train_epochs", "1", "--no_plots", "--resume"]
    done = hf_kcd("distill", *words, "--output_dir", tmp_path / "run")
    assert "starting from the beginning" in done.stdout
    assert (tmp_path / "run" / "results.json").is_file()


def test_one_of_two_processes_speaks(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2"]
    launch += ["--master-addr=127.0.0.1", f"--master-port={port}"]
    words = [*TINY, *CONDENSED, "--use_cpu", "--no_plots", "--output_dir", tmp_path / "run"]
    script = Path(__file__).parents[2] / "recipes" / "distill.py"
    command = [*launch, script, *map(str, words)]
    done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("Training cifar_resnet8") == done.stdout.count("epoch    2/2") == 1
    assert json.loads((tmp_path / "run" / "results.json").read_text())["world_size"] == 2


def test_demo_ends_in_one_table_and_commands_to_try(tmp_path, capsys):
    done = hf_kcd("demo", "--quick", "--seeds", "1", "--output_dir", tmp_path / "demo")
    table = done.stdout[done.stdout.index("C paid") :]
    for name in ("teacher", "student alone", "KD", "KC-KD", "random points"):
        assert name in table
    assert "hf-kcd mask compare" in table
    condensed = tmp_path / "demo" / "kc_kd" / "seed-0"
    here(capsys, "push", condensed, "me/digits", "--dry_run", tmp_path / "hub")
    assert (tmp_path / "hub" / "student" / "README.md").is_file() and (
        tmp_path / "hub" / "mask" / "README.md"
    ).is_file()
    assert (condensed / "plots" / "least_valuable.png").is_file()
    assert (condensed / "mask" / "mask.safetensors").is_file()
    results = json.loads((tmp_path / "demo" / "results.json").read_text())
    costs = {name: runs[0]["cost"]["paid"] for name, runs in results.items()}
    assert costs["KC-KD (the paper)"] == costs["KD, random points, same cost"] < costs["KD"] == 1
    assert "not empty" in error_here(capsys, "demo", "--output_dir", tmp_path / "demo")
