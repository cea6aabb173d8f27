"""Arguments of networks on the command line: they reach timm, and a saved student keeps them."""

import json
from pathlib import Path

import pytest
import timm
import torch
import yaml
from safetensors.torch import load_file
from tiny import QUIET

from hf_kcd import load_model
from hf_kcd.cli.chain import assistant_recipes
from hf_kcd.cli.recipe import read_recipe
from hf_kcd.models import save_model

SMALL = {"img_size": 64, "embed_dim": 16, "depth": 1, "num_heads": 2}
VIT = "vit_tiny_patch16_224"


def test_a_vit_for_64_pixels_learns_from_one_that_is_given_by_name_and_file(tmp_path, hf_kcd):
    torch.manual_seed(1)
    save_model(timm.create_model(VIT, num_classes=10, **SMALL), tmp_path / "teacher")
    weights = ["--teacher_checkpoint", tmp_path / "teacher" / "model.safetensors", "--teacher_args", json.dumps(SMALL)]
    words = [*QUIET, "--num_train_epochs", "1", "--image_size", "64", "--teacher", VIT, *weights]
    words += ["--student", VIT, "--student_args", "{img_size: 64, embed_dim: 16, depth: 1, num_heads: 2}"]
    hf_kcd("distill", *words, "--output_dir", tmp_path / "run")
    recipe = yaml.safe_load((tmp_path / "run" / "recipe.yaml").read_text())
    assert recipe["student_args"] == recipe["teacher_args"] == SMALL

    # timm alone rebuilds it from its folder, with the weights that were saved.
    again = timm.create_model(f"local-dir:{tmp_path / 'run'}", pretrained=True)
    assert again.patch_embed.img_size == (64, 64) and len(again.blocks) == 1
    saved = load_file(tmp_path / "run" / "model.safetensors")
    assert all(torch.equal(tensor, saved[name]) for name, tensor in again.state_dict().items())
    last = json.loads((tmp_path / "run" / "results.json").read_text())["accuracy"]["last"]["top1"]
    hf_kcd("evaluate", tmp_path / "run", "--data", "digits", "--json", tmp_path / "accuracy.json")
    assert json.loads((tmp_path / "accuracy.json").read_text())["top1"] == pytest.approx(last)


def test_evaluate_takes_the_arguments_of_a_network_given_by_name_and_file(tmp_path, hf_kcd, refused):
    own = {**SMALL, "img_size": 8, "patch_size": 4}
    torch.manual_seed(1)
    save_model(timm.create_model(VIT, num_classes=10, **own), tmp_path / "vit")
    words = ["evaluate", VIT, "--checkpoint", tmp_path / "vit" / "model.safetensors", "--data", "digits"]
    assert "points" in hf_kcd(*words, "--model_args", json.dumps(own))
    assert "is not a mapping" in refused(*words, "--model_args", "8")
    refused(*words)


def test_arguments_that_no_network_takes_are_refused_with_their_name(tmp_path, refused):
    save_model(timm.create_model("cifar_resnet8", num_classes=10), tmp_path / "own")
    run = ["--output_dir", tmp_path / "run"]
    for words, said in (
        (["--student", VIT, "--student_args", "{imgsize: 64}"], "'imgsize'"),
        (["--student", "resnet18", "--student_args", "{num_classes: 5}"], "num_classes of resnet18"),
        (["--student", "resnet18", "--student_args", "{checkpoint_path: x.pth}"], "checkpoint_path of resnet18"),
        (["--student", "resnet18", "--student_args", "64"], "is not a mapping"),
        (["--student", tmp_path / "own", "--student_args", "{img_size: 64}"], "in its config.json"),
        (["--teacher_args", "{img_size: 64}"], "teacher_args is given but teacher is not"),
    ):
        assert said in refused("distill", *QUIET, "--method", "ce", *words, *run)
    assert not (tmp_path / "run").exists()


def test_arguments_belong_to_one_network_of_a_chain(tmp_path):
    words = f"--method takd --teacher {VIT} --teacher_checkpoint t.pth --teacher_args {{depth:1}}"
    words = words.replace("{depth:1}", '{"depth":1}') + ' --student resnet18 --student_args {"stem_width":8}'
    words += f" --assistants cifar_resnet20 --output_dir {tmp_path}"
    recipe = read_recipe("distill", words.split())
    (assistant,) = assistant_recipes(recipe)
    assert (assistant.config.student_args, assistant.config.teacher_args) == (None, {"depth": 1})
    assert recipe.config.student_args == {"stem_width": 8}


def test_load_model_takes_them_with_published_weights_too(tmp_path):
    network = load_model("resnet18", 10, model_args={"in_chans": 1})
    assert network.conv1.weight.shape[1] == 1
    torch.manual_seed(1)
    save_model(network, tmp_path)
    file = Path(tmp_path / "model.safetensors")
    assert torch.equal(load_model("resnet18", 10, file, model_args={"in_chans": 1}).conv1.weight, network.conv1.weight)
