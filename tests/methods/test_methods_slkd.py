"""SLKD: Eq. 1 to 7 in NumPy, the gradients, its ablations, and the sequential form."""

from copy import deepcopy
from dataclasses import replace

import pytest
import torch
from formulas import cross_entropy, divergence, softmax
from tiny_runs import network

from hf_kcd.methods import FirstPhase, create_method
from hf_kcd.models import ModelOutputs, ModelSpec, load_model

TEACHER, STUDENT = network(9, "cifar_resnet8"), network(1)
SPECS = [ModelSpec.of(model, reads={"logits"}) for model in (STUDENT, TEACHER)]


def step(method, seed: int = 0):
    """Loss parts of one batch of the networks of this file, the student's logits and the batch."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(6, 3, 8, 8, generator=generator)
    batch = {"pixel_values": images, "labels": torch.randint(4, (6,), generator=generator)}
    student = ModelOutputs(logits=torch.randn(6, 4, generator=generator).mul(2).requires_grad_())
    teacher = ModelOutputs(logits=torch.randn(6, 4, generator=generator).mul(2).requires_grad_())
    return method(student, teacher, batch), student.logits, teacher.logits, batch


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"alpha": 0.3, "temperature": 2.0, "fusion": 0.25, "teacher_weight": 2.0, "self_learning_weight": 1.0},
        {"num_sl_teachers": 1},
        {"num_sl_teachers": 3, "fusion": [0.5, 0.3, 0.2]},
        {"num_sl_teachers": 3},
    ],
)
def test_parts_are_those_of_the_paper(options):
    method = create_method("slkd", *SPECS, 8, **options)
    twin = deepcopy(method)
    parts, student, teacher, batch = step(method)
    number, fusion = options.get("num_sl_teachers", 2), options.get("fusion")
    weights = {1: [1.0], 2: [0.5, 0.5], 3: [1 / 3] * 3}[number] if fusion is None else fusion
    weights = [weights, 1 - weights] if isinstance(weights, float) else weights
    alpha, temperature = options.get("alpha", 0.1), options.get("temperature", 4.0)
    with torch.no_grad():
        # In training mode, as the step: with the statistics of the batch.
        own = [one(batch["pixel_values"]).numpy() for one in twin.sl_teachers]
    labels, student, teacher = batch["labels"].numpy(), student.detach().numpy(), teacher.detach().numpy()
    target = softmax(teacher, temperature)
    # Eq. 6, of probabilities as the text has it.
    fused = sum(weight * softmax(logits, temperature) for weight, logits in zip(weights, own, strict=True))

    def loss(logits, probabilities):
        cross = cross_entropy(logits, labels)
        return alpha * cross + (1 - alpha) * divergence(logits, probabilities, temperature)

    expected = {
        "teacher": options.get("teacher_weight", 1.0) * loss(student, target),
        "sl_teachers": options.get("self_learning_weight", 3.0) * loss(student, fused),
        **{f"sl_teacher_{i}": loss(logits, target) for i, logits in enumerate(own, start=1)},
    }
    assert {name: part.item() for name, part in parts.items()} == pytest.approx(expected, rel=1e-5)
    with torch.autocast("cpu", torch.bfloat16):
        parts, *_ = step(method)
    assert all(part.isfinite() and part.dtype == torch.float32 for part in parts.values())


def test_each_learns_from_its_own_losses_alone():
    method = create_method("slkd", *SPECS, 8)
    parts, student, teacher, _ = step(method)
    first, second = (list(one.parameters()) for one in method.sl_teachers)

    def gradients(name, tensors):
        return torch.autograd.grad(parts[name], tensors, retain_graph=True, allow_unused=True)

    for name in ("teacher", "sl_teachers"):
        assert gradients(name, [student])[0].abs().sum() > 0
        assert gradients(name, [*first, *second, teacher]) == (None,) * (2 * len(first) + 1)
    assert all(gradient is not None for gradient in gradients("sl_teacher_1", first))
    assert gradients("sl_teacher_1", [student, *second, teacher]) == (None,) * (len(second) + 2)
    sum(parts.values()).backward()
    assert all(weight.grad is not None for weight in method.parameters()) and teacher.grad is None
    # The SL-teachers are untrained networks of the teacher's architecture and run once a step.
    weights = [one.conv1.weight for one in (TEACHER, *method.sl_teachers)]
    assert all(weight.shape == weights[0].shape for weight in weights)
    assert not any(torch.equal(weights[i], weights[j]) for i, j in ((0, 1), (0, 2), (1, 2)))
    assert [int(one.bn1.num_batches_tracked) for one in method.sl_teachers] == [1, 1]


def test_ablations_have_the_teacher_alone_or_the_sl_teachers_alone():
    method = create_method("slkd", *SPECS, 8, self_learning_weight=0.0)
    parts, student, teacher, batch = step(method)
    assert parts.keys() == {"teacher"} and not method.networks() and not list(method.parameters())
    kd = create_method("kd", *SPECS, 8)(ModelOutputs(logits=student), ModelOutputs(logits=teacher), batch)
    assert parts["teacher"].item() == pytest.approx(sum(kd.values()).item(), rel=1e-6)
    parts, student, *_ = step(create_method("slkd", *SPECS, 8, teacher_weight=0.0))
    assert parts.keys() == {"sl_teachers", "sl_teacher_1", "sl_teacher_2"}
    sum(parts.values()).backward()
    assert student.grad.abs().sum() > 0


def test_sequential_sl_teachers_learn_first_and_teach_frozen():
    method = create_method("slkd", *SPECS, 8, first_phase_epochs=240)
    assert method.first_phase == FirstPhase(240, trains_student=False, decay_epochs=(150, 180, 210))
    _, student, teacher, batch = step(create_method("slkd", *SPECS, 8, self_learning_weight=0.0))
    first = method.first_phase_losses(None, ModelOutputs(logits=teacher), batch)
    assert first.keys() == {"sl_teacher_1", "sl_teacher_2"}
    sum(first.values()).backward()
    assert all(weight.grad is not None for weight in method.parameters())
    method.zero_grad()
    before = deepcopy(method.state_dict())
    parts, student, *_ = step(method.train())
    assert parts.keys() == {"teacher", "sl_teachers"}
    sum(parts.values()).backward()
    assert student.grad.abs().sum() > 0 and all(weight.grad is None for weight in method.parameters())
    assert all(torch.equal(before[name], tensor) for name, tensor in method.state_dict().items())
    with torch.no_grad():
        fused = sum(softmax(one.eval()(batch["pixel_values"]).numpy(), 4.0) for one in method.sl_teachers) / 2
    logits, labels = student.detach().numpy(), batch["labels"].numpy()
    expected = 3 * (0.1 * cross_entropy(logits, labels) + 0.9 * divergence(logits, fused, 4.0))
    assert parts["sl_teachers"].item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"fusion": [0.5, 0.2]}, "adding up to 1"),
        ({"num_sl_teachers": 3, "fusion": 0.5}, "Give 3 weights"),
        ({"teacher_weight": 0, "self_learning_weight": 0}, "at least one of the two"),
        ({"self_learning_weight": 0, "first_phase_epochs": 2}, "self_learning_weight is 0"),
    ],
)
def test_options_that_cannot_be_are_refused(options, said):
    with pytest.raises(ValueError, match=said):
        create_method("slkd", *SPECS, 8, **options)


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "levit_128s", "mixer_s16_224"])
def test_a_teacher_for_images_of_another_size_alone_is_refused_by_name(name):
    with torch.device("meta"):
        bound = load_model(name, 4)
    with pytest.raises(ValueError, match=f"{name} for images of 8 x 8"):
        create_method("slkd", STUDENT, bound, 8)


def test_cost_of_a_step_counts_two_more_teachers_that_learn():
    # Multiply-accumulates in millions: WRN-40-2 327.6, WRN-16-2 101.1.
    specs = [ModelSpec.of(load_model(f"cifar_{name}", 100), reads={"logits"}) for name in ("wrn_16_2", "wrn_40_2")]
    kd = 327.6 + 2 * 101.1
    assert create_method("slkd", *specs, 9).step_cost == pytest.approx((kd + 2 * 2 * 327.6) / kd, rel=1e-3)
    sequential = create_method("slkd", *specs, 9, first_phase_epochs=1)
    assert sequential.step_cost == pytest.approx((kd + 2 * 327.6) / kd, rel=1e-3)
    assert create_method("slkd", *specs, 9, self_learning_weight=0).step_cost == 1
    # A student that cannot be made by its name counts as free.
    assert create_method("slkd", replace(specs[0], name="other"), specs[1], 9).step_cost == 5
