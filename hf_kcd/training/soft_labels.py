"""Makes a teacher's soft labels, and checks that a method can learn from them without the teacher."""

import dataclasses
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader
from tqdm.auto import tqdm

from ..data import KnowledgeDataset, Preprocessing, SoftLabels, collate
from ..data.packing import check_packing, pack_logits
from ..methods import DistillationMethod
from ..models import ModelSpec, image_config, label_names, network_name
from ..models.lending import lent
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
    """Store a teacher's logits for the first views of every selected point, which training shows in its first epochs.

    Args:
        teacher: A timm network; it sees the images at its own size and normalization, in eval mode.
        dataset: The training set, with its points selected and mixed as for the training (`dataset.apply(mask)`).
        num_views: Views of every point, V; a longer training repeats them.
        top_k: Classes stored per row; 0 for all. At T = 4, ResNet-20 gives 58 % of the probability to classes outside the
            ten likeliest of CIFAR-100.
        bits: Bits of a logit, 8 or 16.
        temperature: Where classes that are not stored keep their total probability; use the method's temperature.
        batch_size, device: Images per forward pass of the teacher, and where it runs.
        num_workers: Processes that prepare images that are not in memory.

    Raises:
        ValueError: For numbers out of range, a data set without augmentation, other classes, or logits that are not finite.
    """
    check_packing(num_views, dataset.num_classes, top_k, bits)
    if not dataset.training:
        raise ValueError("The data set does not augment its images: make it with training=True.")
    if teacher.num_classes != dataset.num_classes:
        counts = f"The teacher has {teacher.num_classes} classes and the data {dataset.num_classes}"
        raise ValueError(f"{counts}: choose a teacher with the same classes.")
    columns = dataset.columns_of(label_names(teacher), "teacher")
    # Views are epochs of the data set itself, so soft labels of an earlier use must not replace them.
    dataset = dataset.copy()
    dataset.use_soft_labels(None)
    loader = DataLoader(dataset, batch_size, collate_fn=collate, num_workers=num_workers)
    packed: list[dict[str, Tensor | None]] = []
    with tqdm(total=num_views * len(loader), desc="soft labels", unit="batch", disable=None) as progress:
        for logits in _teacher_logits(teacher, dataset, loader, num_views, device):
            rows = pack_logits(logits if columns is None else logits[:, columns], top_k, bits, temperature)
            packed.append({name: None if values is None else values.cpu() for name, values in rows.items()})
            progress.update()
    return SoftLabels(
        points=dataset.selected,
        **{name: _by_point([rows[name] for rows in packed], num_views) for name in packed[0]},
        temperature=temperature,
        seed=dataset.seed,
        images=dataclasses.asdict(dataset.preprocessing),
        selection=dataset.selection_digest(),
        teacher=network_name(teacher),
        dataset=dataset.identity,
    )


@torch.no_grad()
def _teacher_logits(
    teacher: nn.Module, dataset: KnowledgeDataset, loader: DataLoader, num_views: int, device: torch.device | str
) -> Iterator[Tensor]:
    """Yield the teacher's logits of every batch, view by view."""
    prepare = TeacherImages(image_config(teacher), dataset.mean, dataset.std)
    prepare.apply(lambda tensor: tensor.to(device))
    dataset.show_teacher(max(prepare.size))
    with lent(teacher):
        teacher.eval().to(device)
        dtype = next(teacher.parameters()).dtype
        for view in range(num_views):
            dataset.set_epoch(view)
            for batch in loader:
                images = batch.get("teacher_pixel_values", batch["pixel_values"])
                logits = teacher(prepare(images.to(device)).to(dtype)).float()
                finite = logits.isfinite().all(1)
                if not bool(finite.all()):
                    point = int(batch["point_ids"].to(device)[~finite][0])
                    raise ValueError(
                        f"{network_name(teacher)} answers point {point} with NaN or infinity: check its weights."
                    )
                yield logits


def _by_point(batches: list[Tensor | None], num_views: int) -> Tensor | None:
    """Join batches that are ordered by view: [V K, ...] becomes [K, V, ...]."""
    if batches[0] is None:
        return None
    rows = torch.cat(batches)
    return rows.unflatten(0, (num_views, -1)).transpose(0, 1).contiguous()


def check_method(method: type[DistillationMethod]) -> None:
    """Refuse a method that cannot learn from a teacher's stored logits, and say why."""
    if not method.teacher_reads:
        raise ValueError(f"Method {method.name!r} has no teacher: leave the soft labels out, or choose kd or dkd.")
    changes_images = method.prepare_batch is not DistillationMethod.prepare_batch
    further = sorted(method.teacher_reads - {"logits"})
    for applies, why in (
        (method.many_teachers, "learns from several teachers, and soft labels come from one"),
        (further, f"reads the teacher's {' and '.join(further)}, and soft labels hold only its logits"),
        (changes_images, "changes the images before the teacher sees them, and soft labels are of the unchanged ones"),
        (method.copies_teacher, "copies the teacher's architecture, which soft labels do not contain"),
        (method.teacher_batch_statistics, "uses batch statistics in the teacher, and soft labels are fixed"),
    ):
        if applies:
            raise ValueError(f"Method {method.name!r} {why}: pass the network, or choose kd or dkd.")


def teacher_spec(soft_labels: SoftLabels, preprocessing: Preprocessing) -> ModelSpec:
    """Return the spec of a teacher that is known only by its stored logits."""
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
