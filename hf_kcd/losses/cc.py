"""Correlation congruence: neighbors in a batch differ from the teacher in different entries (Peng et al., 2019)."""

from torch import Tensor

from .common import check_embeddings, widen


def cc_loss(student_embedding: Tensor, teacher_embedding: Tensor, *, detach_teacher: bool = True) -> Tensor:
    """Compute the mean over i of the sum over entries of |d_i d_(i+1)|, d = e_s - e_t, for consecutive points.

    Args:
        student_embedding, teacher_embedding: [B, D], both in the common space.
        detach_teacher: False to train a projection of the teacher's embedding too, as the published runs do.

    Returns:
        A scalar; 0 for one point.

    Source: Peng et al., "Correlation Congruence for Knowledge Distillation", ICCV 2019, in the form of RepDistiller's
    code, used for the published tables; the paper correlates points through a kernel.
    """
    check_embeddings(student_embedding, teacher_embedding, same_width=True)
    student, teacher = widen(student_embedding, teacher_embedding.detach() if detach_teacher else teacher_embedding)
    distances = (student - teacher).abs()
    return (distances[:-1] * distances[1:]).sum() / max(len(distances) - 1, 1)
