"""The CIFAR networks are RepDistiller's: sizes, shapes, and what they compute, against plain functional code."""

import math

import pytest
import timm
import torch
import torch.nn.functional as F

from hf_kcd.models import ModelSpec, load_model, read_outputs

EVERYTHING = frozenset({"logits", "embedding", "features", "preactivations"})

# Parameters, state-dict entries, and channels of f0..f3, of RepDistiller's networks with 100 classes.
PUBLISHED = {
    "cifar_resnet8": (83_892, None, (16, 16, 32, 64)),
    "cifar_resnet20": (278_324, 128, (16, 16, 32, 64)),
    "cifar_resnet56": (861_620, 344, (16, 16, 32, 64)),
    "cifar_resnet8x4": (1_233_540, 62, (32, 64, 128, 256)),
    "cifar_resnet32x4": (7_433_860, 206, (32, 64, 128, 256)),
    "cifar_wrn_16_2": (703_284, 83, (16, 32, 64, 128)),
    "cifar_wrn_40_1": (569_780, 226, (16, 16, 32, 64)),
    "cifar_wrn_40_2": (2_255_156, 227, (16, 32, 64, 128)),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_sizes_and_taps_are_those_of_the_reference(name):
    parameters, entries, channels = PUBLISHED[name]
    network = timm.create_model(name).eval()
    assert sum(p.numel() for p in network.parameters()) == parameters
    if entries is not None:
        assert len(network.state_dict()) == entries
    with torch.no_grad():
        outputs = read_outputs(network, torch.randn(1, 3, 32, 32), EVERYTHING)
    shapes = [(1, width, size, size) for width, size in zip(channels, (32, 32, 16, 8), strict=True)]
    assert [f.shape for f in outputs.features] == shapes
    assert [p.shape for p in outputs.preactivations] == shapes[1:]
    assert outputs.embedding.shape == (1, channels[-1])
    assert outputs.logits.shape == (1, 100)
    spec = ModelSpec.of(network)
    assert (spec.name, spec.num_classes, spec.embedding_dim) == (name, 100, channels[-1])
    assert (spec.feature_channels, spec.feature_reductions) == (channels, (1, 1, 2, 4))
    assert spec.mean == (0.5071, 0.4867, 0.4408) and spec.std == (0.2675, 0.2565, 0.2761)
    assert spec.input_size == (3, 32, 32)


# The reference layouts, written out: names as RepDistiller's modules give them, tensors filled by a rule.


class Checkpoint(dict):
    def _add(self, key, *shape, offset=0.0, scale=1.0):
        count = math.prod(shape)
        wave = torch.sin(torch.arange(count, dtype=torch.float64) * (1.3 + 0.01 * len(self)) + len(self))
        self[key] = (offset + scale * wave).reshape(shape)

    def conv(self, name, fan_in, fan_out, size):
        self._add(f"{name}.weight", fan_out, fan_in, size, size, scale=(2 / (fan_in * size * size)) ** 0.5)

    def norm(self, name, width):
        self._add(f"{name}.weight", width, offset=1.0, scale=0.3)
        self._add(f"{name}.bias", width, scale=0.3)
        self._add(f"{name}.running_mean", width, scale=0.3)
        self._add(f"{name}.running_var", width, offset=1.0, scale=0.5)
        self[f"{name}.num_batches_tracked"] = torch.tensor(7)

    def linear(self, name, fan_in, fan_out):
        self._add(f"{name}.weight", fan_out, fan_in, scale=0.2)
        self._add(f"{name}.bias", fan_out)


def reference_resnet(depth, widths):
    weights = Checkpoint()
    weights.conv("conv1", 3, widths[0], 3)
    weights.norm("bn1", widths[0])
    width = widths[0]
    for stage in (1, 2, 3):
        for i in range((depth - 2) // 6):
            block, out = f"layer{stage}.{i}", widths[stage]
            weights.conv(f"{block}.conv1", width, out, 3)
            weights.norm(f"{block}.bn1", out)
            weights.conv(f"{block}.conv2", out, out, 3)
            weights.norm(f"{block}.bn2", out)
            if i == 0 and (stage > 1 or width != out):
                weights.conv(f"{block}.downsample.0", width, out, 1)
                weights.norm(f"{block}.downsample.1", out)
            width = out
    weights.linear("fc", width, 10)
    return weights


def reference_wrn(depth, factor):
    weights = Checkpoint()
    weights.conv("conv1", 3, 16, 3)
    width = 16
    for stage in (1, 2, 3):
        for i in range((depth - 4) // 6):
            block, out = f"block{stage}.layer.{i}", 16 * factor * 2 ** (stage - 1)
            weights.norm(f"{block}.bn1", width)
            weights.conv(f"{block}.conv1", width, out, 3)
            weights.norm(f"{block}.bn2", out)
            weights.conv(f"{block}.conv2", out, out, 3)
            if width != out:
                weights.conv(f"{block}.convShortcut", width, out, 1)
            width = out
    weights.norm("bn1", width)
    weights.linear("fc", width, 10)
    return weights


def _norm(w, name, x, training):
    mean, var = w[f"{name}.running_mean"].clone(), w[f"{name}.running_var"].clone()
    return F.batch_norm(x, mean, var, w[f"{name}.weight"], w[f"{name}.bias"], training=training)


def _blocks(w, prefix):
    return sorted({int(key[len(prefix) :].split(".")[0]) for key in w if key.startswith(prefix)})


def run_reference_resnet(w, x, training):
    x = F.relu(_norm(w, "bn1", F.conv2d(x, w["conv1.weight"], padding=1), training))
    features, preactivations = [x], []
    for stage in (1, 2, 3):
        for i in _blocks(w, f"layer{stage}."):
            block, stride = f"layer{stage}.{i}", 2 if stage > 1 and i == 0 else 1
            y = F.conv2d(x, w[f"{block}.conv1.weight"], stride=stride, padding=1)
            y = F.relu(_norm(w, f"{block}.bn1", y, training))
            y = _norm(w, f"{block}.bn2", F.conv2d(y, w[f"{block}.conv2.weight"], padding=1), training)
            if f"{block}.downsample.0.weight" in w:
                x = F.conv2d(x, w[f"{block}.downsample.0.weight"], stride=stride)
                x = _norm(w, f"{block}.downsample.1", x, training)
            total = x + y
            x = F.relu(total)
        features.append(x)
        preactivations.append(total)
    embedding = x.mean((2, 3))
    return embedding @ w["fc.weight"].T + w["fc.bias"], embedding, features, preactivations


def run_reference_wrn(w, x, training):
    x = F.conv2d(x, w["conv1.weight"], padding=1)
    features, preactivations = [x], []
    for stage in (1, 2, 3):
        for i in _blocks(w, f"block{stage}.layer."):
            block, stride = f"block{stage}.layer.{i}", 2 if stage > 1 and i == 0 else 1
            first = F.relu(_norm(w, f"{block}.bn1", x, training))
            y = F.conv2d(first, w[f"{block}.conv1.weight"], stride=stride, padding=1)
            y = F.conv2d(F.relu(_norm(w, f"{block}.bn2", y, training)), w[f"{block}.conv2.weight"], padding=1)
            if f"{block}.convShortcut.weight" in w:
                x = F.conv2d(first, w[f"{block}.convShortcut.weight"], stride=stride)
            x = x + y
        features.append(x)
        following = f"block{stage + 1}.layer.0.bn1" if stage < 3 else "bn1"
        preactivations.append(_norm(w, following, x, training))
    embedding = F.relu(preactivations[-1]).mean((2, 3))
    return embedding @ w["fc.weight"].T + w["fc.bias"], embedding, features, preactivations


CASES = [
    ("cifar_resnet8", reference_resnet(8, (16, 16, 32, 64)), run_reference_resnet),
    ("cifar_resnet20", reference_resnet(20, (16, 16, 32, 64)), run_reference_resnet),
    ("cifar_resnet8x4", reference_resnet(8, (32, 64, 128, 256)), run_reference_resnet),
    ("cifar_wrn_16_2", reference_wrn(16, 2), run_reference_wrn),
    ("cifar_wrn_40_1", reference_wrn(40, 1), run_reference_wrn),
]


@pytest.mark.parametrize("size", [8, 32, 64])
@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize(("name", "weights", "run"), CASES, ids=[case[0] for case in CASES])
def test_a_reference_checkpoint_computes_what_the_reference_computes(tmp_path, name, weights, run, training, size):
    torch.save(dict(weights), tmp_path / "reference.pth")
    network = load_model(name, checkpoint=tmp_path / "reference.pth").double().train(training)
    # Loading is in float32: the reference takes its weights after the same rounding.
    weights = {key: tensor.float().double() for key, tensor in weights.items()}
    images = torch.randn(3, 3, size, size, dtype=torch.float64, generator=torch.Generator().manual_seed(size))
    with torch.no_grad():
        logits, embedding, features, preactivations = run(weights, images, training)
        outputs = read_outputs(network, images, EVERYTHING)
        plain = network(images)
    for found, expected in zip(
        [outputs.logits, plain, outputs.embedding, *outputs.features, *outputs.preactivations],
        [logits, logits, embedding, *features, *preactivations],
        strict=True,
    ):
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", ["cifar_resnet8", "cifar_wrn_16_2"])
def test_convolutions_start_as_in_the_reference(name):
    torch.manual_seed(0)
    network = timm.create_model(name)
    for module in network.modules():
        if isinstance(module, torch.nn.Conv2d) and module.weight.numel() > 2000:
            fan_out = module.out_channels * module.kernel_size[0] ** 2
            assert module.weight.std().item() == pytest.approx((2 / fan_out) ** 0.5, rel=0.06)
            assert module.bias is None
        if isinstance(module, torch.nn.BatchNorm2d):
            assert (module.weight == 1).all() and (module.bias == 0).all()
    assert (network.fc.bias == 0).all() == name.startswith("cifar_wrn")


@pytest.mark.parametrize("name", ["cifar_resnet8", "cifar_wrn_16_2"])
def test_other_channels_classes_and_memory_formats_run(name):
    images = torch.randn(2, 1, 32, 32)
    network = timm.create_model(name, num_classes=3, in_chans=1).eval()
    spec = ModelSpec.of(network)
    assert spec.input_size == (1, 32, 32) and len(spec.mean) == len(spec.std) == 1
    with torch.no_grad():
        expected = network(images)
        assert expected.shape == (2, 3)
        channels_last = network.to(memory_format=torch.channels_last)
        found = channels_last(images.to(memory_format=torch.channels_last))
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
        halved = network.to(torch.bfloat16)(images.to(torch.bfloat16))
    assert halved.dtype == torch.bfloat16
    torch.testing.assert_close(halved.float(), expected, rtol=0.1, atol=0.1)


@pytest.mark.parametrize("name", ["cifar_resnet8", "cifar_wrn_16_2"])
def test_gradient_checkpointing_changes_neither_gradients_nor_statistics(name):
    torch.manual_seed(0)
    network = timm.create_model(name).double()
    start = {key: tensor.clone() for key, tensor in network.state_dict().items()}
    images = torch.randn(4, 3, 16, 16, dtype=torch.float64)
    runs = []
    network.layer2[0].conv1.register_forward_hook(lambda *_: runs.append(1))
    results = []
    for enable in (False, True):
        runs.clear()
        network.load_state_dict(start)
        network.zero_grad()
        network.set_grad_checkpointing(enable)
        outputs = read_outputs(network, images, EVERYTHING)
        loss = outputs.logits.square().mean() + sum(p.square().mean() for p in outputs.preactivations)
        loss.backward()
        assert len(runs) == (2 if enable else 1)
        gradients = {f"gradient of {key}": p.grad.clone() for key, p in network.named_parameters()}
        buffers = {key: buffer.clone() for key, buffer in network.named_buffers()}
        results.append({**gradients, **buffers})
    assert results[0].keys() == results[1].keys()
    for key, tensor in results[0].items():
        torch.testing.assert_close(results[1][key], tensor, rtol=1e-9, atol=1e-12, msg=key)
