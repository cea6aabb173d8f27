"""The losses of networks that learn together (DML, ONE, SLKD): their formulas and where gradients go."""

import numpy as np
import pytest
import torch
from formulas import cross_entropy, divergence, softmax

from hf_kcd.losses import dml_loss, one_loss, slkd_loss


def some(number: int, batch: int = 6, classes: int = 5) -> tuple[list[np.ndarray], np.ndarray]:
    generator = np.random.default_rng(0)
    logits = [generator.normal(size=(batch, classes)) * 3 for _ in range(number)]
    return logits, generator.integers(classes, size=batch)


def tensors(*arrays: np.ndarray) -> list[torch.Tensor]:
    return [torch.from_numpy(array) for array in arrays]


def test_dml():
    (own, *peers), _ = some(4)
    for options in ({}, {"temperature": 3.0}):
        temperature = options.get("temperature", 1)
        expected = np.mean([divergence(own, softmax(peer, temperature), temperature) for peer in peers])
        assert dml_loss(*tensors(own), tensors(*peers), **options).item() == pytest.approx(expected, rel=1e-10)
    with pytest.raises(ValueError, match="at least one other"):
        dml_loss(torch.zeros(2, 3), [])
    with pytest.raises(ValueError, match="same classes"):
        dml_loss(torch.zeros(2, 3), [torch.zeros(2, 4)])


def test_one():
    (ensemble, *branches), labels = some(4)
    expected = cross_entropy(ensemble, labels) + sum(cross_entropy(branch, labels) for branch in branches)
    expected += 0.4 * sum(divergence(branch, softmax(ensemble, 3), 3) for branch in branches)
    ensemble, labels, *branches = tensors(ensemble, labels, *branches)
    loss = one_loss(branches, ensemble.requires_grad_(), labels, ramp=0.4)
    assert loss.item() == pytest.approx(expected, rel=1e-10)
    # The ensemble learns through its cross-entropy only.
    loss.backward()
    expected = (ensemble.detach().softmax(1) - torch.nn.functional.one_hot(labels, 5)) / 6
    torch.testing.assert_close(ensemble.grad, expected)
    leaves = [branch.requires_grad_() for branch in branches]
    assert torch.autograd.gradcheck(lambda *b: one_loss(b, ensemble.detach(), labels), leaves)
    with pytest.raises(ValueError, match="at least one"):
        one_loss([], torch.zeros(2, 3), torch.zeros(2, dtype=torch.int64))


def test_slkd_is_the_papers_total_with_its_effective_weights():
    (student, teacher, first, second), labels = some(4)
    target = 0.5 * softmax(first, 4) + 0.5 * softmax(second, 4)
    inputs = *tensors(student, teacher), tensors(first, second), torch.from_numpy(labels)
    # lambda 1, eta 3, alpha 0.1: 0.4 CE, 0.9 KD from the teacher, 2.7 KD from the fused self-learning teachers.
    ce, kd = cross_entropy(student, labels), divergence(student, softmax(teacher, 4), 4)
    expected = 0.4 * ce + 0.9 * kd + 2.7 * divergence(student, target, 4)
    assert slkd_loss(*inputs).item() == pytest.approx(expected, rel=1e-10)
    # The paper's Table 4: from the teacher alone it is Hinton's loss.
    alone = slkd_loss(*inputs, self_learning_weight=0.0)
    assert alone.item() == pytest.approx(0.1 * ce + 0.9 * kd, rel=1e-10)


@pytest.mark.parametrize(
    ("number", "fusion", "weights"),
    [(1, 0.2, [1.0]), (2, 0.2, [0.2, 0.8]), (2, 1.0, [1.0, 0.0]), (3, [0.5, 0.3, 0.2], [0.5, 0.3, 0.2])],
)
def test_slkd_fuses_probabilities_with_rho(number, fusion, weights):
    (student, teacher, *learning), labels = some(2 + number)
    target = sum(weight * softmax(logits, 2) for weight, logits in zip(weights, learning, strict=True))
    options = {"alpha": 0.3, "temperature": 2.0, "teacher_weight": 0.5, "self_learning_weight": 2.0}
    ce, kd = cross_entropy(student, labels), divergence(student, softmax(teacher, 2), 2)
    expected = 0.5 * (0.3 * ce + 0.7 * kd) + 2.0 * (0.3 * ce + 0.7 * divergence(student, target, 2))
    inputs = *tensors(student, teacher), tensors(*learning), torch.from_numpy(labels)
    loss = slkd_loss(*inputs, fusion=fusion, **options)
    assert loss.item() == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize(
    ("number", "fusion", "message"),
    [(0, 0.5, "at least one"), (2, 1.5, "none negative"), (3, 0.5, "Give 3 weights"), (2, [0.5, 0.4], "adding up"),
     (2, [1.0], "Give 2 weights")],
)  # fmt: skip
def test_slkd_refuses_what_does_not_fit(number, fusion, message):
    logits, labels = torch.zeros(2, 3), torch.zeros(2, dtype=torch.int64)
    with pytest.raises(ValueError, match=message):
        slkd_loss(logits, logits, [logits] * number, labels, fusion=fusion)
    with pytest.raises(ValueError, match="same classes"):
        slkd_loss(logits, logits, [torch.zeros(2, 4)], labels)
    with pytest.raises(ValueError, match="one per point"):
        slkd_loss(logits, logits, [logits], labels[:1])
