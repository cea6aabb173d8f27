"""TAKD and DGKD: their sums in NumPy, the teachers that are dropped by chance, and a training from several teachers."""

import numpy as np
import pytest
import torch
from rebatched_runs import network
from several_networks_runs import check_resume, cross_entropy, divergence, softened

from hf_kcd.methods import create_method
from hf_kcd.models import ModelOutputs, ModelSpec

SPEC = ModelSpec("net", 5, 8, (), (), (0.5,) * 3, (0.2,) * 3, (3, 8, 8))


def example(count: int):
    generator = np.random.default_rng(count)
    logits = [torch.tensor(generator.normal(size=(7, 5)) * 3, requires_grad=True) for _ in range(count + 1)]
    return logits[0], logits[1:], {"labels": torch.tensor(generator.integers(5, size=7))}


def run(method, student, teachers, batch):
    found = [ModelOutputs(logits=logits) for logits in teachers]
    return method(ModelOutputs(logits=student), found if method.many_teachers else found[0], batch)


@pytest.mark.parametrize("options", [{}, {"kd_weight": 0.3, "temperature": 10.0}, {"kd_weight": 1}])
def test_takd_is_the_weighted_sum_of_the_paper(options):
    student, teachers, batch = example(1)
    parts = run(create_method("takd", SPEC, SPEC, 7, **options), student, teachers, batch)
    weight, temperature = options.get("kd_weight", 0.9), options.get("temperature", 4.0)
    logits = student.detach().numpy()
    target = softened(teachers[0].detach().numpy(), temperature)
    expected = {"kd": weight * divergence(logits, target, temperature)}
    if weight < 1:
        expected["ce"] = (1 - weight) * cross_entropy(logits, batch["labels"].numpy())
    assert {name: part.item() for name, part in parts.items()} == pytest.approx(expected, rel=1e-6)
    sum(parts.values()).backward()
    assert student.grad.abs().sum() > 0 and teachers[0].grad is None


@pytest.mark.parametrize("options", [{}, {"kd_weight": 0.3, "temperature": 10.0}])
@pytest.mark.parametrize("count", [1, 2, 4])
def test_dgkd_is_the_sum_over_all_teachers(options, count):
    student, teachers, batch = example(count)
    parts = run(create_method("dgkd", SPEC, [SPEC] * count, 7, num_dropped=0, **options), student, teachers, batch)
    weight, temperature = options.get("kd_weight", 1.0), options.get("temperature", 5.0)
    logits = student.detach().numpy()
    targets = [softened(teacher.detach().numpy(), temperature) for teacher in teachers]
    expected = {"kd": weight * sum(divergence(logits, target, temperature) for target in targets)}
    if weight < 1:
        expected["ce"] = (1 - weight) * cross_entropy(logits, batch["labels"].numpy())
    assert {name: part.item() for name, part in parts.items()} == pytest.approx(expected, rel=1e-6)
    sum(parts.values()).backward()
    assert student.grad.abs().sum() > 0 and all(teacher.grad is None for teacher in teachers)


@pytest.mark.parametrize(("count", "num_dropped", "left"), [(3, 1, 2), (4, 2, 2), (2, 5, 1), (1, 1, 1)])
def test_dgkd_drops_so_many_by_chance_each_as_often(count, num_dropped, left):
    student, _, batch = example(1)
    method = create_method("dgkd", SPEC, [SPEC] * count, 7, num_dropped=num_dropped)
    # Teachers that can be told by how far they are from the student.
    student = student.detach()
    teachers = [student * (1 + 0.4 * 2**number) for number in range(count)]
    logits = student.numpy()
    alone = np.array([divergence(logits, softened(teacher.numpy(), 5.0), 5.0) for teacher in teachers])
    choices = np.array([[i >> bit & 1 for bit in range(count)] for i in range(2**count)])
    times, draws = np.zeros(count), 600
    torch.manual_seed(0)
    for _ in range(draws):
        total = run(method, student, teachers, batch)["kd"].item()
        chosen = choices[np.abs(choices @ alone - total).argmin()]
        assert (chosen * alone).sum() == pytest.approx(total, rel=1e-6) and chosen.sum() == left
        times += chosen
    # Within four standard deviations of each being left in equally often.
    share = left / count
    assert np.abs(times - draws * share).max() <= 4 * np.sqrt(draws * share * (1 - share))


@pytest.mark.parametrize("name", ["takd", "dgkd"])
@pytest.mark.parametrize(
    "options", [{"kd_weight": 0}, {"kd_weight": 1.2}, {"temperature": -1}, {"kd_weight": float("nan")}]
)
def test_options_that_cannot_be_are_refused(name, options):
    (option,) = options
    with pytest.raises(ValueError, match=f"{option} is"):
        create_method(name, SPEC, SPEC, 7, **options)


def test_number_of_teachers_is_checked():
    with pytest.raises(ValueError, match="'takd' has one teacher and got 2.*dgkd"):
        create_method("takd", SPEC, [SPEC, SPEC], 7)
    with pytest.raises(ValueError, match="'dgkd' needs a teacher"):
        create_method("dgkd", SPEC, [], 7)
    with pytest.raises(ValueError, match="num_dropped is -1"):
        create_method("dgkd", SPEC, [SPEC], 7, num_dropped=-1)


def test_half_precision_logits():
    student, teachers, batch = example(3)
    half = [logits.detach().to(torch.bfloat16) for logits in (student, *teachers)]
    for name in ("takd", "dgkd"):
        method = create_method(name, SPEC, [SPEC] * 3 if name == "dgkd" else SPEC, 7, kd_weight=0.5)
        parts = run(method, half[0], half[1:], batch)
        assert all(part.isfinite() and part.dtype == torch.float32 for part in parts.values())


@pytest.mark.parametrize("condensed", [False, True], ids=["plain", "condensed"])
def test_dgkd_trains_from_a_list_and_drops_the_same_after_an_interruption(tmp_path, condensed):
    teachers = [network(seed) for seed in (7, 8, 9)]
    trainer = check_resume(tmp_path, "dgkd", condensed, teachers, method_options={"kd_weight": 0.9})
    assert len(trainer.teachers) == 3 and not trainer.method.state_dict()


def test_takd_trains_condensed(tmp_path):
    check_resume(tmp_path, "takd", True)
