"""Self-supervision meets distillation: learning from a batch and its rotations (Xu et al., 2020)."""

import torch
from torch import Tensor

from .common import check_embeddings, check_logits, check_shares, check_temperature, product, soften, unit, widen
from .kd import cross_entropy_loss, kd_loss


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

    Rows 4b are the upright images, 4b+1 to 4b+3 their rotations. The teacher's rotated rows are ranked by the place of the
    true class among its predictions (or of the upright image among its similarities). Rows with the first place are kept,
    and of the others the share `..._keep_ratio` with the best places (rounded down, ties by row). A part is the mean over
    the rows that are kept.

    Args:
        student_logits, teacher_logits: [4B, C].
        student_embedding, teacher_embedding: [4B, D_s] and [4B, D_t], from the projection heads.
        labels: [B] int64, of the upright images.
        temperature, rotation_temperature, similarity_temperature: T of "kd", "rotation" and "similarity", above 0.
        rotation_keep_ratio, similarity_keep_ratio: Share, 0 to 1, of the rotated images that are kept although the teacher
            misses their class, or the image they come from.

    Returns:
        Scalars: "ce", the upright images' cross-entropy with their labels; "kd", T^2 KL of their predictions; "rotation",
        the same of the rotated images; "similarity", T^2 KL of the softmax over the cosine similarities of a rotated image
        with the batch's upright ones. The authors' weights are 0.1, 0.9, 2.7 and 10.

    Source: Xu et al., "Knowledge Distillation Meets Self-Supervision", ECCV 2020, and the authors' code.
    """
    check_logits(student_logits, teacher_logits)
    check_embeddings(student_embedding, teacher_embedding)
    if labels.ndim != 1 or not len(student_logits) == len(student_embedding) == 4 * len(labels):
        raise ValueError(
            f"Labels have shape {list(labels.shape)}, logits {len(student_logits)} rows and embeddings {len(student_embedding)}. "
            "Give four rows for each label: the image upright, then its three rotations."
        )
    check_temperature(rotation_temperature, "rotation_temperature")
    check_temperature(similarity_temperature, "similarity_temperature")
    check_shares(rotation_keep_ratio=rotation_keep_ratio, similarity_keep_ratio=similarity_keep_ratio)

    logits = student_logits, teacher_logits.detach()
    (student_upright, student_rotated), (teacher_upright, teacher_rotated) = map(_split, logits)
    rotated = student_rotated, teacher_rotated, labels.repeat_interleave(3)
    origins = torch.arange(len(labels), device=labels.device).repeat_interleave(3)
    ours, theirs = map(_similarities, widen(student_embedding, teacher_embedding.detach()))
    return {
        "ce": cross_entropy_loss(student_upright, labels),
        "kd": kd_loss(student_upright, teacher_upright, temperature),
        "rotation": _kept_divergence(*rotated, rotation_temperature, rotation_keep_ratio),
        "similarity": _kept_divergence(ours, theirs, origins, similarity_temperature, similarity_keep_ratio),
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
    # Only the device knows the number of kept rows, so that rows are masked, not selected.
    num_kept = len(place) - num_wrong + (num_wrong * keep_ratio).floor()
    rank = place.argsort(stable=True).argsort()
    student, teacher = soften(student, temperature), soften(teacher, temperature)
    rows = (teacher.exp() * (teacher - student)).sum(1)
    return rows.where(rank < num_kept, 0.0).sum() / num_kept.clamp_min(1) * temperature**2
