"""The CIFAR networks keep timm's interface, so that what works with timm's networks works with them."""

import copy

import pytest
import timm
import torch
from timm.optim import param_groups_layer_decay
from torch import nn

import hf_kcd.models  # noqa: F401  (registers the networks)

NAMES = [
    *(f"cifar_resnet{size}" for size in ("8", "20", "32", "56", "110", "8x4", "32x4", "50")),
    *(f"cifar_wrn_{size}" for size in ("16_2", "40_1", "40_2")),
    *(f"cifar_vgg{depth}" for depth in (8, 11, 13)),
    *("cifar_mobilenetv2_half", "cifar_shufflenetv1", "cifar_shufflenetv2"),
]

# One of each kind of block, the smallest.
FAMILIES = [
    "cifar_resnet8",
    "cifar_wrn_16_2",
    "cifar_vgg8",
    "cifar_mobilenetv2_half",
    "cifar_shufflenetv1",
    "cifar_shufflenetv2",
]


def make(name, **arguments):
    torch.manual_seed(0)
    return timm.create_model(name, **arguments).eval()


def test_networks_are_listed_by_timm():
    assert sorted(NAMES) == sorted(timm.list_models("cifar_*"))


@pytest.mark.parametrize("name", NAMES)
def test_configurations_name_modules_of_the_network(name):
    with torch.device("meta"):
        network = timm.create_model(name, num_classes=7)
    modules = dict(network.named_modules())
    assert modules[network.default_cfg["first_conv"]].in_channels == 3
    assert modules[network.default_cfg["classifier"]] is network.get_classifier()
    assert network.get_classifier().out_features == network.num_classes == 7
    assert all(info["module"] in modules for info in network.feature_info)
    # The weights' device is that of construction, and all of them get values once they have memory.
    assert all(parameter.is_meta for parameter in network.parameters())


@pytest.mark.parametrize("name", FAMILIES)
def test_parts_make_the_whole(name):
    network = make(name)
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        logits = network(images)
        final = network.forward_features(images)
        embedding = network.forward_head(final, pre_logits=True)
        again, features = network.forward_intermediates(images)
    assert torch.equal(network.forward_head(final), logits)
    assert torch.equal(network.get_classifier()(embedding), logits)
    assert torch.equal(again, final)
    assert embedding.shape == (2, network.head_hidden_size) and final.shape[1] == network.num_features
    assert [f.shape[1] for f in features] == [info["num_chs"] for info in network.feature_info]
    assert [32 // f.shape[-1] for f in features] == [info["reduction"] for info in network.feature_info]


@pytest.mark.parametrize("name", FAMILIES)
def test_intermediates_are_chosen_as_in_timm(name):
    network = make(name)
    images = torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        every = network.forward_intermediates(images, intermediates_only=True)
        n = len(every)
        for indices, positions in [(None, range(n)), (2, [n - 2, n - 1]), ([0, -1], [0, n - 1]), ([1], [1])]:
            chosen = network.forward_intermediates(images, indices, intermediates_only=True)
            assert len(chosen) == len(positions)
            assert all(torch.equal(c, every[p]) for c, p in zip(chosen, positions, strict=True))
    with pytest.raises(ValueError, match="NCHW"):
        network.forward_intermediates(images, output_fmt="NLC")
    with pytest.raises(AssertionError, match="out of range"):
        network.forward_intermediates(images, [n])


@pytest.mark.parametrize("name", FAMILIES)
def test_stopping_early_runs_nothing_behind_the_last_feature_asked_for(name):
    network = make(name)
    images = torch.randn(1, 3, 32, 32)
    met = []
    for key, module in network.named_modules():
        if isinstance(module, nn.Conv2d | nn.BatchNorm2d):
            module.register_forward_hook(lambda *_, key=key: met.append(key))
    with torch.no_grad():
        every = network.forward_intermediates(images, intermediates_only=True)
        # Without stop_early all of it is run, tail included.
        everything = {key for key, m in network.named_modules() if isinstance(m, nn.Conv2d | nn.BatchNorm2d)}
        assert set(met) == everything
        for last, info in enumerate(network.feature_info):
            met.clear()
            final, features = network.forward_intermediates(images, [last], stop_early=True)
            assert torch.equal(features[0], every[last]) and torch.equal(final, every[last])
            assert met[-1].startswith(info["module"])


@pytest.mark.parametrize("name", FAMILIES)
def test_features_only_gives_the_same_features_without_what_they_do_not_need(name):
    network = make(name)
    images = torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        every = network.forward_intermediates(images, intermediates_only=True)
    for indices in [(0, 2), (1,), (-1,), (0,)]:
        extractor = timm.create_model(name, features_only=True, out_indices=indices).eval()
        positions = [range(len(every))[index] for index in indices]
        kept = extractor.state_dict().keys()
        # The features need what lies before them in the network, and no parameter behind.
        behind = network.feature_info[positions[-1]]["module"]
        order = [key for key in dict(network.named_children()) if key not in ("global_pool", "fc")]
        needed = order[: order.index(behind) + 1]
        assert {key.split(".")[1] for key in kept} == set(needed)
        extractor.load_state_dict({key: network.state_dict()[key.removeprefix("model.")] for key in kept})
        with torch.no_grad():
            found = extractor(images)
        assert [torch.equal(f, every[i]) for f, i in zip(found, positions, strict=True)] == [True] * len(positions)
        assert extractor.feature_info.channels() == [every[i].shape[1] for i in positions]
        assert extractor.feature_info.reduction() == [32 // every[i].shape[-1] for i in positions]
    assert len(timm.create_model(name, features_only=True)(torch.randn(2, 3, 32, 32))) == len(every)


@pytest.mark.parametrize("name", FAMILIES)
def test_a_pruned_network_is_a_shorter_network(name):
    network = make(name)
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        every = network.forward_intermediates(images, intermediates_only=True)
        assert network.prune_intermediate_layers([0, 2]) == [0, 2]
        assert torch.equal(network(images), every[2])
        final, features = network.forward_intermediates(images)
        assert torch.equal(final, every[2]) and len(features) == len(network.feature_info) == 3
        assert torch.equal(network.forward_intermediates(images, 1, intermediates_only=True)[0], every[2])
        network.reset_classifier(4, "avg")
        assert network(images).shape == (2, 4)
        assert network.num_features == network.head_hidden_size == every[2].shape[1]


def test_pruning_can_keep_the_head():
    network = make("cifar_shufflenetv2")
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        logits = network(images)
        network.prune_intermediate_layers(None, prune_head=False)
        assert torch.equal(network(images), logits)
        network.prune_intermediate_layers(None, prune_norm=True, prune_head=False)
        assert network(images).shape == (2, 464, 4, 4)


@pytest.mark.parametrize("name", FAMILIES)
def test_reset_classifier_gives_a_new_head_and_leaves_the_rest(name):
    network = make(name).double()
    images = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    with torch.no_grad():
        before = network.forward_features(images)
        network.reset_classifier(5)
        assert network.num_classes == 5 and network(images).shape == (2, 5)
        assert torch.equal(network.forward_features(images), before)
        network.reset_classifier(5, "max")
        assert torch.equal(network.forward_head(before, pre_logits=True), before.amax((2, 3)))
        network.reset_classifier(0, "avg")
        assert torch.equal(network(images), before.mean((2, 3)))
        network.reset_classifier(0, "")
        assert torch.equal(network(images), before)


@pytest.mark.parametrize("name", FAMILIES)
def test_published_weights_are_fitted_to_other_channels_and_classes_as_timm_does_it(name, tmp_path):
    published = make(name)
    torch.save(published.state_dict(), tmp_path / "weights.pth")
    overlay = {"file": str(tmp_path / "weights.pth")}
    grey = timm.create_model(name, pretrained=True, pretrained_cfg_overlay=overlay, in_chans=1, num_classes=5)
    first_conv = published.default_cfg["first_conv"]
    torch.testing.assert_close(
        grey.get_submodule(first_conv).weight, published.get_submodule(first_conv).weight.sum(1, keepdim=True)
    )
    assert grey.fc.out_features == 5
    untouched = [key for key in grey.state_dict() if not key.startswith(("fc.", f"{first_conv}.weight"))]
    assert all(torch.equal(grey.state_dict()[key], published.state_dict()[key]) for key in untouched)


@pytest.mark.parametrize("name", FAMILIES)
def test_learning_rates_decay_by_depth(name):
    network = make(name)
    groups = param_groups_layer_decay(network, weight_decay=0.1, layer_decay=0.5)
    scale = {id(p): group["lr_scale"] for group in groups for p in group["params"]}
    by_block = {}
    for key, parameter in network.named_parameters():
        place = ".".join(key.split(".")[:2]) if key.startswith("layer") else key.split(".")[0]
        by_block.setdefault(place, set()).add(scale[id(parameter)])
    assert all(len(scales) == 1 for scales in by_block.values())
    blocks = [next(iter(scales)) for place, scales in by_block.items() if place.startswith("layer")]
    # The head has the whole rate, and each block half of what the next one has; stems come before all blocks.
    assert by_block["fc"] == {1.0} and blocks == [0.5**depth for depth in range(len(blocks), 0, -1)]
    if "vgg" not in name:
        assert by_block["conv1"] == {blocks[0] / 2}


@pytest.mark.parametrize("name", FAMILIES)
def test_networks_compile_whole(name):
    network = make(name)
    images = torch.randn(1, 3, 16, 16)
    torch._dynamo.reset()
    with torch.no_grad():
        compiled = torch.compile(network.forward_taps, fullgraph=True, backend="aot_eager")
        final, features, preactivations = compiled(images)
        expected, expected_features, expected_preactivations = network.forward_taps(images)
    for found, wanted in zip(
        [final, *features, *preactivations], [expected, *expected_features, *expected_preactivations], strict=True
    ):
        torch.testing.assert_close(found, wanted)


@pytest.mark.parametrize("name", ["cifar_resnet8", "cifar_wrn_16_2"])
def test_a_compiled_network_trains_as_the_eager_one_also_with_gradient_checkpointing(name):
    images = torch.randn(4, 3, 16, 16, dtype=torch.float64)
    eager = make(name).double().train()
    eager(images).square().mean().backward()
    for checkpointing in (False, True):
        torch._dynamo.reset()
        network = make(name).double().train()
        network.set_grad_checkpointing(checkpointing)
        torch.compile(network, fullgraph=not checkpointing, backend="aot_eager")(images).square().mean().backward()
        for (key, parameter), expected in zip(network.named_parameters(), eager.parameters(), strict=True):
            torch.testing.assert_close(parameter.grad, expected.grad, msg=key)
        for (key, buffer), expected in zip(network.named_buffers(), eager.buffers(), strict=True):
            torch.testing.assert_close(buffer, expected, msg=key)


@pytest.mark.parametrize("name", FAMILIES)
def test_copies_are_their_own(name):
    network = make(name)
    twin = copy.deepcopy(network)
    images = torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        expected = network(images)
        for parameter in network.parameters():
            parameter.zero_()
        assert torch.equal(twin(images), expected)


def test_a_configuration_can_be_overlaid():
    network = timm.create_model("cifar_resnet8", pretrained_cfg_overlay={"mean": (0.5, 0.5, 0.5), "num_classes": 10})
    assert network.default_cfg["mean"] == (0.5, 0.5, 0.5) and network.num_classes == 10


def test_there_are_no_published_weights_to_ask_for():
    with pytest.raises(RuntimeError, match="pretrained"):
        timm.create_model("cifar_resnet8", pretrained=True)
