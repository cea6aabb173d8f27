"""The CIFAR networks keep timm's interface: what works with timm's networks works with them."""

import copy

import pytest
import timm
import torch
from timm.optim import param_groups_layer_decay
from torch import nn

from hf_kcd.models.cifar import cifar_mobilenetv2, cifar_shufflenet, cifar_vgg, cifar_wrn

# The smallest with each kind of block.
FAMILIES = [f"cifar_{n}" for n in ("resnet8", "wrn_16_2", "vgg8", "mobilenetv2_half", "shufflenetv1", "shufflenetv2")]


def make(name, **arguments):
    torch.manual_seed(0)
    return timm.create_model(name, **arguments).eval()


def test_timm_lists_the_networks_beside_its_own():
    resnets = {f"cifar_resnet{size}" for size in ("8", "20", "32", "56", "110", "8x4", "32x4", "50")}
    wrns = {f"cifar_wrn_{size}" for size in ("16_2", "40_1", "40_2")}
    others = {"cifar_vgg8", "cifar_vgg11", "cifar_vgg13", *FAMILIES[3:]}
    assert set(timm.list_models("cifar_*")) == resnets | wrns | others
    assert set(timm.list_models(module="cifar_resnet")) == resnets
    # timm groups by the last part of a module's name: ours must not fall among its own.
    for module in ("resnet", "vgg"):
        assert not [name for name in timm.list_models(module=module) if name.startswith("cifar_")]
    network = timm.create_model("cifar_resnet8", pretrained_cfg_overlay={"mean": (0.5, 0.5, 0.5), "num_classes": 10})
    assert network.default_cfg["mean"] == (0.5, 0.5, 0.5) and network.num_classes == 10
    with pytest.raises(RuntimeError, match="pretrained"):
        timm.create_model("cifar_resnet8", pretrained=True)


@pytest.mark.parametrize("name", FAMILIES)
@torch.no_grad()
def test_parts_make_the_whole_and_intermediates_are_chosen_as_in_timm(name):
    network, images = make(name), torch.randn(2, 3, 32, 32)
    logits, final = network(images), network.forward_features(images)
    embedding = network.forward_head(final, pre_logits=True)
    assert torch.equal(network.forward_head(final), logits)
    assert torch.equal(network.get_classifier()(embedding), logits)
    assert embedding.shape == (2, network.head_hidden_size) and final.shape[1] == network.num_features

    ran = []
    layers = {key: m for key, m in network.named_modules() if isinstance(m, nn.Conv2d | nn.BatchNorm2d)}
    for key, module in layers.items():
        module.register_forward_hook(lambda *_, key=key: ran.append(key))
    again, every = network.forward_intermediates(images)
    assert torch.equal(again, final) and set(ran) == set(layers)
    assert [f.shape[1] for f in every] == [info["num_chs"] for info in network.feature_info]
    assert [32 // f.shape[-1] for f in every] == [info["reduction"] for info in network.feature_info]
    n = len(every)
    for indices, positions in [(None, range(n)), (2, [n - 2, n - 1]), ([0, -1], [0, n - 1]), ([1], [1])]:
        chosen = network.forward_intermediates(images, indices, intermediates_only=True)
        assert all(torch.equal(c, every[p]) for c, p in zip(chosen, positions, strict=True))
    for last, info in enumerate(network.feature_info):
        ran.clear()
        stopped, features = network.forward_intermediates(images, [last], stop_early=True)
        assert torch.equal(features[0], every[last]) and torch.equal(stopped, every[last])
        assert ran[-1].startswith(info["module"])
    with pytest.raises(ValueError, match="NCHW"):
        network.forward_intermediates(images, output_fmt="NLC")
    with pytest.raises(AssertionError, match="out of range"):
        network.forward_intermediates(images, [n])


@pytest.mark.parametrize("name", FAMILIES)
@torch.no_grad()
def test_features_only_gives_the_same_features_without_what_they_do_not_need(name):
    network, images = make(name), torch.randn(2, 3, 32, 32)
    every = network.forward_intermediates(images, intermediates_only=True)
    for indices in [(0, 2), (-1,), (0,)]:
        extractor = timm.create_model(name, features_only=True, out_indices=indices).eval()
        positions = [range(len(every))[index] for index in indices]
        kept = extractor.state_dict().keys()
        # The features need what lies before them in the network, and no parameter behind.
        behind = network.feature_info[positions[-1]]["module"]
        order = [key for key in dict(network.named_children()) if key not in ("global_pool", "fc")]
        assert {key.split(".")[1] for key in kept} == set(order[: order.index(behind) + 1])
        extractor.load_state_dict({key: network.state_dict()[key.removeprefix("model.")] for key in kept})
        assert all(torch.equal(f, every[i]) for f, i in zip(extractor(images), positions, strict=True))
        assert extractor.feature_info.channels() == [every[i].shape[1] for i in positions]
        assert extractor.feature_info.reduction() == [32 // every[i].shape[-1] for i in positions]
    assert len(timm.create_model(name, features_only=True)(images)) == len(every)

    # A pruned network is a shorter network.
    assert network.prune_intermediate_layers([0, 2]) == [0, 2]
    assert torch.equal(network(images), every[2])
    final, features = network.forward_intermediates(images)
    assert torch.equal(final, every[2]) and len(features) == len(network.feature_info) == 3
    network.reset_classifier(4, "avg")
    assert network(images).shape == (2, 4)
    assert network.num_features == network.head_hidden_size == every[2].shape[1]


@torch.no_grad()
def test_pruning_can_keep_the_head():
    network, images = make("cifar_shufflenetv2"), torch.randn(2, 3, 32, 32)
    logits = network(images)
    network.prune_intermediate_layers(None, prune_head=False)
    assert torch.equal(network(images), logits)
    network.prune_intermediate_layers(None, prune_norm=True, prune_head=False)
    assert network(images).shape == (2, 464, 4, 4)


@pytest.mark.parametrize("name", FAMILIES)
@torch.no_grad()
def test_reset_classifier_gives_a_new_head_and_leaves_the_rest(name):
    network, images = make(name).double(), torch.randn(2, 3, 32, 32, dtype=torch.float64)
    twin = copy.deepcopy(network)
    logits, before = network(images), network.forward_features(images)
    network.reset_classifier(5)
    assert network.num_classes == 5 and network(images).shape == (2, 5)
    assert torch.equal(network.forward_features(images), before)
    network.reset_classifier(5, "max")
    assert torch.equal(network.forward_head(before, pre_logits=True), before.amax((2, 3)))
    network.reset_classifier(0, "avg")
    assert torch.equal(network(images), before.mean((2, 3)))
    network.reset_classifier(0, "")
    assert torch.equal(network(images), before)
    # A copy shares no parameter.
    for parameter in network.parameters():
        parameter.zero_()
    assert torch.equal(twin(images), logits)


@pytest.mark.parametrize("name", FAMILIES)
def test_published_weights_are_fitted_to_other_channels_and_classes_as_timm_does_it(name, tmp_path):
    published = make(name)
    torch.save(published.state_dict(), tmp_path / "weights.pth")
    overlay = {"file": str(tmp_path / "weights.pth")}
    gray = timm.create_model(name, pretrained=True, pretrained_cfg_overlay=overlay, in_chans=1, num_classes=5)
    first_conv = published.default_cfg["first_conv"]
    expected = published.get_submodule(first_conv).weight.sum(1, keepdim=True)
    torch.testing.assert_close(gray.get_submodule(first_conv).weight, expected)
    assert gray.fc.out_features == 5
    untouched = [key for key in gray.state_dict() if not key.startswith(("fc.", f"{first_conv}.weight"))]
    assert all(torch.equal(gray.state_dict()[key], published.state_dict()[key]) for key in untouched)


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
    # The head has the full rate, and each block half of the next one's; stems come before all blocks.
    assert by_block["fc"] == {1.0} and blocks == [0.5**depth for depth in range(len(blocks), 0, -1)]
    if "vgg" not in name:
        assert by_block["conv1"] == {blocks[0] / 2}


# Few blocks of each kind: compiling takes long.
SHALLOW = {
    "resnet": lambda: timm.create_model("cifar_resnet8"),
    "vgg": lambda: cifar_vgg.CifarVGG((1, 1, 1, 1, 2)),
    "mobilenetv2": lambda: cifar_mobilenetv2.CifarMobileNetV2(0.5),
    "shufflenetv1": lambda: cifar_shufflenet.CifarShuffleNet((2,), (240,), 3),
    "shufflenetv2": lambda: cifar_shufflenet.CifarShuffleNetV2((3,), (116, 1024)),
}


@pytest.mark.parametrize("family", SHALLOW)
@torch.no_grad()
def test_networks_compile_whole(family, monkeypatch):
    monkeypatch.setattr(cifar_mobilenetv2, "_STAGES", cifar_mobilenetv2._STAGES[:2] + cifar_mobilenetv2._STAGES[-1:])
    network, images = SHALLOW[family]().eval(), torch.randn(1, 3, 16, 16)
    torch._dynamo.reset()
    compiled = torch.compile(network.forward_taps, fullgraph=True, backend="eager")
    final, features, preactivations = compiled(images)
    expected, *taps = network.forward_taps(images)
    torch.testing.assert_close([final, *features, *preactivations], [expected, *taps[0], *taps[1]])


def test_a_compiled_network_trains_as_the_eager_one_also_with_gradient_checkpointing():
    # The family whose blocks return two tensors.
    torch.manual_seed(0)
    start = cifar_wrn.CifarWideResNet(10, 1).double()
    images = torch.randn(4, 3, 16, 16, dtype=torch.float64)
    eager = copy.deepcopy(start)
    eager(images).square().mean().backward()
    for checkpointing in (False, True):
        torch._dynamo.reset()
        network = copy.deepcopy(start)
        network.set_grad_checkpointing(checkpointing)
        torch.compile(network, fullgraph=not checkpointing, backend="aot_eager")(images).square().mean().backward()
        torch.testing.assert_close([p.grad for p in network.parameters()], [p.grad for p in eager.parameters()])
        torch.testing.assert_close(dict(network.named_buffers()), dict(eager.named_buffers()))
