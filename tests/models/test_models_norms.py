"""A spec knows the batch normalisation before the last activation of each stage, where there is one."""

import pytest
import timm
import torch
from torch import nn

from hf_kcd.models import ModelSpec


def found_norms(network: nn.Module, layers=None) -> list[str | None]:
    names = {
        (module.weight.data_ptr(), module.bias.data_ptr()): name
        for name, module in network.named_modules()
        if isinstance(module, nn.BatchNorm2d)
    }
    norms = ModelSpec.of(network, layers).preactivation_norms
    return [None if norm is None else names[norm[0].data_ptr(), norm[1].data_ptr()] for norm in norms]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        # A block's own last normalisation, not that of its shortcut.
        ("cifar_resnet8", ["layer1.0.bn2", "layer2.0.bn2", "layer3.0.bn2"]),
        ("cifar_resnet20", ["layer1.2.bn2", "layer2.2.bn2", "layer3.2.bn2"]),
        ("cifar_resnet50", ["layer1.2.bn3", "layer2.3.bn3", "layer3.5.bn3", "layer4.2.bn3"]),
        # The next stage's first one.
        ("cifar_wrn_16_2", ["layer2.0.bn1", "layer3.0.bn1", "bn1"]),
        ("cifar_vgg8", ["layer1.0.bn", "layer2.0.bn", "layer3.0.bn", "layer4.0.bn"]),
        ("cifar_shufflenetv1", ["layer1.3.bn3", "layer2.7.bn3", "layer3.3.bn3"]),
        # Two halves of which one is older; stages that end without an activation.
        ("cifar_shufflenetv2", [None] * 3),
        ("cifar_mobilenetv2_half", [None] * 4),
        # timm's own, whose activations work in place.
        ("resnet18", ["layer1.1.bn2", "layer2.1.bn2", "layer3.1.bn2", "layer4.1.bn2"]),
        ("test_resnet", ["layer1.0.bn2", "layer2.0.bn2", "layer3.0.bn3", "layer4.0.bn2"]),
        # Batch normalisation and activation in one module; a gate behind the normalisation.
        ("regnetx_002", ["s1.b1.conv3.bn", "s2.b1.conv3.bn", "s3.b4.conv3.bn", "s4.b7.conv3.bn"]),
        ("seresnet50", [None] * 4),
        ("resnet10t", ["layer1.0.bn2", "layer2.0.bn2", "layer3.0.bn2", "layer4.0.bn2"]),
    ],
)
def test_the_norm_before_a_stages_last_activation_is_found(name, expected):
    network = timm.create_model(name, pretrained_cfg_overlay={"input_size": (3, 32, 32)})
    assert found_norms(network) == expected


def test_norms_belong_to_the_layers_that_were_chosen():
    network = timm.create_model("cifar_resnet20")
    assert found_norms(network, [0, 2]) == ["layer2.2.bn2"]
    assert found_norms(network, "stages") == ["layer1.2.bn2", "layer2.2.bn2", "layer3.2.bn2"]


def test_norms_without_weights_and_other_norms_are_none():
    network = timm.create_model(
        "resnet18", pretrained_cfg_overlay={"input_size": (3, 32, 32)}, norm_layer="groupnorm1"
    )
    assert ModelSpec.of(network).preactivation_norms == (None,) * 4
    plain = timm.create_model("cifar_resnet8")
    plain.layer3[0].bn2 = nn.BatchNorm2d(64, affine=False)
    assert [norm is None for norm in ModelSpec.of(plain).preactivation_norms] == [False, False, True]


def test_norms_are_the_networks_own_tensors_without_gradient_and_do_not_make_specs_differ():
    network = timm.create_model("cifar_resnet8")
    spec = ModelSpec.of(network)
    with torch.no_grad():
        network.layer1[0].bn2.bias.fill_(3.0)
    assert spec.preactivation_norms[0][1].eq(3.0).all()
    assert not any(tensor.requires_grad for norm in spec.preactivation_norms for tensor in norm)
    assert spec == ModelSpec.of(timm.create_model("cifar_resnet8")) and "norms" not in repr(spec)
