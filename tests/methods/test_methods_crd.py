"""CRD and WCoRD: their parts and their memory in NumPy, and how negatives are drawn."""

import itertools
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from formulas import cross_entropy, divergence, softmax, unit

from hf_kcd.losses import crd_loss, wcord_local_loss
from hf_kcd.methods import create_method
from hf_kcd.methods.memory import ContrastMemory, random_ranks
from hf_kcd.models import ModelOutputs, ModelSpec

CLASSES, POINTS, ROWS = 3, 30, 6
STUDENT = ModelSpec("net", CLASSES, 7, (4,), (1,), (0.5,) * 3, (0.2,) * 3, (3, 8, 8))
TEACHER = replace(STUDENT, embedding_dim=9)
LABELS = torch.arange(POINTS) % CLASSES
SMALL = {"embedding_dim": 5, "num_negatives": 8}
METHODS = ["crd", "wcord"]
OWN_PARTS = {"crd": {"crd"}, "wcord": {"global", "local"}}


def make(name: str, seed: int = 0, labels: torch.Tensor | None = LABELS, **options):
    torch.manual_seed(seed)
    method = create_method(name, STUDENT, TEACHER, POINTS, **{**SMALL, **options}).double()
    method.labels = labels
    return method


def step_inputs(seed: int, ids=None):
    generator = torch.Generator().manual_seed(seed)
    networks = []
    for width in (7, 9):
        logits = 2 * torch.randn(ROWS, CLASSES, generator=generator, dtype=torch.float64)
        embedding = torch.randn(ROWS, width, generator=generator, dtype=torch.float64)
        networks.append(ModelOutputs(logits=logits.requires_grad_(), embedding=embedding.requires_grad_()))
    ids = torch.randperm(POINTS, generator=generator)[:ROWS] if ids is None else torch.tensor(ids)
    return *networks, {"point_ids": ids, "labels": LABELS[ids]}


class Reference:
    """Step by step in NumPy: the projections, the comparisons, and the memories, entry by entry."""

    def __init__(self, method) -> None:
        self.weights = [
            [tensor.detach().numpy().copy() for tensor in projection.parameters()]
            for projection in (method.student_projection, method.teacher_projection)
        ]
        self.memories = [method.memory.student.numpy().copy(), method.memory.teacher.numpy().copy()]
        self.normalizers = [None, None]
        self.seen = set()

    def cosines(self, student, teacher, ids, drawn) -> tuple[list[np.ndarray], list[np.ndarray]]:
        """Unit embeddings, and the cosines of each with the other's memory; then the entries are updated."""
        embeddings = [
            unit(network.embedding.detach().numpy() @ weight.T + bias)
            for network, (weight, bias) in zip((student, teacher), self.weights, strict=True)
        ]
        both = []
        for side in (0, 1):
            rows = np.array([[point, *negatives] for point, negatives in zip(ids, drawn, strict=True)])
            both.append(np.einsum("bd,bkd->bk", embeddings[side], self.memories[1 - side][rows]))
        for side in (0, 1):
            old = self.memories[side].copy()
            # Backwards, so that the first of two rows of a point wins.
            for row in reversed(range(len(ids))):
                self.memories[side][ids[row]] = unit(0.5 * old[ids[row]] + 0.5 * embeddings[side][row])
        return embeddings, both

    def crd(self, cosines: list[np.ndarray]) -> float:
        scores = [np.exp(cosine / 0.07) for cosine in cosines]
        if self.normalizers[0] is None:
            self.normalizers = [POINTS * one.mean() for one in scores]
        # The loss has its own tests.
        normalized = [torch.tensor(one / z) for one, z in zip(scores, self.normalizers, strict=True)]
        return crd_loss(*normalized, POINTS).item()

    def wcord(self, cosines: list[np.ndarray], ids: np.ndarray) -> float:
        total = 0.0
        for cosine in cosines:
            for row, point in enumerate(ids):
                critic = 0.07 * np.log1p(np.exp(cosine[row] / 0.07))
                total += (critic[1:].mean() - critic[0]) / len(ids) if point in self.seen else 0.0
        self.seen |= set(ids)
        return total


def drawn_ids(method, ids: torch.Tensor, epoch: int = 0) -> np.ndarray:
    """Ids of the own point and the negatives of the next step, [B, K + 1]."""
    if method.memory.point_labels is None:
        method.memory.set_labels(LABELS)
    compared, positions = method.memory.draw(ids, epoch)
    return compared[positions].numpy()


@pytest.mark.parametrize("name", METHODS)
def test_parts_and_memory_over_several_steps(name):
    method = make(name, kd_weight=0.3)
    method.epoch = 3.7
    reference = Reference(method)
    for step, ids in enumerate([None, [4, 7, 4, 0, 29, 4], None, [29, 4, 1, 2, 3, 5]]):
        student, teacher, batch = step_inputs(step, ids)
        drawn = drawn_ids(method, batch["point_ids"], 3)
        assert drawn[:, 0].tolist() == batch["point_ids"].tolist()
        parts = method(student, teacher, batch)
        embeddings, cosines = reference.cosines(student, teacher, batch["point_ids"].numpy(), drawn[:, 1:])
        expected = {
            "ce": cross_entropy(student.logits.detach().numpy(), batch["labels"].numpy()),
            "kd": 0.3 * divergence(student.logits.detach().numpy(), softmax(teacher.logits.detach(), 4.0), 4.0),
        }
        if name == "crd":
            expected["crd"] = 0.8 * reference.crd(cosines)
        else:
            expected["global"] = 0.8 * reference.wcord(cosines, batch["point_ids"].numpy())
            expected["local"] = 0.05 * wcord_local_loss(*map(torch.tensor, embeddings)).item()
            assert (expected["global"] == 0) == (step == 0)
        assert {part: value.item() for part, value in parts.items()} == pytest.approx(expected, rel=1e-9)
        assert set(method.memory.last_epoch[batch["point_ids"]].tolist()) == {3}
        np.testing.assert_allclose(method.memory.student.numpy(), reference.memories[0], atol=1e-12)
        np.testing.assert_allclose(method.memory.teacher.numpy(), reference.memories[1], atol=1e-12)
    if name == "crd":
        np.testing.assert_allclose(method.normalisers.numpy(), reference.normalizers, rtol=1e-12)


@pytest.mark.parametrize("name", METHODS)
def test_ddp_is_spared_the_memory_alone(name):
    method = make(name)
    buffers = dict(method.named_buffers())
    large = {buffer for buffer, tensor in buffers.items() if len(tensor.shape) and len(tensor) == POINTS}
    # DDP says nothing about a name that does not exist, and would send that buffer in every step.
    assert set(method.unsynchronized_buffers) == large and large


@pytest.mark.parametrize("name", METHODS)
def test_gradients_reach_the_student_and_both_projections(name):
    method = make(name, ce_weight=0.0)
    student, teacher, batch = step_inputs(0)
    method.memory.last_epoch.zero_()
    parts = method(student, teacher, batch)
    assert parts.keys() == OWN_PARTS[name]
    for part in parts.values():
        gradients = torch.autograd.grad(part, [student.embedding, *method.parameters()], retain_graph=True)
        assert all(gradient.abs().max() > 1e-6 for gradient in gradients)
    # Parts without weight are left out.
    left = {"ce", "kd"} | OWN_PARTS[name] - {"crd", "global"}
    assert make(name, weight=0.0, kd_weight=1.0)(student, teacher, batch).keys() == left
    if name == "wcord":
        assert make(name, local_weight=0.0)(student, teacher, batch).keys() == {"ce", "global"}
        assert make(name, weight=0.0, local_weight=0.0)(student, teacher, batch).keys() == {"ce"}


@pytest.mark.parametrize("name", METHODS)
def test_training_tells_a_point_from_others(name):
    method = make(name, ce_weight=0.0)
    student, teacher, _ = step_inputs(0)
    # An embedding per point: the teacher's is the student's with two more entries.
    generator = torch.Generator().manual_seed(1)
    table = torch.randn(POINTS, 9, generator=generator, dtype=torch.float64)
    optimizer = torch.optim.SGD(method.parameters(), lr=0.1 if name == "wcord" else 0.01, momentum=0.9)
    for _ in range(100):
        ids = torch.randperm(POINTS, generator=generator)[:ROWS]
        student = ModelOutputs(logits=torch.zeros(ROWS, CLASSES), embedding=table[ids, :7])
        teacher = ModelOutputs(logits=torch.zeros(ROWS, CLASSES), embedding=table[ids])
        optimizer.zero_grad()
        sum(method(student, teacher, {"point_ids": ids, "labels": LABELS[ids]}).values()).backward()
        optimizer.step()
    *_, student_cosines, teacher_cosines = method.contrast(student, teacher, {"point_ids": ids})
    for cosines in (student_cosines, teacher_cosines):
        assert cosines[:, 0].mean() > 0.6
        assert cosines[:, 1:].mean() < 0.1


@pytest.mark.parametrize("name", METHODS)
def test_under_autocast_the_contrast_stays_in_full_precision(name):
    def run(enabled: bool):
        method = make(name).float()
        student, teacher, batch = step_inputs(0)
        # The embeddings come in half precision.
        student, teacher = (
            ModelOutputs(logits=network.logits.float(), embedding=network.embedding.bfloat16())
            for network in (student, teacher)
        )
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            return method(student, teacher, batch), method.memory

    parts, memory = run(enabled=True)
    expected, other_memory = run(enabled=False)
    for part in OWN_PARTS[name]:
        assert parts[part].dtype == torch.float32
        assert torch.equal(parts[part], expected[part])
    assert torch.equal(memory.student, other_memory.student) and memory.student.dtype == torch.float32


def memory_of(labels: list[int], num_negatives: int, seed: int = 0) -> ContrastMemory:
    torch.manual_seed(seed)
    memory = ContrastMemory(len(labels), 2, num_negatives, 0.5)
    memory.set_labels(torch.tensor(labels))
    return memory


def test_each_set_of_negatives_is_as_likely_as_any_other():
    labels = [0, 1, 0, 2, 1, 0, 0, 2, 1, 0]
    memory = memory_of(labels, num_negatives=3)
    ids = torch.tensor([0, 1, 3, 5])
    counts = [Counter() for _ in ids]
    num_steps = 2000
    for _ in range(num_steps):
        compared, positions = memory.draw(ids, 0)
        for row, own in enumerate(ids.tolist()):
            point, *negatives = compared[positions[row]].tolist()
            assert point == own
            counts[row][tuple(sorted(negatives))] += 1
        memory.step += 1
    for row, own in enumerate(ids.tolist()):
        others = [point for point, label in enumerate(labels) if label != labels[own]]
        sets = list(itertools.combinations(others, 3))
        assert counts[row].keys() == set(sets)
        expected = num_steps / len(sets)
        chi_squared = sum((counts[row][one] - expected) ** 2 / expected for one in sets)
        # About one in 100,000 fair draws exceeds this.
        freedom = len(sets) - 1
        assert chi_squared < freedom + 4.3 * np.sqrt(2 * freedom) + 13


def test_orders_of_two_steps_have_nothing_in_common():
    num_points = 20_000
    ranks = [random_ranks(num_points, torch.tensor(seed), torch.tensor(step)) for seed in (0, 7) for step in range(3)]
    for one in ranks:
        assert len(one.unique()) == num_points and one.min() >= 0 and one.max() < 2**32
        # Uniform: every 16th of the range has its share, within five standard deviations.
        shares = torch.histc(one.double(), 16, 0, 2**32) / num_points
        assert (shares - 1 / 16).abs().max() < 5 * np.sqrt(15 / 256 / num_points)
    limit = 5 / np.sqrt(num_points)
    for one, other in itertools.combinations(ranks, 2):
        for shift in (0, 1, -1):
            assert abs(np.corrcoef(one.numpy(), np.roll(other.numpy(), shift))[0, 1]) < limit
    for one in ranks:
        assert abs(np.corrcoef(one[1:].numpy(), one[:-1].numpy())[0, 1]) < limit


def test_the_draw_follows_from_seed_and_step_alone():
    memory, twin, other = memory_of([0, 1] * 50, 20), memory_of([0, 1] * 50, 20), memory_of([0, 1] * 50, 20, seed=1)
    ids = torch.tensor([3, 4, 5])
    state = torch.get_rng_state()
    drawn = memory.draw(ids, 0)
    assert torch.equal(torch.get_rng_state(), state)
    torch.rand(5)
    assert all(map(torch.equal, drawn, twin.draw(ids, 0)))
    assert not torch.equal(drawn[0], other.draw(ids, 0)[0])
    twin.step += 1
    assert not torch.equal(drawn[0], twin.draw(ids, 0)[0])
    assert torch.equal(memory.student, other.student)


@pytest.mark.parametrize(("num_negatives", "expected"), [(8, 8), (12, 12), (16384, 12)])
def test_the_largest_class_leaves_as_many_negatives_for_every_row(num_negatives, expected):
    labels = torch.tensor([0] * 18 + [1] * 7 + [2] * 5)
    method = make("crd", labels=labels, num_negatives=num_negatives)
    student, teacher, batch = step_inputs(0, [0, 5, 20, 24, 25, 29])
    *_, cosines = method.contrast(student, teacher, batch)
    assert cosines.shape == (ROWS, expected + 1)
    compared, positions = method.memory.draw(batch["point_ids"], 0)
    for own, *negatives in compared[positions].tolist():
        assert len(set(negatives)) == expected
        assert all(labels[negative] != labels[own] for negative in negatives)


def test_points_that_are_no_longer_seen_are_used_last():
    memory = memory_of([0, 1] * 20, num_negatives=4)
    ids, seen = torch.tensor([0, 1, 2]), torch.arange(20, 40)

    def negatives(epoch: int) -> set[int]:
        drawn = set()
        for _ in range(40):
            compared, positions = memory.draw(ids, epoch)
            drawn |= set(compared[positions[:, 1:]].flatten().tolist())
            memory.step += 1
        return drawn

    everything = set(range(40))
    assert negatives(0) == negatives(1) == everything
    memory.last_epoch.zero_()
    assert negatives(1) == everything
    memory.last_epoch[seen] = 1
    assert negatives(1) == everything
    assert negatives(2) == set(seen.tolist())
    memory.last_epoch[5] = 2
    assert negatives(2) == {5, *seen.tolist()}
    # Only two points of each class have fresh entries: all of these are used, and two others.
    memory.last_epoch[:] = 0
    memory.last_epoch[10:14] = 3
    compared, positions = memory.draw(ids, 4)
    for own, *drawn in compared[positions].tolist():
        assert {point for point in range(10, 14) if point % 2 != own % 2} < set(drawn)
        assert len(set(drawn)) == 4


def test_labels_that_leave_no_negatives_are_refused():
    one_class = 0 * LABELS, "at least two classes"
    for labels, message in ((None, "labels are not set"), (LABELS[:-1], r"shape \[29\].*\[30\]"), one_class):
        with pytest.raises(ValueError, match=message):
            make("crd", labels=labels)(*step_inputs(0))
