"""Distances between features, embeddings and logits: each part is the published formula and trains the right weights."""

import copy

import numpy as np
import pytest
import torch
from formulas import cross_entropy, divergence, softmax, unit
from torch.nn import functional as F

from hf_kcd import losses
from hf_kcd.methods import FirstPhase, create_method
from hf_kcd.models import ModelOutputs, ModelSpec

IMAGES = {"mean": (0.5,) * 3, "std": (0.2,) * 3, "input_size": (3, 8, 8)}
NORMS = [
    (np.array([0.5, -1.0, 0.2, 2.0, 1.0]), np.array([0.3, 0.1, 3.0, -1.0, 0.0])),
    (np.ones(6), np.linspace(-1, 1, 6)),
]


def spec(name, channels, sizes, embedding_dim, norms=(None, None)):
    return ModelSpec(
        name=name,
        num_classes=5,
        embedding_dim=embedding_dim,
        feature_channels=channels,
        feature_reductions=tuple(8 // size for size in sizes),
        feature_sizes=tuple((size, size) for size in sizes),
        preactivation_channels=channels[1:],
        preactivation_norms=tuple(None if one is None else tuple(map(torch.tensor, one)) for one in norms),
        **IMAGES,
    )


# The first stage has the teacher's size, the second half of it.
STUDENT = spec("small", (2, 3, 4), (8, 4, 2), 4)
TEACHER = spec("large", (2, 5, 6), (8, 4, 4), 7, NORMS)
# What FSP compares.
LIKE_TEACHER = spec("like", (2, 5, 6), (8, 4, 2), 4)


def outputs(of: ModelSpec, num_points: int, seed: int) -> ModelOutputs:
    generator = np.random.default_rng(seed)

    def leaf(*shape):
        return torch.tensor(generator.normal(size=(num_points, *shape)), requires_grad=True)

    shapes = list(zip(of.feature_channels, of.feature_sizes, strict=True))
    return ModelOutputs(
        logits=leaf(of.num_classes),
        embedding=leaf(of.embedding_dim),
        features=[leaf(channels, *size) for channels, size in shapes],
        preactivations=[leaf(channels, *size) for channels, size in shapes[1:]],
    )


def leaves(out: ModelOutputs) -> list[torch.Tensor]:
    return [out.logits, out.embedding, *out.features, *out.preactivations]


def arrays(tensors) -> list[np.ndarray]:
    return [tensor.detach().numpy() for tensor in tensors]


def halved(x: np.ndarray) -> np.ndarray:
    return x.reshape(*x.shape[:2], x.shape[2] // 2, 2, x.shape[3] // 2, 2).mean((3, 5))


def normalized(x: np.ndarray) -> np.ndarray:
    mean, variance = x.mean((0, 2, 3), keepdims=True), x.var((0, 2, 3), keepdims=True)
    return (x - mean) / np.sqrt(variance + 1e-5)


def pointwise(x: np.ndarray, weight: torch.Tensor, bias: torch.Tensor | None = None) -> np.ndarray:
    out = np.einsum("oi,bihw->bohw", weight.detach().numpy()[:, :, 0, 0], x)
    return out if bias is None else out + bias.detach().numpy()[:, None, None]


def by_torch(function, x: np.ndarray, layer, **options) -> np.ndarray:
    """A convolution, which is not under test here."""
    bias = None if layer.bias is None else layer.bias.detach()
    return function(torch.tensor(x), layer.weight.detach(), bias, **options).numpy()


def fitnet(method, student, teacher):
    conv = method.regressor[0]
    out = by_torch(F.conv_transpose2d, arrays(student.features)[2], conv, stride=2, padding=1)
    return ((np.maximum(normalized(out), 0) - arrays(teacher.features)[2]) ** 2).mean()


def vid(method, student, teacher):
    total = 0.0
    maps = zip(arrays(student.features[1:]), arrays(teacher.features[1:]), strict=True)
    for stage, (ours, theirs) in enumerate(maps):
        mean = method.means[stage]
        mu = np.maximum(pointwise(np.maximum(pointwise(ours, mean[0].weight), 0), mean[2].weight), 0)
        mu = pointwise(mu, mean[4].weight)
        theirs = theirs if stage == 0 else halved(theirs)
        variance = np.log1p(np.exp(method.log_scales[stage].detach().numpy()))[:, None, None] + 1e-5
        total += 0.5 * ((mu - theirs) ** 2 / variance + np.log(variance)).mean()
    return total


def cc(method, student, teacher):
    def embed(layer, x):
        return x @ layer.weight.detach().numpy().T + layer.bias.detach().numpy()

    e_s, e_t = arrays((student.embedding, teacher.embedding))
    d = abs(embed(method.student_embed, e_s) - embed(method.teacher_embed, e_t))
    return (d[1:] * d[:-1]).sum(1).mean()


def ab(method, student, teacher):
    ours = arrays(student.preactivations)
    first = normalized(by_torch(F.conv2d, ours[0], method.connectors[0][0]))
    second = by_torch(F.conv_transpose2d, ours[1], method.connectors[1][0], stride=2, padding=1)
    return losses.ab_loss([torch.tensor(first), torch.tensor(normalized(second))], teacher.preactivations, 1.0)


def ofd(method, student, teacher):
    maps = zip(arrays(student.preactivations), method.connectors, strict=True)
    connected = [torch.tensor(normalized(pointwise(one, connector[0].weight))) for one, connector in maps]
    margins = [losses.ofd_margins(*map(torch.tensor, norm)) for norm in NORMS]
    # OFD's weight of 1/1000 is the method's.
    return losses.ofd_loss(connected, teacher.preactivations, margins)


def ft(method, student, teacher):
    def coded(layers, x, has_norm):
        for layer in layers:
            x = by_torch(F.conv2d, x, layer, padding=1)
            x = normalized(x) if has_norm else x
            x = np.where(x > 0, x, 0.1 * x)
        return x

    ours = coded(method.translator[::3], arrays(student.features)[-1], True)
    theirs = halved(coded(method.paraphraser[::3], arrays(teacher.features)[-1], False))
    one, other = (unit((x**2).mean(1).reshape(7, -1)) for x in (ours, theirs))
    return abs(one - other).mean()


def reviewkd(method, student, teacher):
    def block(layers, x, padding):
        return normalized(by_torch(F.conv2d, x, layers[0], padding=padding))

    def resized(x, size):
        return x.repeat(size // x.shape[2], 2).repeat(size // x.shape[3], 3)

    levels = [*arrays(student.features[1:]), arrays([student.embedding])[0][:, :, None, None]]
    targets = [*arrays(teacher.preactivations), arrays([teacher.embedding])[0][:, :, None, None]]
    reviewed, deeper = [], None
    for fusion, x, target in list(zip(method.fusions, levels, targets, strict=True))[::-1]:
        x = block(fusion.reduce, x, 0)
        if deeper is not None:
            # The fused map has the teacher's size and returns to the student's, one size below.
            size = x.shape[2]
            deeper = halved(deeper) if deeper.shape[2] > size else resized(deeper, size)
            z = pointwise(np.concatenate([x, deeper], 1), fusion.attention.weight, fusion.attention.bias)
            z = 1 / (1 + np.exp(-z))
            x = x * z[:, :1] + deeper * z[:, 1:]
        deeper = resized(x, target.shape[2])
        reviewed.insert(0, torch.tensor(block(fusion.expand, deeper, 1)))
    return losses.hcl_loss(reviewed, [torch.tensor(target) for target in targets])


LABELS = np.array([0, 4, 1, 1, 3, 2, 0])
FORMULAS = {
    **{"fitnet": (fitnet, 100.0), "vid": (vid, 1.0), "cc": (cc, 0.02), "ab": (ab, 1.0), "ofd": (ofd, 1e-3)},
    **{"ft": (ft, 200.0), "reviewkd": (reviewkd, 5.0)},
    "at": (lambda method, s, t: losses.at_loss(s.features[1:], t.features[1:]), 1000.0),
    "nst": (lambda method, s, t: losses.nst_loss(s.features[1:], t.features[1:]), 50.0),
    "sp": (lambda method, s, t: losses.sp_loss(s.features[-1], t.features[-1]), 3000.0),
    "rkd": (lambda method, s, t: losses.rkd_loss(s.embedding, t.embedding, 25, 50), 1.0),
    "pkt": (lambda method, s, t: losses.pkt_loss(s.embedding, t.embedding), 30000.0),
    "fsp": (lambda method, s, t: losses.fsp_loss(s.features, t.features), 1.0),
    "dkd": (lambda method, s, t: losses.dkd_loss(s.logits, t.logits, torch.tensor(LABELS), 1, 8, 4), 1.0),
}


def expected_part(name, method, student, teacher):
    formula, weight = FORMULAS[name]
    return pytest.approx(weight * torch.as_tensor(formula(method, student, teacher)).item(), rel=1e-6)


def make(name, student=None, teacher=TEACHER, **options):
    torch.manual_seed(0)
    options = {**({"first_phase_epochs": 0} if name in ("ab", "fsp") else {}), **options}
    student = student or (LIKE_TEACHER if name == "fsp" else STUDENT)
    return create_method(name, student, teacher, 7, **options).double()


def run(method, num_points=7, teacher_spec=TEACHER):
    student, teacher = outputs(method.student_spec, num_points, 1), outputs(teacher_spec, num_points, 2)
    batch = {"labels": torch.tensor(LABELS[:num_points])}
    return method(student, teacher, batch), student, teacher


@pytest.mark.parametrize("name", FORMULAS)
def test_the_parts_are_the_published_ones_and_train_what_they_should(name):
    method = make(name)
    method.epoch = 25.0
    twin = copy.deepcopy(method)
    parts, student, teacher = run(method)
    assert list(parts) == ["ce", name]
    assert parts["ce"].item() == pytest.approx(cross_entropy(arrays([student.logits])[0], LABELS), rel=1e-9)
    assert parts[name].item() == expected_part(name, method, student, teacher)
    assert torch.equal(run(twin)[0][name], parts[name])
    # The gradient reaches the student and every adapter, and not the teacher.
    parts[name].backward()
    for adapter, parameter in method.named_parameters():
        if adapter.startswith(("paraphraser", "restorer")):
            # FT's paraphraser is frozen by now.
            assert parameter.grad is None
        else:
            assert parameter.grad.isfinite().all() and parameter.grad.abs().sum() > 0, adapter
    assert any(one.grad is not None and one.grad.abs().sum() > 0 for one in leaves(student))
    # CC trains the teacher's embed, whose gradient goes on to the embedding.
    assert name == "cc" or all(one.grad is None for one in leaves(teacher))


@pytest.mark.parametrize("name", FORMULAS)
def test_kd_can_be_turned_on_and_parts_without_weight_are_left_out(name):
    if name == "dkd":
        assert list(run(make(name, ce_weight=0.0))[0]) == ["dkd"]
        assert list(run(make(name, alpha=0.0, beta=0.0))[0]) == ["ce"]
        return
    parts, student, teacher = run(make(name, ce_weight=0.0, kd_weight=0.9, temperature=2.0))
    assert list(parts) == ["kd", name]
    logits, target = arrays([student.logits])[0], softmax(arrays([teacher.logits])[0], 2.0)
    assert parts["kd"].item() == pytest.approx(0.9 * divergence(logits, target, 2.0), rel=1e-9)
    assert list(run(make(name, weight=0.0))[0]) == ["ce"]


@pytest.mark.parametrize("name", FORMULAS)
def test_one_point_and_bfloat16_autocast_give_finite_parts_and_gradients(name):
    parts, student, _ = run(make(name), num_points=1)
    sum(parts.values()).backward()
    assert all(part.isfinite() for part in parts.values())
    assert all(one.grad.isfinite().all() for one in leaves(student) if one.grad is not None)
    method = make(name).float()
    method.epoch = 25.0
    student, teacher = (outputs(one, 7, seed) for seed, one in enumerate((method.student_spec, TEACHER)))
    for out in (student, teacher):
        out.logits, out.embedding = out.logits.bfloat16(), out.embedding.bfloat16()
        out.features = [one.bfloat16() for one in out.features]
        out.preactivations = [one.bfloat16() for one in out.preactivations]
    with torch.autocast("cpu", torch.bfloat16):
        parts = method(student, teacher, {"labels": torch.tensor(LABELS)})
    sum(parts.values()).backward()
    assert all(part.isfinite() and part.dtype == torch.float32 for part in parts.values())
    assert all(p.grad.isfinite().all() for p in method.parameters() if p.grad is not None)


@pytest.mark.parametrize("name", ["dkd", "reviewkd"])
def test_warm_up_is_linear_over_twenty_epochs(name):
    method = make(name)
    values = {}
    for method.epoch in (0.0, 5.0, 20.0, 100.0):
        values[method.epoch] = run(method)[0][name].item()
    assert values[0.0] == 0 and values[20.0] == values[100.0] > 0
    assert values[5.0] == pytest.approx(values[20.0] / 4)
    method = make(name, warmup_epochs=0)
    assert run(method)[0][name].item() == pytest.approx(values[20.0])


@pytest.mark.parametrize("name", ["ab", "fsp", "fitnet"])
def test_a_method_of_two_phases_has_its_term_in_the_first_alone(name):
    method = make(name, first_phase_epochs=30, kd_weight=0.5)
    assert method.first_phase == FirstPhase(epochs=30) and method.has_unused_parameters
    assert list(run(method)[0]) == ["ce", "kd"]
    student, teacher = outputs(method.student_spec, 7, 1), outputs(TEACHER, 7, 2)
    first = method.first_phase_losses(student, teacher, {})
    assert list(first) == [name]
    assert first[name].item() == expected_part(name, method, student, teacher)


def test_fitnet_brings_the_hint_to_the_teachers_size_where_it_is_half_or_twice_as_large():
    small, large = spec("s", (2, 3), (8, 4), 3), spec("t", (2, 5), (8, 8), 3)
    for student, teacher, size in ((small, large, 8), (large, small, 4), (small, small, 4)):
        method = make("fitnet", student, teacher, hint_layer=1)
        brought = method.regressor(outputs(student, 2, 0).features[1])
        assert brought.shape == (2, teacher.feature_channels[1], size, size)
        # RepDistiller's convolutions: transposed, strided, or of single pixels.
        conv = method.regressor[0]
        kind, *shape = {8: ("ConvTranspose2d", 4, 2, 1), 4: ("Conv2d", 3, 2, 1)}[size]
        shape = (1, 1, 0) if student is teacher else shape
        assert type(conv).__name__ == kind
        assert [*conv.kernel_size, *conv.stride, *conv.padding] == [number for number in shape for _ in range(2)]
    # Three times as large: the loss pools the rest.
    odd = spec("odd", (2, 5), (8, 12), 3)
    parts, *_ = run(make("fitnet", small, odd, hint_layer=1), teacher_spec=odd)
    assert parts["fitnet"].isfinite()


def test_a_channel_of_a_single_value_is_normalized_by_the_running_statistics():
    norm = make("fitnet").regressor[1]
    norm = type(norm)(2)
    for tensor, values in (
        (norm.running_mean, (1.0, -2.0)),
        (norm.running_var, (4.0, 0.25)),
        (norm.weight.data, (2.0, 3.0)),
        (norm.bias.data, (0.5, -1.0)),
    ):
        tensor.copy_(torch.tensor(values))
    # (3 - 1) / 2 * 2 + 0.5 and (-1 + 2) / 0.5 * 3 - 1
    out = norm.train()(torch.tensor([3.0, -1.0]).view(1, 2, 1, 1))
    np.testing.assert_allclose(out.detach().flatten(), [2.5, 5.0], rtol=1e-4)
    assert norm.num_batches_tracked == 0


@pytest.mark.parametrize(("name", "options", "unused"), [("fitnet", {}, False), ("fitnet", {"weight": 0.0}, True)])
def test_a_term_without_weight_leaves_its_adapters_unused(name, options, unused):
    method = make(name, kd_weight=1.0, **options)
    assert method.has_unused_parameters is unused
    parts, *_ = run(method)
    sum(parts.values()).backward()
    assert all(weight.grad is None for weight in method.parameters()) is unused


def test_ft_first_trains_a_paraphraser_on_the_teacher_alone():
    method = make("ft")
    assert method.first_phase == FirstPhase(epochs=30, trains_student=False, learning_rate=0.01)
    teacher = outputs(TEACHER, 7, 2)
    parts = method.first_phase_losses(None, teacher, {})
    feature = arrays(teacher.features)[-1]
    x = feature
    for layers, function in ((method.paraphraser, F.conv2d), (method.restorer, F.conv_transpose2d)):
        for layer in layers[::3]:
            x = by_torch(function, x, layer, padding=1)
            x = np.where(x > 0, x, 0.1 * x)
    assert parts["paraphrase"].item() == pytest.approx(((x - feature) ** 2).mean(), rel=1e-9)
    parts["paraphrase"].backward()
    trained = {name.split(".")[0] for name, p in method.named_parameters() if p.grad is not None}
    assert trained == {"paraphraser", "restorer"}


def test_adapters_have_the_published_shapes_and_initial_values():
    scales = torch.cat([scale.detach() for scale in make("vid").log_scales])
    assert (np.log1p(np.exp(scales.numpy())) + 1e-5 == pytest.approx(5.0)) and len(scales) == 11
    assert make("cc").teacher_embed.weight.shape == (128, 7)
    assert make("ofd").teacher_batch_statistics and {"margin0", "margin1"} <= make("ofd").state_dict().keys()
    # ReviewKD fuses in as many channels as the embedding has, up to 512.
    assert [fusion.reduce[0].out_channels for fusion in make("reviewkd").fusions] == [4, 4, 4]
    larger = make("reviewkd", spec("larger", (2, 3, 4), (8, 8, 8), 4), warmup_epochs=0)
    assert run(larger)[0]["reviewkd"] > 0
    wide = spec("wide", (2, 3, 4), (8, 4, 2), 1280)
    assert make("reviewkd", wide).fusions[0].reduce[0].out_channels == 512
    assert make("reviewkd", wide, max_fusion_channels=256).fusions[0].reduce[0].out_channels == 256


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("fitnet", {"hint_layer": 3}, r"hint_layer is 3.* 3 features of small, f0 \(2 x 8 x 8\), f1 "),
        ("fitnet", {"hint_layer": -1}, "hint_layer is -1"),
        ("fsp", {"student": STUDENT}, r"same channels.*small has .*f1 \(3 x 4 x 4\).* large has .*f1 \(5 x 4 x 4\)"),
        ("ofd", {"teacher": STUDENT}, r"small has no batch normalization and activation .*f1 \(3 x 4 x 4\)"),
        ("ft", {"first_phase_epochs": 0}, "first_phase_epochs is 0: give a whole number of at least 1"),
        ("ab", {"first_phase_epochs": 2, "weight": 0.0}, "weight is 0.0.*give the term and one other"),
        ("ab", {"first_phase_epochs": 2, "ce_weight": 0.0}, "ce_weight 0.0, kd_weight 0.0"),
    ],
)
def test_what_cannot_be_compared_says_why(name, options, message):
    with pytest.raises(ValueError, match=message):
        make(name, **options)
