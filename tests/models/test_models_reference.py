"""Checkpoints of the reference programs compute here what they compute there: every network, against functional code."""

import copy
import math
import re
from functools import cache, partial

import pytest
import timm
import torch
import torch.nn.functional as F

from hf_kcd.models import convert_reference_state_dict, load_model, read_outputs

EVERYTHING = frozenset({"logits", "embedding", "features", "preactivations"})
NARROW, WIDE = (16, 16, 32, 64), (32, 64, 128, 256)


class Checkpoint(dict):
    """Tensors under a reference program's names. The layers make theirs on the first pass: values of a sine."""

    training = False

    def _tensor(self, like, key, *shape, offset=0.0, scale=1.0):
        if key not in self:
            wave = torch.arange(math.prod(shape), dtype=torch.float64).mul_(1.3 + 0.01 * len(self)).add_(len(self))
            self[key] = wave.sin_().mul_(scale).add_(offset).reshape(shape)
        return self[key].to(like.device)

    def conv(self, name, x, width, size=3, stride=1, groups=1, bias=False):
        fan_in = x.shape[1] // groups
        scale = (2 / (fan_in * size * size)) ** 0.5
        weight = self._tensor(x, f"{name}.weight", width, fan_in, size, size, scale=scale)
        bias = self._tensor(x, f"{name}.bias", width, scale=0.3) if bias else None
        return F.conv2d(x, weight, bias, stride=stride, padding=size // 2, groups=groups)

    def norm(self, name, x):
        weight = self._tensor(x, f"{name}.weight", x.shape[1], offset=1.0, scale=0.3)
        bias, mean = (self._tensor(x, f"{name}.{kind}", x.shape[1], scale=0.3) for kind in ("bias", "running_mean"))
        var = self._tensor(x, f"{name}.running_var", x.shape[1], offset=1.0, scale=0.5)
        self.setdefault(f"{name}.num_batches_tracked", torch.tensor(7))
        return F.batch_norm(x, mean.clone(), var.clone(), weight, bias, training=self.training)

    def conv_norm(self, conv, norm, x, width, size=3, **options):
        return self.norm(norm, self.conv(conv, x, width, size, **options))

    def unit(self, block, number, x, width, size=1, **options):
        return self.conv_norm(f"{block}.conv{number}", f"{block}.bn{number}", x, width, size, **options)

    def classify(self, name, final):
        """Compute logits and embedding."""
        embedding = final.mean((2, 3))
        weight = self._tensor(final, f"{name}.weight", 10, final.shape[1], scale=0.2)
        return embedding @ weight.T + self._tensor(final, f"{name}.bias", 10), embedding


# The reference programs, by RepDistiller's names. Each returns logits, embedding, features and pre-activations.
def shuffle(x, groups):
    return x.unflatten(1, (groups, -1)).transpose(1, 2).flatten(1, 2)


def resnet(num_blocks, widths, w, x, bottleneck=False):
    x = F.relu(w.conv_norm("conv1", "bn1", x, widths[0]))
    features, preactivations = [x], []
    for stage, number in enumerate(num_blocks, start=1):
        for i in range(number):
            block, out, stride = f"layer{stage}.{i}", widths[stage], 2 if stage > 1 and i == 0 else 1
            if bottleneck:
                y = F.relu(w.unit(block, 1, x, out // 4))
                y = w.unit(block, 3, F.relu(w.unit(block, 2, y, out // 4, 3, stride=stride)), out)
            else:
                y = w.unit(block, 2, F.relu(w.unit(block, 1, x, out, 3, stride=stride)), out, 3)
            if i == 0 and (stage > 1 or x.shape[1] != out):
                shortcut = f"{block}.{'shortcut' if bottleneck else 'downsample'}"
                x = w.conv_norm(f"{shortcut}.0", f"{shortcut}.1", x, out, 1, stride=stride)
            total = x + y
            x = F.relu(total)
        features.append(x)
        preactivations.append(total)
    return *w.classify("linear" if bottleneck else "fc", x), features, preactivations


def wrn(w, x, depth, factor):
    x = w.conv("conv1", x, 16)
    features, preactivations = [x], []
    for stage in (1, 2, 3):
        for i in range((depth - 4) // 6):
            block, out = f"block{stage}.layer.{i}", 16 * factor * 2 ** (stage - 1)
            stride = 2 if stage > 1 and i == 0 else 1
            first = F.relu(w.norm(f"{block}.bn1", x))
            y = w.conv(f"{block}.conv1", first, out, stride=stride)
            y = w.conv(f"{block}.conv2", F.relu(w.norm(f"{block}.bn2", y)), out)
            if x.shape[1] != out:
                x = w.conv(f"{block}.convShortcut", first, out, 1, stride=stride)
            x = x + y
        features.append(x)
        preactivations.append(w.norm(f"block{stage + 1}.layer.0.bn1" if stage < 3 else "bn1", x))
    return *w.classify("fc", F.relu(preactivations[-1])), features, preactivations


def vgg(w, x, num_convolutions):
    height, features, preactivations = x.shape[2], [], []
    for stage, (number, width) in enumerate(zip(num_convolutions, (64, 128, 256, 512, 512), strict=True)):
        # The fourth pooling is only for images of height 64, and the last one averages.
        if stage in (1, 2, 3) or (stage == 4 and height == 64):
            x = F.max_pool2d(x, 2)
        for i in range(number):
            total = w.conv_norm(f"block{stage}.{3 * i}", f"block{stage}.{3 * i + 1}", x, width, bias=True)
            x = F.relu(total)
        features.append(x)
        preactivations.append(total)
    return *w.classify("classifier", x), features, preactivations[1:]


def mobile_half(w, x):
    x = F.relu(w.conv_norm("conv1.0", "conv1.1", x, 16, stride=2))
    features = [x]
    # Expansion, channels with the factor of 0.5, blocks, stride.
    stages = [(1, 8, 1, 1), (6, 12, 2, 1), (6, 16, 3, 2), (6, 32, 4, 2), (6, 48, 3, 1), (6, 80, 3, 2), (6, 160, 1, 1)]
    for stage, (expansion, out, num_blocks, stage_stride) in enumerate(stages):
        for i in range(num_blocks):
            block, stride, inner = f"blocks.{stage}.{i}.conv", stage_stride if i == 0 else 1, x.shape[1] * expansion
            y = F.relu(w.conv_norm(f"{block}.0", f"{block}.1", x, inner, 1))
            y = F.relu(w.conv_norm(f"{block}.3", f"{block}.4", y, inner, stride=stride, groups=inner))
            y = w.conv_norm(f"{block}.6", f"{block}.7", y, out, 1)
            x = x + y if i > 0 or (stride == 1 and x.shape[1] == out) else y
        if stage in (1, 2, 4, 6):
            features.append(x)
    final = F.relu(w.conv_norm("conv2.0", "conv2.1", x, 1280, 1))
    return *w.classify("classifier.0", final), features, features[1:]


def shufflenetv1(w, x):
    x = F.relu(w.conv_norm("conv1", "bn1", x, 24, 1))
    features, preactivations = [x], []
    for stage, (out, num_blocks) in enumerate(zip((240, 480, 960), (4, 8, 4), strict=True), start=1):
        for i in range(num_blocks):
            block, stride, groups = f"layer{stage}.{i}", 2 if i == 0 else 1, 1 if (stage, i) == (1, 0) else 3
            made = out - (x.shape[1] if i == 0 else 0)
            y = shuffle(F.relu(w.unit(block, 1, x, made // 4, groups=groups)), groups)
            y = F.relu(w.unit(block, 2, y, made // 4, 3, stride=stride, groups=made // 4))
            y = w.unit(block, 3, y, made, groups=3)
            # The average includes the zeros of the padding.
            total = torch.cat([y, F.avg_pool2d(x, 3, stride=2, padding=1)], 1) if i == 0 else x + y
            x = F.relu(total)
        features.append(x)
        preactivations.append(total)
    return *w.classify("linear", x), features, preactivations


def shufflenetv2(w, x):
    x = F.relu(w.conv_norm("conv1", "bn1", x, 24, 1))
    features, preactivations = [x], []
    for stage, (out, num_blocks) in enumerate(zip((116, 232, 464), (4, 8, 4), strict=True), start=1):
        first, width, half = f"layer{stage}.0", x.shape[1], out // 2
        left = F.relu(w.unit(first, 2, w.unit(first, 1, x, width, 3, stride=2, groups=width), half))
        right = F.relu(w.unit(first, 3, x, half))
        right = F.relu(w.unit(first, 5, w.unit(first, 4, right, half, 3, stride=2, groups=half), half))
        x = shuffle(torch.cat([left, right], 1), 2)
        for i in range(1, num_blocks):
            block = f"layer{stage}.{i}"
            y = F.relu(w.unit(block, 1, x[:, half:], half))
            y = w.unit(block, 3, w.unit(block, 2, y, half, 3, groups=half), half)
            # Here in the order of the feature's channels; the reference returns them unshuffled.
            total = shuffle(torch.cat([x[:, :half], y], 1), 2)
            x = shuffle(torch.cat([x[:, :half], F.relu(y)], 1), 2)
        features.append(x)
        preactivations.append(total)
    final = F.relu(w.conv_norm("conv2", "bn2", x, 1024, 1))
    return *w.classify("linear", final), features, preactivations


# Each network's program, and the entries of its state dict in RepDistiller with and without BatchNorm's counters.
LAYOUTS = {
    "cifar_resnet8": (partial(resnet, [1] * 3, NARROW), None),
    "cifar_resnet20": (partial(resnet, [3] * 3, NARROW), (128, 107)),
    "cifar_resnet32": (partial(resnet, [5] * 3, NARROW), None),
    "cifar_resnet56": (partial(resnet, [9] * 3, NARROW), (344, 287)),
    "cifar_resnet110": (partial(resnet, [18] * 3, NARROW), (668, 557)),
    "cifar_resnet8x4": (partial(resnet, [1] * 3, WIDE), (62, 52)),
    "cifar_resnet32x4": (partial(resnet, [5] * 3, WIDE), (206, 172)),
    "cifar_resnet50": (partial(resnet, (3, 4, 6, 3), (64, 256, 512, 1024, 2048), bottleneck=True), (320, 267)),
    "cifar_wrn_16_2": (partial(wrn, depth=16, factor=2), (83, 70)),
    "cifar_wrn_40_1": (partial(wrn, depth=40, factor=1), (226, 189)),
    "cifar_wrn_40_2": (partial(wrn, depth=40, factor=2), (227, 190)),
    "cifar_vgg8": (partial(vgg, num_convolutions=(1, 1, 1, 1, 1)), (37, 32)),
    "cifar_vgg11": (partial(vgg, num_convolutions=(1, 1, 2, 2, 2)), None),
    "cifar_vgg13": (partial(vgg, num_convolutions=(2, 2, 2, 2, 2)), (72, 62)),
    "cifar_mobilenetv2_half": (mobile_half, (320, 267)),
    "cifar_shufflenetv1": (shufflenetv1, (296, 247)),
    "cifar_shufflenetv2": (shufflenetv2, (338, 282)),
}


@cache
def filled(name):
    weights = Checkpoint()
    LAYOUTS[name][0](weights, torch.empty(1, 3, 32, 32, dtype=torch.float64, device="meta"))
    return dict(weights)


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_reference_checkpoint_computes_what_the_reference_computes(tmp_path, name):
    run, weights = LAYOUTS[name][0], filled(name)
    torch.save({"model": weights}, tmp_path / "reference.pth")
    network = load_model(name, checkpoint=tmp_path / "reference.pth").double()
    # Loading is in float32: the reference takes its weights after the same rounding.
    weights = Checkpoint({key: tensor.float().double() for key, tensor in weights.items()})
    # The deep and wide ones are too slow at 64 and in both modes; others of their families run there.
    slow = name in ("cifar_resnet50", "cifar_resnet110", "cifar_resnet32x4")
    for training, *size in [(True, 32, 32)] if slow else [(True, 32, 32), (False, 64, 64), (False, 17, 22)]:
        images = torch.randn(2, 3, *size, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
        start, weights.training = copy.deepcopy(network.state_dict()), training
        with torch.no_grad():
            logits, embedding, features, preactivations = run(weights, images)
            outputs = read_outputs(network.train(training), images, EVERYTHING)
        network.load_state_dict(start)
        found = [outputs.logits, outputs.embedding, *outputs.features, *outputs.preactivations]
        torch.testing.assert_close(found, [logits, embedding, *features, *preactivations], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", LAYOUTS)
def test_the_reference_names_are_all_known_and_no_tensor_is_changed(name):
    weights, sizes = filled(name), LAYOUTS[name][1]
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
    weights = {key.replace("classifier.0.", "classifier."): tensor for key, tensor in weights.items()}
    converted = convert_reference_state_dict("cifar_mobilenetv2_half", weights)
    assert all(converted[f"fc.{kind}"] is weights[f"classifier.{kind}"] for kind in ("weight", "bias"))


def test_two_names_of_one_tensor_stay_two_and_other_networks_are_refused():
    both = {"linear.weight": torch.zeros(10, 960), "fc.weight": torch.ones(10, 960)}
    for state_dict in (both, dict(reversed(both.items()))):
        converted = convert_reference_state_dict("cifar_shufflenetv1", state_dict)
        assert set(converted) == {"linear.weight", "fc.weight"}
        assert torch.equal(converted["fc.weight"], torch.ones(10, 960))
    with pytest.raises(ValueError, match="'resnet18'.*cifar_vgg"):
        convert_reference_state_dict("resnet18", both)


# How the programs save: what a file holds in addition to the network, and where the network lies in it.
def _under(prefix, weights):
    return {prefix + key: tensor for key, tensor in weights.items()}


def _head(prefix):
    return {f"{prefix}{i}.{kind}": torch.zeros(4) for i in (0, 2) for kind in ("weight", "bias")}


ACCURACY = torch.tensor(73.26)
SGD = {"state": {0: {"momentum_buffer": torch.ones(16, 3, 3, 3)}}, "param_groups": [{"lr": 0.1, "params": [0]}]}
OTHER = filled("cifar_resnet8")
SAVED_BY = {
    "RepDistiller, ckpt_epoch": lambda w: {"epoch": 240, "model": w, "accuracy": ACCURACY, "optimizer": SGD},
    "mdistiller, student": lambda w: {"model": w},
    "mdistiller, whole": lambda w: {
        "epoch": 240,
        "model": _under("module.student.", w) | _under("module.teacher.", OTHER) | _head("module.conv_reg."),
        "optimizer": SGD,
        "best_acc": ACCURACY,
    },
    "SSKD, teacher": lambda w: {"epoch": 240, "state_dict": w, "acc": 73.26},
    "SSKD, teacher with its head": lambda w: {**_under("backbone.", w), **_head("proj_head.")},
    "SSKD, student": lambda w: {"epoch": 240, "state_dict": {**_under("backbone.", w), **_head("proj_head.")}},
    "TAKD": lambda w: {"model_state_dict": w, "optimizer_state_dict": SGD, "epoch": 199},
    "bare": lambda w: w,
    "DDP": lambda w: {"net": _under("module.", w), "acc": 73.26},
    "compiled": lambda w: {"model": _under("_orig_mod.", w)},
    "DDP, compiled": lambda w: _under("module._orig_mod.", w),
    "compiled by blocks": lambda w: {re.sub(r"\.(conv|bn)", r"._orig_mod.\1", key, count=1): w[key] for key in w},
    "two networks": lambda w: {"teacher": {"state_dict": OTHER}, "student": {"state_dict": w}},
    "deep down": lambda w: {"checkpoint": {"weights": {"network": _under("module.", w)}}},
}


@pytest.mark.parametrize("program", SAVED_BY)
def test_a_network_is_found_wherever_a_program_saves_it(tmp_path, program):
    for counters in (True, False):
        weights = {key: t for key, t in filled("cifar_wrn_16_2").items() if counters or "num_batches" not in key}
        torch.save(SAVED_BY[program](weights), tmp_path / "file.pth")
        loaded = load_model("cifar_wrn_16_2", checkpoint=tmp_path / "file.pth").state_dict()
        expected = convert_reference_state_dict("cifar_wrn_16_2", weights)
        assert all(torch.equal(loaded[key], tensor.to(loaded[key].dtype)) for key, tensor in expected.items())
        added = loaded.keys() - expected.keys()
        assert added == (set() if counters else {key for key in loaded if "num_batches" in key})
        assert all(loaded[key] == 0 for key in added)
