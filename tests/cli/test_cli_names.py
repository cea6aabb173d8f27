"""Names that mean two things: a data set, network or module, and a file or folder of the same name."""

import itertools
from pathlib import Path

import pytest
import timm
from PIL import Image
from tiny import QUIET

from hf_kcd import load_model
from hf_kcd.data import load_image_data
from hf_kcd.models import save_model
from hf_kcd.models.catalog import find_networks


@pytest.fixture
def clash(tmp_path, monkeypatch) -> Path:
    """A folder with a data set `digits` of two classes, and a trained network in `cifar_resnet8`."""
    monkeypatch.chdir(tmp_path)
    for split, name in itertools.product(("train", "test"), ("a", "b")):
        (folder := tmp_path / "digits" / split / name).mkdir(parents=True)
        Image.new("RGB", (8, 8)).save(folder / "1.png")
    save_model(timm.create_model("cifar_resnet8", num_classes=2), tmp_path / "cifar_resnet8")
    return tmp_path


def test_a_known_name_wins_with_a_warning_and_a_path_is_a_path(clash):
    with pytest.warns(UserWarning, match=r"'digits' was taken for the data set .* write \./digits"):
        data = load_image_data("digits")
    assert len(data.train) == 1501
    assert len(load_image_data("./digits").train) == 2
    with pytest.warns(UserWarning, match=r"'cifar_resnet8' was taken for the network .* write \./cifar_resnet8"):
        assert load_model("cifar_resnet8", 7).num_classes == 7
    assert load_model("./cifar_resnet8").num_classes == 2
    with pytest.warns(UserWarning, match="network"):
        assert find_networks(["cifar_resnet8"]) == ["cifar_resnet8"]


def test_the_command_line_says_which_one_it_took(clash, hf_kcd, refused):
    words = ["train-teacher", *QUIET, "--num_train_epochs", "1", "--output_dir", "run"]
    with pytest.warns(UserWarning) as told:
        hf_kcd(*words)
    assert {str(one.message).split()[0] for one in told} >= {"'digits'", "'cifar_resnet8'"}
    said = refused("distill", *QUIET, "--teacher", "cifar_resnet8", "--output_dir", "other")
    assert "without weights" in said and "./cifar_resnet8" in said
    Path("timm.py").write_text("", encoding="utf-8")
    assert "another module is called timm" in refused("methods", "kd", "--import", "timm")
