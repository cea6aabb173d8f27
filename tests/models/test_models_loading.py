"""Networks survive a round trip through every reader, and one clear message refuses files that do not fit."""

import argparse
import io
import json
import math
import os
import pickle
import re
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from pyarrow import parquet
from safetensors.torch import load_file, save_file
from transformers import AutoModelForImageClassification, TimmWrapperConfig, TimmWrapperForImageClassification

from hf_kcd.models import ModelSpec, load_model, save_model
from hf_kcd.models.loading import brings_weights, load_student, load_trained_model

SHARED = Path(__file__).resolve().parents[3] / "shared"
TEACHER = SHARED / "teachers" / "cifar100_resnet20"
TEST_IMAGES = SHARED / "data" / "cifar100" / "test-00000-of-00001.parquet"


def same_weights(a, b):
    a, b = a.state_dict(), b.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


@pytest.fixture
def resnet8():
    torch.manual_seed(0)
    network = timm.create_model("cifar_resnet8", num_classes=10)
    network.train()(torch.randn(8, 3, 32, 32))
    return network


@pytest.fixture
def weights(tmp_path):
    def save(content, name="weights.pth", **options):
        torch.save(content, tmp_path / name, **options)
        return tmp_path / name

    return save


def test_a_name_gives_a_fresh_network_also_beside_a_folder_of_that_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("cifar_resnet8").mkdir()
    assert load_model("cifar_resnet8").num_classes == 100
    assert load_model("cifar_wrn_16_2", num_classes=10).fc.weight.shape == (10, 128)


@pytest.mark.parametrize("name", ["cifar_resnet21", "Cifar_ResNet20", "resnet20"])
def test_an_unknown_name_is_answered_with_the_nearest(name):
    with pytest.raises(ValueError, match=f"Unknown network '{name}'. Did you mean .*'cifar_resnet20'") as error:
        load_model(name)
    assert len(str(error.value)) < 500
    with pytest.raises(ValueError, match="Unknown network"):
        load_model(name, checkpoint="weights.pth")
    with pytest.raises(ValueError, match=r"Unknown network 'resnet18.a1_in2k'. Did you mean 'resnet18.a1_in1k'"):
        load_model("resnet18.a1_in2k")


def test_paths_that_are_not_there_say_so(tmp_path):
    missing = tmp_path / "weights.pth"
    for said, name, *checkpoint in (
        ("hf_hub:someone/network", "someone/network"),
        ("weights.pth does not exist", missing),
        ("weights.pth does not exist", "cifar_resnet8", None, missing),
        ("config.json", tmp_path),
        ("config.json", f"local-dir:{tmp_path / 'nowhere'}"),
    ):
        with pytest.raises(FileNotFoundError, match=said):
            load_model(name, *checkpoint)


OPTIONS = {
    "cifar_resnet8": {},
    "cifar_wrn_16_2": {"in_chans": 1},
    "vit_tiny_patch16_224": {"img_size": 32, "patch_size": 8, "depth": 2},
    "convnext_atto": {},
}


@pytest.mark.parametrize(("name", "options"), OPTIONS.items())
@torch.no_grad()
def test_a_saved_network_comes_back_through_timm_load_model_and_transformers(tmp_path, name, options):
    network = timm.create_model(name, num_classes=3, **options)
    images = torch.randn(2, options.get("in_chans", 3), 32, 32)
    save_model(network, tmp_path / "out", label_names=["ant", "bee", "cat"])
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["config.json", "model.safetensors"]
    folder = f"local-dir:{tmp_path / 'out'}"
    by_timm = timm.create_model(folder, pretrained=True)
    by_transformers = AutoModelForImageClassification.from_pretrained(tmp_path / "out")
    assert by_transformers.config.id2label == {0: "ant", 1: "bee", 2: "cat"}
    expected = network.eval()(images)
    ours = load_model(tmp_path / "out"), load_model(folder, num_classes=3)
    for loaded in (by_timm, *ours, by_transformers.timm_model):
        assert same_weights(loaded, network)
        torch.testing.assert_close(loaded.eval()(images), expected, rtol=0, atol=1e-6)
    assert ModelSpec.of(by_timm) == ModelSpec.of(network)


def test_the_preprocessing_of_the_training_travels_with_the_network(tmp_path):
    network = timm.create_model("resnet10t", num_classes=2)
    data = {"input_size": (3, 48, 48), "mean": (0.1, 0.2, 0.3), "std": (0.4, 0.5, 0.6), "crop_pct": 1.0}
    save_model(network, tmp_path, data_config=data)
    for loaded in (load_model(tmp_path), timm.create_model(f"local-dir:{tmp_path}")):
        spec = ModelSpec.of(loaded)
        assert (spec.mean, spec.std, spec.input_size) == ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6), (3, 48, 48))
        assert timm.data.resolve_model_data_config(loaded)["crop_pct"] == 1.0
    assert ModelSpec.of(network).mean == (0.485, 0.456, 0.406)


def test_saving_again_replaces_both_files_and_leaves_the_others(tmp_path, resnet8):
    (tmp_path / "README.md").write_text("mine")
    save_model(resnet8.to(memory_format=torch.channels_last), tmp_path)
    assert same_weights(load_model(tmp_path), resnet8)
    other = timm.create_model("cifar_wrn_16_2", num_classes=4)
    save_model(other, tmp_path)
    assert same_weights(load_model(tmp_path), other)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["README.md", "config.json", "model.safetensors"]


def test_what_cannot_be_saved_is_refused(tmp_path, resnet8):
    for network, options, said in (
        (resnet8, {"label_names": ["a", "b"]}, "2 label names were given for 10 classes"),
        (resnet8, {"data_config": {"men": (0.5, 0.5, 0.5)}}, "'men'.*Did you mean 'mean'"),
        (torch.nn.Linear(2, 2), {}, "not a timm network"),
    ):
        with pytest.raises(ValueError, match=said):
            save_model(network, tmp_path, **options)
    assert not list(tmp_path.iterdir())


def test_a_student_is_new_loaded_or_transferred(tmp_path, resnet8):
    save_model(resnet8, tmp_path)
    folder = str(tmp_path)
    assert brings_weights(folder) and brings_weights("resnet34.tv_in1k") and brings_weights("hf_hub:me/x")
    assert not brings_weights("cifar_resnet8")
    assert load_student("cifar_resnet8", 7).num_classes == 7
    assert same_weights(load_student(folder, 10), resnet8)
    assert same_weights(load_student("cifar_resnet8", 10, checkpoint=folder), resnet8)
    assert same_weights(load_trained_model(folder, 10), resnet8)
    student = load_student(folder, 7, new_classifier=True, freeze_backbone=True)
    assert torch.equal(student.conv1.weight, resnet8.conv1.weight) and student.num_classes == 7
    assert {key for key, p in student.named_parameters() if p.requires_grad} == {"fc.weight", "fc.bias"}
    for said, make in (
        ("has 10 classes and the data has 7: add --new_classifier", lambda: load_student(folder, 7)),
        ("new_classifier was asked for, but cifar_resnet8", lambda: load_student("cifar_resnet8", 7, None, True)),
        ("freeze_backbone was asked for", lambda: load_student("cifar_resnet8", 7, freeze_backbone=True)),
        ("is a network without weights: .*teacher_checkpoint", lambda: load_trained_model("cifar_resnet8", 7)),
        ("has 10 classes and num_classes=7", lambda: load_trained_model(folder, 7)),
        ("has 10 classes and num_classes=7", lambda: load_model("cifar_resnet8", 7, checkpoint=folder)),
    ):
        with pytest.raises(ValueError, match=said):
            make()


def test_old_torch_files_safetensors_and_folders_are_checkpoints_too(tmp_path, resnet8, weights):
    old = weights({"model": resnet8.state_dict()}, _use_new_zipfile_serialization=False)
    save_file(resnet8.state_dict(), tmp_path / "new.safetensors")
    save_model(resnet8, tmp_path / "folder")
    for file in (old, tmp_path / "new.safetensors", tmp_path / "folder"):
        assert same_weights(load_model("cifar_resnet8", checkpoint=file), resnet8)


def test_another_architecture_is_refused_with_one_list_and_the_one_that_fits(weights, resnet8):
    path, fits = weights({"net": resnet8.state_dict()}), r"\nIt fits cifar_resnet8 \(under 'net'\)\. Name the"
    for name, *said in (
        # Two of three blocks in each of three stages; in a block two convolutions and eight normalization tensors.
        ("cifar_resnet20", "60 missing: layer1.1.conv1.weight"),
        ("cifar_resnet8x4", "conv1.weight [16, 3, 3, 3] instead of [32, 3, 3, 3]", "missing: layer1.0.downsample.0."),
        ("resnet10t", "not in the network: ", "missing: "),
    ):
        with pytest.raises(ValueError, match=rf"do not fit {name}(?s:.*){fits}") as error:
            load_model(name, checkpoint=path)
        assert all(part in str(error.value) for part in said)


def test_one_message_lists_all_that_is_wrong_in_the_files_own_words(weights):
    wrn = timm.create_model("cifar_wrn_16_2", num_classes=10)
    state = {re.sub(r"^layer(\d)\.", r"module.block\1.layer.", key): t for key, t in wrn.state_dict().items()}
    state = {key if key.startswith("module.") else f"module.{key}": tensor for key, tensor in state.items()}
    del state["module.bn1.running_var"], state["module.block2.layer.1.conv1.weight"]
    state["module.block1.layer.0.conv2.weight"] = torch.zeros(32, 32, 5, 5)
    state["module.bn1.bias"] = torch.zeros(128, dtype=torch.int8)
    state["module.projector.weight"] = torch.zeros(1)
    path = weights({"model": state})
    with pytest.raises(ValueError) as error:
        load_model("cifar_wrn_16_2", checkpoint=path)
    assert str(error.value) == (
        f"The weights under 'model.module' in {path} do not fit cifar_wrn_16_2:\n"
        "  2 missing: layer2.1.conv1.weight, bn1.running_var.\n"
        "  1 not in the network: projector.weight.\n"
        "  1 of another shape: block1.layer.0.conv2.weight [32, 32, 5, 5] instead of [32, 32, 3, 3].\n"
        "  1 of another type: bn1.bias torch.int8.\n"
        "It fits no cifar_* network completely; its layout is a wide resnet of depth 15 with 128 channels at its end. "
        "Name the network that they were trained with."
    )


def test_a_network_that_is_not_here_is_described(weights):
    resnet18, resnet20 = (timm.create_model(name).state_dict() for name in ("resnet18", "cifar_resnet20"))
    for state, said in (
        # TAKD's plane2 has convolutions and linear layers as two sequences.
        ({"conv_layers.0.weight": torch.zeros(32, 3, 3, 3)}, "a plane network of TAKD (convolutions and hidden"),
        # A resnet14 is a resnet20 without the last block of each stage.
        ({key: resnet20[key] for key in resnet20 if ".2." not in key}, "a resnet of depth 14 with 64 channels at its"),
        (resnet18, "a resnet of depth 18 with 512 channels at its end."),
    ):
        path = weights({"model_state_dict": state, "epoch": 3}, "weights.pth.tar")
        said = re.escape(f"It fits no cifar_* network completely; its layout is {said}")
        with pytest.raises(ValueError, match=said):
            load_model("cifar_resnet20", checkpoint=path)


def test_ambiguous_checkpoints_are_not_guessed_at(weights, resnet8):
    state = resnet8.state_dict()
    two = {"student": {"model": state}, "teacher": {"model": state}}
    for content, said in (
        ({**state, "fc.bias": torch.zeros(9)}, r"1 of another shape: fc.bias \[9\] instead of \[10\]\."),
        (two, "holds 2 networks that fit cifar_resnet8: student.model, teacher.model.*--part"),
    ):
        with pytest.raises(ValueError, match=said):
            load_model("cifar_resnet8", checkpoint=weights(content))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions_are_loaded_as_float32(weights, resnet8, dtype):
    state = {key: t.to(dtype) if t.is_floating_point() else t for key, t in resnet8.state_dict().items()}
    loaded = load_model("cifar_resnet8", checkpoint=weights(state)).state_dict()
    assert loaded["fc.weight"].dtype == torch.float32
    assert all(torch.equal(loaded[key], tensor.to(loaded[key].dtype)) for key, tensor in state.items())


@pytest.mark.parametrize("key, value", [("fc.bias", math.nan), ("bn1.weight", math.inf), ("bn1.running_var", 1e300)])
def test_weights_that_are_not_finite_are_refused_by_name(weights, resnet8, key, value):
    state = {name: tensor.double() for name, tensor in resnet8.state_dict().items()}
    state[key].view(-1)[3] = value
    with pytest.raises(ValueError, match=rf"{key} in .*weights.pth has 1 of \d+ values NaN or beyond torch.float32"):
        load_model("cifar_resnet8", checkpoint=weights(state))


@pytest.mark.filterwarnings("ignore:.*torch.jit")
@pytest.mark.parametrize("new_format", [True, False])
def test_a_file_that_would_run_code_is_refused_with_the_way_out(tmp_path, resnet8, weights, new_format):
    class Bomb:
        def __reduce__(self):
            return (os.system, (f"touch {tmp_path / 'exploded'}",))

    state = resnet8.state_dict()
    for name, content, culprit in (
        # What RepDistiller's *_last.pth holds beside the weights.
        ("namespace.pth", {"opt": argparse.Namespace(lr=0.05), "model": state}, "argparse.Namespace"),
        ("whole.pth", resnet8, "CifarResNet"),
        ("hidden.pth", {"model": state, "optimizer": {"state": {0: [Bomb()]}}}, "system"),
        ("bomb.pth", {"model": Bomb()}, "system"),
    ):
        path = weights(content, name, _use_new_zipfile_serialization=new_format)
        with pytest.raises(ValueError, match=rf"{name} holds more than tensors \(.*{culprit}\)") as error:
            load_model("cifar_resnet8", checkpoint=path)
        is_bomb, said = culprit == "system", str(error.value)
        assert ("do not open it by other means" in said) == is_bomb
        assert ("ckpt_epoch_240.pth" in said) == ("torch.save(model.state_dict(), path)" in said) != is_bomb
    assert not (tmp_path / "exploded").exists()
    # The bomb is real: it hits whoever unpickles it.
    torch.load(path, weights_only=False)
    assert (tmp_path / "exploded").exists()
    torch.jit.trace(torch.nn.Linear(2, 2), torch.zeros(1, 2)).save(tmp_path / "traced.pt")
    with pytest.raises(ValueError, match=r"traced.pt holds more than tensors \(TorchScript\)"):
        load_model("cifar_resnet8", checkpoint=tmp_path / "traced.pt")


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_a_damaged_file_is_refused_with_its_name(tmp_path, resnet8, weights, suffix):
    state = resnet8.state_dict()
    new, old = (weights(state, _use_new_zipfile_serialization=new).read_bytes() for new in (True, False))
    cut = [new[: len(new) // 2], old[: len(old) // 2], new[:300]]
    others = [b"", b"<!DOCTYPE html><html>404</html>", bytes(range(250)) * 20, pickle.dumps({"a": 1}, protocol=2)]
    path = tmp_path / f"weights{suffix}"
    for content in (*cut, *others):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=rf"weights{suffix}"):
            load_model("cifar_resnet8", checkpoint=path)


def test_a_file_without_a_state_dict_is_refused(weights):
    for content in (torch.zeros(3), [1, 2], {}, {"epoch": 3}, {"model": {"conv1.weight": "text"}}):
        with pytest.raises(ValueError, match="weights.pth holds no state dict"):
            load_model("cifar_resnet8", checkpoint=weights(content))


def test_a_file_needs_a_network_and_a_folder_no_file(tmp_path, resnet8, weights):
    path = weights(resnet8.state_dict())
    with pytest.raises(ValueError, match="does not say its network: give its timm name, and the file as checkpoint"):
        load_model(path)
    save_model(resnet8, tmp_path)
    with pytest.raises(ValueError, match="has its own weights"):
        load_model(tmp_path, checkpoint=path)


def test_a_damaged_folder_is_refused(tmp_path, resnet8):
    save_model(resnet8, tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    for text, said in (
        (json.dumps(config)[:40], "not a JSON file"),
        (json.dumps({**config, "model_args": None}), "AutoModelForImageClassification"),
        (json.dumps({**config, "architecture": "cifar_resnet9"}), "Unknown network 'cifar_resnet9'. Did you mean"),
    ):
        (tmp_path / "config.json").write_text(text)
        with pytest.raises(ValueError, match=said):
            load_model(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match="holds no weights"):
        load_model(tmp_path)

    wrapped = TimmWrapperForImageClassification(TimmWrapperConfig(architecture="resnet10t", num_labels=3))
    wrapped.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="timm_model"):
        load_model(tmp_path)


@pytest.mark.skipif(not (TEACHER.is_dir() and TEST_IMAGES.is_file()), reason="the teacher or CIFAR-100 is not here")
def test_the_teacher_is_in_both_files_and_reproduces_its_published_accuracy():
    tensors = load_file(TEACHER / "resnet20_vanilla.safetensors")
    for file in ("resnet20_vanilla.pth", "resnet20_vanilla.safetensors"):
        loaded = load_model("cifar_resnet20", num_classes=100, checkpoint=TEACHER / file).state_dict()
        torch.testing.assert_close(dict(loaded), tensors, rtol=0, atol=0)
    table = parquet.read_table(TEST_IMAGES)
    pixels = np.stack([np.asarray(Image.open(io.BytesIO(row["bytes"]))) for row in table["img"].to_pylist()])
    teacher = load_model("cifar_resnet20", checkpoint=TEACHER / "resnet20_vanilla.pth").eval()
    spec = ModelSpec.of(teacher)
    batches = ((torch.from_numpy(pixels) / 255 - torch.tensor(spec.mean)) / torch.tensor(spec.std)).split(250)
    with torch.inference_mode():
        predictions = torch.cat([teacher(batch.permute(0, 3, 1, 2)).argmax(1) for batch in batches])
    accuracy = np.mean(predictions.numpy() == table["fine_label"].to_numpy())
    assert math.isclose(accuracy, 0.6756, abs_tol=5e-4)
