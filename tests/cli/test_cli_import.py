"""A user's module brings in a method, a value and a network, which the command line then uses."""

import json
import sys
from pathlib import Path

import huggingface_hub
import pytest
import yaml
from tiny import CONDENSED, QUIET

from hf_kcd.cli.recipe import read_recipe

MODULE = '''"""A method, a value and a network of one's own."""
import timm
import torch
from hf_kcd.condensation import register_value
from hf_kcd.methods import register_method
from hf_kcd.methods.kd import KD

@register_method("strangers_kd")
class StrangersKD(KD):
    """KD under another name (Stranger, 2026)."""

@register_value("strangers_value")
def strangers_value(student_logits, teacher_logits, labels):
    return -student_logits.amax(-1)

@timm.models.register_model
def strangers_net(pretrained=False, **kwargs):
    model = timm.create_model("cifar_resnet8", **kwargs)
    model.pretrained_cfg = {**model.pretrained_cfg, "architecture": "strangers_net"}
    return model
'''


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("user")
    (path / "strangers_methods.py").write_text(MODULE)
    return path


def test_methods_values_and_networks_of_a_user_work_in_every_command(folder, teacher, monkeypatch, hf_kcd, refused):
    monkeypatch.chdir(folder)
    own = ["--method", "strangers_kd", "--value", "strangers_value", "--student", "strangers_net"]
    words = ["distill", *QUIET, "--teacher", teacher, *CONDENSED, *own, "--output_dir", "run"]
    assert "strangers_kd" in refused(*words)
    hf_kcd(*words, "--import", "strangers_methods.py")
    results = json.loads(Path("run/results.json").read_text(encoding="utf-8"))
    assert (results["method"], results["student"]) == ("strangers_kd", "strangers_net")
    assert results["condensation"]["value"] == "strangers_value"
    assert yaml.safe_load(Path("run/recipe.yaml").read_text(encoding="utf-8"))["import"] == ["strangers_methods.py"]
    # The recipe of the run brings the module along; so do a second mention and the dotted name, which change nothing.
    words = ["--config", "run/recipe.yaml", "--output_dir", "again", "--import", "strangers_methods"]
    recipe = read_recipe("distill", words)
    assert recipe.imports == ("strangers_methods.py", "strangers_methods") and recipe.kcd.value == "strangers_value"
    assert "strangers_kd" in hf_kcd("methods", "strangers_kd", "--import", "strangers_methods.py")
    assert "points" in hf_kcd("evaluate", "run", "--data", "digits", "--import", "strangers_methods.py")


def test_a_module_that_cannot_be_imported_is_reported_in_one_line(tmp_path, monkeypatch, refused):
    monkeypatch.chdir(tmp_path)
    Path("broken_module.py").write_text("1 / 0", encoding="utf-8")
    Path("lonely_module.py").write_text("import not_installed", encoding="utf-8")
    Path("timm.py").write_text("", encoding="utf-8")
    for name, said in (
        ("nowhere.py", "there is no such file"),
        ("nowhere.deeper", "there is no such module"),
        ("broken_module.py", "it raised ZeroDivisionError: division by zero"),
        ("lonely_module", "it raised ModuleNotFoundError: No module named 'not_installed'"),
        ("timm.py", "another module is called timm"),
    ):
        assert f"Cannot import {name}: {said}" in refused("methods", "kd", "--import", name)
    assert "broken_module" not in sys.modules


def test_a_recipe_from_the_hub_may_not_import(tmp_path, monkeypatch, refused):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    (tmp_path / "evil.py").write_text("raise SystemExit('code of a stranger ran')")
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump({"import": str(tmp_path / "evil.py")}))
    line = refused("distill", "--config", recipe, "--output_dir", tmp_path / "run")
    assert "evil.py" in line and "from the Hub" in line and "stranger ran" not in line
