"""Chains from one recipe: what each assistant learns from, where it is written, and what a resumed chain does not repeat."""

import json
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file
from tiny import CONDENSED, QUIET

from hf_kcd.cli.chain import assistant_recipes
from hf_kcd.cli.main import main
from hf_kcd.cli.recipe import read_recipe
from hf_kcd.cli.run import teachers_of
from hf_kcd.models import load_model
from hf_kcd.training import KCDConfig


def words(method: str, teacher: Path, out: Path, *others: str) -> list[str]:
    chain = ["--method", method, "--teacher", str(teacher), "--student", "cifar_resnet8", "--output_dir", str(out)]
    return ["distill", *QUIET, *chain, "--assistants", "cifar_resnet20", "cifar_resnet8", *others]


def results(folder: Path, name: str = "results.json") -> dict:
    return json.loads((folder / name).read_text())


@pytest.fixture(scope="module")
def chain(tmp_path_factory, teacher) -> Path:
    folder = tmp_path_factory.mktemp("chain") / "run"
    main(words("takd", teacher, folder, *CONDENSED))
    return folder


@pytest.mark.parametrize("method", ["takd", "dgkd", "kd"])
def test_who_learns_from_whom(method, tmp_path):
    given = tmp_path / "given.folder"
    line = f"--method {method} --teacher cifar_vgg13 --teacher_checkpoint t.pth --student cifar_resnet8 --condense"
    line += f" --assistants cifar_resnet56 {given} cifar_resnet20 --student_checkpoint s.pth"
    recipe = read_recipe("distill", [*line.split(), "--output_dir", str(tmp_path / "out")])
    first, third = str(tmp_path / "out" / "assistant-1"), str(tmp_path / "out" / "assistant-3")
    links = assistant_recipes(recipe)
    own = [(link.config.student, link.args.output_dir) for link in links]
    assert own == [("cifar_resnet56", first), ("cifar_resnet20", third)]
    all_of_them = [("cifar_vgg13", "t.pth"), (first, None), (str(given), None), (third, None)]
    first_of_all = 0 if method == "dgkd" else -1
    expected = [all_of_them[:number][first_of_all:] for number in (1, 3, 4)]
    assert [teachers_of(link) for link in (*links, recipe)] == expected
    # What is the student's alone stays with it.
    assert recipe.kcd is not None and recipe.args.output_dir == str(tmp_path / "out")
    assert all(link.kcd is None and link.config.student_checkpoint is None for link in links)


def test_each_link_is_a_run_of_its_own_and_the_folder_has_the_recipe_of_the_whole_chain(chain):
    folders = [chain / "assistant-1", chain / "assistant-2", chain]
    found = [results(folder) for folder in folders]
    assert [result["student"] for result in found] == ["cifar_resnet20", "cifar_resnet8", "cifar_resnet8"]
    assert [result["teacher"] for result in found] == ["cifar_resnet8", "cifar_resnet20", "cifar_resnet8"]
    assert [result["condensation"] is None for result in found] == [True, True, False]
    assert all(result["accuracy"] and result["networks"] == {} and result["method"] == "takd" for result in found)
    assert (chain / "mask").is_dir() and not (chain / "assistant-1" / "mask").exists()
    written = yaml.safe_load((chain / "recipe.yaml").read_text())
    assert written["assistants"] == ["cifar_resnet20", "cifar_resnet8"] and written["condense"] is True
    own = yaml.safe_load((chain / "assistant-2" / "recipe.yaml").read_text())
    # An assistant learns from all points; its own recipe says so, and can be followed alone.
    words = ["--config", str(chain / "assistant-2" / "recipe.yaml"), "--output_dir", "x"]
    assert own["condense"] is False and read_recipe("distill", words).kcd is None
    assert not {"preset", *KCDConfig.__dataclass_fields__} & own.keys()
    assert own["student"] == "cifar_resnet8" and own["assistants"] == [str(chain / "assistant-1")]


def test_resumed_chain_trains_what_is_missing_and_ends_the_same(chain, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(chain, tmp_path / "cut")
    first, second = (tmp_path / "cut" / f"assistant-{number}" for number in (1, 2))
    # As if the process had been killed in the second assistant's second epoch.
    last = max(second.glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]))
    own = [path for path in (tmp_path / "cut").glob("*") if not path.name.startswith(("assistant-", "recipe"))]
    for path in (last, second / "results.json", second / "model.safetensors", *own):
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
    given, own = chain / "assistant-1", tmp_path / "out" / "assistant-2"
    main([*words("dgkd", teacher, tmp_path / "out")[:-2], str(given), "cifar_resnet8"])
    printed = capsys.readouterr().out
    assert not (tmp_path / "out" / "assistant-1").exists()
    for teachers in (f"{teacher}, {given}", f"{teacher}, {given}, {own}"):
        assert f"from {teachers} with method dgkd" in printed
    assert results(tmp_path / "out")["history"]["loss_kd"][0] > 0


def test_a_wrong_chain_is_refused_before_anything_is_trained(chain, teacher, tmp_path, refused):
    new = tmp_path / "new"
    for said, line in (
        ("holds a finished run", words("takd", teacher, chain)),
        ("num_epochs is 3 here and 2 there", words("takd", teacher, chain, "--resume", "--num_train_epochs", "3")),
        ("seed is 4 here and 3 there", words("takd", teacher, chain, "--resume", "--seed", "4")),
        (
            "learning_rate is 0.1 here and 0.05 there",
            words("takd", teacher, chain, "--resume", "--learning_rate", "0.1"),
        ),
        ("batch_size is 32 here", words("takd", teacher, chain, "--resume", "--per_device_train_batch_size", "32")),
        ("num_points is 100 here and 120 there", words("takd", teacher, chain, "--resume", "--train_points", "100")),
        ("'dml' has no teacher", words("dml", teacher, new)),
        ("cifar_resnet8", [*words("takd", teacher, new), "cifar_resnt8"]),
        ("cifar_resnet8", words("takd", teacher, new, "--student", "cifar_resnt8")),
        ("nowhere.pth", words("takd", teacher, new, "--student_checkpoint", tmp_path / "nowhere.pth")),
        ("teacher is not", ["distill", "--output_dir", "x", "--assistants", "cifar_resnet8"]),
    ):
        assert said in refused(*line)
    assert not new.exists()


@pytest.mark.parametrize("who", ["assistant 2", "student"])
def test_a_chain_of_networks_of_other_classes_is_refused_before_anything_is_trained(who, chain, tmp_path, refused):
    folders = {}
    for kind in ("sign", "word"):
        folders[kind] = Path(shutil.copytree(chain / "assistant-1", tmp_path / kind))
        config = results(chain / "assistant-1", "config.json") | {"label_names": [f"{kind} {n}" for n in range(10)]}
        (folders[kind] / "config.json").write_text(json.dumps(config))
    line, strange = words("takd", folders["sign"], tmp_path / "out"), str(folders["word"])
    line = [*line[:-1], strange] if who == "assistant 2" else [*line, "--student", strange]
    assert f"Classes differ: {who} 10 (word 0, word 1" in refused(*line)
    assert not (tmp_path / "out").exists()


def test_networks_that_learn_together_are_reported_and_left_beside_the_student(tmp_path, capsys):
    main(["distill", *QUIET, "--method", "dml", "--student", "cifar_resnet8", "--output_dir", str(tmp_path)])
    ((name, accuracy),) = results(tmp_path)["networks"].items()
    assert name == "peer_1" and accuracy["last"]["epoch"] == 2
    line = f"beside it {tmp_path / 'peer_1'}, top-1 {accuracy['last']['top1']:.2f} %"
    assert line in capsys.readouterr().out
    assert load_model(tmp_path / "peer_1").num_classes == 10
