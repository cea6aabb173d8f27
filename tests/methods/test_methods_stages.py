"""Every method takes every pair of the papers, stage by stage; other pairs are warned about or refused."""

import warnings
from dataclasses import replace
from functools import cache

import pytest
import timm
import torch

from hf_kcd.methods import create_method
from hf_kcd.methods.stages import feature_maps, pair_stages, stage_maps
from hf_kcd.models import ModelOutputs, ModelSpec

METHODS = ["fitnet", "at", "sp", "vid", "rkd", "pkt", "cc", "nst", "dkd", "reviewkd", "ofd", "ft", "ab", "fsp"]
METHODS += ["crd", "wcord", "sskd"]
# Teacher, student, and whether their features have the same channels. ResNet-110 has the maps of ResNet-56.
PAIRS = [
    ("cifar_wrn_40_2", "cifar_wrn_16_2", True),
    ("cifar_wrn_40_2", "cifar_wrn_40_1", False),
    ("cifar_resnet56", "cifar_resnet20", True),
    ("cifar_resnet32x4", "cifar_resnet8x4", True),
    ("cifar_vgg13", "cifar_vgg8", True),
    ("cifar_vgg13", "cifar_mobilenetv2_half", False),
    ("cifar_resnet50", "cifar_mobilenetv2_half", False),
    ("cifar_resnet32x4", "cifar_shufflenetv1", False),
    ("cifar_resnet32x4", "cifar_shufflenetv2", False),
    ("cifar_wrn_40_2", "cifar_shufflenetv1", False),
    ("resnet34", "resnet18", True),
]


@cache
def spec(name: str, layers: tuple[int, ...] | str | None = None, size: int | None = None) -> ModelSpec:
    images = {"input_size": (3, size, size)} if size else None
    with torch.device("meta"):
        found = ModelSpec.of(timm.create_model(name, pretrained_cfg_overlay=images), layers)
    fresh = tuple(norm and (torch.ones(len(norm[0])), torch.zeros(len(norm[1]))) for norm in found.preactivation_norms)
    return replace(found, preactivation_norms=fresh)


def outputs(of: ModelSpec, num_rows: int) -> ModelOutputs:
    """Noise of the network's shapes."""

    def noise(*shape):
        return torch.randn(num_rows, *shape)

    maps = feature_maps(of)
    return ModelOutputs(
        logits=noise(of.num_classes),
        embedding=noise(of.embedding_dim),
        features=[noise(one.channels, *one.size) for one in maps],
        preactivations=[noise(one.channels, *one.size) for one in maps[-len(of.preactivation_channels) :]],
    )


@pytest.mark.parametrize(("teacher", "student", "like"), PAIRS)
def test_every_method_takes_every_pair_of_the_papers(teacher, student, like):
    torch.manual_seed(0)
    # Smaller images than the papers', for speed: the proportions of the maps are the same.
    size = 64 if student == "resnet18" else 32 if student == "cifar_mobilenetv2_half" else 16
    ours, theirs = spec(student, size=size), spec(teacher, size=size)
    # Stages are compared in their order, without the stem.
    pairs, stages = pair_stages(ours, theirs), range(1, len(ours.feature_channels))
    assert [(one.position, other.position) for one, other in pairs] == list(zip(stages, stages, strict=True))
    assert [one.channels for one, _ in pairs] == list(ours.feature_channels[1:])
    for name in METHODS:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            if name == "fsp" and not like:
                with pytest.raises(ValueError, match="same channels"):
                    create_method(name, ours, theirs, 8)
                continue
            # A narrow factor, for speed.
            method = create_method(name, ours, theirs, 8, **({"factor_ratio": 0.05} if name == "ft" else {}))
        # Rotations come in fours.
        rows = torch.arange(8 if name == "sskd" else 3)
        batch = {"labels": rows % 4, "point_ids": rows}
        method.epoch, method.labels = 30.0, torch.arange(8) % 4
        if name == "wcord":
            method.memory.last_epoch.zero_()
        losses = method.first_phase_losses if name in ("ab", "fsp") else method
        with torch.no_grad():
            parts = losses(outputs(ours, len(rows)), outputs(theirs, len(rows)), batch)
        assert all(part.isfinite() and part != 0 for part in parts.values()), name


def test_preactivations_are_counted_without_the_stem():
    resnet = spec("cifar_resnet8")
    assert [one.position for one in stage_maps(resnet, "preactivations")] == [0, 1, 2]
    assert [one.position for one in stage_maps(resnet)] == [1, 2, 3]
    deep = spec("cifar_resnet8", (2, 3))
    assert [one.position for one in stage_maps(deep, "preactivations")] == [0, 1]
    assert [(one.position, one.layer) for one in stage_maps(deep)] == [(0, 2), (1, 3)]


def test_other_stage_counts_compare_the_deepest_of_each_size_with_a_warning():
    # VGG has two stages of 4 x 4: the deeper one counts.
    with pytest.warns(UserWarning, match=r"f1 \(16 x 32 x 32\) with f1 \(128 x 16 x 16\).*f3 \(64 x 8 x 8\) with f4"):
        pairs = pair_stages(spec("cifar_resnet8"), spec("cifar_vgg8"))
    assert [(one.layer, other.layer) for one, other in pairs] == [(1, 1), (2, 2), (3, 4)]
    # With more sizes the deepest count.
    with pytest.warns(UserWarning, match="cifar_resnet8 and cifar_resnet50 have different numbers of stages"):
        pairs = pair_stages(spec("cifar_resnet8"), spec("cifar_resnet50"))
    assert [(one.layer, other.layer) for one, other in pairs] == [(1, 2), (2, 3), (3, 4)]
    with pytest.warns(UserWarning, match="Choose equally many of both with student_layers"):
        pairs = pair_stages(spec("cifar_resnet8"), spec("test_vit"))
    assert [(one.layer, other.layer) for one, other in pairs] == [(3, 5)]
    # Chosen layers are compared in their order.
    pairs = pair_stages(spec("cifar_resnet8", (1, 3)), spec("test_vit", (2, 5)))
    assert [(one.position, other.position, other.layer) for one, other in pairs] == [(0, 0, 2), (1, 1, 5)]


def test_the_stem_alone_is_refused():
    with pytest.raises(ValueError, match=r"layers of cifar_resnet8 are \[0\], its stem alone"):
        pair_stages(spec("cifar_resnet8", (0,)), spec("cifar_resnet20"))
    with pytest.raises(ValueError, match="its stem alone"):
        create_method("vid", spec("cifar_resnet20"), spec("cifar_resnet8", (0,)), 5)


@pytest.mark.parametrize("name", ["at", "nst", "ft"])
def test_maps_of_one_position_are_refused_by_methods_that_compare_positions(name):
    # The normalized attention of such a map is always 1, and the loss always 0.
    tiny = spec("cifar_mobilenetv2_half", (4,), 16)
    said = r"cifar_mobilenetv2_half and cifar_vgg13 .* single one: f4 \(160 x 1 x 1\) with f4"
    with pytest.raises(ValueError, match=said):
        create_method(name, tiny, spec("cifar_vgg13", (4,)), 5)
    create_method("sp", tiny, spec("cifar_vgg13", (4,)), 5)
