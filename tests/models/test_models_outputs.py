"""What a network hands out comes from one pass, is the network's own, and is refused clearly where there is none."""

import copy

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import nn

from hf_kcd.models import ModelOutputs, ModelSpec, OutputReader, read_outputs

READS = ("logits", "embedding", "features", "preactivations")


@pytest.mark.parametrize("reads", [{"logits"}, {"embedding"}, {"features"}, {"preactivations"}, set(READS)])
@pytest.mark.parametrize("name", ["cifar_resnet8", "cifar_wrn_16_2"])
def test_every_batch_norm_runs_once_whatever_is_read(name, reads):
    network = timm.create_model(name).train()
    images = torch.randn(4, 3, 16, 16)
    outputs = read_outputs(network, images, frozenset(reads))
    assert {read for read in READS if getattr(outputs, read) is not None} == reads
    counters = [m.num_batches_tracked.item() for m in network.modules() if isinstance(m, nn.BatchNorm2d)]
    # What lies behind the deepest feature is not run where nobody reads it.
    assert set(counters) == ({0, 1} if reads == {"features"} and name == "cifar_wrn_16_2" else {1})


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


def test_what_a_network_has_not_is_refused_by_name_before_it_is_run():
    network = timm.create_model("convnext_atto", pretrained_cfg_overlay={"input_size": (3, 32, 32)})
    with pytest.raises(ValueError, match="convnext_atto does not hand out preactivations: .*cifar_"):
        OutputReader(network, {"preactivations"})
    with pytest.raises(ValueError, match="'feature'.*Did you mean 'features'"):
        OutputReader(network, {"feature"})
    unpooled = timm.create_model("resnet10t", global_pool="", num_classes=0)
    with pytest.raises(ValueError, match=r"does not hand out embedding: .* shape \[1, 512, 6, 6\].*global_pool"):
        OutputReader(unpooled, {"embedding"})
    plain = nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 2))
    plain.pretrained_cfg, plain.num_classes = {"architecture": "plain", "input_size": (3, 32, 32)}, 2
    with pytest.raises(ValueError, match="plain does not hand out features: it has no feature maps"):
        OutputReader(plain, {"features"})
    with pytest.raises(ValueError, match="plain does not hand out embedding: it has no forward_features"):
        OutputReader(plain, {"embedding"})
    images = torch.randn(2, 3, 32, 32)
    assert torch.equal(OutputReader(plain, {"logits"})(images).logits, plain(images))


def test_a_network_that_does_not_run_at_its_input_size_says_which_it_is():
    network = timm.create_model("coat_tiny", img_size=64)
    with pytest.raises(ValueError, match="coat_tiny does not run on an image of 3 x 224 x 224.*input_size"):
        ModelSpec.of(network)


def test_a_head_of_two_classifiers_is_read_unless_its_dropout_were_drawn_twice():
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


@pytest.mark.parametrize(("name", "options"), [("lcnetv2_small", {}), ("resnet10t", {}), ("test_vit", {})])
def test_dropout_of_the_head_is_drawn_as_in_the_networks_own_forward(name, options):
    # lcnetv2 drops behind what it calls its embedding, the others before it.
    torch.manual_seed(0)
    network = timm.create_model(name, num_classes=4, drop_rate=0.5, **options).train()
    images = torch.randn(4, *ModelSpec.of(network).input_size)
    reader = OutputReader(network, {"logits", "embedding", "features"})
    state = torch.get_rng_state()
    expected = network(images)
    torch.set_rng_state(state)
    assert torch.equal(reader(images).logits, expected)


def test_a_convolution_as_classifier_takes_the_embedding():
    network = timm.create_model("dla46x_c", num_classes=4).eval()
    images = torch.randn(2, 3, 64, 64)
    outputs = read_outputs(network, images, {"logits", "embedding"})
    assert torch.equal(outputs.logits, network(images))
    weight = network.fc.weight.flatten(1)
    torch.testing.assert_close(F.linear(outputs.embedding, weight, network.fc.bias), outputs.logits)


def test_token_grids_come_as_maps():
    vit = timm.create_model("test_vit").eval()
    tokens = []
    vit.blocks[3].register_forward_hook(lambda *arguments: tokens.append(arguments[-1]))
    images = torch.randn(2, 3, 160, 160)
    feature = read_outputs(vit, images, {"features"}, layers=[3]).features[0]
    grid = tokens[-1][:, vit.num_prefix_tokens :].reshape(2, 10, 10, 64)
    assert torch.equal(feature, grid.permute(0, 3, 1, 2))


@pytest.mark.parametrize(
    ("name", "layers", "positions"),
    [
        ("test_vit", None, (0, 1, 2, 3, 4, 5)),
        ("test_vit", "stages", (5,)),
        ("test_vit", [1, 3, -1], (1, 3, 5)),
        ("cifar_resnet8", "stages", (1, 2, 3)),
        ("cifar_resnet8", (0, -1), (0, 3)),
        ("test_resnet", "stages", (0, 1, 2, 3, 4)),
    ],
)
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
    for feature, position in zip(chosen.features, positions, strict=True):
        assert torch.equal(feature, everything.features[position])
    if "preactivations" in whole.reads:
        # All but the stem, which is position 0.
        with_one = [position for position in positions if position > 0]
        assert spec.preactivation_channels == tuple(whole.feature_channels[position] for position in with_one)
        for preactivation, position in zip(chosen.preactivations, with_one, strict=True):
            assert torch.equal(preactivation, everything.preactivations[position - 1])


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        ([4], "Layer 4 of cifar_resnet8 does not exist: it has 4, counted from 0"),
        ([-5], "Layer -5 of cifar_resnet8 does not exist"),
        ([2, 1], r"\[2, 1\]: give each once, from shallow to deep"),
        ([1, 1], "each once"),
        ([-1, 0], "from shallow to deep"),
        ([], "give positions such as 2 5 8"),
        ("stage", "or the word 'stages'"),
        ([1.0], "give positions"),
        ([True], "give positions"),
    ],
)
def test_layers_that_cannot_be_chosen_say_why(layers, message):
    with pytest.raises(ValueError, match=message):
        ModelSpec.of(timm.create_model("cifar_resnet8"), layers)
    with pytest.raises(ValueError, match=message):
        OutputReader(timm.create_model("cifar_resnet8"), {"features"}, layers)


def test_the_stem_alone_has_no_preactivation():
    for name in ("cifar_resnet8", "test_resnet"):
        with pytest.raises(ValueError, match="does not hand out preactivations: position 0 is its stem"):
            OutputReader(timm.create_model(name), {"preactivations"}, [0])


def test_nothing_behind_the_deepest_feature_is_computed_where_features_are_all_that_is_read():
    network = timm.create_model("test_resnet").eval()
    reader = OutputReader(network, {"features"}, [1, 2])
    runs = []
    network.layer3.register_forward_hook(lambda *_: runs.append(1))
    reader(torch.randn(1, 3, 64, 64))
    assert not runs
    OutputReader(network, {"features", "logits"}, [1, 2])
    runs.clear()
    assert len(reader(torch.randn(1, 3, 64, 64)).features) == 2 and not runs


def test_looking_at_a_network_leaves_no_trace_in_it():
    torch.manual_seed(0)
    network = timm.create_model("test_resnet", drop_rate=0.3).train()
    network.layer2.eval()
    before = copy.deepcopy(network)
    state = torch.get_rng_state()
    ModelSpec.of(network, "stages")
    assert torch.equal(torch.get_rng_state(), state)
    assert [m.training for m in network.modules()] == [m.training for m in before.modules()]
    assert all(
        torch.equal(one, other)
        for one, other in zip(network.state_dict().values(), before.state_dict().values(), strict=True)
    )
    assert all(p.grad is None and p.requires_grad for p in network.parameters())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in network.modules())
    # A LeViT keeps its attention biases while evaluating, which training must not find again.
    levit = timm.create_model("levit_128s").train()
    ModelSpec.of(levit)
    assert not any(getattr(m, "attention_bias_cache", None) for m in levit.modules())


def test_many_readers_tap_an_activation_once_and_keep_nothing():
    network = timm.create_model("test_resnet")
    images = torch.randn(2, 3, 64, 64)
    for _ in range(3):
        read_outputs(network, images, {"preactivations"})
    hooks = [hook for m in network.modules() for hook in m._forward_pre_hooks.values()]
    assert len(hooks) == 4 and all(hook.inputs is None for hook in hooks)
    network(images)
    assert all(hook.inputs is None for hook in hooks)


@pytest.mark.parametrize("name", ["test_resnet", "cifar_wrn_16_2"])
def test_gradients_of_what_is_read_are_those_without_checkpointing_and_of_a_copy(name):
    torch.manual_seed(0)
    network = timm.create_model(name, num_classes=4).double()
    reader = OutputReader(network, READS)
    images = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    checkpointed, copied = copy.deepcopy(reader), copy.deepcopy(reader)
    checkpointed.model.set_grad_checkpointing(True)
    assert copied.model is not network
    gradients = []
    for one in (reader, checkpointed, copied):
        outputs = one(images)
        taps = [outputs.logits, outputs.embedding, *outputs.features, *outputs.preactivations]
        sum(tap.square().mean() for tap in taps).backward()
        gradients.append([p.grad for p in one.model.parameters()])
    for others in gradients[1:]:
        for gradient, other in zip(gradients[0], others, strict=True):
            torch.testing.assert_close(gradient, other, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", ["test_resnet", "cifar_resnet8", "test_vit"])
def test_compiled_readings_are_the_eager_ones(name):
    torch.manual_seed(0)
    network = timm.create_model(name, num_classes=4)
    reader = OutputReader(network, ModelSpec.of(network).reads)
    images = torch.randn(2, *ModelSpec.of(network).input_size)
    torch.compiler.reset()
    compiled = torch.compile(lambda x: reader(x), backend="aot_eager")
    for _ in range(2):
        expected, found = reader(images), compiled(images)
        for one, other in zip(_tensors(expected), _tensors(found), strict=True):
            torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-6)


def _tensors(outputs: ModelOutputs) -> list[torch.Tensor]:
    return [outputs.logits, outputs.embedding, *outputs.features, *(outputs.preactivations or [])]


def test_bfloat16_autocast_reads_everything_finite():
    network = timm.create_model("test_resnet")
    reader = OutputReader(network, READS)
    with torch.autocast("cpu", torch.bfloat16):
        outputs = reader(torch.randn(2, 3, 64, 64))
    assert outputs.logits.dtype == torch.bfloat16
    assert all(tensor.isfinite().all() for tensor in _tensors(outputs))


def test_a_spec_is_read_off_networks_on_the_meta_device_and_in_bfloat16():
    with torch.device("meta"):
        meta = timm.create_model("test_resnet")
    real = timm.create_model("test_resnet")
    assert ModelSpec.of(meta) == ModelSpec.of(real) == ModelSpec.of(real.to(torch.bfloat16))


def test_a_network_whose_logits_alone_are_read_is_not_run():
    network = timm.create_model("cifar_resnet8")
    network.register_forward_hook(lambda *_: pytest.fail("it was run"))
    network.conv1.register_forward_hook(lambda *_: pytest.fail("it was run"))
    spec = ModelSpec.of(network, reads={"logits"})
    OutputReader(network, {"logits"})
    assert (spec.name, spec.num_classes, spec.embedding_dim) == ("cifar_resnet8", 100, 64)
    assert spec.feature_channels == () and spec.reads == {"logits"}


def test_reductions_are_the_declared_strides_unless_the_maps_say_otherwise():
    # 176 pixels make 6 of stride 32, which is not 29.
    assert ModelSpec.of(timm.create_model("resnet10t")).feature_reductions == (2, 4, 8, 16, 32)
    # timm declares 2 for the first of its maps, which is a quarter of the image.
    spec = ModelSpec.of(timm.create_model("tresnet_m", pretrained_cfg_overlay={"input_size": (3, 64, 64)}))
    assert spec.feature_sizes[0] == (16, 16) and spec.feature_reductions == (4, 4, 8, 16, 32)


def test_a_network_that_is_not_timms_is_refused_by_class():
    with pytest.raises(ValueError, match="Linear is no timm network"):
        ModelSpec.of(nn.Linear(2, 2))


def test_nothing_is_handed_out_that_was_not_read():
    assert ModelOutputs() == ModelOutputs(logits=None, embedding=None, features=None, preactivations=None)
