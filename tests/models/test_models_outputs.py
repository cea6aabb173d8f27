"""The outputs of a network come from one pass and are its own; a reader refuses what a network does not provide."""

import copy

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import nn

from hf_kcd.models import ModelOutputs, ModelSpec, OutputReader, read_outputs

READS = ("logits", "embedding", "features", "preactivations")


@pytest.mark.parametrize("name", ["cifar_resnet8", "cifar_wrn_16_2"])
def test_every_batch_norm_runs_once_whatever_is_read(name):
    for reads in ({"logits"}, {"embedding"}, {"features"}, {"preactivations"}, set(READS)):
        network = timm.create_model(name).train()
        outputs = read_outputs(network, torch.randn(4, 3, 16, 16), frozenset(reads))
        assert {read for read in READS if getattr(outputs, read) is not None} == reads
        counters = [m.num_batches_tracked.item() for m in network.modules() if isinstance(m, nn.BatchNorm2d)]
        # What lies behind the deepest feature is not run where nobody reads it.
        assert set(counters) == ({0, 1} if reads == {"features"} and name == "cifar_wrn_16_2" else {1})


@pytest.mark.parametrize("name", ["resnet10t", "mobilenetv3_small_050", "test_vit"])
@torch.no_grad()
def test_an_output_is_the_same_with_others_and_alone(name):
    network = timm.create_model(name, num_classes=6).eval()
    images = torch.randn(2, *ModelSpec.of(network).input_size)
    outputs = read_outputs(network, images, {"logits", "embedding", "features"})
    torch.testing.assert_close(outputs.logits, network(images))
    alone = read_outputs(network, images, {"embedding"})
    torch.testing.assert_close(alone.embedding, outputs.embedding)
    pair = read_outputs(network, images, {"logits", "features"})
    torch.testing.assert_close(pair.logits, outputs.logits)
    assert alone.logits is None and alone.features is None and pair.embedding is None


def test_what_a_network_does_not_provide_is_refused_by_name_before_it_is_run():
    convnext = timm.create_model("convnext_atto", pretrained_cfg_overlay={"input_size": (3, 32, 32)})
    unpooled = timm.create_model("resnet10t", global_pool="", num_classes=0)
    plain = nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 2))
    plain.pretrained_cfg, plain.num_classes = {"architecture": "plain", "input_size": (3, 32, 32)}, 2
    for network, read, message in (
        (convnext, "preactivations", "convnext_atto provides no preactivations: .*cifar_"),
        (convnext, "feature", "'feature'.*Did you mean 'features'"),
        (unpooled, "embedding", r"provides no embedding: .* shape \[1, 512, 6, 6\].*global_pool"),
        (plain, "features", "plain provides no features: it has no feature maps"),
        (plain, "embedding", "plain provides no embedding: it has no forward_features"),
    ):
        with pytest.raises(ValueError, match=message):
            OutputReader(network, {read})
    images = torch.randn(2, 3, 32, 32)
    assert torch.equal(OutputReader(plain, {"logits"})(images).logits, plain(images))


def test_a_head_of_two_classifiers_is_read_unless_its_dropout_would_be_drawn_twice():
    shape = {"img_size": 32, "patch_size": 8, "depth": 1, "num_classes": 5}
    images = torch.randn(3, 3, 32, 32)
    deit = timm.create_model("deit_tiny_distilled_patch16_224", **shape).train()
    outputs = read_outputs(deit, images, {"logits", "embedding"})
    torch.testing.assert_close(outputs.logits, deit(images))
    tokens = deit.forward_features(images)
    torch.testing.assert_close(outputs.embedding, (tokens[:, 0] + tokens[:, 1]) / 2)

    dropping = timm.create_model("deit_tiny_distilled_patch16_224", drop_rate=0.1, **shape)
    reader = OutputReader(dropping.eval(), {"logits", "embedding"})
    assert torch.equal(reader(images).logits, dropping(images))
    for make in (lambda: OutputReader(dropping.train(), {"logits", "embedding"}), lambda: reader(images)):
        with pytest.raises(ValueError, match="embedding and logits in one training pass.*drop_rate=0"):
            make()
    assert OutputReader(dropping, {"embedding"})(images).embedding.shape == (3, 192)


@pytest.mark.parametrize("name", ["lcnetv2_small", "resnet10t", "test_vit"])
def test_dropout_of_the_head_is_drawn_once_as_in_the_networks_own_forward(name):
    # lcnetv2 drops behind what it calls its embedding, the others before it.
    network = timm.create_model(name, num_classes=4, drop_rate=0.5).train()
    images = torch.randn(4, *ModelSpec.of(network).input_size)
    reader = OutputReader(network, {"logits", "embedding", "features"})
    state = torch.get_rng_state()
    expected = network(images)
    torch.set_rng_state(state)
    outputs = reader(images)
    assert torch.equal(outputs.logits, expected)
    if name != "lcnetv2_small":
        torch.testing.assert_close(network.get_classifier()(outputs.embedding), outputs.logits)


def test_a_convolution_as_classifier_takes_the_embedding():
    network, images = timm.create_model("dla46x_c", num_classes=4).eval(), torch.randn(2, 3, 64, 64)
    outputs = read_outputs(network, images, {"logits", "embedding"})
    assert torch.equal(outputs.logits, network(images))
    expected = F.linear(outputs.embedding, network.fc.weight.flatten(1), network.fc.bias)
    torch.testing.assert_close(expected, outputs.logits)


def test_token_grids_come_as_maps():
    vit, tokens = timm.create_model("test_vit").eval(), []
    vit.blocks[3].register_forward_hook(lambda *arguments: tokens.append(arguments[-1]))
    feature = read_outputs(vit, torch.randn(2, 3, 160, 160), {"features"}, layers=[3]).features[0]
    grid = tokens[-1][:, vit.num_prefix_tokens :].reshape(2, 10, 10, 64)
    assert torch.equal(feature, grid.permute(0, 3, 1, 2))


def test_for_features_alone_nothing_behind_the_deepest_one_is_computed():
    network, images, runs = timm.create_model("test_resnet").eval(), torch.randn(1, 3, 64, 64), []
    reader, whole = (OutputReader(network, reads, [1, 2]) for reads in ({"features"}, {"features", "logits"}))
    network.layer3.register_forward_hook(lambda *_: runs.append(1))
    assert len(reader(images).features) == 2 and not runs
    assert len(whole(images).features) == 2 and len(runs) == 1


def test_readers_leave_no_trace_in_a_network():
    network, images = timm.create_model("test_resnet").eval(), torch.randn(2, 3, 64, 64)
    flags = [vars(module).get("inplace") for module in network.modules()]
    assert True in flags
    readers = [OutputReader(network, {"preactivations"}) for _ in range(2)]
    with readers[0].attached(), readers[1].attached():
        together = [reader(images).preactivations for reader in readers]
    torch.testing.assert_close(read_outputs(network, images, {"preactivations"}).preactivations, together[0])
    torch.testing.assert_close(together[1], together[0])
    assert not [hook for module in network.modules() for hook in module._forward_pre_hooks]
    assert [vars(module).get("inplace") for module in network.modules()] == flags


@pytest.mark.parametrize("name", ["test_resnet", "cifar_wrn_16_2"])
def test_gradients_reach_every_parameter_also_with_checkpointing_and_in_a_copy(name):
    network = timm.create_model(name, num_classes=4).double()
    reader = OutputReader(network, READS)
    images = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    checkpointed, copied = copy.deepcopy(reader), copy.deepcopy(reader)
    checkpointed.model.set_grad_checkpointing(True)
    assert copied.model is not network
    gradients = []
    for one in (reader, checkpointed, copied):
        sum(tap.square().mean() for tap in _tensors(one(images))).backward()
        gradients.append([p.grad for p in one.model.parameters()])
    # A fresh ResNet of timm has scales of zero, which stop gradients.
    assert all(g is not None and (name == "test_resnet" or g.abs().sum() > 0) for g in gradients[0])
    for others in gradients[1:]:
        torch.testing.assert_close(gradients[0], others, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", ["test_resnet", "cifar_resnet8", "test_vit"])
@torch.no_grad()
def test_compiled_readings_are_the_eager_ones(name):
    network = timm.create_model(name, num_classes=4)
    spec = ModelSpec.of(network)
    reader, images = OutputReader(network, spec.reads), torch.randn(2, *spec.input_size)
    torch.compiler.reset()
    compiled = torch.compile(lambda x: reader(x), backend="aot_eager" if name == "test_resnet" else "eager")
    for _ in range(2):
        torch.testing.assert_close(_tensors(reader(images)), _tensors(compiled(images)), rtol=1e-6, atol=1e-6)


def _tensors(outputs: ModelOutputs) -> list[torch.Tensor]:
    return [outputs.logits, outputs.embedding, *outputs.features, *(outputs.preactivations or [])]


def test_bfloat16_autocast_reads_everything_finite():
    reader = OutputReader(timm.create_model("test_resnet"), READS)
    with torch.autocast("cpu", torch.bfloat16):
        outputs = reader(torch.randn(2, 3, 64, 64))
    assert outputs.logits.dtype == torch.bfloat16
    assert all(tensor.isfinite().all() for tensor in _tensors(outputs))
