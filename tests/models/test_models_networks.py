"""The CIFAR networks are RepDistiller's in size, shape and initialization, and give what methods read while they train."""

import copy

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import nn

from hf_kcd.models import ModelSpec
from hf_kcd.models.catalog import describe_network

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
    assert network.default_cfg["pool_size"] == tuple(
        network.forward_features(torch.empty(1, 3, 32, 32, device="meta")).shape[2:]
    )
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

    # Later layers leave features and pre-activations as they were.
    for last, feature in enumerate(features):
        stopped, early, early_preactivations = network.forward_taps(images, last=last)
        assert len(early) == last + 1 and torch.equal(early[-1], feature) and torch.equal(stopped, feature)
        assert all(torch.equal(one, other) for one, other in zip(early_preactivations, preactivations, strict=False))

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
