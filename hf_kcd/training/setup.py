"""Builds what a `DistillationTrainer` trains: data sets, networks and method that fit together, checked before a step."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from transformers import TrainerCallback

from ..condensation import CondensationSchedule, KnowledgeMask
from ..data import KnowledgeDataset, Preprocessing, SoftLabels
from ..methods import as_teachers, create_method
from ..methods.registry import get_method
from ..models import image_config, load_model, network_name
from .callback import KCDTrainerCallback
from .config import DistillationConfig
from .model import DistillationModel
from .soft_labels import check_method, teacher_spec

Network = nn.Module | str
Teacher = Network | Sequence[Network] | SoftLabels | None


def check_launch(args: DistillationConfig) -> None:
    """Refuse launchers that shard weights.

    Raises:
        ValueError: For DeepSpeed and FSDP.
    """
    if args.deepspeed or args.fsdp:
        raise ValueError(
            "DeepSpeed and FSDP shard weights that a distillation step needs whole: launch with DDP (torchrun)."
        )
    if args.n_gpu > 1:
        # DataParallel would split batches, and the record would miss points.
        args._n_gpu = 1


def find_callback(callbacks: list[TrainerCallback] | None) -> KCDTrainerCallback | None:
    """Find the `KCDTrainerCallback` among the callbacks.

    Raises:
        ValueError: When there are several.
    """
    found = [callback for callback in callbacks or [] if isinstance(callback, KCDTrainerCallback)]
    if len(found) > 1:
        raise ValueError(f"{len(found)} KCDTrainerCallbacks would rewrite one selection: pass one.")
    return found[0] if found else None


def check_sources(args: DistillationConfig, teacher: Teacher, kcd: KCDTrainerCallback | None, mask: Any) -> None:
    """Refuse sources of points and of knowledge that exclude each other.

    Raises:
        ValueError: For a mask or soft labels under a `KCDTrainerCallback`, and soft labels for a method that needs the
            network.
    """
    if kcd is not None and mask is not None:
        raise ValueError("A mask fixes the points of the whole training: leave out KCDTrainerCallback, or the mask.")
    if isinstance(teacher, SoftLabels):
        check_method(get_method(args.method))
        if kcd is not None:
            raise ValueError(
                "Soft labels belong to one selection, and KCDTrainerCallback would change it: leave it out, and pass the mask."
            )


def build_model(
    student: Network,
    teacher: Teacher,
    args: DistillationConfig,
    train_dataset: KnowledgeDataset,
    eval_dataset: KnowledgeDataset | None,
) -> DistillationModel:
    """Build the module that is trained: the student under its method, with the teachers beside it.

    Args:
        student: The student, or its name.
        teacher: The teacher, its name, several of them, its soft labels, or None.
        args: The run's configuration.
        train_dataset: The training set.
        eval_dataset: The evaluation set.

    Raises:
        ValueError: For networks and data that do not fit together.
    """
    soft_labels = teacher if isinstance(teacher, SoftLabels) else None
    student, *teachers = (
        load_model(network, train_dataset.num_classes) if isinstance(network, str) else network
        for network in (student, *as_teachers(None if soft_labels else teacher))
    )
    _check_classes(student, teachers, train_dataset, eval_dataset)
    preprocessing = train_dataset.preprocessing
    size = preprocessing.network_size
    _check_images(student, size)
    # What the student sees from now on. Its configuration says so when it is saved, or becomes a teacher.
    student.pretrained_cfg.update(_data_config(preprocessing))
    method = create_method(
        args.method,
        student,
        teachers if soft_labels is None else teacher_spec(soft_labels, preprocessing),
        train_dataset.num_points,
        student_layers=args.student_layers,
        teacher_layers=args.teacher_layers,
        **args.method_options,
    )
    method.labels = train_dataset.labels
    for network in method.networks().values():
        network.pretrained_cfg.update(_data_config(preprocessing))
    model = DistillationModel(student, method, teachers, preprocessing.mean, preprocessing.std, (size, size))
    return model.to(memory_format=torch.channels_last) if args.channels_last else model


def build_schedule(
    args: DistillationConfig, train_dataset: KnowledgeDataset, kcd: KCDTrainerCallback | None
) -> CondensationSchedule:
    """Build the run's schedule, with its batches known; without condensation it is one stage of whole epochs."""
    epochs = args.num_train_epochs
    if kcd is not None:
        schedule = kcd.config.schedule(train_dataset.num_points, epochs)
    else:
        schedule = CondensationSchedule(
            len(train_dataset), epochs, epochs, final_ratio=1.0, first_selection="after_first_stage"
        )
    return schedule.with_batches(
        args.train_batch_size, args.world_size, args.gradient_accumulation_steps, args.dataloader_drop_last
    )


def select_points(
    train_dataset: KnowledgeDataset, mask: KnowledgeMask | None, mixing: bool, soft_labels: SoftLabels | None
) -> None:
    """Select a mask's points, and put soft labels into the batches."""
    if mask is not None:
        train_dataset.apply(mask, mixing)
    # Also None: the data set may come from a training with soft labels.
    train_dataset.use_soft_labels(soft_labels)


def _check_classes(
    student: nn.Module, teachers: list[nn.Module], train: KnowledgeDataset, evaluation: KnowledgeDataset | None
) -> None:
    if any(student is teacher for teacher in teachers):
        raise ValueError("Student and teacher are the same object, and the teacher is frozen: load the network twice.")
    counts = {"student": student.num_classes, "training set": train.num_classes}
    for number, teacher in enumerate(teachers):
        counts["teacher" if number == 0 else f"assistant {number}"] = teacher.num_classes
    if evaluation is not None:
        counts["evaluation set"] = evaluation.num_classes
    if len(set(counts.values())) > 1:
        listed = ", ".join(f"{name} {count}" for name, count in counts.items())
        raise ValueError(
            f"Numbers of classes differ: {listed}. Create the networks with num_classes={train.num_classes}."
        )


def _check_images(student: nn.Module, size: int) -> None:
    """Run the student once on an image of the data's size."""
    weight = next(student.parameters())
    training = student.training
    student.eval()
    try:
        with torch.no_grad():
            student(torch.zeros(1, 3, size, size, device=weight.device, dtype=weight.dtype))
    except (RuntimeError, ValueError, AssertionError) as error:
        own = image_config(student).input_size
        raise ValueError(
            f"{network_name(student)} does not take the data's images of 3 x {size} x {size}: {error} It was made for "
            f"{' x '.join(map(str, own))}: create it for the data's size, or have the images resized (image_size on the command "
            "line, Preprocessing.for_network in Python)."
        ) from error
    finally:
        student.train(training)


def _data_config(preprocessing: Preprocessing) -> dict[str, Any]:
    """Return how an image is prepared for the student, in timm's terms; evaluation takes the center of larger images."""
    return {
        "input_size": (3, preprocessing.network_size, preprocessing.network_size),
        "mean": preprocessing.mean,
        "std": preprocessing.std,
        "interpolation": "bilinear",
        "crop_pct": 0.875 if preprocessing.any_size else 1.0,
    }
