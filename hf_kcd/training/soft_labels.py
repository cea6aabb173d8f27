"""Soft labels made by a teacher, and what a method must be like to learn from them without it."""

import dataclasses

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader
from tqdm.auto import tqdm

from ..data import KnowledgeDataset, Preprocessing, SoftLabels, collate
from ..data.packing import check_packing, pack_logits
from ..methods import DistillationMethod
from ..models import ModelSpec, image_config, network_name
from .teacher_images import TeacherImages


def make_soft_labels(
    teacher: nn.Module,
    dataset: KnowledgeDataset,
    num_views: int = 4,
    top_k: int = 0,
    bits: int = 8,
    temperature: float = 4.0,
    batch_size: int = 256,
    device: torch.device | str = "cpu",
    num_workers: int = 0,
) -> SoftLabels:
    """Let a teacher answer the first views of every selected point, those that training shows in its first epochs.

    What they take is known before: `SoftLabels.num_bytes`.

    Args:
        teacher: A timm network; it is put in eval mode, and is shown the images at its own size and normalisation.
        dataset: The training set, its points selected and mixed as the training will have them (`apply_mask`).
        num_views: Views of every point, V; a training of more epochs meets them again and again.
        top_k: Classes of each row that are stored; 0 for all. Much of what softened answers say lies beyond a few: at T = 4
            ResNet-20 gives 58 % of the probability to others than the ten likeliest of CIFAR-100's classes.
        bits: Bits of a logit, 8 or 16.
        temperature: At which the share of the classes that are not stored is the teacher's; that of the method.
        batch_size: Images that the teacher sees at a time.
        device: Where the teacher runs; it is moved there.
        num_workers: Processes that prepare images, for those that are not in memory.

    Returns:
        The soft labels, on the CPU.

    Raises:
        ValueError: For numbers that cannot be, a data set that does not augment, a teacher of other classes, or one whose
            answer is not finite.
    """
    check_packing(num_views, dataset.num_classes, top_k, bits)
    if not dataset.training:
        raise ValueError("The data set shows images as they are evaluated: make it with training=True.")
    if teacher.num_classes != dataset.num_classes:
        raise ValueError(
            f"The teacher has {teacher.num_classes} classes and the data {dataset.num_classes}: choose a teacher of these classes."
        )
    preprocessing = dataset.preprocessing
    prepare = TeacherImages(
        image_config(teacher),
        preprocessing.mean,
        preprocessing.std,
        (preprocessing.network_size, preprocessing.network_size),
    )
    prepare.apply(lambda tensor: tensor.to(device))
    teacher.eval().to(device)
    # Views are epochs of the data set itself, whatever it was used with before.
    dataset.use_soft_labels(None)
    loader = DataLoader(dataset, batch_size, collate_fn=collate, num_workers=num_workers)
    packed: list[dict[str, Tensor | None]] = []
    with tqdm(total=num_views * len(loader), desc="soft labels", unit="batch", disable=None) as progress:
        for view in range(num_views):
            dataset.set_epoch(view)
            for batch in loader:
                with torch.no_grad():
                    logits = teacher(prepare(batch["pixel_values"].to(device))).float()
                if not bool(logits.isfinite().all()):
                    point = int(batch["point_ids"].to(device)[~logits.isfinite().all(1)][0])
                    raise ValueError(
                        f"{network_name(teacher)} answers point {point} with NaN or an infinity: check its weights."
                    )
                rows = pack_logits(logits, top_k, bits, temperature)
                packed.append({name: None if values is None else values.cpu() for name, values in rows.items()})
                progress.update()
    return SoftLabels(
        points=dataset.selected,
        **{name: _by_point([rows[name] for rows in packed], num_views) for name in packed[0]},
        temperature=temperature,
        seed=dataset.seed,
        images=dataclasses.asdict(preprocessing),
        selection=dataset.selection_digest(),
        teacher=network_name(teacher),
        dataset=dataset.identity,
    )


def _by_point(batches: list[Tensor | None], num_views: int) -> Tensor | None:
    """Join batches that came view by view: [V K, ...] becomes [K, V, ...]."""
    if batches[0] is None:
        return None
    rows = torch.cat(batches)
    return rows.unflatten(0, (num_views, -1)).transpose(0, 1).contiguous()


def check_method(method: type[DistillationMethod]) -> None:
    """Refuse a method to which a teacher's stored answers are not the teacher.

    Args:
        method: The method's class.

    Raises:
        ValueError: Saying for what the method needs the network.
    """
    if not method.teacher_reads:
        raise ValueError(f"Method {method.name!r} has no teacher: leave the soft labels out, or choose kd or dkd.")
    further = sorted(method.teacher_reads - {"logits"})
    for applies, why in (
        (method.many_teachers, "learns from several teachers, and soft labels are of one"),
        (further, f"reads the teacher's {' and '.join(further)}, and soft labels are its logits"),
        (
            method.prepare_batch is not DistillationMethod.prepare_batch,
            "changes the images before the teacher sees them, and soft labels are of the images as they were",
        ),
        (method.copies_teacher, "makes networks like the teacher, of which soft labels have the answers alone"),
        (
            method.teacher_batch_statistics,
            "lets the teacher's statistics follow each batch, and soft labels are fixed",
        ),
    ):
        if applies:
            raise ValueError(f"Method {method.name!r} {why}: pass the network, or choose kd or dkd.")


def teacher_spec(soft_labels: SoftLabels, preprocessing: Preprocessing) -> ModelSpec:
    """Say what a method may know of a teacher whose answers alone are there.

    Args:
        soft_labels: Its answers.
        preprocessing: How the student's images are prepared.
    """
    return ModelSpec(
        name=soft_labels.teacher,
        num_classes=soft_labels.num_classes,
        embedding_dim=0,
        feature_channels=(),
        feature_reductions=(),
        mean=preprocessing.mean,
        std=preprocessing.std,
        input_size=(3, preprocessing.network_size, preprocessing.network_size),
        reads=frozenset({"logits"}),
    )
