"""Cross-entropy and Hinton's loss: formulas, scalings, precision, and extreme logits."""

import numpy as np
import pytest
import torch
from formulas import cross_entropy, divergence, softmax

from hf_kcd.losses import cross_entropy_loss, kd_loss


def some_logits(batch: int = 16, classes: int = 100) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(0)
    return generator.normal(size=(batch, classes)) * 5, generator.normal(size=(batch, classes)) * 5


def test_cross_entropy():
    logits, labels = some_logits()[0], np.random.default_rng(0).integers(100, size=16)
    expected = cross_entropy(logits, labels)
    loss = cross_entropy_loss(torch.from_numpy(logits), torch.from_numpy(labels))
    assert loss.dtype == torch.float64 and loss.item() == pytest.approx(expected, rel=1e-12)
    for dtype in (torch.float16, torch.bfloat16):
        # 0.1 times 1,000 classes: in half precision log-sum-exp would be off in the second digit.
        loss = cross_entropy_loss(torch.full((4, 1000), 0.1, dtype=dtype), torch.zeros(4, dtype=torch.int64))
        assert loss.dtype == torch.float32 and loss.item() == pytest.approx(np.log(1000), abs=1e-5)


@pytest.mark.parametrize("temperature", [1.0, 4.0, 20.0])
def test_kd(temperature):
    student, teacher = some_logits()
    options = {} if temperature == 4.0 else {"temperature": temperature}
    loss = kd_loss(torch.from_numpy(student), torch.from_numpy(teacher), **options)
    assert loss.item() == pytest.approx(divergence(student, softmax(teacher, temperature), temperature), rel=1e-12)
    # A shift of all logits does not change the prediction.
    assert kd_loss(torch.from_numpy(student), torch.from_numpy(student + 3.0)).item() == pytest.approx(0, abs=1e-12)


def test_gradient_and_its_size_at_high_temperatures():
    student, teacher = map(torch.from_numpy, some_logits())
    sizes = []
    for temperature, scale in ((4.0, 1.0), (10.0, 0.01), (100.0, 0.01)):
        leaf, target = (scale * student).requires_grad_(), scale * teacher
        kd_loss(leaf, target, temperature).backward()
        expected = temperature * ((leaf / temperature).softmax(-1) - (target / temperature).softmax(-1)) / 16
        torch.testing.assert_close(leaf.grad, expected.detach())
        sizes.append(leaf.grad.norm().item())
    # Close logits: the gradient is (z_s - z_t centered) / (B C) at every temperature.
    assert sizes[1] == pytest.approx(sizes[2], rel=1e-2)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_half_precision_and_the_largest_logits(dtype):
    student, teacher = (torch.from_numpy(logits).to(dtype) for logits in some_logits())
    expected = divergence(student.double().numpy(), softmax(teacher.double().numpy(), 4.0), 4.0)
    assert kd_loss(student, teacher).item() == pytest.approx(expected, rel=1e-5)
    largest = torch.finfo(dtype).max
    student = torch.tensor([[largest, -largest, 0.0]] * 3, dtype=dtype, requires_grad=True)
    teacher = torch.tensor([[-largest, largest, 0.0], [largest, -largest, 0.0], [0.0, 0.0, 0.0]], dtype=dtype)
    for temperature in (0.5, 1.0, 4.0, 20.0):
        loss = kd_loss(student, teacher, temperature)
        assert loss.isfinite() and torch.autograd.grad(loss, student)[0].isfinite().all()


def test_shapes_and_temperatures_that_do_not_fit_are_refused():
    for one, other in (((4, 10), (4, 100)), ((4, 10), (2, 10)), ((10,), (10,))):
        with pytest.raises(ValueError, match="same classes"):
            kd_loss(torch.zeros(one), torch.zeros(other))
    for temperature in (0.0, -1.0, float("nan")):
        with pytest.raises(ValueError, match="temperature"):
            kd_loss(torch.zeros(2, 3), torch.zeros(2, 3), temperature)
