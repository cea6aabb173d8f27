"""What a network hands out comes from one pass, is the network's own, and is refused clearly where there is none."""

import pytest
import timm
import torch
from torch import nn

from hf_kcd.models import ModelOutputs, ModelSpec, read_outputs

READS = ("logits", "embedding", "features", "preactivations")


@pytest.mark.parametrize("reads", [{"logits"}, {"embedding"}, {"features"}, {"preactivations"}, set(READS)])
@pytest.mark.parametrize("name", ["cifar_resnet8", "cifar_wrn_16_2"])
def test_every_batch_norm_runs_once_whatever_is_read(name, reads):
    network = timm.create_model(name).train()
    images = torch.randn(4, 3, 16, 16)
    outputs = read_outputs(network, images, frozenset(reads))
    assert {read for read in READS if getattr(outputs, read) is not None} == reads
    counters = [m.num_batches_tracked.item() for m in network.modules() if isinstance(m, nn.BatchNorm2d)]
    assert set(counters) == {1}


def test_logits_alone_are_the_networks_own_forward():
    network = timm.create_model("resnet10t", num_classes=4).eval()
    images = torch.randn(2, 3, 32, 32)
    calls = []
    network.register_forward_hook(lambda *_: calls.append(1))
    with torch.no_grad():
        assert torch.equal(read_outputs(network, images, frozenset({"logits"})).logits, network(images))
    assert len(calls) == 2


@pytest.mark.parametrize(
    ("name", "options", "size"),
    [
        ("resnet10t", {}, 32),
        ("mobilenetv3_small_050", {}, 32),
        ("convnext_atto", {}, 32),
        ("vit_tiny_patch16_224", {"img_size": 32, "patch_size": 8}, 32),
        ("swin_tiny_patch4_window7_224", {"img_size": 32, "window_size": 2, "depths": (1, 1, 1, 1)}, 32),
    ],
)
def test_timms_own_networks_hand_out_features_embedding_and_logits(name, options, size):
    network = timm.create_model(name, num_classes=6, **options).eval()
    spec = ModelSpec.of(network)
    images = torch.randn(2, 3, size, size)
    with torch.no_grad():
        outputs = read_outputs(network, images, frozenset({"logits", "embedding", "features"}))
        torch.testing.assert_close(outputs.logits, network(images))
        alone = read_outputs(network, images, frozenset({"embedding"}))
        torch.testing.assert_close(alone.embedding, outputs.embedding)
        features_and_logits = read_outputs(network, images, frozenset({"logits", "features"}))
        torch.testing.assert_close(features_and_logits.logits, outputs.logits)
    assert alone.logits is None and alone.features is None and features_and_logits.embedding is None
    assert outputs.embedding.shape == (2, spec.embedding_dim)
    assert tuple(f.shape[1] for f in outputs.features) == spec.feature_channels
    assert tuple(size // f.shape[-1] for f in outputs.features) == spec.feature_reductions
    assert spec.num_classes == 6


def test_embedding_and_logits_agree_under_dropout():
    network = timm.create_model("resnet10t", num_classes=4, drop_rate=0.5).train()
    outputs = read_outputs(network, torch.randn(4, 3, 32, 32), frozenset({"logits", "embedding"}))
    torch.testing.assert_close(network.fc(outputs.embedding), outputs.logits)


def test_gradient_reaches_every_parameter_through_what_is_read():
    network = timm.create_model("cifar_wrn_16_2")
    outputs = read_outputs(network, torch.randn(2, 3, 16, 16), frozenset(READS))
    taps = [outputs.embedding, *outputs.features, *outputs.preactivations]
    (outputs.logits.sum() + sum(tap.square().sum() for tap in taps)).backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in network.parameters())


def test_spec_knows_the_images_that_the_network_was_built_for():
    vit = timm.create_model("vit_tiny_patch16_224", img_size=32, patch_size=8)
    assert ModelSpec.of(vit).input_size == (3, 32, 32)
    grey = ModelSpec.of(timm.create_model("resnet10t", in_chans=1))
    assert grey.input_size[0] == 1
    assert grey.mean == pytest.approx(((0.485 + 0.456 + 0.406) / 3,))


def test_what_a_network_has_not_is_refused_by_name():
    network = timm.create_model("resnet10t")
    images = torch.randn(1, 3, 32, 32)
    with pytest.raises(ValueError, match="resnet10t does not hand out preactivations"):
        read_outputs(network, images, frozenset({"preactivations"}))
    with pytest.raises(ValueError, match="'feature'.*Did you mean 'features'"):
        read_outputs(network, images, frozenset({"feature"}))
    deit = timm.create_model("deit_tiny_distilled_patch16_224", img_size=32, patch_size=8, depth=1).eval()
    with pytest.raises(ValueError, match="deit_tiny_distilled_patch16_224 does not hand out embedding and logits"):
        read_outputs(deit, images, frozenset({"logits", "embedding"}))


def test_a_network_that_is_not_timms_is_refused_by_class():
    with pytest.raises(ValueError, match="Linear is no timm network"):
        ModelSpec.of(nn.Linear(2, 2))


def test_nothing_is_handed_out_that_was_not_read():
    assert ModelOutputs() == ModelOutputs(logits=None, embedding=None, features=None, preactivations=None)
