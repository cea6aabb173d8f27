"""Checkpoints of the reference programs compute here what they compute there: every network, against functional code."""

import math
import re

import pytest
import timm
import torch
import torch.nn.functional as F

from hf_kcd.models import convert_reference_state_dict, load_model, read_outputs

EVERYTHING = frozenset({"logits", "embedding", "features", "preactivations"})
NARROW, WIDE = (16, 16, 32, 64), (32, 64, 128, 256)
VGG_WIDTHS = (64, 128, 256, 512, 512)
# Expansion, channels, blocks, stride of the stages of mobile_half, whose factor of 0.5 is in the channels.
MOBILE_STAGES = [
    (1, 8, 1, 1),
    (6, 12, 2, 1),
    (6, 16, 3, 2),
    (6, 32, 4, 2),
    (6, 48, 3, 1),
    (6, 80, 3, 2),
    (6, 160, 1, 1),
]
SHUFFLE_BLOCKS = (4, 8, 4)


# The reference layouts, written out: names as RepDistiller's modules give them, tensors filled by a rule.


class Checkpoint(dict):
    """Tensors in the layout of a reference program: values of a sine, or shapes alone on the meta device."""

    def __init__(self, device="cpu"):
        self.device = device

    def _add(self, key, *shape, offset=0.0, scale=1.0):
        if self.device == "meta":
            self[key] = torch.empty(shape, device="meta")
            return
        wave = torch.arange(math.prod(shape), dtype=torch.float64).mul_(1.3 + 0.01 * len(self)).add_(len(self)).sin_()
        self[key] = wave.mul_(scale).add_(offset).reshape(shape)

    def conv(self, name, fan_in, fan_out, size, groups=1, bias=False):
        fan_in //= groups
        self._add(f"{name}.weight", fan_out, fan_in, size, size, scale=(2 / (fan_in * size * size)) ** 0.5)
        if bias:
            self._add(f"{name}.bias", fan_out, scale=0.3)

    def norm(self, name, width):
        self._add(f"{name}.weight", width, offset=1.0, scale=0.3)
        self._add(f"{name}.bias", width, scale=0.3)
        self._add(f"{name}.running_mean", width, scale=0.3)
        self._add(f"{name}.running_var", width, offset=1.0, scale=0.5)
        self[f"{name}.num_batches_tracked"] = torch.tensor(7)

    def linear(self, name, fan_in):
        self._add(f"{name}.weight", 10, fan_in, scale=0.2)
        self._add(f"{name}.bias", 10)


def reference_resnet(weights, depth, widths):
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
    weights.linear("fc", width)


def reference_resnet50(weights):
    weights.conv("conv1", 3, 64, 3)
    weights.norm("bn1", 64)
    width = 64
    for stage, num_blocks in enumerate((3, 4, 6, 3), start=1):
        inner = 32 * 2**stage
        for i in range(num_blocks):
            block = f"layer{stage}.{i}"
            weights.conv(f"{block}.conv1", width, inner, 1)
            weights.norm(f"{block}.bn1", inner)
            weights.conv(f"{block}.conv2", inner, inner, 3)
            weights.norm(f"{block}.bn2", inner)
            weights.conv(f"{block}.conv3", inner, 4 * inner, 1)
            weights.norm(f"{block}.bn3", 4 * inner)
            if i == 0:
                weights.conv(f"{block}.shortcut.0", width, 4 * inner, 1)
                weights.norm(f"{block}.shortcut.1", 4 * inner)
            width = 4 * inner
    weights.linear("linear", width)


def reference_wrn(weights, depth, factor):
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
    weights.linear("fc", width)


def reference_vgg(weights, num_convolutions):
    width = 3
    for stage, number in enumerate(num_convolutions):
        for i in range(number):
            weights.conv(f"block{stage}.{3 * i}", width, VGG_WIDTHS[stage], 3, bias=True)
            weights.norm(f"block{stage}.{3 * i + 1}", VGG_WIDTHS[stage])
            width = VGG_WIDTHS[stage]
    weights.linear("classifier", width)


def reference_mobile_half(weights):
    weights.conv("conv1.0", 3, 16, 3)
    weights.norm("conv1.1", 16)
    width = 16
    for stage, (expansion, out, num_blocks, _) in enumerate(MOBILE_STAGES):
        for i in range(num_blocks):
            block, inner = f"blocks.{stage}.{i}.conv", width * expansion
            weights.conv(f"{block}.0", width, inner, 1)
            weights.norm(f"{block}.1", inner)
            weights.conv(f"{block}.3", inner, inner, 3, groups=inner)
            weights.norm(f"{block}.4", inner)
            weights.conv(f"{block}.6", inner, out, 1)
            weights.norm(f"{block}.7", out)
            width = out
    weights.conv("conv2.0", width, 1280, 1)
    weights.norm("conv2.1", 1280)
    weights.linear("classifier.0", 1280)


def reference_shufflenetv1(weights):
    weights.conv("conv1", 3, 24, 1)
    weights.norm("bn1", 24)
    width = 24
    for stage, (out, num_blocks) in enumerate(zip((240, 480, 960), SHUFFLE_BLOCKS, strict=True), start=1):
        for i in range(num_blocks):
            block, made = f"layer{stage}.{i}", out - (width if i == 0 else 0)
            weights.conv(f"{block}.conv1", width, made // 4, 1, groups=1 if width == 24 else 3)
            weights.norm(f"{block}.bn1", made // 4)
            weights.conv(f"{block}.conv2", made // 4, made // 4, 3, groups=made // 4)
            weights.norm(f"{block}.bn2", made // 4)
            weights.conv(f"{block}.conv3", made // 4, made, 1, groups=3)
            weights.norm(f"{block}.bn3", made)
            width = out
    weights.linear("linear", width)


def reference_shufflenetv2(weights):
    weights.conv("conv1", 3, 24, 1)
    weights.norm("bn1", 24)
    width = 24
    for stage, (out, num_blocks) in enumerate(zip((116, 232, 464), SHUFFLE_BLOCKS, strict=True), start=1):
        half = out // 2
        for n, (fan_in, fan_out, size) in enumerate(
            [(width, width, 3), (width, half, 1), (width, half, 1), (half, half, 3), (half, half, 1)], start=1
        ):
            weights.conv(f"layer{stage}.0.conv{n}", fan_in, fan_out, size, groups=fan_in if size == 3 else 1)
            weights.norm(f"layer{stage}.0.bn{n}", fan_out)
        for i in range(1, num_blocks):
            for n, size in ((1, 1), (2, 3), (3, 1)):
                weights.conv(f"layer{stage}.{i}.conv{n}", half, half, size, groups=half if size == 3 else 1)
                weights.norm(f"layer{stage}.{i}.bn{n}", half)
        width = out
    weights.conv("conv2", width, 1024, 1)
    weights.norm("bn2", 1024)
    weights.linear("linear", 1024)


# What the reference programs compute with them.


def _norm(w, name, x, training):
    mean, var = w[f"{name}.running_mean"].clone(), w[f"{name}.running_var"].clone()
    return F.batch_norm(x, mean, var, w[f"{name}.weight"], w[f"{name}.bias"], training=training)


def _conv_norm(w, conv, norm, x, training, **options):
    return _norm(w, norm, F.conv2d(x, w[f"{conv}.weight"], w.get(f"{conv}.bias"), **options), training)


def _blocks(w, prefix):
    return sorted({int(key[len(prefix) :].split(".")[0]) for key in w if key.startswith(prefix)})


def _classify(w, name, final):
    embedding = final.mean((2, 3))
    return embedding @ w[f"{name}.weight"].T + w[f"{name}.bias"], embedding


def _shuffle(x, groups):
    size = x.shape[1] // groups
    return x[:, [group * size + i for i in range(size) for group in range(groups)]]


def run_reference_resnet(w, x, training):
    x = F.relu(_conv_norm(w, "conv1", "bn1", x, training, padding=1))
    features, preactivations = [x], []
    for stage in (1, 2, 3):
        for i in _blocks(w, f"layer{stage}."):
            block, stride = f"layer{stage}.{i}", 2 if stage > 1 and i == 0 else 1
            y = F.relu(_conv_norm(w, f"{block}.conv1", f"{block}.bn1", x, training, stride=stride, padding=1))
            y = _conv_norm(w, f"{block}.conv2", f"{block}.bn2", y, training, padding=1)
            if f"{block}.downsample.0.weight" in w:
                x = _conv_norm(w, f"{block}.downsample.0", f"{block}.downsample.1", x, training, stride=stride)
            total = x + y
            x = F.relu(total)
        features.append(x)
        preactivations.append(total)
    return *_classify(w, "fc", x), features, preactivations


def run_reference_resnet50(w, x, training):
    x = F.relu(_conv_norm(w, "conv1", "bn1", x, training, padding=1))
    features, preactivations = [x], []
    for stage in (1, 2, 3, 4):
        for i in _blocks(w, f"layer{stage}."):
            block, stride = f"layer{stage}.{i}", 2 if stage > 1 and i == 0 else 1
            y = F.relu(_conv_norm(w, f"{block}.conv1", f"{block}.bn1", x, training))
            y = F.relu(_conv_norm(w, f"{block}.conv2", f"{block}.bn2", y, training, stride=stride, padding=1))
            y = _conv_norm(w, f"{block}.conv3", f"{block}.bn3", y, training)
            if i == 0:
                x = _conv_norm(w, f"{block}.shortcut.0", f"{block}.shortcut.1", x, training, stride=stride)
            total = x + y
            x = F.relu(total)
        features.append(x)
        preactivations.append(total)
    return *_classify(w, "linear", x), features, preactivations


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
    return *_classify(w, "fc", F.relu(preactivations[-1])), features, preactivations


def run_reference_vgg(w, x, training):
    height, features, preactivations = x.shape[2], [], []
    for stage in range(5):
        # The fourth pooling is for images of height 64 alone, and the last one averages.
        if stage in (1, 2, 3) or (stage == 4 and height == 64):
            x = F.max_pool2d(x, 2)
        for position in _blocks(w, f"block{stage}.")[::2]:
            total = _conv_norm(w, f"block{stage}.{position}", f"block{stage}.{position + 1}", x, training, padding=1)
            x = F.relu(total)
        features.append(x)
        preactivations.append(total)
    return *_classify(w, "classifier", x), features, preactivations[1:]


def run_reference_mobile_half(w, x, training):
    x = F.relu(_conv_norm(w, "conv1.0", "conv1.1", x, training, stride=2, padding=1))
    features = [x]
    for stage, (_, _, num_blocks, stage_stride) in enumerate(MOBILE_STAGES):
        for i in range(num_blocks):
            block, stride = f"blocks.{stage}.{i}.conv", stage_stride if i == 0 else 1
            y = F.relu(_conv_norm(w, f"{block}.0", f"{block}.1", x, training))
            y = _conv_norm(
                w, f"{block}.3", f"{block}.4", y, training, stride=stride, padding=1, groups=y.shape[1]
            ).relu()
            y = _conv_norm(w, f"{block}.6", f"{block}.7", y, training)
            x = x + y if i > 0 or (stride == 1 and x.shape[1] == y.shape[1]) else y
        if stage in (1, 2, 4, 6):
            features.append(x)
    final = F.relu(_conv_norm(w, "conv2.0", "conv2.1", x, training))
    return *_classify(w, "classifier.0", final), features, features[1:]


def run_reference_shufflenetv1(w, x, training):
    x = F.relu(_conv_norm(w, "conv1", "bn1", x, training))
    features, preactivations = [x], []
    for stage in (1, 2, 3):
        for i in _blocks(w, f"layer{stage}."):
            block, stride, groups = f"layer{stage}.{i}", 2 if i == 0 else 1, 1 if (stage, i) == (1, 0) else 3
            y = F.relu(_conv_norm(w, f"{block}.conv1", f"{block}.bn1", x, training, groups=groups))
            y = _shuffle(y, groups)
            y = _conv_norm(
                w, f"{block}.conv2", f"{block}.bn2", y, training, stride=stride, padding=1, groups=y.shape[1]
            ).relu()
            y = _conv_norm(w, f"{block}.conv3", f"{block}.bn3", y, training, groups=3)
            # Zeros of the padding are averaged over, too.
            total = torch.cat([y, F.avg_pool2d(x, 3, stride=2, padding=1)], 1) if i == 0 else x + y
            x = F.relu(total)
        features.append(x)
        preactivations.append(total)
    return *_classify(w, "linear", x), features, preactivations


def run_reference_shufflenetv2(w, x, training):
    def unit(name, n, x, **options):
        return _conv_norm(w, f"{name}.conv{n}", f"{name}.bn{n}", x, training, **options)

    x = F.relu(_conv_norm(w, "conv1", "bn1", x, training))
    features, preactivations = [x], []
    for stage in (1, 2, 3):
        first = f"layer{stage}.0"
        left = unit(first, 2, unit(first, 1, x, stride=2, padding=1, groups=x.shape[1])).relu()
        right = unit(first, 3, x).relu()
        right = unit(first, 5, unit(first, 4, right, stride=2, padding=1, groups=right.shape[1])).relu()
        x = _shuffle(torch.cat([left, right], 1), 2)
        for i in _blocks(w, f"layer{stage}.")[1:]:
            block, half = f"layer{stage}.{i}", x.shape[1] // 2
            y = unit(block, 1, x[:, half:]).relu()
            y = unit(block, 3, unit(block, 2, y, padding=1, groups=half))
            # Here in the order of the feature's channels; the reference hands them out unshuffled.
            total = _shuffle(torch.cat([x[:, :half], y], 1), 2)
            x = _shuffle(torch.cat([x[:, :half], F.relu(y)], 1), 2)
        features.append(x)
        preactivations.append(total)
    final = F.relu(_conv_norm(w, "conv2", "bn2", x, training))
    return *_classify(w, "linear", final), features, preactivations


# How each network's checkpoint is laid out, what is computed with it, and the entries of its state dict in RepDistiller
# with and without the counters of BatchNorm.
LAYOUTS = {
    "cifar_resnet8": (lambda w: reference_resnet(w, 8, NARROW), run_reference_resnet, None),
    "cifar_resnet20": (lambda w: reference_resnet(w, 20, NARROW), run_reference_resnet, (128, 107)),
    "cifar_resnet32": (lambda w: reference_resnet(w, 32, NARROW), run_reference_resnet, None),
    "cifar_resnet56": (lambda w: reference_resnet(w, 56, NARROW), run_reference_resnet, (344, 287)),
    "cifar_resnet110": (lambda w: reference_resnet(w, 110, NARROW), run_reference_resnet, (668, 557)),
    "cifar_resnet8x4": (lambda w: reference_resnet(w, 8, WIDE), run_reference_resnet, (62, 52)),
    "cifar_resnet32x4": (lambda w: reference_resnet(w, 32, WIDE), run_reference_resnet, (206, 172)),
    "cifar_resnet50": (reference_resnet50, run_reference_resnet50, (320, 267)),
    "cifar_wrn_16_2": (lambda w: reference_wrn(w, 16, 2), run_reference_wrn, (83, 70)),
    "cifar_wrn_40_1": (lambda w: reference_wrn(w, 40, 1), run_reference_wrn, (226, 189)),
    "cifar_wrn_40_2": (lambda w: reference_wrn(w, 40, 2), run_reference_wrn, (227, 190)),
    "cifar_vgg8": (lambda w: reference_vgg(w, (1, 1, 1, 1, 1)), run_reference_vgg, (37, 32)),
    "cifar_vgg11": (lambda w: reference_vgg(w, (1, 1, 2, 2, 2)), run_reference_vgg, None),
    "cifar_vgg13": (lambda w: reference_vgg(w, (2, 2, 2, 2, 2)), run_reference_vgg, (72, 62)),
    "cifar_mobilenetv2_half": (reference_mobile_half, run_reference_mobile_half, (320, 267)),
    "cifar_shufflenetv1": (reference_shufflenetv1, run_reference_shufflenetv1, (296, 247)),
    "cifar_shufflenetv2": (reference_shufflenetv2, run_reference_shufflenetv2, (338, 282)),
}


def filled(name):
    weights = Checkpoint()
    LAYOUTS[name][0](weights)
    return dict(weights)


def test_every_cifar_network_is_here():
    assert set(LAYOUTS) == set(timm.list_models("cifar_*"))


@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
@pytest.mark.parametrize("name", LAYOUTS)
def test_a_reference_checkpoint_computes_what_the_reference_computes(tmp_path, name, training):
    run, weights = LAYOUTS[name][1], filled(name)
    torch.save({"model": weights}, tmp_path / "reference.pth")
    network = load_model(name, checkpoint=tmp_path / "reference.pth").double().train(training)
    # Loading is in float32: the reference takes its weights after the same rounding.
    weights = {key: tensor.float().double() for key, tensor in weights.items()}
    # The widest are too slow at 64, and of their family others are run there.
    for size in (32,) if name in ("cifar_resnet50", "cifar_resnet110", "cifar_resnet32x4") else (32, 64):
        images = torch.randn(2, 3, size, size, dtype=torch.float64, generator=torch.Generator().manual_seed(size))
        with torch.no_grad():
            logits, embedding, features, preactivations = run(weights, images, training)
            outputs = read_outputs(network, images, EVERYTHING)
        for found, expected in zip(
            [outputs.logits, outputs.embedding, *outputs.features, *outputs.preactivations],
            [logits, embedding, *features, *preactivations],
            strict=True,
        ):
            torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("size", [8, 17])
@pytest.mark.parametrize("name", ["cifar_resnet8", "cifar_wrn_16_2"])
def test_other_sizes_are_averaged_whole(name, size):
    run, weights = LAYOUTS[name][1], filled(name)
    network = timm.create_model(name, num_classes=10).double().eval()
    network.load_state_dict(convert_reference_state_dict(name, weights))
    images = torch.randn(2, 3, size, size, dtype=torch.float64, generator=torch.Generator().manual_seed(size))
    with torch.no_grad():
        torch.testing.assert_close(network(images), run(weights, images, False)[0], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", LAYOUTS)
def test_the_reference_names_are_all_known_and_no_tensor_is_changed(name):
    weights = Checkpoint("meta")
    LAYOUTS[name][0](weights)
    sizes = LAYOUTS[name][2]
    if sizes is not None:
        assert (len(weights), sum(not key.endswith("num_batches_tracked") for key in weights)) == sizes
    converted = convert_reference_state_dict(name, weights)
    with torch.device("meta"):
        own = timm.create_model(name, num_classes=10).state_dict()
    assert {key: tensor.shape for key, tensor in converted.items()} == {key: t.shape for key, t in own.items()}
    # The very tensors, in the file's order; and names that are ours already stay.
    assert all(new is old for new, old in zip(converted.values(), weights.values(), strict=True))
    assert list(convert_reference_state_dict(name, converted)) == list(converted)


def test_the_classifier_of_sskds_mobilenet_is_no_sequence():
    weights = filled("cifar_mobilenetv2_half")
    for kind in ("weight", "bias"):
        weights[f"classifier.{kind}"] = weights.pop(f"classifier.0.{kind}")
    converted = convert_reference_state_dict("cifar_mobilenetv2_half", weights)
    assert torch.equal(converted["fc.weight"], weights["classifier.weight"])
    assert torch.equal(converted["fc.bias"], weights["classifier.bias"])


def test_two_names_of_one_tensor_are_not_made_one():
    both = {"linear.weight": torch.zeros(10, 960), "fc.weight": torch.ones(10, 960)}
    for state_dict in (both, dict(reversed(both.items()))):
        converted = convert_reference_state_dict("cifar_shufflenetv1", state_dict)
        assert set(converted) == {"linear.weight", "fc.weight"}
        assert torch.equal(converted["fc.weight"], torch.ones(10, 960))


def test_a_network_without_a_reference_layout_is_refused():
    with pytest.raises(ValueError, match="'resnet18'.*cifar_vgg"):
        convert_reference_state_dict("resnet18", {})


# How the programs save: what a file holds besides the network, and where in it the network lies.


def _sgd(weights):
    parameter = torch.nn.Parameter(next(iter(weights.values())).clone())
    optimizer = torch.optim.SGD([parameter], lr=0.1, momentum=0.9)
    parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    return optimizer.state_dict()


def _under(prefix, weights):
    return {prefix + key: tensor for key, tensor in weights.items()}


def _head(prefix):
    return {f"{prefix}{i}.{kind}": torch.zeros(4) for i in (0, 2) for kind in ("weight", "bias")}


ACCURACY = torch.tensor(73.26)
OTHER = filled("cifar_resnet8")
SAVED_BY = {
    "RepDistiller, ckpt_epoch": lambda w: {"epoch": 240, "model": w, "accuracy": ACCURACY, "optimizer": _sgd(w)},
    "RepDistiller, best": lambda w: {"epoch": 231, "model": w, "best_acc": ACCURACY},
    "mdistiller, student": lambda w: {"model": w},
    "mdistiller, whole": lambda w: {
        "epoch": 240,
        "model": {
            **_under("module.student.", w),
            **_under("module.teacher.", OTHER),
            "module.conv_reg.conv.weight": torch.zeros(4, 4, 1, 1),
        },
        "optimizer": _sgd(w),
        "best_acc": ACCURACY,
    },
    "mdistiller, trained alone": lambda w: {"epoch": 240, "model": _under("module.student.", w), "best_acc": ACCURACY},
    "SSKD, teacher": lambda w: {"epoch": 240, "state_dict": w, "acc": 73.26},
    "SSKD, teacher with its head": lambda w: {**_under("backbone.", w), **_head("proj_head.")},
    "SSKD, student": lambda w: {"epoch": 240, "state_dict": {**_under("backbone.", w), **_head("proj_head.")}},
    "TAKD": lambda w: {"model_state_dict": w, "optimizer_state_dict": _sgd(w), "epoch": 199},
    "bare": lambda w: w,
    "DDP": lambda w: {"net": _under("module.", w), "acc": 73.26},
    "compiled": lambda w: {"model": _under("_orig_mod.", w)},
    "DDP, compiled": lambda w: _under("module._orig_mod.", w),
    "compiled by blocks": lambda w: {re.sub(r"\.(conv|bn)", r"._orig_mod.\1", key, count=1): w[key] for key in w},
    "two networks": lambda w: {"student": {"state_dict": w}, "teacher": {"state_dict": OTHER}},
    "deep down": lambda w: {"checkpoint": {"weights": {"network": _under("module.", w)}}},
}


@pytest.mark.parametrize("counters", [True, False], ids=["counters", "no counters"])
@pytest.mark.parametrize("program", SAVED_BY)
def test_a_network_is_found_wherever_a_program_saves_it(tmp_path, program, counters):
    weights = {key: t for key, t in filled("cifar_wrn_16_2").items() if counters or "num_batches" not in key}
    torch.save(SAVED_BY[program](weights), tmp_path / "file.pth")
    loaded = load_model("cifar_wrn_16_2", checkpoint=tmp_path / "file.pth").state_dict()
    expected = convert_reference_state_dict("cifar_wrn_16_2", weights)
    assert loaded.keys() - expected.keys() == (set() if counters else {k for k in loaded if "num_batches" in k})
    assert all(torch.equal(loaded[key], tensor.to(loaded[key].dtype)) for key, tensor in expected.items())
    if not counters:
        assert all(loaded[key] == 0 for key in loaded.keys() - expected.keys())


@pytest.mark.parametrize("name", ["cifar_resnet8", "cifar_vgg8", "cifar_mobilenetv2_half", "cifar_shufflenetv2"])
def test_the_other_network_of_a_distiller_is_found_by_its_architecture(tmp_path, name):
    weights = filled(name)
    other = {**_under("module.student.", weights), **_under("module.teacher.", filled("cifar_wrn_16_2"))}
    torch.save({"model": other}, tmp_path / "file.pth")
    loaded = load_model(name, checkpoint=tmp_path / "file.pth").state_dict()
    for key, tensor in convert_reference_state_dict(name, weights).items():
        assert torch.equal(loaded[key], tensor.to(loaded[key].dtype))
