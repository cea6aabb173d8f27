"""The CIFAR networks keep timm's interface, so that what works with timm's networks works with them."""

import pytest
import timm
import torch

import hf_kcd.models  # noqa: F401  (registers the networks)

NAMES = ["cifar_resnet8", "cifar_wrn_16_2"]


def test_networks_are_listed_by_timm():
    expected = {f"cifar_resnet{size}" for size in ("8", "20", "56", "8x4", "32x4")}
    expected |= {f"cifar_wrn_{size}" for size in ("16_2", "40_1", "40_2")}
    assert expected <= set(timm.list_models("cifar_*"))


@pytest.mark.parametrize("name", NAMES)
def test_parts_make_the_whole(name):
    network = timm.create_model(name).eval()
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        logits = network(images)
        final = network.forward_features(images)
        embedding = network.forward_head(final, pre_logits=True)
        again, features = network.forward_intermediates(images)
    assert torch.equal(network.forward_head(final), logits)
    assert torch.equal(network.get_classifier()(embedding), logits)
    assert torch.equal(again, final)
    assert embedding.shape == (2, network.head_hidden_size)
    assert [f.shape[1] for f in features] == [info["num_chs"] for info in network.feature_info]
    assert [32 // f.shape[-1] for f in features] == [info["reduction"] for info in network.feature_info]


@pytest.mark.parametrize("name", NAMES)
def test_intermediates_are_chosen_as_in_timm(name):
    network = timm.create_model(name).eval()
    images = torch.randn(1, 3, 16, 16)
    with torch.no_grad():
        every = network.forward_intermediates(images, intermediates_only=True)
        for indices, positions in [(None, [0, 1, 2, 3]), (2, [2, 3]), ([0, -1], [0, 3]), ([1], [1])]:
            chosen = network.forward_intermediates(images, indices, intermediates_only=True)
            assert len(chosen) == len(positions)
            assert all(torch.equal(c, every[p]) for c, p in zip(chosen, positions, strict=True))
    with pytest.raises(ValueError, match="NCHW"):
        network.forward_intermediates(images, output_fmt="NLC")


@pytest.mark.parametrize("name", NAMES)
def test_features_only_gives_the_same_features_without_the_head(name):
    network = timm.create_model(name).eval()
    extractor = timm.create_model(name, features_only=True, out_indices=(1, 3)).eval()
    assert not [key for key in extractor.state_dict() if "fc" in key]
    extractor.load_state_dict(
        {f"model.{key}": value for key, value in network.state_dict().items() if not key.startswith("fc")}
    )
    images = torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        found = extractor(images)
        every = network.forward_intermediates(images, intermediates_only=True)
    assert [torch.equal(f, every[i]) for f, i in zip(found, (1, 3), strict=True)] == [True, True]
    assert extractor.feature_info.channels() == [every[1].shape[1], every[3].shape[1]]
    assert len(timm.create_model(name, features_only=True)(images)) == 4


@pytest.mark.parametrize("name", NAMES)
def test_reset_classifier_gives_a_new_head_and_leaves_the_rest(name):
    network = timm.create_model(name).double().eval()
    images = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    before = network.forward_features(images)
    network.reset_classifier(5)
    assert network.num_classes == 5 and network(images).shape == (2, 5)
    assert torch.equal(network.forward_features(images), before)
    network.reset_classifier(0)
    assert torch.equal(network(images), before.mean((2, 3)))
    network.reset_classifier(0, "")
    assert torch.equal(network(images), before)


def test_there_are_no_published_weights_to_ask_for():
    with pytest.raises(RuntimeError, match="pretrained"):
        timm.create_model("cifar_resnet8", pretrained=True)
