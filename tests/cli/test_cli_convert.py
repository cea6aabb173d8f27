"""`hf-kcd convert`: files of other programs become folders that everybody reads, or one line says why not."""

import argparse
import json
from pathlib import Path

import pytest
import timm
import torch
from transformers import AutoModelForImageClassification

from hf_kcd.models import ModelSpec, load_model

TEACHER = Path(__file__).resolve().parents[3] / "shared" / "teachers" / "cifar100_resnet20" / "resnet20_vanilla.pth"
RESNET8_PARAMETERS = 83_892


def logits(network):
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        found = network.eval()(images)
    return found if isinstance(found, torch.Tensor) else found.logits


@pytest.fixture
def resnet8():
    torch.manual_seed(0)
    return timm.create_model("cifar_resnet8")


@pytest.fixture
def file(tmp_path, resnet8):
    """What RepDistiller's train_teacher.py writes; its accuracy is a tensor."""
    content = {"epoch": 240, "model": resnet8.state_dict(), "accuracy": torch.tensor(59.98)}
    torch.save(content, tmp_path / "ckpt_epoch_240.pth")
    return tmp_path / "ckpt_epoch_240.pth"


def test_the_folder_is_read_by_load_model_timm_and_transformers(tmp_path, file, resnet8, hf_kcd):
    folder = tmp_path / "deep" / "resnet8"
    said = hf_kcd("convert", file, "--network", "cifar_resnet8", "--output", folder)
    assert f"cifar_resnet8, {RESNET8_PARAMETERS:,} parameters, 100 classes" in said
    assert "epoch 240, accuracy 59.98" in said
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", "model.safetensors"]
    assert [path.name for path in folder.parent.iterdir()] == ["resnet8"]
    by_transformers = AutoModelForImageClassification.from_pretrained(folder)
    assert torch.equal(logits(by_transformers), logits(resnet8))
    for network in (load_model(folder), timm.create_model(f"local-dir:{folder}", pretrained=True)):
        assert torch.equal(logits(network), logits(resnet8))
        spec = ModelSpec.of(network)
        assert (spec.mean, spec.std) == ((0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761))
    # The lines that are printed are a program.
    program = [line.strip() for line in said.splitlines() if line.startswith("  ")]
    names = {}
    exec("\n".join(program), names)
    assert torch.equal(logits(names["model"]), logits(resnet8))


def test_the_network_is_found_by_its_weights(tmp_path, hf_kcd):
    vgg = timm.create_model("cifar_vgg8", num_classes=7).state_dict()
    student = {f"module.student.{key}": tensor for key, tensor in vgg.items()}
    torch.save({"model": student, "best_acc": torch.tensor([71.5]), "epoch": 3}, tmp_path / "latest")
    said = hf_kcd("convert", tmp_path / "latest", "--output", tmp_path / "out")
    assert "cifar_vgg8, " in said and "7 classes" in said and "best_acc 71.5" in said
    assert load_model(tmp_path / "out").num_classes == 7


def test_one_of_several_networks_is_chosen_by_its_part(tmp_path, hf_kcd, refused):
    networks = {part: timm.create_model("cifar_resnet8", num_classes=5) for part in ("student", "teacher")}
    state = {f"module.{part}.{key}": t for part, net in networks.items() for key, t in net.state_dict().items()}
    torch.save({"model": state}, tmp_path / "latest.pth")
    words = ["convert", tmp_path / "latest.pth", "--output", tmp_path / "out"]
    for more in ([], ["--network", "cifar_resnet8"]):
        line = refused(*words, *more)
        assert "model.module.student, model.module.teacher" in line and "--part" in line
    assert "no part 'assistant'. It fits cifar_resnet8 (under" in refused(*words, "--part", "assistant")
    assert not (tmp_path / "out").exists()
    hf_kcd(*words, "--part", "teacher")
    assert torch.equal(logits(load_model(tmp_path / "out")), logits(networks["teacher"]))
    hf_kcd(*words, "--part", "model.module.student", "--overwrite")
    assert torch.equal(logits(load_model(tmp_path / "out")), logits(networks["student"]))
    # Two architectures are both named.
    wrn = timm.create_model("cifar_wrn_16_2")
    torch.save({"student": networks["student"].state_dict(), "teacher": wrn.state_dict()}, tmp_path / "pair.pth")
    words = ["convert", tmp_path / "pair.pth", "--output", tmp_path / "pair"]
    assert "It fits cifar_resnet8 (under 'student') or cifar_wrn_16_2 (under 'teacher')." in refused(*words)
    assert "cifar_wrn_16_2, 703,284 parameters" in hf_kcd(*words, "--network", "cifar_wrn_16_2")
    assert "cifar_wrn_16_2, 703,284 parameters" in hf_kcd(*words, "--part", "teacher", "--overwrite")


def test_any_network_of_timm_is_converted_when_it_is_named(tmp_path, hf_kcd, refused):
    torch.manual_seed(0)
    network = timm.create_model("resnet10t", num_classes=3)
    torch.save({"state_dict": {f"module.{k}": t for k, t in network.state_dict().items()}}, tmp_path / "a.tar")
    words = ["convert", tmp_path / "a.tar", "--output", tmp_path / "out"]
    assert "--network" in refused(*words)
    hf_kcd(*words, "--network", "resnet10t")
    assert torch.equal(logits(load_model(tmp_path / "out")), logits(network))
    assert ModelSpec.of(load_model(tmp_path / "out")).mean == (0.485, 0.456, 0.406)


def test_labels_and_normalization_travel_with_the_network(tmp_path, file, hf_kcd):
    (tmp_path / "names.txt").write_text("\n".join(f"Klasse {i} ä" for i in range(100)) + "\n\n", encoding="utf-8")
    takd = ["--mean", 0.507, 0.487, 0.441, "--std", 0.267, 0.256, 0.276]
    words = ["convert", file, "--label_names", tmp_path / "names.txt", *takd, "--output", tmp_path / "out"]
    assert "mean 0.507 0.487 0.441 and std 0.267 0.256 0.276" in hf_kcd(*words)
    spec = ModelSpec.of(load_model(tmp_path / "out"))
    assert (spec.mean, spec.std) == ((0.507, 0.487, 0.441), (0.267, 0.256, 0.276))
    config = json.loads((tmp_path / "out" / "config.json").read_text(encoding="utf-8"))
    assert config["label_names"][99] == "Klasse 99 ä"


def test_a_network_is_replaced_only_when_told(tmp_path, file, resnet8, hf_kcd, refused):
    folder = tmp_path / "out"
    words = ["convert", file, "--output", folder]
    hf_kcd(*words)
    (folder / "README.md").write_text("mine")
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert "--overwrite" in refused(*words)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    wrn = timm.create_model("cifar_wrn_16_2", num_classes=4)
    torch.save(wrn.state_dict(), tmp_path / "wrn.pth")
    hf_kcd("convert", tmp_path / "wrn.pth", "--output", folder, "--overwrite")
    assert torch.equal(logits(load_model(folder)), logits(wrn))
    assert (folder / "README.md").read_text() == "mine"


def test_what_cannot_be_done_is_said_in_one_line_and_leaves_nothing(tmp_path, monkeypatch, file, refused):
    monkeypatch.chdir(tmp_path)
    Path("two.txt").write_text("ant\nbee\n", encoding="utf-8")
    for words, said in (
        ("--network resnet8", "Did you mean 'cifar_resnet8'"),
        ("--network cifar_resnet20", "It fits cifar_resnet8 (under 'model')."),
        ("--num_classes 10", "has 100 classes and num_classes=10"),
        ("--mean 0.5", "--mean has 1 values for 3 channels"),
        ("--std 0.2 0.2 0", "--std is (0.2, 0.2, 0.0)"),
        ("--mean nan 0.2 0", "--mean is (nan, 0.2, 0.0)"),
        ("--label_names two.txt", "names 2 classes and the network has 100"),
        ("--label_names ckpt_epoch_240.pth", "is not a text file"),
        ("--label_names nowhere.txt", "nowhere.txt"),
        ("--part teacher", "no part 'teacher'"),
    ):
        assert said in refused("convert", file, "--output", "out", "--network", "cifar_resnet8", *words.split())
        assert sorted(path.name for path in tmp_path.iterdir()) == ["ckpt_epoch_240.pth", "two.txt"]


def test_files_with_code_missing_files_and_unwritable_folders_are_refused(tmp_path, file, resnet8, refused):
    torch.save({"opt": argparse.Namespace(lr=0.05), "model": resnet8.state_dict()}, tmp_path / "resnet8_last.pth")
    line = refused("convert", tmp_path / "resnet8_last.pth", "--output", tmp_path / "out")
    assert "argparse.Namespace" in line and "ckpt_epoch_240.pth" in line
    assert "does not exist" in refused("convert", tmp_path / "nowhere.pth", "--output", tmp_path / "out")
    assert not (tmp_path / "out").exists()
    (tmp_path / "file").write_text("")
    words = ["--network", "cifar_resnet8", "--output", tmp_path / "file" / "out"]
    assert "Cannot write" in refused("convert", file, *words)


@pytest.mark.skipif(not TEACHER.is_file(), reason="the trained teacher is not here")
def test_the_trained_teacher_is_the_same_bit_for_bit(tmp_path, hf_kcd):
    said = hf_kcd("convert", TEACHER, "--output", tmp_path)
    assert "cifar_resnet20, 278,324 parameters, 100 classes" in said and "accuracy 67.56" in said
    direct, written = load_model("cifar_resnet20", checkpoint=TEACHER).state_dict(), load_model(tmp_path).state_dict()
    assert written.keys() == direct.keys() and all(torch.equal(written[key], direct[key]) for key in direct)
