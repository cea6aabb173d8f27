"""Self-supervision meets distillation: what is learned from a batch and its rotations (Xu et al., 2020)."""

import torch
from torch import Tensor

from .common import (
    check_embeddings,
    check_labels,
    check_logits,
    check_temperature,
    divergence,
    product,
    soften,
    unit,
    widen,
)
from .cross_entropy import cross_entropy_loss


def sskd_losses(
    student_logits: Tensor,
    teacher_logits: Tensor,
    student_embedding: Tensor,
    teacher_embedding: Tensor,
    labels: Tensor,
    temperature: float = 4.0,
    rotation_temperature: float = 4.0,
    similarity_temperature: float = 0.5,
    rotation_keep_ratio: float = 1.0,
    similarity_keep_ratio: float = 0.75,
) -> dict[str, Tensor]:
    """Compute the four parts of SSKD, unweighted.

    Rows 4b are the upright images, 4b+1 to 4b+3 their rotations. The teacher's rotated rows are ranked by the place
    that it gives the true class (or the upright image a rotation came from); those with the first place stay, and of
    the others the share `..._keep_ratio` with the best places (rounded down, ties by row). A part is the mean over the
    rows that stay.

    Args:
        student_logits: [4B, C].
        teacher_logits: [4B, C]; receives no gradient.
        student_embedding: [4B, D_s], through the student's projection head.
        teacher_embedding: [4B, D_t], through the teacher's; receives no gradient.
        labels: [B] int64, of the upright images.
        temperature: T of the upright images' divergence.
        rotation_temperature: T of the rotated ones'.
        similarity_temperature: T of the similarities'.
        rotation_keep_ratio: Share of the rotated images kept whose class the teacher misses, 0 to 1.
        similarity_keep_ratio: Share of the rotated images kept whose origin the teacher misses, 0 to 1.

    Returns:
        Scalars, float32 or float64: "ce", the upright images' cross-entropy with their labels; "kd", T^2 KL of their
        predictions; "rotation", the same of the rotated images; "similarity", T^2 KL of the softmax over the cosine
        similarities of a rotated image with the batch's upright ones. The authors weigh them 0.1, 0.9, 2.7 and 10.

    Raises:
        ValueError: When the rows are not four for each label, logits or embeddings do not fit, a temperature is not
            above 0, or a ratio is not between 0 and 1.

    Source: Xu et al., "Knowledge Distillation Meets Self-Supervision", ECCV 2020, and the authors' code.
    """
    check_logits(student_logits, teacher_logits)
    check_embeddings(student_embedding, teacher_embedding)
    if not len(student_logits) == len(student_embedding) == 4 * len(labels):
        raise ValueError(
            f"There are {len(student_logits)} rows of logits, {len(student_embedding)} of embeddings and "
            f"{len(labels)} labels. Give four rows for each label: the image upright, then its three rotations."
        )
    check_labels(labels, len(labels))
    for name, value in (
        ("temperature", temperature),
        ("rotation_temperature", rotation_temperature),
        ("similarity_temperature", similarity_temperature),
    ):
        check_temperature(value, name)
    for name, ratio in (
        ("rotation_keep_ratio", rotation_keep_ratio),
        ("similarity_keep_ratio", similarity_keep_ratio),
    ):
        if not 0 <= ratio <= 1:
            raise ValueError(f"{name} is {ratio}. Give a share between 0 and 1.")

    (student_upright, student_rotated), (teacher_upright, teacher_rotated) = map(
        _split, (student_logits, teacher_logits.detach())
    )
    student_similarity, teacher_similarity = map(_similarities, widen(student_embedding, teacher_embedding.detach()))
    origins = torch.arange(len(labels), device=labels.device)
    return {
        "ce": cross_entropy_loss(student_upright, labels),
        "kd": divergence(soften(student_upright, temperature), soften(teacher_upright, temperature), temperature),
        "rotation": _kept_divergence(
            student_rotated, teacher_rotated, labels.repeat_interleave(3), rotation_temperature, rotation_keep_ratio
        ),
        "similarity": _kept_divergence(
            student_similarity,
            teacher_similarity,
            origins.repeat_interleave(3),
            similarity_temperature,
            similarity_keep_ratio,
        ),
    }


def _split(rows: Tensor) -> tuple[Tensor, Tensor]:
    groups = rows.unflatten(0, (-1, 4))
    return groups[:, 0], groups[:, 1:].flatten(0, 1)


def _similarities(embedding: Tensor) -> Tensor:
    upright, rotated = _split(unit(embedding))
    return product(rotated, upright.mT)


def _kept_divergence(student: Tensor, teacher: Tensor, truth: Tensor, temperature: float, keep_ratio: float) -> Tensor:
    place = (teacher > teacher.gather(1, truth[:, None])).sum(1)
    num_wrong = (place > 0).sum()
    # The number of rows that stay is known to the device only, so that rows are masked and not selected.
    num_kept = len(place) - num_wrong + (num_wrong * keep_ratio).floor()
    standing = place.argsort(stable=True).argsort()
    student, teacher = soften(student, temperature), soften(teacher, temperature)
    rows = (teacher.exp() * (teacher - student)).sum(1)
    return rows.where(standing < num_kept, 0.0).sum() / num_kept.clamp_min(1) * temperature**2
