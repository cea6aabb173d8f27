"""Chains from one recipe: what each assistant learns from, where it is written, and what a resumed chain does not repeat."""

import json
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file

from hf_kcd.cli.chain import assistant_recipes
from hf_kcd.cli.main import main
from hf_kcd.cli.recipe import read_recipe
from hf_kcd.cli.run import teachers_of
from hf_kcd.models import load_model, save_model

TINY = ["--data", "digits", "--train_points", "80", "--num_train_epochs", "2", "--seed", "3"]
QUIET = ["--no_plots", "--disable_tqdm", "true", "--use_cpu", "true"]


@pytest.fixture(scope="module")
def teacher(tmp_path_factory) -> str:
    """A teacher nobody has trained: what matters is who reads it."""
    folder = tmp_path_factory.mktemp("teacher") / "weights"
    torch.manual_seed(5)
    save_model(load_model("cifar_resnet20", 10), folder)
    return str(folder)


def words(method: str, teacher: str, out: Path, *others: str) -> list[str]:
    chain = ["--method", method, "--teacher", teacher, "--student", "cifar_resnet8", "--output_dir", str(out)]
    return ["distill", *TINY, *QUIET, *chain, "--assistants", "cifar_resnet20", "cifar_resnet8", *others]


def results(folder: Path) -> dict:
    return json.loads((folder / "results.json").read_text())


@pytest.fixture(scope="module")
def chain(tmp_path_factory, teacher) -> Path:
    folder = tmp_path_factory.mktemp("chain") / "run"
    main(words("takd", teacher, folder, "--condense", "--epochs_per_stage", "1", "--final_ratio", "0.5"))
    return folder


@pytest.mark.parametrize("method", ["takd", "dgkd", "kd"])
def test_who_learns_from_whom(method, tmp_path):
    given = tmp_path / "given.folder"
    line = f"--method {method} --teacher cifar_vgg13 --teacher_checkpoint t.pth --student cifar_resnet8 --condense"
    line += f" --assistants cifar_resnet56 {given} cifar_resnet20 --student_checkpoint s.pth"
    recipe = read_recipe("distill", [*line.split(), "--output_dir", str(tmp_path / "out")])
    first, third = str(tmp_path / "out" / "assistant-1"), str(tmp_path / "out" / "assistant-3")
    links = assistant_recipes(recipe)
    assert [(link.config.student, link.args.output_dir) for link in links] == [
        ("cifar_resnet56", first),
        ("cifar_resnet20", third),
    ]
    all_of_them = [("cifar_vgg13", "t.pth"), (first, None), (str(given), None), (third, None)]
    found = [teachers_of(link) for link in (*links, recipe)]
    if method == "dgkd":
        assert found == [all_of_them[:1], all_of_them[:3], all_of_them]
    else:
        assert found == [all_of_them[:1], all_of_them[2:3], all_of_them[3:]]
    # What is the student's alone stays with it.
    assert recipe.kcd is not None and recipe.args.output_dir == str(tmp_path / "out")
    assert all(link.kcd is None and link.config.student_checkpoint is None for link in links)


def test_each_link_is_a_run_of_its_own(chain):
    folders = [chain / "assistant-1", chain / "assistant-2", chain]
    found = [results(folder) for folder in folders]
    assert [result["student"] for result in found] == ["cifar_resnet20", "cifar_resnet8", "cifar_resnet8"]
    assert [result["teacher"] for result in found] == ["cifar_resnet20", "cifar_resnet20", "cifar_resnet8"]
    assert [result["condensation"] is None for result in found] == [True, True, False]
    assert all(
        result["accuracy"] is not None and result["networks"] == {} and result["method"] == "takd" for result in found
    )
    assert (chain / "mask").is_dir() and not (chain / "assistant-1" / "mask").exists()


def test_recipe_of_the_folder_is_the_whole_chain(chain, tmp_path):
    written = yaml.safe_load((chain / "recipe.yaml").read_text())
    assert written["assistants"] == ["cifar_resnet20", "cifar_resnet8"] and written["condense"] is True
    own = yaml.safe_load((chain / "assistant-2" / "recipe.yaml").read_text())
    assert own["student"] == "cifar_resnet8" and own["assistants"] == [str(chain / "assistant-1")]


def test_resumed_chain_trains_what_is_missing_and_ends_the_same(chain, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(chain, tmp_path / "cut")
    first, second = (tmp_path / "cut" / f"assistant-{number}" for number in (1, 2))
    # As if the process had been killed in the second assistant's second epoch.
    last = max(second.glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]))
    shutil.rmtree(last)
    (second / "results.json").unlink()
    (second / "model.safetensors").unlink()
    for path in (tmp_path / "cut").glob("*"):
        if not path.name.startswith(("assistant-", "recipe")):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    untouched = {path: path.stat().st_mtime_ns for path in first.rglob("*")}
    main(["distill", "--config", "cut/recipe.yaml", "--output_dir", "cut", "--resume"])
    printed = capsys.readouterr().out
    assert "assistant-1 is finished" in printed and "Continuing from cut/assistant-2/checkpoint-" in printed
    assert untouched == {path: path.stat().st_mtime_ns for path in first.rglob("*")}
    for name in ("assistant-2", "."):
        whole, again = (load_file(folder / name / "model.safetensors") for folder in (chain, tmp_path / "cut"))
        assert all(torch.equal(whole[key], again[key]) for key in whole)


def test_assistant_with_weights_is_used_and_dgkd_has_all_teachers(chain, teacher, tmp_path, capsys):
    given = str(chain / "assistant-1")
    main([*words("dgkd", teacher, tmp_path / "out")[:-2], given, "cifar_resnet8"])
    printed = capsys.readouterr().out
    assert not (tmp_path / "out" / "assistant-1").exists()
    own = str(tmp_path / "out" / "assistant-2")
    assert f"from {teacher}, {given} with method dgkd" in printed
    assert f"from {teacher}, {given}, {own} with method dgkd" in printed
    assert results(tmp_path / "out")["history"]["loss_kd"][0] > 0


def error(capsys, arguments: list[str]) -> str:
    with pytest.raises(SystemExit) as exit_:
        main(arguments)
    assert exit_.value.code == 2
    return capsys.readouterr().err.splitlines()[-1]


def test_what_cannot_be_is_said_before_anything_is_trained(chain, teacher, tmp_path, capsys):
    assert "holds a finished run" in error(capsys, words("takd", teacher, chain))
    assert "num_epochs is 3 here and 2 there" in error(
        capsys, words("takd", teacher, chain, "--resume", "--num_train_epochs", "3")
    )
    assert "'dml' has no teacher" in error(capsys, words("dml", teacher, tmp_path / "a"))
    assert "cifar_resnet8" in error(capsys, [*words("takd", teacher, tmp_path / "a"), "cifar_resnt8"])
    assert "cifar_resnet8" in error(capsys, words("takd", teacher, tmp_path / "a", "--student", "cifar_resnt8"))
    assert "teacher is not" in error(capsys, ["distill", "--output_dir", "x", "--assistants", "cifar_resnet8"])
    assert not (tmp_path / "a").exists()


RECIPES = Path(__file__).parents[2] / "recipes" / "cifar100"


@pytest.mark.parametrize("method", ["takd", "dgkd"])
def test_recipes_of_chains(method):
    (path,) = (RECIPES / method).glob("*.yaml")
    recipe = read_recipe("distill", ["--config", str(path), "--output_dir", "x"])
    teacher, *assistants, student = path.stem.split("_")
    assert recipe.args.method == method
    config = recipe.config
    assert config.teacher == f"cifar_{teacher}" and config.student == f"cifar_{student}"
    assert config.assistants == [f"cifar_{name}" for name in assistants]
    # The schedule of both reference codes.
    args = recipe.args
    assert (args.num_train_epochs, args.per_device_train_batch_size, args.weight_decay) == (160, 128, 1e-4)
    assert (args.learning_rate, args.lr_decay_epochs, args.lr_decay_rate) == (0.1, [80, 120], 0.1)


def test_networks_that_learn_together_are_reported_and_left_beside_the_student(tmp_path, capsys):
    main(["distill", *TINY, *QUIET, "--method", "dml", "--student", "cifar_resnet8", "--output_dir", str(tmp_path)])
    ((name, accuracy),) = results(tmp_path)["networks"].items()
    assert name == "peer_1" and accuracy["last"]["epoch"] == 2
    line = f"beside it {tmp_path / 'peer_1'}, top-1 {accuracy['last']['top1']:.2f} %"
    assert line in capsys.readouterr().out
    assert load_model(tmp_path / "peer_1").num_classes == 10
