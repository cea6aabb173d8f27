"""The CIFAR networks are RepDistiller's, give what methods read while they train, and keep timm's interface."""

import copy

import pytest
import timm
import torch
import torch.nn.functional as F
from timm.optim import param_groups_layer_decay
from torch import nn

from hf_kcd.models import ModelSpec
from hf_kcd.models.catalog import describe_network
from hf_kcd.models.cifar import cifar_mobilenetv2, cifar_shufflenet, cifar_vgg, cifar_wrn

# RepDistiller's networks with 100 classes, instantiated and counted: parameters, millions of multiply-adds for one 32x32
# image in convolutions and linear layers, channels and size of f0, f1, ..., and width of the embedding.
NARROW = [(16, 32), (16, 32), (32, 16), (64, 8)]
MIDDLE = [(16, 32), (32, 32), (64, 16), (128, 8)]
WIDE = [(32, 32), (64, 32), (128, 16), (256, 8)]
VGG = [(64, 32), (128, 16), (256, 8), (512, 4), (512, 4)]
PUBLISHED = {
    "cifar_resnet8": (83_892, 12.5, NARROW, 64),
    "cifar_resnet20": (278_324, 40.8, NARROW, 64),
    "cifar_resnet32": (472_756, 69.1, NARROW, 64),
    "cifar_resnet56": (861_620, 125.8, NARROW, 64),
    "cifar_resnet110": (1_736_564, 253.2, NARROW, 64),
    "cifar_resnet8x4": (1_233_540, 177.1, WIDE, 256),
    "cifar_resnet32x4": (7_433_860, 1083.0, WIDE, 256),
    "cifar_resnet50": (23_705_252, 1298.0, [(64, 32), (256, 32), (512, 16), (1024, 8), (2048, 4)], 2048),
    "cifar_wrn_16_2": (703_284, 101.1, MIDDLE, 128),
    "cifar_wrn_40_1": (569_780, 83.3, NARROW, 64),
    "cifar_wrn_40_2": (2_255_156, 327.6, MIDDLE, 128),
    "cifar_vgg8": (3_965_028, 96.2, VGG, 512),
    "cifar_vgg11": (9_277_284, 209.4, VGG, 512),
    "cifar_vgg13": (9_462_180, 284.9, VGG, 512),
    "cifar_mobilenetv2_half": (812_836, 6.5, [(16, 16), (12, 16), (16, 8), (48, 4), (160, 2)], 1280),
    "cifar_shufflenetv1": (949_258, 38.7, [(24, 32), (240, 16), (480, 8), (960, 4)], 960),
    "cifar_shufflenetv2": (1_355_528, 44.5, [(24, 32), (116, 16), (232, 8), (464, 4)], 1024),
}

# The smallest with each kind of block.
FAMILIES = [f"cifar_{n}" for n in ("resnet8", "wrn_16_2", "vgg8", "mobilenetv2_half", "shufflenetv1", "shufflenetv2")]


def make(name, **arguments):
    torch.manual_seed(0)
    return timm.create_model(name, **arguments)


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_network_has_the_sizes_and_taps_of_the_reference(name):
    parameters, mega_macs, taps, pooled = PUBLISHED[name]
    facts = describe_network(name)
    assert (facts.num_parameters, round(facts.macs / 1e6, 1)) == (parameters, mega_macs)
    assert facts.taps == tuple((width, size, size) for width, size in taps) and facts.embedding_dim == pooled

    with torch.device("meta"):
        network = timm.create_model(name)
    spec = ModelSpec.of(network)
    assert (spec.name, spec.num_classes, spec.input_size) == (name, 100, (3, 32, 32))
    assert spec.feature_reductions == tuple(32 // size for _, size in taps)
    assert spec.preactivation_channels == tuple(width for width, _ in taps[1:])
    assert spec.mean == (0.5071, 0.4867, 0.4408) and spec.std == (0.2675, 0.2565, 0.2761)

    modules = dict(network.named_modules())
    assert modules[network.default_cfg["first_conv"]].in_channels == 3
    assert modules[network.default_cfg["classifier"]] is network.get_classifier()
    assert all(info["module"] in modules for info in network.feature_info)
    final = network.forward_features(torch.empty(1, 3, 32, 32, device="meta"))
    assert network.default_cfg["pool_size"] == tuple(final.shape[2:])
    assert all(parameter.is_meta for parameter in network.parameters())


@pytest.mark.parametrize("name", [*FAMILIES, "cifar_resnet50"])
def test_networks_start_as_in_the_reference_also_after_a_reset(name):
    network = make(name)
    for module in network.modules():
        if isinstance(module, nn.Conv2d) and module.weight.numel() > 2000:
            if "shufflenet" in name:  # PyTorch's own: uniform, to the bound 1 / sqrt(fan in)
                bound = module.weight[0].numel() ** -0.5
                assert 0.99 * bound < module.weight.abs().max() <= bound
                expected = bound / 3**0.5
            else:
                expected = (2 / (module.out_channels * module.kernel_size[0] ** 2)) ** 0.5
            assert module.weight.std().item() == pytest.approx(expected, rel=0.06)
        if isinstance(module, nn.Conv2d) and module.bias is not None:
            assert "vgg" in name and (module.bias == 0).all()
        if isinstance(module, nn.BatchNorm2d):
            assert (module.weight == 1).all() and (module.bias == 0).all()
    for reset in (False, True):
        if reset:
            network.reset_classifier(50)
        weight, bias = network.fc.weight, network.fc.bias
        if "vgg" in name or "mobilenet" in name:
            assert weight.std().item() == pytest.approx(0.01, rel=0.05) and (bias == 0).all()
            continue
        bound = weight.shape[1] ** -0.5
        assert 0.98 * bound < weight.abs().max() <= bound
        assert (bias == 0).all() if "wrn" in name else 0.5 * bound < bias.abs().max() <= bound


@pytest.mark.parametrize("name", FAMILIES)
def test_one_training_pass_gives_taps_logits_statistics_and_gradients(name):
    network, images = make(name), torch.randn(2, 3, 32, 32)
    plain = copy.deepcopy(network)
    final, features, preactivations = network.forward_taps(images)
    logits = network.forward_head(final)
    assert torch.equal(logits, plain(images))
    # Each batch normalization counted the batch once.
    for (key, found), expected in zip(network.named_buffers(), plain.buffers(), strict=True):
        assert torch.equal(found, expected) and ("num_batches" not in key or found == 1), key

    if "mobilenet" in name:  # a linear bottleneck has no activation: both are its output
        assert all(torch.equal(p, f) for p, f in zip(preactivations, features[1:], strict=True))
    else:
        assert all((p < 0).any() for p in preactivations)
        # The features of a wide ResNet are sums; the last one is normalized and activated before the pooling.
        pairs = [(preactivations[-1], final)] if "wrn" in name else zip(preactivations, features[1:], strict=True)
        assert all(torch.equal(F.relu(p), f) for p, f in pairs)

    F.cross_entropy(logits, torch.tensor([3, 7])).backward()
    assert not [key for key, p in network.named_parameters() if p.grad is None or not p.grad.isfinite().all()]


@pytest.mark.parametrize("name", FAMILIES)
def test_other_channels_classes_and_memory_formats_run(name):
    network, images = make(name, num_classes=3, in_chans=1), torch.randn(2, 1, 32, 32)
    network(images)  # statistics other than the initial ones
    network.eval()
    spec = ModelSpec.of(network)
    assert spec.input_size == (1, 32, 32) and len(spec.mean) == len(spec.std) == 1
    with torch.no_grad():
        expected = network(images)
        assert expected.shape == (2, 3)
        channels_last = network.to(memory_format=torch.channels_last)
        final, features, preactivations = channels_last.forward_taps(images.to(memory_format=torch.channels_last))
        torch.testing.assert_close(channels_last.forward_head(final), expected, rtol=1e-4, atol=1e-5)
        for tap in (final, *features, *preactivations):
            assert tap.is_contiguous(memory_format=torch.channels_last)
        halved = network.to(torch.bfloat16)(images.to(torch.bfloat16))
    assert halved.dtype == torch.bfloat16
    torch.testing.assert_close(halved.float(), expected, rtol=0.1, atol=0.1)


@pytest.mark.parametrize("name", FAMILIES)
def test_gradient_checkpointing_changes_neither_gradients_nor_statistics(name):
    network, images = make(name).double(), torch.randn(2, 3, 16, 16, dtype=torch.float64)
    start = copy.deepcopy(network.state_dict())
    runs, results = [], []
    first = next(m for m in network.layer2.modules() if isinstance(m, nn.Conv2d))
    first.register_forward_hook(lambda *_: runs.append(1))
    for enable in (False, True):
        runs.clear()
        network.load_state_dict(start)
        network.zero_grad()
        network.set_grad_checkpointing(enable)
        final, features, preactivations = network.forward_taps(images)
        taps = [network.forward_head(final), *features, *preactivations]
        sum(tap.square().mean() for tap in taps).backward()
        assert len(runs) == (2 if enable else 1)
        results.append([t.clone() for t in (*(p.grad for p in network.parameters()), *network.buffers())])
    torch.testing.assert_close(*results, rtol=1e-9, atol=1e-12)


def test_timm_lists_the_networks_beside_its_own():
    assert set(timm.list_models("cifar_*")) == set(PUBLISHED)
    assert set(timm.list_models(module="cifar_resnet")) == {name for name in PUBLISHED if "resnet" in name}
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
    network, images = make(name).eval(), torch.randn(2, 3, 32, 32)
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
    network, images = make(name).eval(), torch.randn(2, 3, 32, 32)
    tailless = copy.deepcopy(network)
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
    logits, has_tail = network(images), not torch.equal(network.forward_features(images), every[-1])
    network.prune_intermediate_layers(None, prune_head=False)
    assert torch.equal(network(images), logits)
    assert network.prune_intermediate_layers([0, 2]) == [0, 2]
    assert torch.equal(network(images), every[2])
    final, features = network.forward_intermediates(images)
    assert torch.equal(final, every[2]) and len(features) == len(network.feature_info) == 3
    network.reset_classifier(4, "avg")
    assert network(images).shape == (2, 4)
    tailless.prune_intermediate_layers(None, prune_norm=True, prune_head=False)
    assert torch.equal(tailless(images), every[-1] if has_tail else logits)
    assert network.num_features == network.head_hidden_size == every[2].shape[1]


@pytest.mark.parametrize("name", FAMILIES)
@torch.no_grad()
def test_reset_classifier_gives_a_new_head_and_leaves_the_rest(name):
    network, images = make(name).double().eval(), torch.randn(2, 3, 32, 32, dtype=torch.float64)
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
