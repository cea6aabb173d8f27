"""CE, KD, TAKD and DGKD: their sums in NumPy, their gradients, and the teachers that DGKD drops."""

import numpy as np
import pytest
import torch
from formulas import cross_entropy, divergence, softmax

from hf_kcd.methods import create_method
from hf_kcd.models import ModelOutputs, ModelSpec

SPEC = ModelSpec("net", 5, 8, (), (), (0.5,) * 3, (0.2,) * 3, (3, 8, 8))


def example(count: int, dtype: torch.dtype = torch.float64):
    generator = np.random.default_rng(count)
    logits = [torch.tensor(generator.normal(size=(7, 5)) * 3, dtype=dtype).requires_grad_() for _ in range(count + 1)]
    return logits[0], logits[1:], {"labels": torch.tensor(generator.integers(5, size=7))}


def run(method, student, teachers, batch):
    found = [ModelOutputs(logits=logits) for logits in teachers]
    return method(ModelOutputs(logits=student), found if method.many_teachers else found[0], batch)


@pytest.mark.parametrize(
    ("name", "options", "ce_weight", "kd_weight", "temperature"),
    [
        ("ce", {}, 1.0, 0.0, 1.0),
        ("kd", {}, 0.1, 0.9, 4.0),
        ("kd", {"ce_weight": 1.0, "kd_weight": 0.4, "temperature": 2.0}, 1.0, 0.4, 2.0),
        ("takd", {}, 0.1, 0.9, 4.0),
        ("takd", {"kd_weight": 0.3, "temperature": 10.0}, 0.7, 0.3, 10.0),
        ("takd", {"kd_weight": 1}, 0.0, 1.0, 4.0),
        ("dgkd", {"num_dropped": 0}, 0.0, 1.0, 5.0),
        ("dgkd", {"num_dropped": 0, "kd_weight": 0.3, "temperature": 10.0}, 0.7, 0.3, 10.0),
    ],
)
@pytest.mark.parametrize("count", [1, 4])
def test_parts_are_the_weighted_sum_of_the_paper(name, options, ce_weight, kd_weight, temperature, count):
    count = count if name == "dgkd" else 1
    student, teachers, batch = example(count)
    method = create_method(name, SPEC, [SPEC] * count, 7, **options)
    parts = run(method, student, teachers, batch)
    logits = student.detach().numpy()
    targets = [softmax(teacher.detach().numpy(), temperature) for teacher in teachers]
    expected = {
        "ce": ce_weight * cross_entropy(logits, batch["labels"].numpy()),
        "kd": kd_weight * sum(divergence(logits, target, temperature) for target in targets),
    }
    expected = {part: value for part, value in expected.items() if value}
    assert {part: value.item() for part, value in parts.items()} == pytest.approx(expected, rel=1e-6)
    sum(parts.values()).backward()
    assert student.grad.abs().sum() > 0 and all(teacher.grad is None for teacher in teachers)
    parts = run(method, *example(count, torch.bfloat16))
    assert all(part.isfinite() and part.dtype == torch.float32 for part in parts.values())


@pytest.mark.parametrize(("count", "num_dropped", "left"), [(3, 1, 2), (4, 2, 2), (2, 1, 1), (1, 1, 1)])
def test_dgkd_drops_so_many_at_random_each_equally_often(count, num_dropped, left):
    student, _, batch = example(1)
    method = create_method("dgkd", SPEC, [SPEC] * count, 7, num_dropped=num_dropped)
    # The teachers' distances from the student identify them.
    student = student.detach()
    teachers = [student * (1 + 0.4 * 2**number) for number in range(count)]
    logits = student.numpy()
    alone = np.array([divergence(logits, softmax(teacher.numpy(), 5.0), 5.0) for teacher in teachers])
    choices = np.array([[i >> bit & 1 for bit in range(count)] for i in range(2**count)])
    times, draws = np.zeros(count), 300
    torch.manual_seed(0)
    for _ in range(draws):
        total = run(method, student, teachers, batch)["kd"].item()
        chosen = choices[np.abs(choices @ alone - total).argmin()]
        assert (chosen * alone).sum() == pytest.approx(total, rel=1e-6) and chosen.sum() == left
        times += chosen
    # Within four standard deviations of equal shares.
    share = left / count
    assert np.abs(times - draws * share).max() <= 4 * np.sqrt(draws * share * (1 - share))


@pytest.mark.parametrize("name", ["takd", "dgkd"])
def test_teachers_that_do_not_fit_are_refused(name):
    with pytest.raises(ValueError, match=f"'{name}' needs a teacher"):
        create_method(name, SPEC, [], 7)
    with pytest.raises(ValueError, match="'takd' got 2 teachers: give one.*dgkd"):
        create_method("takd", SPEC, [SPEC, SPEC], 7)
