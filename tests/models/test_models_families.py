"""A broad sample of timm's families gives its outputs from one pass; what a family does not provide is refused by name."""

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import nn

from hf_kcd.models import ModelSpec, OutputReader
from hf_kcd.models.catalog import describe_network

MAPS = frozenset({"logits", "embedding", "features"})

SMALLER = (3, 64, 64)
# The smallest network of each family, on images smaller than its own where it takes them.
# fmt: off
PLAIN = [
    "test_resnet", "test_byobnet", "test_efficientnet", "test_vit", "test_vit_relpos", "test_convnext", "test_nfnet",
    "test_coatnet", "test_mambaout", "crossvit_tiny_240", "cs3darknet_focus_s", "dla46x_c", "dpn48b",
    "edgenext_xx_small", "efficientformer_l1", "efficientvit_b0", "efficientvit_m0", "fasternet_t0", "fastvit_t8",
    "ghostnet_050", "hgnetv2_b0", "hrnet_w18_small", "inception_next_atto", "lcnetv2_small", "legacy_seresnet18",
    "levit_128s", "gmlp_ti16_224", "mobilenetv3_small_050", "mobilevit_xxs", "pit_ti_224", "poolformerv2_s12",
    "pvt_v2_b0", "regnetx_002", "repghostnet_050", "repvit_m1", "resnetv2_18", "rexnet_100", "starnet_s050",
    "swiftformer_xs", "visformer_tiny", "ese_vovnet19b_slim_dw",
]
# fmt: on
FAMILIES = {name: {} for name in PLAIN} | {
    "beit_base_patch16_224": {"img_size": 32, "depth": 2, "embed_dim": 48, "num_heads": 3},
    "cait_xxs24_224": {"img_size": 64, "depth": 3},
    "coat_tiny": {"img_size": 64, "pretrained_cfg_overlay": {"input_size": SMALLER}},
    "convit_tiny": {"img_size": 64, "depth": 4},
    "deit_tiny_distilled_patch16_224": {"img_size": 64, "depth": 3},
    "densenet121": {"block_config": (2, 2, 2, 2)},
    "swin_tiny_patch4_window7_224": {"img_size": 32, "window_size": 2, "depths": (1, 1, 2, 1), "embed_dim": 24},
    "twins_svt_small": {"depths": (1, 1, 2, 1)},
    "xcit_nano_12_p8_224": {"img_size": 32, "depth": 2},
}
OWN_SIZE = ("crossvit", "gmlp", "levit", "pit", "visformer", "repvit", "swiftformer", "efficient", "twins")


def network(name: str, **options) -> nn.Module:
    torch.manual_seed(0)
    bound = name.startswith("test_") or name.startswith(OWN_SIZE) or "img_size" in options
    if not bound:
        options["pretrained_cfg_overlay"] = {"input_size": SMALLER}
    model = timm.create_model(name, **{"num_classes": 7, **options})
    # As after some training: fresh networks have scales of zero, where pre-activations equal activations.
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, 0, 0.3)
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
    return model


@pytest.mark.parametrize("name", FAMILIES)
def test_a_family_gives_logits_embedding_and_maps_from_one_pass(name):
    model = network(name, **FAMILIES[name]).eval()
    spec = ModelSpec.of(model, reads=MAPS)
    images = torch.randn(1, *spec.input_size)
    outputs = OutputReader(model, MAPS)(images)
    assert torch.equal(outputs.logits, model(images))
    assert outputs.embedding.shape == (1, spec.embedding_dim)
    classifier = model.get_classifier()
    # The logits of some are more than one layer of the embedding.
    adds = hasattr(model, "head_dist") or type(model).__name__ == "EfficientVitMsra"
    if isinstance(classifier, nn.Linear) and classifier.in_features == spec.embedding_dim and not adds:
        expected = F.linear(outputs.embedding, classifier.weight, classifier.bias)
        torch.testing.assert_close(outputs.logits, expected)
    shapes = zip(spec.feature_channels, spec.feature_sizes, strict=True)
    assert [tuple(f.shape) for f in outputs.features] == [(1, c, *size) for c, size in shapes]
    areas = [height * width for height, width in spec.feature_sizes]
    assert areas == sorted(areas, reverse=True)
    for reduction, (height, _) in zip(spec.feature_reductions, spec.feature_sizes, strict=True):
        assert abs(spec.input_size[1] / reduction - height) <= 1
    outputs.embedding.square().sum().backward(retain_graph=True)
    first = next(p for p in model.parameters() if p.requires_grad and p.ndim == 4)
    assert first.grad.abs().sum() > 0
    assert all(one.requires_grad for one in outputs.features)


# Families whose network stages all end in an activation, and which one.
RELU = ["test_resnet", "test_byobnet", "regnetx_002", "repvgg_a0", "legacy_seresnet18", "dla46x_c", "hrnet_w18_small"]
ACTIVATED = dict.fromkeys([*RELU, "skresnet18", "res2net50_14w_8s"], F.relu)
ACTIVATED |= dict.fromkeys(["resnext26ts", "cs3darknet_focus_s", "cspnext_tiny"], F.silu)


@pytest.mark.parametrize("name", ACTIVATED)
def test_an_activated_preactivation_is_its_feature(name):
    model = network(name).eval()
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        expected = model(images)
        outputs = OutputReader(model, {"logits", "features", "preactivations"})(images)
    spec = ModelSpec.of(model)
    torch.testing.assert_close(outputs.logits, expected, rtol=1e-6, atol=1e-6)
    assert len(outputs.preactivations) == len(outputs.features) - 1
    assert tuple(p.shape[1] for p in outputs.preactivations) == spec.preactivation_channels
    for preactivation, feature in zip(outputs.preactivations, outputs.features[1:], strict=True):
        # The old SE block adds two non-negative terms.
        assert preactivation.min() < -0.01 or name == "legacy_seresnet18"
        assert torch.equal(ACTIVATED[name](preactivation), feature)


def test_a_family_without_preactivations_is_refused():
    for name, said in (
        ("test_vit", "provides no preactivations: its map at layer 1, 2, 3, 4, 5 does not end in an activation"),
        ("test_convnext", "test_convnext provides no preactivations"),
        ("test_efficientnet", "test_efficientnet provides no preactivations"),
        ("densenet121", "layer 1, 2, 3 does not end in .* Choose among layers 4, which"),
        ("resnetv2_18", "Choose another network or method"),
    ):
        model = network(name, **FAMILIES[name])
        assert ModelSpec.of(model).reads == MAPS
        with pytest.raises(ValueError, match=said):
            OutputReader(model, {"preactivations"})


def test_layers_that_end_in_an_activation_can_be_chosen_where_not_all_do():
    with torch.device("meta"):
        vgg = timm.create_model("vgg11")
    with pytest.raises(ValueError, match="layer 5 does not end in .* Choose among layers 1, 2, 3, 4, which do"):
        OutputReader(vgg, {"preactivations"})
    assert ModelSpec.of(vgg, [1, 2, 3, 4]).preactivation_channels == (128, 256, 512, 512)


@pytest.mark.parametrize("name", ["resnet34", "resnet18"])
def test_the_imagenet_pair_has_the_preactivations_of_all_four_network_stages(name):
    with torch.device("meta"):
        spec = ModelSpec.of(timm.create_model(name))
    assert spec.preactivation_channels == (64, 128, 256, 512)
    facts = describe_network(name)
    maps = ((64, 112, 112), (64, 56, 56), (128, 28, 28), (256, 14, 14), (512, 7, 7))
    assert facts.taps == maps and facts.preactivations


def test_preactivations_of_resnet18_are_those_of_a_forward_written_by_hand():
    model = network("resnet18").double().eval()
    w = model.state_dict()

    def conv_norm(x, conv, norm, stride):
        kernel = w[f"{conv}.weight"]
        x = F.conv2d(x, kernel, stride=stride, padding=kernel.shape[-1] // 2)
        return F.batch_norm(x, *(w[f"{norm}.{n}"] for n in ("running_mean", "running_var", "weight", "bias")))

    images = torch.randn(2, 3, 48, 64, dtype=torch.float64)
    x = F.max_pool2d(F.relu(conv_norm(images, "conv1", "bn1", 2)), 3, stride=2, padding=1)
    expected = []
    for stage in range(1, 5):
        for block in range(2):
            at, stride = f"layer{stage}.{block}", 2 if stage > 1 and block == 0 else 1
            shortcut = conv_norm(x, f"{at}.downsample.0", f"{at}.downsample.1", stride) if stride == 2 else x
            out = F.relu(conv_norm(x, f"{at}.conv1", f"{at}.bn1", stride))
            total = conv_norm(out, f"{at}.conv2", f"{at}.bn2", 1) + shortcut
            x = F.relu(total)
        expected.append(total)
    with torch.no_grad():
        found = OutputReader(model, {"preactivations", "logits"})(images)
    expected.append(F.linear(x.mean((2, 3)), w["fc.weight"], w["fc.bias"]))
    torch.testing.assert_close([*found.preactivations, found.logits], expected, rtol=1e-10, atol=1e-10)
