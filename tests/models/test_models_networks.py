"""The CIFAR networks are RepDistiller's: sizes, shapes, how they start, and what they hand out while they train."""

import copy

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import nn

from hf_kcd.models import ModelSpec

# RepDistiller's networks with 100 classes, instantiated and counted: parameters, millions of multiply-adds of one 32x32
# image in convolutions and linear layers, entries of the state dict with and without the batch normalisations' counters
# (None: not counted there), channels and size of f0, f1, ..., and width of what is pooled.
NARROW = [(16, 32), (16, 32), (32, 16), (64, 8)]
MIDDLE = [(16, 32), (32, 32), (64, 16), (128, 8)]
WIDE = [(32, 32), (64, 32), (128, 16), (256, 8)]
VGG = [(64, 32), (128, 16), (256, 8), (512, 4), (512, 4)]
PUBLISHED = {
    "cifar_resnet8": (83_892, 12.5, None, NARROW, 64),
    "cifar_resnet20": (278_324, 40.8, (128, 107), NARROW, 64),
    "cifar_resnet32": (472_756, 69.1, None, NARROW, 64),
    "cifar_resnet56": (861_620, 125.8, (344, 287), NARROW, 64),
    "cifar_resnet110": (1_736_564, 253.2, (668, 557), NARROW, 64),
    "cifar_resnet8x4": (1_233_540, 177.1, (62, 52), WIDE, 256),
    "cifar_resnet32x4": (7_433_860, 1083.0, (206, 172), WIDE, 256),
    "cifar_resnet50": (23_705_252, 1298.0, (320, 267), [(64, 32), (256, 32), (512, 16), (1024, 8), (2048, 4)], 2048),
    "cifar_wrn_16_2": (703_284, 101.1, (83, 70), MIDDLE, 128),
    "cifar_wrn_40_1": (569_780, 83.3, (226, 189), NARROW, 64),
    "cifar_wrn_40_2": (2_255_156, 327.6, (227, 190), MIDDLE, 128),
    "cifar_vgg8": (3_965_028, 96.2, (37, 32), VGG, 512),
    "cifar_vgg11": (9_277_284, 209.4, None, VGG, 512),
    "cifar_vgg13": (9_462_180, 284.9, (72, 62), VGG, 512),
    "cifar_mobilenetv2_half": (812_836, 6.5, (320, 267), [(16, 16), (12, 16), (16, 8), (48, 4), (160, 2)], 1280),
    "cifar_shufflenetv1": (949_258, 38.7, (296, 247), [(24, 32), (240, 16), (480, 8), (960, 4)], 960),
    "cifar_shufflenetv2": (1_355_528, 44.5, (338, 282), [(24, 32), (116, 16), (232, 8), (464, 4)], 1024),
}

# One of each kind of block, the smallest.
FAMILIES = [
    "cifar_resnet8",
    "cifar_wrn_16_2",
    "cifar_vgg8",
    "cifar_mobilenetv2_half",
    "cifar_shufflenetv1",
    "cifar_shufflenetv2",
]


def on_meta(name, **arguments):
    """Make a network without weights: for counting, and for shapes without arithmetic."""
    with torch.device("meta"):
        return timm.create_model(name, **arguments)


def taps_of(network, *shape):
    with torch.no_grad():
        return network.forward_taps(torch.empty(shape, device="meta"))


@pytest.mark.parametrize("name", PUBLISHED)
def test_sizes_are_those_of_the_reference(name):
    parameters, mega_macs, entries, _, _ = PUBLISHED[name]
    network = on_meta(name)
    assert sum(p.numel() for p in network.parameters()) == parameters
    if entries is not None:
        keys = network.state_dict().keys()
        assert (len(keys), len([key for key in keys if not key.endswith(".num_batches_tracked")])) == entries

    macs = []
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            # For each output its kernel, over the channels of its group.
            module.register_forward_hook(lambda conv, _, out: macs.append(out[0].numel() * conv.weight[0].numel()))
        if isinstance(module, nn.Linear):
            module.register_forward_hook(lambda linear, _, out: macs.append(linear.weight.numel()))
    network(torch.empty(1, 3, 32, 32, device="meta"))
    assert round(sum(macs) / 1e6, 1) == mega_macs


@pytest.mark.parametrize("name", PUBLISHED)
def test_taps_are_those_of_the_reference(name):
    _, _, _, taps, pooled = PUBLISHED[name]
    network = on_meta(name)
    final, features, preactivations = taps_of(network, 2, 3, 32, 32)
    assert [(f.shape[1], f.shape[2], f.shape[3]) for f in features] == [(width, size, size) for width, size in taps]
    assert [p.shape for p in preactivations] == [f.shape for f in features[1:]]
    assert network.forward_head(final, pre_logits=True).shape == (2, pooled)
    assert network.forward_head(final).shape == (2, 100)

    spec = ModelSpec.of(network)
    assert (spec.name, spec.num_classes, spec.embedding_dim) == (name, 100, pooled)
    assert spec.feature_channels == tuple(width for width, _ in taps)
    assert spec.feature_reductions == tuple(32 // size for _, size in taps)
    assert spec.mean == (0.5071, 0.4867, 0.4408) and spec.std == (0.2675, 0.2565, 0.2761)
    assert spec.input_size == (3, 32, 32)
    assert network.default_cfg["pool_size"] == tuple(final.shape[2:])


@pytest.mark.parametrize("name", PUBLISHED)
def test_larger_images_give_larger_features_and_the_same_logits(name):
    taps = PUBLISHED[name][3]
    network = on_meta(name)
    _, features, preactivations = taps_of(network, 1, 3, 64, 64)
    sizes = [2 * size for _, size in taps]
    if "vgg" in name:
        sizes[-1] = 4  # the reference pools a fourth time where the image is 64 high
    assert [f.shape[-1] for f in features] == sizes
    assert [p.shape for p in preactivations] == [f.shape for f in features[1:]]
    assert network(torch.empty(1, 3, 64, 64, device="meta")).shape == (1, 100)
    # Neither square nor a multiple of the reductions.
    assert network(torch.empty(1, 3, 38, 45, device="meta")).shape == (1, 100)


@pytest.mark.parametrize("name", [*FAMILIES, "cifar_resnet50"])
def test_networks_start_as_in_the_reference(name):
    torch.manual_seed(0)
    network = timm.create_model(name)
    pytorchs_own = "shufflenet" in name
    for module in network.modules():
        if isinstance(module, nn.Conv2d) and module.weight.numel() > 2000:
            if pytorchs_own:  # uniform, to the bound 1 / sqrt(fan in)
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


@pytest.mark.parametrize("name", [*FAMILIES, "cifar_resnet50"])
def test_linear_layers_start_as_in_the_reference_also_after_a_reset(name):
    torch.manual_seed(0)
    network = timm.create_model(name)
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
def test_preactivations_are_what_the_activation_makes_the_features_of(name):
    torch.manual_seed(0)
    network = timm.create_model(name)
    final, features, preactivations = network.forward_taps(torch.randn(2, 3, 32, 32))
    if "mobilenet" in name:  # a linear bottleneck has no activation: both are its output
        assert all(torch.equal(p, f) for p, f in zip(preactivations, features[1:], strict=True))
        return
    assert all((p < 0).any() for p in preactivations)
    if "wrn" in name:  # features are sums; what is pooled is the last of them, normalised and activated
        assert torch.equal(F.relu(preactivations[-1]), final)
        return
    assert all(torch.equal(F.relu(p), f) for p, f in zip(preactivations, features[1:], strict=True))


@pytest.mark.parametrize("name", FAMILIES)
def test_later_layers_leave_features_and_preactivations_as_they_were(name):
    torch.manual_seed(0)
    network = timm.create_model(name)
    images = torch.randn(2, 3, 32, 32)
    _, features, preactivations = network.forward_taps(images)
    for last, feature in enumerate(features):
        stopped, early, early_preactivations = network.forward_taps(images, last=last)
        assert len(early) == last + 1
        assert torch.equal(early[-1], feature) and torch.equal(stopped, feature)
        for early_one, late_one in zip(early_preactivations, preactivations, strict=False):
            assert torch.equal(early_one, late_one)


@pytest.mark.parametrize("name", FAMILIES)
def test_reading_everything_counts_and_normalises_a_batch_once(name):
    torch.manual_seed(0)
    network = timm.create_model(name)
    plain = copy.deepcopy(network)
    for step in range(1, 3):
        images = torch.randn(2, 3, 32, 32)
        network.forward_head(network.forward_taps(images)[0])
        plain(images)
        counters = [module.num_batches_tracked for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
        assert all(counter == step for counter in counters)
    for (key, found), expected in zip(network.named_buffers(), plain.buffers(), strict=True):
        assert torch.equal(found, expected), key


@pytest.mark.parametrize("name", FAMILIES)
def test_every_parameter_learns_from_the_logits(name):
    torch.manual_seed(0)
    network = timm.create_model(name)
    F.cross_entropy(network(torch.randn(2, 3, 32, 32)), torch.tensor([3, 7])).backward()
    without = [key for key, p in network.named_parameters() if p.grad is None or not p.grad.isfinite().all()]
    assert not without


@pytest.mark.parametrize("name", FAMILIES)
def test_other_channels_classes_and_memory_formats_run(name):
    torch.manual_seed(0)
    images = torch.randn(2, 1, 32, 32)
    network = timm.create_model(name, num_classes=3, in_chans=1)
    network(images)  # statistics that are not the start's
    network.eval()
    spec = ModelSpec.of(network)
    assert spec.input_size == (1, 32, 32) and len(spec.mean) == len(spec.std) == 1
    with torch.no_grad():
        expected = network(images)
        assert expected.shape == (2, 3)
        channels_last = network.to(memory_format=torch.channels_last)
        found = channels_last(images.to(memory_format=torch.channels_last))
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
        final, features, preactivations = channels_last.forward_taps(images.to(memory_format=torch.channels_last))
        for tap in (final, *features, *preactivations):
            assert tap.is_contiguous(memory_format=torch.channels_last)
        halved = network.to(torch.bfloat16)(images.to(torch.bfloat16))
    assert halved.dtype == torch.bfloat16
    torch.testing.assert_close(halved.float(), expected, rtol=0.1, atol=0.1)


@pytest.mark.parametrize("name", FAMILIES)
def test_gradient_checkpointing_changes_neither_gradients_nor_statistics(name):
    torch.manual_seed(0)
    network = timm.create_model(name).double()
    start = {key: tensor.clone() for key, tensor in network.state_dict().items()}
    images = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    runs = []
    next(m for m in network.layer2.modules() if isinstance(m, nn.Conv2d)).register_forward_hook(
        lambda *_: runs.append(1)
    )
    results = []
    for enable in (False, True):
        runs.clear()
        network.load_state_dict(start)
        network.zero_grad()
        network.set_grad_checkpointing(enable)
        final, features, preactivations = network.forward_taps(images)
        taps = [network.forward_head(final), *features, *preactivations]
        sum(tap.square().mean() for tap in taps).backward()
        assert len(runs) == (2 if enable else 1)
        gradients = {f"gradient of {key}": p.grad.clone() for key, p in network.named_parameters()}
        buffers = {key: buffer.clone() for key, buffer in network.named_buffers()}
        results.append({**gradients, **buffers})
    assert results[0].keys() == results[1].keys()
    for key, tensor in results[0].items():
        torch.testing.assert_close(results[1][key], tensor, rtol=1e-9, atol=1e-12, msg=key)
