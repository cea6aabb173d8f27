"""Shared by the losses: their precision, softened predictions, maps brought to one size, and checks."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

# Replaces minus infinity: far below any log-probability that matters, but its products and sums stay finite.
_LOWEST = -1e30
# A shorter vector has no direction: dividing by its length would make gradients of 1e12.
_SHORTEST = 1e-12


def widen(*tensors: Tensor) -> tuple[Tensor, ...]:
    """Bring tensors to float64 if one of them has it, otherwise to float32, which holds sums and squares."""
    dtype = torch.float64 if any(tensor.dtype == torch.float64 for tensor in tensors) else torch.float32
    return tuple(tensor.to(dtype) for tensor in tensors)


def product(left: Tensor, right: Tensor) -> Tensor:
    """Multiply two (batches of) matrices in their own precision, also under autocast."""
    with torch.autocast(left.device.type, enabled=False):
        return left @ right


def unit(vectors: Tensor, dim: int = -1) -> Tensor:
    """Divide vectors by their Euclidean length; a zero vector stays zero and receives no gradient."""
    squared = vectors.square().sum(dim, keepdim=True)
    has_direction = squared > _SHORTEST**2
    # The inner `where` keeps an infinite derivative out of the backward pass: 0 * inf is not 0.
    return vectors * torch.where(has_direction, torch.where(has_direction, squared, 1.0).rsqrt(), 0.0)


def check_logits(student_logits: Tensor, teacher_logits: Tensor) -> None:
    """Refuse logits that are not both [B, C]."""
    if student_logits.ndim != 2 or student_logits.shape != teacher_logits.shape:
        shapes = (
            f"Student logits have shape {list(student_logits.shape)} and teacher logits {list(teacher_logits.shape)}."
        )
        raise ValueError(f"{shapes} Both must be [B, C]: give student and teacher the same classes.")


def check_labels(labels: Tensor, num_rows: int) -> None:
    """Refuse labels that are not one per row."""
    if labels.shape != (num_rows,):
        raise ValueError(f"Labels have shape {list(labels.shape)}. Give one per point, [{num_rows}].")


def check_temperature(temperature: float, name: str = "temperature") -> None:
    """Refuse a temperature that is not a finite number above 0."""
    if not (math.isfinite(temperature) and temperature > 0):
        raise ValueError(f"{name} is {temperature}. Give a number above 0; the papers use 4.")


def check_shares(**shares: float) -> None:
    """Refuse shares, by name, that are not between 0 and 1."""
    for name, value in shares.items():
        if not 0 <= value <= 1:
            raise ValueError(f"{name} is {value}. Give a share from 0 to 1.")


def check_embeddings(student_embedding: Tensor, teacher_embedding: Tensor, *, same_width: bool = False) -> None:
    """Refuse embeddings that are not [B, D] with the same B, and the same D if they are compared entry by entry."""
    student, teacher = list(student_embedding.shape), list(teacher_embedding.shape)
    shapes = f"Student embedding has shape {student} and teacher embedding {teacher}."
    if len(student) != 2 or len(teacher) != 2 or student[0] != teacher[0]:
        raise ValueError(f"{shapes} Both must be [B, D], B the same.")
    if same_width and student != teacher:
        raise ValueError(f"{shapes} They are compared entry by entry: project them to one width.")


def scale_logits(logits: Tensor, temperature: float = 1.0) -> Tensor:
    """Subtract the largest logit of each row and divide by T: never above 0, and finite for finite logits of every dtype."""
    (wide,) = widen(logits)
    # Subtracting first avoids an overflow to inf, the clamp one to -inf: 0 * -inf is not 0.
    return ((wide - wide.amax(-1, keepdim=True).detach()) / temperature).clamp_min(_LOWEST)


def soften(logits: Tensor, temperature: float) -> Tensor:
    """Compute log softmax(z / T) over the last dimension, finite for finite logits of every dtype."""
    return scale_logits(logits, temperature).log_softmax(-1)


def divergence(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """Compute T^2 KL(teacher || student) of two log-probabilities [B, C] that were softened with T, batch mean."""
    student, teacher = widen(student, teacher)
    return F.kl_div(student, teacher, reduction="batchmean", log_target=True) * temperature**2


def total(losses: Sequence[Tensor]) -> Tensor:
    """Add losses, at least one."""
    return sum(losses[1:], losses[0])


def as_map(feature: Tensor) -> Tensor:
    """View a vector [B, C] as a map of 1x1."""
    return feature if feature.ndim == 4 else feature[:, :, None, None]


def same_size(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """Average-pool the larger of two maps [B, C, H, W] to the smaller, in height and in width."""
    size = min(first.shape[2], second.shape[2]), min(first.shape[3], second.shape[3])
    return _pooled(first, size), _pooled(second, size)


def match_maps(student: Tensor, teacher: Tensor, name: str, *, same_channels: bool = False) -> tuple[Tensor, Tensor]:
    """Bring two maps [B, C, H, W], the teacher's detached, to one precision and to the smaller size of both.

    With `same_channels` they are compared channel by channel, and a vector [B, C] counts as a map of 1x1.
    """
    check_maps(student, teacher, name, same_channels=same_channels)
    student, teacher = widen(as_map(student), as_map(teacher.detach()))
    return same_size(student, teacher)


def match_stages(
    student_features: Sequence[Tensor], teacher_features: Sequence[Tensor], *, same_channels: bool = False
) -> list[tuple[Tensor, Tensor]]:
    """Pair the maps of two networks, from shallow to deep, each pair as `match_maps` returns it."""
    check_counts(student_features, teacher_features)
    return [
        match_maps(student, teacher, f"stage {stage}", same_channels=same_channels)
        for stage, (student, teacher) in enumerate(zip(student_features, teacher_features, strict=True))
    ]


def check_counts(student_features: Sequence[Tensor], teacher_features: Sequence[Tensor]) -> None:
    """Refuse lists of maps that are empty or of different lengths."""
    if len(student_features) != len(teacher_features) or len(student_features) == 0:
        ours, theirs = ([list(feature.shape) for feature in maps] for maps in (student_features, teacher_features))
        raise ValueError(f"Student maps are {ours}, teacher maps {theirs}. Choose equally many, at least one.")


def check_maps(student: Tensor, teacher: Tensor, name: str, *, same_channels: bool = False) -> None:
    """Refuse anything but maps of the same points, and different channels if they must be equal."""
    shapes = f"Student {name} has shape {list(student.shape)} and teacher {name} {list(teacher.shape)}."
    dimensions = (2, 4) if same_channels else (4,)
    if student.ndim not in dimensions or teacher.ndim not in dimensions or student.shape[0] != teacher.shape[0]:
        raise ValueError(f"{shapes} Both must be maps [B, C, H, W] of the same B points.")
    if same_channels and student.shape[1] != teacher.shape[1]:
        raise ValueError(f"{shapes} Channels are compared one by one: adapt the student's to as many.")


def _pooled(feature: Tensor, size: tuple[int, int]) -> Tensor:
    return feature if feature.shape[2:] == size else F.adaptive_avg_pool2d(feature, size)
