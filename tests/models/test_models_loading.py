"""Networks survive a round trip through every reader, and files that do not fit are refused in one clear message."""

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
from safetensors.torch import load_file, save_file

from hf_kcd.models import ModelSpec, load_model, save_model

SHARED = Path(__file__).resolve().parents[3] / "shared"
TEACHER = SHARED / "teachers" / "cifar100_resnet20"
TEST_IMAGES = SHARED / "data" / "cifar100" / "test-00000-of-00001.parquet"

SMALL = [
    ("cifar_resnet8", {}),
    ("cifar_wrn_16_2", {"in_chans": 1}),
    ("resnet10t", {}),
    ("vit_tiny_patch16_224", {"img_size": 32, "patch_size": 8, "depth": 2}),
    ("convnext_atto", {}),
]


def logits(network, channels=3):
    images = torch.randn(2, channels, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        return network.eval()(images)


def same_weights(a, b):
    a, b = a.state_dict(), b.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


@pytest.fixture
def resnet8():
    torch.manual_seed(0)
    network = timm.create_model("cifar_resnet8", num_classes=10)
    network.train()(torch.randn(8, 3, 32, 32))
    return network


# Loading by name.


def test_a_name_gives_a_fresh_network():
    assert load_model("cifar_resnet20").num_classes == 100
    assert load_model("cifar_wrn_16_2", num_classes=10).fc.weight.shape == (10, 128)
    assert load_model("resnet10t", num_classes=3).num_classes == 3


def test_a_name_is_a_network_also_beside_a_folder_of_that_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("cifar_resnet8").mkdir()
    assert load_model("cifar_resnet8").num_classes == 100


@pytest.mark.parametrize("name", ["cifar_resnet21", "Cifar_ResNet20", "resnet20"])
def test_an_unknown_name_is_answered_with_the_nearest(name):
    with pytest.raises(ValueError, match=f"Unknown network '{name}'. Did you mean .*'cifar_resnet20'") as error:
        load_model(name)
    assert len(str(error.value)) < 500
    with pytest.raises(ValueError, match="Unknown network"):
        load_model(name, checkpoint="weights.pth")


def test_an_unknown_tag_is_an_unknown_name():
    with pytest.raises(ValueError, match=r"Unknown network 'resnet18.a1_in2k'. Did you mean 'resnet18.a1_in1k'"):
        load_model("resnet18.a1_in2k")


def test_paths_that_are_not_there_say_so(tmp_path):
    with pytest.raises(FileNotFoundError, match="hf_hub:someone/network"):
        load_model("someone/network")
    with pytest.raises(FileNotFoundError, match="weights.pth does not exist"):
        load_model(tmp_path / "weights.pth")
    with pytest.raises(FileNotFoundError, match="weights.pth does not exist"):
        load_model("cifar_resnet8", checkpoint=tmp_path / "weights.pth")
    with pytest.raises(FileNotFoundError, match="config.json"):
        load_model(tmp_path)
    with pytest.raises(FileNotFoundError, match="config.json"):
        load_model(f"local-dir:{tmp_path / 'nowhere'}")


# Export.


@pytest.mark.parametrize(("name", "options"), SMALL, ids=[name for name, _ in SMALL])
def test_a_saved_network_comes_back_bit_equal_through_timm_and_load_model(tmp_path, name, options):
    torch.manual_seed(0)
    network = timm.create_model(name, num_classes=7, **options)
    channels = options.get("in_chans", 3)
    save_model(network, tmp_path / "out")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["config.json", "model.safetensors"]
    by_timm = timm.create_model(f"local-dir:{tmp_path / 'out'}", pretrained=True)
    for loaded in (by_timm, load_model(tmp_path / "out"), load_model(f"local-dir:{tmp_path / 'out'}", num_classes=7)):
        assert same_weights(loaded, network)
        assert torch.equal(logits(loaded, channels), logits(network, channels))
    assert ModelSpec.of(by_timm) == ModelSpec.of(network)


@pytest.mark.parametrize(("name", "options"), SMALL, ids=[name for name, _ in SMALL])
def test_transformers_reads_a_saved_network(tmp_path, name, options):
    transformers = pytest.importorskip("transformers")
    network = timm.create_model(name, num_classes=3, **options)
    save_model(network, tmp_path, label_names=["ant", "bee", "cat"])
    loaded = transformers.AutoModelForImageClassification.from_pretrained(tmp_path).eval()
    channels = options.get("in_chans", 3)
    images = torch.randn(2, channels, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(loaded(pixel_values=images).logits, logits(network, channels))
    assert loaded.config.id2label == {0: "ant", 1: "bee", 2: "cat"}


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
    save_model(resnet8, tmp_path)
    other = timm.create_model("cifar_wrn_16_2", num_classes=4)
    save_model(other, tmp_path)
    assert same_weights(load_model(tmp_path), other)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["README.md", "config.json", "model.safetensors"]


def test_a_channels_last_network_is_saved(tmp_path, resnet8):
    save_model(resnet8.to(memory_format=torch.channels_last), tmp_path)
    assert same_weights(load_model(tmp_path), resnet8)


def test_a_new_head_is_saved_as_it_is(tmp_path, resnet8):
    resnet8.reset_classifier(5)
    save_model(resnet8, tmp_path)
    assert load_model(tmp_path).num_classes == 5


def test_what_cannot_be_saved_is_refused(tmp_path, resnet8):
    with pytest.raises(ValueError, match="2 label names were given for 10 classes"):
        save_model(resnet8, tmp_path, label_names=["a", "b"])
    with pytest.raises(ValueError, match="'men'.*Did you mean 'mean'"):
        save_model(resnet8, tmp_path, data_config={"men": (0.5, 0.5, 0.5)})
    with pytest.raises(ValueError, match="no timm network"):
        save_model(torch.nn.Linear(2, 2), tmp_path)
    assert not list(tmp_path.iterdir())


# Checkpoint files.


@pytest.mark.parametrize("wrapper", [None, "model", "state_dict", "model_state_dict"])
@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod."])
@pytest.mark.parametrize("counters", [True, False], ids=["counters", "no counters"])
def test_checkpoints_load_in_every_common_wrapping(tmp_path, resnet8, wrapper, prefix, counters):
    state = {
        prefix + key: tensor
        for key, tensor in resnet8.state_dict().items()
        if counters or not key.endswith("num_batches_tracked")
    }
    content = state if wrapper is None else {wrapper: state, "epoch": 240, "accuracy": 0.7}
    torch.save(content, tmp_path / "weights.pth")
    loaded = load_model("cifar_resnet8", checkpoint=tmp_path / "weights.pth")
    assert loaded.num_classes == 10
    assert torch.equal(logits(loaded), logits(resnet8))


def test_old_torch_files_safetensors_and_folders_are_checkpoints_too(tmp_path, resnet8):
    torch.save({"model": resnet8.state_dict()}, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    save_file(resnet8.state_dict(), tmp_path / "new.safetensors")
    save_model(resnet8, tmp_path / "folder")
    for file in ("old.pth", "new.safetensors", "folder"):
        assert same_weights(load_model("cifar_resnet8", checkpoint=tmp_path / file), resnet8)


def test_another_number_of_classes_is_refused_with_both_numbers(tmp_path, resnet8):
    torch.save(resnet8.state_dict(), tmp_path / "ten.pth")
    with pytest.raises(ValueError, match="ten.pth has 10 classes and num_classes=100"):
        load_model("cifar_resnet8", num_classes=100, checkpoint=tmp_path / "ten.pth")
    save_model(resnet8, tmp_path)
    with pytest.raises(ValueError, match="has 10 classes and num_classes=100"):
        load_model(tmp_path, num_classes=100)
    assert load_model(tmp_path, num_classes=10).num_classes == 10


def test_another_architecture_is_refused_with_one_list(tmp_path, resnet8):
    torch.save(resnet8.state_dict(), tmp_path / "weights.pth")
    with pytest.raises(ValueError, match="do not fit cifar_resnet20") as error:
        load_model("cifar_resnet20", checkpoint=tmp_path / "weights.pth")
    # Two of three blocks in each of the three stages, two convolutions and eight normalisation tensors in each block;
    # counters are not missed.
    assert "60 missing: layer1.1.conv1.weight" in str(error.value)
    with pytest.raises(ValueError, match="do not fit cifar_resnet8x4") as error:
        load_model("cifar_resnet8x4", checkpoint=tmp_path / "weights.pth")
    assert "conv1.weight [16, 3, 3, 3] instead of [32, 3, 3, 3]" in str(error.value)
    assert "missing: layer1.0.downsample.0.weight" in str(error.value)
    with pytest.raises(ValueError, match="do not fit resnet10t") as error:
        load_model("resnet10t", checkpoint=tmp_path / "weights.pth")
    assert "not in the network: " in str(error.value) and "missing: " in str(error.value)


def test_one_message_lists_all_that_is_wrong_in_the_files_own_words(tmp_path):
    wrn = timm.create_model("cifar_wrn_16_2", num_classes=10)
    state = {re.sub(r"^layer(\d)\.", r"module.block\1.layer.", key): t for key, t in wrn.state_dict().items()}
    state = {key if key.startswith("module.") else f"module.{key}": tensor for key, tensor in state.items()}
    del state["module.bn1.running_var"], state["module.block2.layer.1.conv1.weight"]
    state["module.block1.layer.0.conv2.weight"] = torch.zeros(32, 32, 5, 5)
    state["module.bn1.bias"] = torch.zeros(128, dtype=torch.int8)
    state["module.projector.weight"] = torch.zeros(1)
    torch.save({"model": state}, tmp_path / "weights.pth")
    with pytest.raises(ValueError) as error:
        load_model("cifar_wrn_16_2", checkpoint=tmp_path / "weights.pth")
    assert str(error.value) == (
        f"The weights under 'model.module' in {tmp_path / 'weights.pth'} do not fit cifar_wrn_16_2:\n"
        "  2 missing: layer2.1.conv1.weight, bn1.running_var.\n"
        "  1 not in the network: projector.weight.\n"
        "  1 of another shape: block1.layer.0.conv2.weight [32, 32, 5, 5] instead of [32, 32, 3, 3].\n"
        "  1 of another type: bn1.bias torch.int8.\n"
        "It fits no cifar_* network whole; it is laid out as a wide resnet of depth 15 with 128 channels at its end. "
        "Name the network that they were trained with."
    )


def test_a_classifier_at_odds_with_itself_is_refused(tmp_path, resnet8):
    torch.save({**resnet8.state_dict(), "fc.bias": torch.zeros(9)}, tmp_path / "weights.pth")
    with pytest.raises(ValueError, match=r"1 of another shape: fc.bias \[9\] instead of \[10\]\."):
        load_model("cifar_resnet8", checkpoint=tmp_path / "weights.pth")


@pytest.mark.parametrize("name", ["cifar_resnet20", "cifar_resnet8x4", "cifar_vgg8", "cifar_mobilenetv2_half"])
def test_the_network_that_would_fit_is_named(tmp_path, name):
    torch.save({"net": timm.create_model(name, num_classes=10).state_dict()}, tmp_path / "weights.pth")
    for asked in ("cifar_resnet8", "cifar_shufflenetv1", "resnet10t"):
        with pytest.raises(ValueError, match=rf"do not fit {asked}(?s:.*)\nIt fits {name} \(under 'net'\)\. Name the"):
            load_model(asked, checkpoint=tmp_path / "weights.pth")


def _plane2():
    """What TAKD's plane2 saves: convolutions and linear layers as two sequences."""
    convolutions = torch.nn.Sequential(
        *(torch.nn.Conv2d(3, 32, 3), torch.nn.BatchNorm2d(32), torch.nn.ReLU(), torch.nn.MaxPool2d(2)),
        *(torch.nn.Conv2d(32, 32, 3), torch.nn.BatchNorm2d(32), torch.nn.ReLU(), torch.nn.MaxPool2d(2)),
    )
    layers = {"conv_layers": convolutions, "fc_layers": torch.nn.Sequential(torch.nn.Linear(2048, 100))}
    return torch.nn.ModuleDict(layers).state_dict()


def _resnet14():
    """What TAKD's resnet14 saves, and everybody's: a resnet20 without the last block of each stage."""
    state = timm.create_model("cifar_resnet20").state_dict()
    return {key: tensor for key, tensor in state.items() if ".2." not in key}


@pytest.mark.parametrize(
    ("state", "said"),
    [
        (
            _plane2,
            "a plane network of TAKD (convolutions and hidden linear layers in a row), which hf_kcd does not have.",
        ),
        (_resnet14, "a resnet of depth 14 with 64 channels at its end."),
        (lambda: timm.create_model("resnet18").state_dict(), "a resnet of depth 18 with 512 channels at its end."),
    ],
    ids=["plane2", "resnet14", "resnet18"],
)
def test_a_network_that_is_not_here_is_described(tmp_path, state, said):
    torch.save({"model_state_dict": state(), "epoch": 3}, tmp_path / "weights.pth.tar")
    with pytest.raises(ValueError, match=re.escape(f"It fits no cifar_* network whole; it is laid out as {said}")):
        load_model("cifar_resnet20", checkpoint=tmp_path / "weights.pth.tar")


def test_two_networks_that_both_fit_are_not_guessed_at(tmp_path, resnet8):
    state = resnet8.state_dict()
    torch.save({"student": {"model": state}, "teacher": {"model": state}}, tmp_path / "both.pth")
    with pytest.raises(
        ValueError, match="holds 2 networks that fit cifar_resnet8: student.model, teacher.model.*--part"
    ):
        load_model("cifar_resnet8", checkpoint=tmp_path / "both.pth")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions_are_loaded_as_float32(tmp_path, resnet8, dtype):
    state = {key: t.to(dtype) if t.is_floating_point() else t for key, t in resnet8.state_dict().items()}
    torch.save(state, tmp_path / "weights.pth")
    loaded = load_model("cifar_resnet8", checkpoint=tmp_path / "weights.pth").state_dict()
    assert loaded["fc.weight"].dtype == torch.float32
    assert all(torch.equal(loaded[key], tensor.to(loaded[key].dtype)) for key, tensor in state.items())


@pytest.mark.parametrize("value", [math.nan, math.inf, 1e300])
@pytest.mark.parametrize("key", ["layer2.0.conv1.weight", "bn1.running_var"])
def test_weights_that_are_not_finite_are_refused_by_name(tmp_path, resnet8, key, value):
    state = {name: tensor.double() for name, tensor in resnet8.state_dict().items()}
    state[key].view(-1)[3] = value
    torch.save(state, tmp_path / "weights.pth")
    with pytest.raises(ValueError, match=rf"{key} in .*weights.pth has 1 of \d+ values NaN or beyond torch.float32"):
        load_model("cifar_resnet8", checkpoint=tmp_path / "weights.pth")


@pytest.mark.parametrize("new_format", [True, False])
def test_a_file_that_would_run_code_is_refused_with_the_way_out(tmp_path, resnet8, new_format):
    class Bomb:
        def __reduce__(self):
            return (os.system, (f"touch {tmp_path / 'exploded'}",))

    state = resnet8.state_dict()
    # What RepDistiller's *_last.pth holds beside the weights.
    contents = {
        "namespace.pth": ({"opt": argparse.Namespace(lr=0.05), "model": state}, "argparse.Namespace"),
        "whole.pth": (resnet8, "CifarResNet"),
        "bomb.pth": ({"model": Bomb()}, "system"),
        "hidden.pth": ({"model": state, "optimizer": {"state": {0: [Bomb()]}}}, "system"),
    }
    for file, (content, culprit) in contents.items():
        torch.save(content, tmp_path / file, _use_new_zipfile_serialization=new_format)
        with pytest.raises(ValueError, match=rf"{file} holds more than tensors \(.*{culprit}\)") as error:
            load_model("cifar_resnet8", checkpoint=tmp_path / file)
        if culprit == "system":
            assert "Do not open it by other means." in str(error.value)
        else:
            assert "ckpt_epoch_240.pth" in str(error.value)
            assert "torch.save(model.state_dict(), path)" in str(error.value)
    assert not (tmp_path / "exploded").exists()
    # The bomb is one: whoever unpickles it all the same is hit.
    torch.load(tmp_path / "bomb.pth", weights_only=False)
    assert (tmp_path / "exploded").exists()


@pytest.mark.filterwarnings("ignore:.*torch.jit")
def test_a_torchscript_file_is_refused_as_code(tmp_path):
    torch.jit.trace(torch.nn.Linear(2, 2), torch.zeros(1, 2)).save(tmp_path / "traced.pt")
    with pytest.raises(ValueError, match=r"traced.pt holds more than tensors \(TorchScript\)"):
        load_model("cifar_resnet8", checkpoint=tmp_path / "traced.pt")


def _damage(kind, network):
    buffer = io.BytesIO()
    torch.save(network.state_dict(), buffer, _use_new_zipfile_serialization=kind != "cut, old format")
    whole = buffer.getvalue()
    return {
        "empty": b"",
        "page": b"<!DOCTYPE html><html>404</html>",
        "cut": whole[: len(whole) // 2],
        "cut, old format": whole[: len(whole) // 2],
        "cut early": whole[:300],
        "numbers": np.arange(5000, dtype=np.uint8).tobytes(),
        "plain pickle": pickle.dumps({"a": 1}, protocol=2),
    }[kind]


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("kind", ["empty", "page", "cut", "cut, old format", "cut early", "numbers", "plain pickle"])
def test_a_damaged_file_is_refused_with_its_name(tmp_path, resnet8, kind, suffix):
    path = tmp_path / f"weights{suffix}"
    path.write_bytes(_damage(kind, resnet8))
    with pytest.raises(ValueError, match=rf"weights{suffix}"):
        load_model("cifar_resnet8", checkpoint=path)


@pytest.mark.parametrize("content", [torch.zeros(3), [1, 2], {}, {"epoch": 3}, {"model": {"conv1.weight": "text"}}])
def test_a_file_without_a_state_dict_is_refused(tmp_path, content):
    torch.save(content, tmp_path / "weights.pth")
    with pytest.raises(ValueError, match="weights.pth holds no state dict"):
        load_model("cifar_resnet8", checkpoint=tmp_path / "weights.pth")


def test_a_bare_file_asks_for_the_networks_name(tmp_path, resnet8):
    torch.save(resnet8.state_dict(), tmp_path / "weights.pth")
    with pytest.raises(ValueError, match=r"load_model\('<timm name>', checkpoint="):
        load_model(tmp_path / "weights.pth")
    save_model(resnet8, tmp_path)
    with pytest.raises(ValueError, match="brings its own weights"):
        load_model(tmp_path, checkpoint=tmp_path / "weights.pth")


def test_a_damaged_folder_is_refused(tmp_path, resnet8):
    save_model(resnet8, tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())

    (tmp_path / "config.json").write_text(json.dumps(config)[:40])
    with pytest.raises(ValueError, match="not a JSON file"):
        load_model(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({**config, "model_args": None}))
    with pytest.raises(ValueError, match="AutoModelForImageClassification"):
        load_model(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({**config, "architecture": "cifar_resnet9"}))
    with pytest.raises(ValueError, match="Unknown network 'cifar_resnet9'. Did you mean"):
        load_model(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match="holds no weights"):
        load_model(tmp_path)


def test_a_transformers_checkpoint_is_refused_with_the_way_out(tmp_path):
    transformers = pytest.importorskip("transformers")
    config = transformers.TimmWrapperConfig(architecture="resnet10t", num_labels=3)
    transformers.TimmWrapperForImageClassification(config).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="timm_model"):
        load_model(tmp_path)


# A real teacher.


@pytest.mark.skipif(not TEACHER.is_dir(), reason="the trained teacher is not here")
def test_both_files_of_the_teacher_hold_the_same_network():
    tensors = load_file(TEACHER / "resnet20_vanilla.safetensors")
    for file in ("resnet20_vanilla.pth", "resnet20_vanilla.safetensors"):
        loaded = load_model("cifar_resnet20", num_classes=100, checkpoint=TEACHER / file).state_dict()
        assert loaded.keys() == tensors.keys()
        assert all(torch.equal(loaded[key], tensors[key]) for key in tensors)


@pytest.mark.skipif(
    not (TEACHER.is_dir() and TEST_IMAGES.is_file()), reason="the trained teacher or CIFAR-100 is not here"
)
def test_the_teacher_reproduces_its_published_accuracy():
    parquet = pytest.importorskip("pyarrow.parquet")
    image = pytest.importorskip("PIL.Image")
    table = parquet.read_table(TEST_IMAGES)
    pixels = np.stack([np.asarray(image.open(io.BytesIO(row["bytes"]))) for row in table["img"].to_pylist()])
    labels = torch.tensor(table["fine_label"].to_pylist())

    teacher = load_model("cifar_resnet20", checkpoint=TEACHER / "resnet20_vanilla.pth").eval()
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (ModelSpec.of(teacher).mean, ModelSpec.of(teacher).std))
    correct = 0
    with torch.inference_mode():
        for batch, target in zip(torch.from_numpy(pixels).split(250), labels.split(250), strict=True):
            images = (batch.permute(0, 3, 1, 2) / 255 - mean) / std
            correct += (teacher(images).argmax(1) == target).sum().item()
    assert math.isclose(correct / len(labels), 0.6756, abs_tol=5e-4)
