"""A spec knows the layers, sizes, reductions and normalizations of a network, and leaves no trace in it."""

import copy

import pytest
import timm
import torch
from torch import nn

from hf_kcd.models import ModelSpec, OutputReader, read_outputs

SMALL_IMAGES = {"pretrained_cfg_overlay": {"input_size": (3, 32, 32)}}


def found_norms(network: nn.Module, layers=None) -> list[str | None]:
    norms = [(name, module) for name, module in network.named_modules() if isinstance(module, nn.BatchNorm2d)]
    names = {(module.weight.data_ptr(), module.bias.data_ptr()): name for name, module in norms}
    found = ModelSpec.of(network, layers).preactivation_norms
    return [None if norm is None else names[norm[0].data_ptr(), norm[1].data_ptr()] for norm in found]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        # A block's own last normalization, not its shortcut's.
        ("cifar_resnet8", ["layer1.0.bn2", "layer2.0.bn2", "layer3.0.bn2"]),
        ("cifar_resnet50", ["layer1.2.bn3", "layer2.3.bn3", "layer3.5.bn3", "layer4.2.bn3"]),
        # The first one of the next stage.
        ("cifar_wrn_16_2", ["layer2.0.bn1", "layer3.0.bn1", "bn1"]),
        ("cifar_vgg8", ["layer1.0.bn", "layer2.0.bn", "layer3.0.bn", "layer4.0.bn"]),
        ("cifar_shufflenetv1", ["layer1.3.bn3", "layer2.7.bn3", "layer3.3.bn3"]),
        # Two halves of different age; stages that end without an activation.
        ("cifar_shufflenetv2", [None] * 3),
        ("cifar_mobilenetv2_half", [None] * 4),
        # timm's own, whose activations work in place.
        ("test_resnet", ["layer1.0.bn2", "layer2.0.bn2", "layer3.0.bn3", "layer4.0.bn2"]),
        # Batch normalization and activation in one module; a gate behind the normalization.
        ("regnetx_002", ["s1.b1.conv3.bn", "s2.b1.conv3.bn", "s3.b4.conv3.bn", "s4.b7.conv3.bn"]),
        ("seresnet50", [None] * 4),
        ("resnet10t", ["layer1.0.bn2", "layer2.0.bn2", "layer3.0.bn2", "layer4.0.bn2"]),
    ],
)
def test_the_norm_before_a_stages_last_activation_is_found(name, expected):
    assert found_norms(timm.create_model(name, **SMALL_IMAGES)) == expected


def test_norms_are_the_networks_own_tensors_of_the_chosen_layers_and_none_without_weights():
    network = timm.create_model("resnet18", **SMALL_IMAGES, norm_layer="groupnorm1")
    assert ModelSpec.of(network).preactivation_norms == (None,) * 4
    plain = timm.create_model("cifar_resnet8")
    spec = ModelSpec.of(plain)
    with torch.no_grad():
        plain.layer1[0].bn2.bias.fill_(3.0)
    assert spec.preactivation_norms[0][1].eq(3.0).all()
    assert not any(tensor.requires_grad for norm in spec.preactivation_norms for tensor in norm)
    assert spec == ModelSpec.of(timm.create_model("cifar_resnet8")) and "norms" not in repr(spec)
    plain.layer3[0].bn2 = nn.BatchNorm2d(64, affine=False)
    assert [norm is None for norm in ModelSpec.of(plain).preactivation_norms] == [False, False, True]
    assert found_norms(timm.create_model("cifar_resnet20"), [0, 2]) == ["layer2.2.bn2"]


CHOICES = [("test_vit", None, (0, 1, 2, 3, 4, 5)), ("test_vit", "stages", (5,)), ("test_vit", [1, 3, -1], (1, 3, 5))]
CHOICES += [("cifar_resnet8", "stages", (1, 2, 3)), ("cifar_resnet8", (0, -1), (0, 3))]


@pytest.mark.parametrize(("name", "layers", "positions"), [*CHOICES, ("test_resnet", "stages", (0, 1, 2, 3, 4))])
def test_layers_are_chosen_by_position_or_by_stage(name, layers, positions):
    network = timm.create_model(name).eval()
    spec, whole = ModelSpec.of(network, layers), ModelSpec.of(network)
    assert spec.layers == positions
    for field in ("feature_channels", "feature_reductions", "feature_sizes"):
        assert getattr(spec, field) == tuple(getattr(whole, field)[position] for position in positions)
    images = torch.randn(1, *spec.input_size)
    everything = read_outputs(network, images, whole.reads)
    chosen = read_outputs(network, images, whole.reads, layers)
    assert torch.equal(chosen.logits, everything.logits)
    assert all(torch.equal(f, everything.features[p]) for f, p in zip(chosen.features, positions, strict=True))
    if "preactivations" in whole.reads:
        # All but the stem, which is position 0.
        with_one = [position for position in positions if position > 0]
        assert spec.preactivation_channels == tuple(whole.feature_channels[position] for position in with_one)
        for preactivation, position in zip(chosen.preactivations, with_one, strict=True):
            assert torch.equal(preactivation, everything.preactivations[position - 1])


def test_layers_that_cannot_be_chosen_say_why():
    network = timm.create_model("cifar_resnet8")
    for layers, said in (
        ([4], "Layer 4 of cifar_resnet8 does not exist: it has 4, counted from 0"),
        ([-5], "Layer -5 of cifar_resnet8 does not exist"),
        ([2, 1], r"\[2, 1\]: give each once, from shallow to deep"),
        ([1, 1], "each once"),
        ([-1, 0], "from shallow to deep"),
        ([], "give positions such as 2 5 8"),
        ("stage", "or the word 'stages'"),
        ([1.0], "give positions"),
        ([True], "give positions"),
    ):
        with pytest.raises(ValueError, match=said):
            ModelSpec.of(network, layers)
        with pytest.raises(ValueError, match=said):
            OutputReader(network, {"features"}, layers)
    for one in (network, timm.create_model("test_resnet")):
        with pytest.raises(ValueError, match="provides no preactivations: position 0 is its stem"):
            OutputReader(one, {"preactivations"}, [0])


def test_a_spec_knows_the_images_that_the_network_was_built_for():
    vit = timm.create_model("vit_tiny_patch16_224", img_size=32, patch_size=8, depth=1)
    assert ModelSpec.of(vit).input_size == (3, 32, 32)
    gray = ModelSpec.of(timm.create_model("resnet10t", in_chans=1))
    assert gray.input_size[0] == 1 and gray.mean == pytest.approx(((0.485 + 0.456 + 0.406) / 3,))


def test_reductions_are_the_declared_strides_unless_the_maps_say_otherwise():
    # 176 pixels make 6 of stride 32, which is not 29.
    assert ModelSpec.of(timm.create_model("resnet10t")).feature_reductions == (2, 4, 8, 16, 32)
    # timm declares 2 for the first of its maps, which is a quarter of the image.
    spec = ModelSpec.of(timm.create_model("tresnet_m", pretrained_cfg_overlay={"input_size": (3, 64, 64)}))
    assert spec.feature_sizes[0] == (16, 16) and spec.feature_reductions == (4, 4, 8, 16, 32)


def test_a_spec_leaves_no_trace_in_the_network():
    network = timm.create_model("test_resnet", drop_rate=0.3).train()
    network.layer2.eval()
    before, state = copy.deepcopy(network), torch.get_rng_state()
    ModelSpec.of(network, "stages")
    assert torch.equal(torch.get_rng_state(), state)
    assert [m.training for m in network.modules()] == [m.training for m in before.modules()]
    torch.testing.assert_close(network.state_dict(), before.state_dict(), rtol=0, atol=0)
    assert all(p.grad is None and p.requires_grad for p in network.parameters())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in network.modules())
    # A LeViT caches its attention biases while evaluating; training must not find them.
    levit = timm.create_model("levit_128s").train()
    ModelSpec.of(levit)
    assert not any(getattr(m, "attention_bias_cache", None) for m in levit.modules())


def test_a_spec_is_the_same_on_the_meta_device_and_in_bfloat16():
    with torch.device("meta"):
        meta = timm.create_model("test_resnet")
    real = timm.create_model("test_resnet")
    assert ModelSpec.of(meta) == ModelSpec.of(real) == ModelSpec.of(real.to(torch.bfloat16))


def test_for_the_logits_alone_a_network_runs_its_own_forward_once_a_reading():
    network, calls = timm.create_model("cifar_resnet8").eval(), []
    for module in (network, network.conv1):
        module.register_forward_hook(lambda *_: calls.append(1))
    spec, reader = ModelSpec.of(network, reads={"logits"}), OutputReader(network, {"logits"})
    assert not calls
    images = torch.randn(2, 3, 32, 32)
    assert torch.equal(reader(images).logits, network(images)) and len(calls) == 4
    assert (spec.name, spec.num_classes, spec.embedding_dim) == ("cifar_resnet8", 100, 64)
    assert spec.feature_channels == () and spec.reads == {"logits"}


def test_networks_without_a_spec_are_refused_with_the_reason():
    with pytest.raises(ValueError, match="Linear is not a timm network"):
        ModelSpec.of(nn.Linear(2, 2))
    with pytest.raises(ValueError, match="coat_tiny does not run on an image .* 3 x 224 x 224.*input_size"):
        ModelSpec.of(timm.create_model("coat_tiny", img_size=64))
