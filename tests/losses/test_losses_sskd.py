"""SSKD: its four parts against the authors' procedure written out row by row, and which rows are kept."""

import numpy as np
import pytest
import torch
from formulas import divergence, softmax
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_kcd.losses import kd_loss, sskd_losses

CLASSES = 7


def some(batch: int = 4, seed: int = 0) -> tuple:
    generator = np.random.default_rng(seed)
    rows = 4 * batch
    logits = [generator.normal(size=(rows, CLASSES)) * 3 for _ in range(2)]
    embeddings = [generator.normal(size=(rows, width)) for width in (6, 9)]
    labels = generator.integers(CLASSES, size=batch)
    return tuple(map(torch.from_numpy, (*logits, *embeddings, labels)))


def mean_divergence(pairs: list[tuple[np.ndarray, np.ndarray]], temperature: float) -> float:
    """T^2 times the mean over (student, teacher) rows, 0 for none."""
    terms = [divergence(s[None], softmax(t, temperature)[None], temperature) for s, t in pairs]
    return np.mean(terms) if terms else 0.0


def kept_rows(teacher: list[np.ndarray], truth: list[int], ratio: float) -> list[int]:
    places = [sorted(-row).index(-row[true]) for row, true in zip(teacher, truth, strict=True)]
    num_wrong = sum(place > 0 for place in places)
    order = sorted(range(len(places)), key=lambda row: places[row])
    return order[: len(places) - num_wrong + int(num_wrong * ratio)]


def expected_parts(*inputs):
    *tensors, rotation_ratio, similarity_ratio = inputs
    student, teacher, student_embedding, teacher_embedding, labels = (one.numpy() for one in tensors)
    upright = [row for row in range(len(student)) if row % 4 == 0]
    rotated = [row for row in range(len(student)) if row % 4 != 0]

    def similarities(embedding, row):
        e = embedding[row]
        return np.array([e @ embedding[u] / np.linalg.norm(e) / np.linalg.norm(embedding[u]) for u in upright])

    similarity_s = [similarities(student_embedding, row) for row in rotated]
    similarity_t = [similarities(teacher_embedding, row) for row in rotated]
    classes, origins = [labels[row // 4] for row in rotated], [row // 4 for row in rotated]
    rotation_rows = kept_rows([teacher[row] for row in rotated], classes, rotation_ratio)
    similarity_rows = kept_rows(similarity_t, origins, similarity_ratio)
    return {
        "ce": -np.mean([np.log(softmax(student[row], 1.0)[labels[row // 4]]) for row in upright]),
        "kd": mean_divergence([(student[row], teacher[row]) for row in upright], 4.0),
        "rotation": mean_divergence([(student[rotated[k]], teacher[rotated[k]]) for k in rotation_rows], 4.0),
        "similarity": mean_divergence([(similarity_s[k], similarity_t[k]) for k in similarity_rows], 0.5),
    }


@given(st.integers(1, 6), st.integers(0, 1000), st.sampled_from([0.0, 0.25, 0.5, 0.75, 1.0]))
@settings(max_examples=20, deadline=None)
def test_authors_procedure(batch, seed, ratio):
    inputs = some(batch, seed)
    both = {"rotation_keep_ratio": ratio, "similarity_keep_ratio": ratio}
    for options, ratios in ((both, (ratio, ratio)), ({}, (1.0, 0.75))):
        parts = {name: part.item() for name, part in sskd_losses(*inputs, **options).items()}
        assert parts == pytest.approx(expected_parts(*inputs, *ratios), rel=1e-9, abs=1e-12)


def test_temperatures():
    student, teacher, *rest = some()
    parts = sskd_losses(student, teacher, *rest, temperature=2.0, rotation_temperature=3.0)
    rotated = torch.arange(len(student)) % 4 != 0
    assert parts["kd"].item() == pytest.approx(kd_loss(student[::4], teacher[::4], 2.0).item())
    assert parts["rotation"].item() == pytest.approx(kd_loss(student[rotated], teacher[rotated], 3.0).item())


def test_rows_that_the_teacher_misses_most_teach_nothing():
    # Two images. The teacher knows all rotated copies except rows 2 (second place) and 5 (last place): one of them is kept.
    teacher = torch.zeros(8, 3).double()
    teacher[:, 0] = 5.0
    teacher[2], teacher[5] = torch.tensor([4.0, 5.0, 0.0]), torch.tensor([3.0, 5.0, 4.0])
    student = torch.zeros(8, 3).double().requires_grad_()
    embedding = torch.eye(8).double()
    labels = torch.zeros(2, dtype=torch.int64)
    parts = sskd_losses(student, teacher, embedding, embedding, labels, rotation_keep_ratio=0.5)
    (gradient,) = torch.autograd.grad(parts["rotation"], student)
    assert gradient.abs().sum(1).nonzero().flatten().tolist() == [1, 2, 3, 6, 7]
    # Nothing kept is zero.
    student, _, *rest = some(1)
    label = rest[-1]
    teacher = torch.zeros(4, CLASSES).double()
    teacher[:, label] = -5.0
    parts = sskd_losses(student.requires_grad_(), teacher, *rest, rotation_keep_ratio=0.0)
    assert parts["rotation"].item() == 0
    assert torch.autograd.grad(parts["rotation"], student)[0].abs().sum() == 0


def test_what_does_not_fit_is_refused():
    student, teacher, student_embedding, teacher_embedding, labels = some()
    for rows, labels_given, options, message in (
        (16, labels[:3], {}, r"Labels have shape \[3\], logits 16 rows and embeddings 16"),
        (16, labels[:, None], {}, r"shape \[4, 1\]"),
        (12, labels, {}, "embeddings 12"),
        (16, labels, {"similarity_temperature": 0}, "similarity_temperature is 0"),
        (16, labels, {"rotation_keep_ratio": 1.5}, "rotation_keep_ratio is 1.5"),
    ):
        with pytest.raises(ValueError, match=message):
            sskd_losses(student, teacher, student_embedding[:rows], teacher_embedding[:rows], labels_given, **options)
