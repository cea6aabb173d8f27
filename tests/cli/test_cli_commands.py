"""The commands as a user meets them: their words, their files, their exit codes, and signals."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from pathlib import Path

import datasets
import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import load_file
from tiny import CONDENSED, QUIET, TINY

from hf_kcd import KnowledgeMask
from hf_kcd.cli import demo
from hf_kcd.cli.main import _COMMANDS, main
from hf_kcd.data import load_image_data

ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}


def start(*words: object, **environment: str) -> subprocess.Popen:
    """Start a command in a process of its own."""
    command = [sys.executable, "-W", "ignore", "-m", "hf_kcd.cli.main", *map(str, words)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(command, env={**ENVIRONMENT, **environment}, **pipes, text=True)


def same_tensors(first: Path, second: Path) -> bool:
    one, two = load_file(first), load_file(second)
    return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


def test_help_names_every_command_and_each_has_a_help_of_its_own(capsys):
    main(["--help"])
    text = capsys.readouterr().out
    for command in _COMMANDS:
        assert f"\n  {command} " in text
        with pytest.raises(SystemExit) as exit_:
            main([command, "--help"])
        own = capsys.readouterr().out
        assert exit_.value.code == 0 and f"usage: hf-kcd {command}" in own
        # Each option has a description, beside it or below it.
        sections = re.findall(r"^\w[\w .]+:\n((?:  .*\n)+)", own, re.MULTILINE)
        options = [
            option for section in sections for option in re.split(r"^  (?=\S)", section, flags=re.MULTILINE)[1:]
        ]
        assert options and not [option for option in options if not re.match(r"hf-kcd |.*\S(  |\n).*\S", option)]
        if command == "demo":
            assert "[3]" in own  # the seeds of the table in docs/performance.md
        if command == "distill":  # What newcomers need comes first.
            line = "--config|--data |--student |--teacher |--num_train_epochs|--condense|--final_ratio|Everything else"
            places = [own.index(word) for word in f"{line} of transformers.TrainingArguments|--adam_beta1".split("|")]
            assert places == sorted(places)
            # A text that states its default gets no second one.
            assert not [option for option in options if re.search(r"(?is)default.*\[\w*\]\s*$", option)]
    main(["--version"])
    assert capsys.readouterr().out == f"hf-kcd {version('hf-kcd')}\n"


def test_run_folder_holds_everything_that_a_run_leaves(condensed):
    # 120 points in the first epoch, 120 * sqrt(0.5) = 84 in the second.
    printed = (condensed.parent / "printed.txt").read_text()
    assert "85.00%" in printed and "top-1" in printed and str(condensed) in printed
    results = json.loads((condensed / "results.json").read_text())
    history = results["history"]
    for epoch, kept in enumerate((100, 70)):
        loss, ce, kd = (f"{history[name][epoch]:.3f}" for name in ("loss", "loss_ce", "loss_kd"))
        rest = f"lr {history['learning_rate'][epoch]:.4g}  kept {kept:5.1f}%  top-1 {history['top1'][epoch]:6.2f} %"
        assert f"epoch    {epoch + 1}/2  loss {loss} (ce {ce} kd {kd})  {rest}\n" in printed
    assert results["cost"]["paid"] == results["cost"]["planned"] == pytest.approx((120 + 84) / 240)
    assert results["command"].startswith("hf-kcd distill --data digits")
    assert KnowledgeMask.from_pretrained(condensed / "mask").num_points == 120
    assert KnowledgeMask.from_pretrained(condensed / "stages" / "stage-01").stage == 1
    assert {"config.json", "model.safetensors", "recipe.yaml"} <= {path.name for path in condensed.iterdir()}
    assert min(Image.open(condensed / "plots" / "curves.png").size) > 300
    assert not list(condensed.glob("**/training_args.bin"))


def test_recipe_of_a_run_gives_the_same_results_again(condensed, tmp_path, hf_kcd):
    recipe = yaml.safe_load((condensed / "recipe.yaml").read_text())
    assert recipe["final_ratio"] == 0.5 and recipe["train_points"] == 120 and recipe["condense"] is True
    assert "output_dir" not in recipe and not any("token" in key for key in recipe)
    # The seed decides, not what this process drew before.
    torch.manual_seed(99)
    hf_kcd("distill", "--config", condensed / "recipe.yaml", "--output_dir", tmp_path / "again", "--no_plots")
    for file in ("model.safetensors", "mask/mask.safetensors"):
        assert same_tensors(condensed / file, tmp_path / "again" / file)
    assert not (tmp_path / "again" / "plots").exists()


def test_mask_of_a_run_is_shown_compared_and_trained_on(condensed, tmp_path, hf_kcd):
    assert "120 points in 10 classes" in hf_kcd("mask", "show", condensed / "mask")
    stage = condensed / "stages" / "stage-01"
    table = hf_kcd("mask", "compare", condensed, stage, "--plot", tmp_path / "h.png")
    # 120 * sqrt(0.5) after the first epoch, half of the points after the last: the mask is what training ends with.
    assert "84 of 120" in table and "60 of 120" in table
    assert (tmp_path / "h.png").stat().st_size
    # There is nothing to resume, so the run starts from the beginning.
    words = [*QUIET, "--method", "ce", "--mask", condensed / "mask", "--num_train_epochs", "1", "--resume"]
    assert "starting from the beginning" in hf_kcd("distill", *words, "--output_dir", tmp_path / "on_mask")
    assert json.loads((tmp_path / "on_mask" / "results.json").read_text())["cost"]["points"] == 60


def test_evaluate_agrees_with_the_run(condensed, tmp_path, hf_kcd):
    text = hf_kcd("evaluate", condensed, "--data", "digits", "--json", tmp_path / "accuracy.json")
    found = json.loads((tmp_path / "accuracy.json").read_text())
    last = json.loads((condensed / "results.json").read_text())["accuracy"]["last"]
    assert (found["top1"], found["top5"]) == (pytest.approx(last["top1"]), pytest.approx(last["top5"]))
    assert f"{found['top1']:.2f} %" in text


def test_plot_redraws_one_run_and_compares_several(condensed, teacher, tmp_path, hf_kcd):
    shutil.copytree(condensed, run := tmp_path / "run")
    shutil.rmtree(run / "plots")
    # Looking at a run imports nothing that its recipe asks for.
    recipe = yaml.safe_load((run / "recipe.yaml").read_text())
    (run / "recipe.yaml").write_text(yaml.safe_dump({**recipe, "import": "nowhere.py"}))
    hf_kcd("plot", run)
    assert (run / "plots" / "curves.png").stat().st_size and (run / "plots" / "most_valuable.png").stat().st_size
    (run / "recipe.yaml").unlink()
    assert "No contact sheets" in hf_kcd("plot", run)
    assert "KC-KD" in hf_kcd("plot", run, teacher, "--output", tmp_path / "both.png")
    assert (tmp_path / "both.png").stat().st_size


def test_a_run_on_a_data_set_with_names_of_its_own_is_looked_at_with_them(tmp_path, hf_kcd, teacher):
    digits = load_image_data("digits").train.select(range(60))
    # Wrong columns stand before the right ones.
    wrong = digits.rename_columns({"image": "thumbnail", "label": "group"})
    wrong = wrong.map(lambda row: {"group": row["group"] // 5}, keep_in_memory=True).rename_column(
        "thumbnail", "small"
    )
    named = datasets.concatenate_datasets(
        [wrong, digits.rename_columns({"image": "picture", "label": "kind"})], axis=1
    )
    datasets.DatasetDict(learn=named, check=named, train=named.select(range(30))).save_to_disk(tmp_path / "data")
    words = ["--data", "mine", "--data_dir", tmp_path / "data", "--train_split", "learn", "--eval_split", "check"]
    words += ["--image_column", "picture", "--label_column", "kind", "--train_points", 50, "--num_train_epochs", 2]
    words += ["--teacher", teacher, *CONDENSED, "--no_plots", "--save_strategy", "no", "--use_cpu"]
    hf_kcd("distill", *words, "--output_dir", tmp_path / "run")
    hf_kcd("plot", tmp_path / "run")
    assert (tmp_path / "run" / "plots" / "most_valuable.png").stat().st_size


def test_a_wrong_request_ends_in_one_line_and_code_2(condensed, tmp_path, monkeypatch, refused):
    monkeypatch.chdir(tmp_path)
    before = (condensed / "results.json").read_bytes()
    for words, said in (
        (
            f"distill --method ce --output_dir {condensed}",
            "finished run, which is never written over: choose another output_dir",
        ),
        (
            f"distill --method ce --output_dir {condensed} --resume --seed 4",
            "finished run, which is never written over",
        ),
        ("distil", "Did you mean 'distill'"),
        ("distill --data cifar10 --method ce --output_dir x", "Did you mean 'cifar100'"),
        ("distill --student cifar_resnet9 --method ce --output_dir x", "cifar_resnet8"),
        ("distill --output_dir x", "needs a teacher"),
        ("distill --teacher cifar_resnet20 --output_dir x", "without weights"),
        ("train-teacher --teacher cifar_resnet20 --output_dir x", "trained alone"),
        ("evaluate cifar_resnet8 --data digits", "without weights"),
        ("evaluate --data digits", "hf-kcd evaluate --help"),
        ("mask show nowhere", "nowhere"),
        ("plot nowhere", "nowhere"),
        (f"plot {condensed} --output x.png", "output is given, but the plots of one run go to"),
        (f"mask show {condensed} --plot x.png", "plot is given, but it draws a comparison"),
        ("methods kd --batch_size 2", "batch_size is given, but no step is measured"),
        ("methods kd --rounds 2", "rounds is given"),
        ("methods kd --steps 2", "steps is given"),
        ("train-teacher --output_dir x --do_predict", "do_predict is given, but"),
        ("train-teacher --output_dir x --do_train false", "do_train is given, but"),
        ("train-teacher --output_dir x --hub_model_id me/x", "hub_model_id is given but push_to_hub is not"),
        ("train-teacher --output_dir x --hub_private_repo true", "hub_private_repo is given but push_to_hub is not"),
        ("train-teacher --output_dir x --resume_from_checkpoint nowhere", "nowhere is not a whole checkpoint"),
    ):
        assert said in refused(*words.split())
    # Nothing is left behind that would be in the way of the corrected command.
    assert not list(tmp_path.iterdir()) and (condensed / "results.json").read_bytes() == before


def test_every_command_works_in_a_locale_without_unicode(condensed, teacher, tmp_path):
    commands = (
        ["methods"],
        ["models", "cifar_resnet8"],
        ["recipes", "digits"],
        ["mask", "show", condensed / "mask"],
        ["plot", condensed, teacher, "--output", tmp_path / "plot.png"],
        ["card", condensed, "--output", tmp_path / "card.md"],
        ["push", condensed, "me/x", "--dry_run", tmp_path / "out"],
    )
    program = (
        "import sys, json, locale; from hf_kcd.cli.main import main\n"
        "assert locale.getpreferredencoding(False) == 'ANSI_X3.4-1968'\n"
        "for words in json.loads(sys.argv[1]): main(words)"
    )
    ascii_ = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    words = json.dumps([[*map(str, command)] for command in commands])
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program, words], env={**ENVIRONMENT, **ascii_}, capture_output=True
    )
    assert done.returncode == 0, done.stderr.decode()[-2000:]
    main(["card", str(condensed), "--output", str(tmp_path / "here.md")])
    card = (tmp_path / "card.md").read_bytes()
    assert card == (tmp_path / "here.md").read_bytes() and not card.isascii()


def test_one_run_at_a_time_trains_into_a_folder(tmp_path, refused):
    folder = tmp_path / "run"
    words = ["distill", *QUIET, "--method", "ce", "--output_dir", folder, "--num_train_epochs"]
    process = start(*words, "1000")
    try:
        deadline = time.monotonic() + 120
        while not (folder / "recipe.yaml").is_file():
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.02)
        (folder / ".left.123.hf_kcd_part").write_text("half", encoding="utf-8")
        recipe = (folder / "recipe.yaml").read_text()
        said = refused(*words, "2", "--resume")
        assert f"{folder} is in use: process {process.pid} on {socket.gethostname()}, since 20" in said
        assert f"the run still goes on (process {process.pid} on" in refused("plot", folder)
        assert (folder / "recipe.yaml").read_text() == recipe
    finally:
        process.kill()
        process.communicate()
    # The system releases what a killed process held; its checkpoints are of 1000 epochs, so this run starts anew.
    assert re.search("was interrupted: add --resume|not finished", refused("plot", folder))
    for checkpoint in folder.glob("checkpoint-*"):
        shutil.rmtree(checkpoint)
    main([*map(str, words), "1"])
    assert {path.name for path in folder.glob(".*")} == {".lock"} and (folder / "results.json").is_file()


def test_damaged_checkpoints_are_no_reason_to_start_over(tmp_path, refused):
    words = ["distill", *QUIET, "--method", "ce", "--output_dir", tmp_path]
    (tmp_path / "checkpoint-4").mkdir()
    (tmp_path / "checkpoint-4" / "model.safetensors").write_bytes(b"half")
    assert "no whole checkpoint to resume from" in refused(*words, "--resume")
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-4"]


def test_training_that_diverges_ends_in_one_line_and_code_1(tmp_path, refused):
    words = [*QUIET, "--method", "ce", "--learning_rate", "1e30", "--output_dir", tmp_path / "run"]
    assert "step" in refused("distill", *words, code=1)
    assert not (tmp_path / "run" / "results.json").exists()


def test_traceback_is_shown_on_request(monkeypatch):
    monkeypatch.setenv("HF_KCD_TRACEBACK", "1")
    with pytest.raises(ValueError, match="distil"):
        main(["distil"])


def signal_after_checkpoint(process_id: int, folder: Path, number: signal.Signals) -> None:
    """Send a signal to a process after its next checkpoint."""
    before, deadline = set(folder.glob("checkpoint-*")), time.monotonic() + 300
    while not {path.parent for path in folder.glob("checkpoint-*/trainer_state.json")} - before:
        assert time.monotonic() < deadline
        time.sleep(0.005)
    os.kill(process_id, number)


def test_run_killed_and_interrupted_resumes_to_the_same_bits(tmp_path, hf_kcd, refused, capsys):
    words = ["distill", *QUIET, "--method", "ce", *CONDENSED, "--num_train_epochs", "9", "--output_dir"]
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    hf_kcd(*words, whole)
    process = start(*words, cut)
    signal_after_checkpoint(process.pid, cut, signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL and not (cut / "results.json").exists()
    assert "--resume" in refused(*words, cut)

    resume = ["distill", "--config", cut / "recipe.yaml", "--output_dir", cut, "--resume"]
    with ThreadPoolExecutor() as pool, pytest.raises(SystemExit) as exit_:
        pool.submit(signal_after_checkpoint, os.getpid(), cut, signal.SIGINT)
        main([*map(str, resume)])
    errors = capsys.readouterr().err
    assert exit_.value.code == 75 and "Traceback" not in errors and not (cut / "results.json").exists()
    assert re.search(
        r"interrupted: stopped after step \d+ of \d+, .*Continue with: hf-kcd distill .*--resume$", errors
    )

    process = start(*resume)
    signal_after_checkpoint(process.pid, cut, signal.SIGTERM)
    assert "--resume" in process.communicate()[1].splitlines()[-1]
    assert process.returncode == 75 and not (cut / "results.json").exists()

    assert "Continuing from" in hf_kcd(*resume)
    for file in ("model.safetensors", "mask/mask.safetensors"):
        assert same_tensors(whole / file, cut / file)
    paid = [json.loads((folder / "results.json").read_text())["cost"]["points"] for folder in (whole, cut)]
    assert paid[0] == paid[1]


def test_a_reader_that_stops_early_causes_no_error_message():
    process = start("models", "cifar_resnet8")
    process.stdout.close()
    assert process.wait(60) == 1 and process.stderr.read() == ""
    process.stderr.close()


def test_one_of_two_processes_prints(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    # What torchrun and accelerate launch set. The old spelling warns once.
    group = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2"}
    words = [*TINY, "--method", "ce", "--condense", "--epochs-per-stage", "1", "--no_plots", "--output_dir", tmp_path]
    processes = [start("distill", *words, **group, RANK=str(rank), LOCAL_RANK=str(rank)) for rank in range(2)]
    outputs, errors = zip(*(process.communicate(timeout=120) for process in processes), strict=True)
    assert [process.returncode for process in processes] == [0, 0], errors
    assert [output.count("Training cifar_resnet8") for output in outputs] == [1, 0]
    assert [output.count("epoch    2/2") for output in outputs] == [1, 0]
    assert ["epochs-per-stage is now spelled epochs_per_stage" in error for error in errors] == [True, False]
    assert json.loads((tmp_path / "results.json").read_text())["world_size"] == 2


def test_demo_ends_in_one_table_and_commands_to_try(tmp_path, hf_kcd, refused, monkeypatch):
    monkeypatch.setattr(demo, "_TRAIN_POINTS", 60)
    printed = hf_kcd("demo", "--quick", "--seeds", "1", "--output_dir", tmp_path / "demo")
    table = printed[printed.index("C paid") :]
    for name in ("teacher", "student alone", "KD", "KC-KD", "random points", "hf-kcd mask compare"):
        assert name in table
    condensed = tmp_path / "demo" / "kc_kd" / "seed-0"
    hf_kcd("push", condensed, "me/digits", "--dry_run", tmp_path / "hub")
    assert all((tmp_path / "hub" / name / "README.md").is_file() for name in ("student", "mask"))
    assert all((condensed / name).is_file() for name in ("plots/least_valuable.png", "mask/mask.safetensors"))
    results = json.loads((tmp_path / "demo" / "results.json").read_text())
    costs = {name: runs[0]["cost"]["paid"] for name, runs in results.items()}
    assert costs["KC-KD (the paper)"] == costs["KD, random points, same cost"] < costs["KD"] == 1
    assert "not empty" in refused("demo", "--output_dir", tmp_path / "demo")
