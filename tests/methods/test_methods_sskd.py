"""SSKD: the rotated batch, its parts and the loss of its first phase in NumPy."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from formulas import cross_entropy, unit

from hf_kcd.losses import sskd_losses
from hf_kcd.methods import FirstPhase, create_method
from hf_kcd.models import ModelOutputs, ModelSpec

CLASSES, POINTS = 5, 6
STUDENT = ModelSpec("net", CLASSES, 7, (4,), (1,), (0.5,) * 3, (0.2,) * 3, (3, 8, 8))
TEACHER = replace(STUDENT, embedding_dim=9)


def make(**options):
    torch.manual_seed(0)
    return create_method("sskd", STUDENT, TEACHER, 50, **options).double()


def outputs(width: int, seed: int, rows: int = 4 * POINTS, classes: int = CLASSES, **options) -> ModelOutputs:
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(rows, classes, generator=generator, dtype=torch.float64)
    embedding = torch.randn(rows, width, generator=generator, dtype=torch.float64)
    return ModelOutputs(logits=logits.requires_grad_(), embedding=embedding.requires_grad_())


def batch(points: int = POINTS) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    return {
        "pixel_values": torch.randn(points, 3, 8, 8, generator=generator),
        "labels": torch.randint(CLASSES, (points,), generator=generator),
        "point_ids": torch.randperm(50, generator=generator)[:points],
        "partner_ids": torch.full((points,), -1),
        "perturbation": torch.rand(points, generator=generator),
    }


def projected(head: torch.nn.Module, embedding: torch.Tensor) -> np.ndarray:
    first_weight, first_bias, last_weight, last_bias = (p.detach().numpy() for p in head.parameters())
    hidden = np.maximum(embedding.detach().numpy() @ first_weight.T + first_bias, 0)
    return hidden @ last_weight.T + last_bias


def test_the_parts_are_the_losses_of_the_projections_with_the_authors_weights():
    method, images = make(), batch()
    student, teacher = outputs(7, 1), outputs(9, 2)
    parts = method(student, teacher, method.prepare_batch(images, None))
    heads = projected(method.student_head, student.embedding), projected(method.teacher_head, teacher.embedding)
    # The losses have their own tests.
    unweighted = sskd_losses(student.logits, teacher.logits, *map(torch.tensor, heads), images["labels"])
    weights = {"ce": 0.1, "kd": 0.9, "rotation": 2.7, "similarity": 10}
    assert list(parts) == list(weights)
    for name, weight in weights.items():
        assert parts[name].item() == pytest.approx(weight * unweighted[name].item(), rel=1e-9) and parts[name] > 0
    # The gradient reaches the student and its head, and nothing of the teacher.
    sum(parts.values()).backward()
    assert student.logits.grad.abs().sum(1).gt(0).all() and student.embedding.grad.abs().sum() > 0
    assert all(parameter.grad.abs().sum() > 0 for parameter in method.student_head.parameters())
    assert teacher.logits.grad is None and teacher.embedding.grad is None
    assert all(parameter.grad is None for parameter in method.teacher_head.parameters())


def test_the_first_phase_asks_the_teacher_alone_where_a_rotated_image_comes_from():
    method, teacher = make(), outputs(9, 2)
    parts = method.first_phase_losses(None, teacher, method.prepare_batch(batch(), None))
    embedding = unit(projected(method.teacher_head, teacher.embedding))
    rotated = np.arange(4 * POINTS) % 4 > 0
    similarities, origins = embedding[rotated] @ embedding[~rotated].T, np.arange(4 * POINTS)[rotated] // 4
    assert parts.keys() == {"origin"}
    assert parts["origin"].item() == pytest.approx(cross_entropy(similarities, origins), rel=1e-9)
    parts["origin"].backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in method.teacher_head.parameters())
    assert all(parameter.grad is None for parameter in method.student_head.parameters())


def test_every_image_comes_upright_and_rotated_three_times_with_its_label_and_id():
    images = batch()
    prepared = make().prepare_batch(images, None)
    assert prepared.keys() == images.keys()
    for row in range(4 * POINTS):
        expected = np.rot90(images["pixel_values"][row // 4].numpy(), row % 4, (1, 2))
        np.testing.assert_array_equal(prepared["pixel_values"][row], expected)
        for name in ("labels", "point_ids", "partner_ids", "perturbation"):
            assert prepared[name][row] == images[name][row // 4]
    # The upright copies give the values of the points.
    rows = make().point_rows(prepared)
    assert torch.equal(prepared["pixel_values"][rows], images["pixel_values"])
    assert torch.equal(prepared["point_ids"][rows], images["point_ids"])


def test_a_part_of_weight_zero_is_left_out_and_a_step_costs_four_of_kd():
    method = make(rotation_weight=0.0)
    parts = method(outputs(7, 1), outputs(9, 2), method.prepare_batch(batch(), None))
    assert list(parts) == ["ce", "kd", "similarity"]
    assert method.step_cost == len(method.prepare_batch(batch(), None)["labels"]) / POINTS
    assert method.first_phase == FirstPhase(60, trains_student=False, learning_rate=0.05, decay_epochs=(30, 45))


def test_images_that_are_not_square_are_refused():
    with pytest.raises(ValueError, match="net are 8 x 6.*square"):
        create_method("sskd", replace(STUDENT, input_size=(3, 8, 6)), TEACHER, 50)
