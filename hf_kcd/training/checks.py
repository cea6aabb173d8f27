"""What a trainer checks of its parts before anything is written: how it was launched, classes, images."""

import torch
from torch import nn

from ..data import KnowledgeDataset
from ..models import image_config, network_name
from .config import DistillationConfig


def check_launch(args: DistillationConfig) -> None:
    """Refuse to be launched as what shards weights.

    Raises:
        ValueError: For DeepSpeed and FSDP.
    """
    if args.deepspeed or args.fsdp:
        raise ValueError(
            "DeepSpeed and FSDP shard weights that a distillation step needs whole: launch with DDP (torchrun)."
        )
    if args.n_gpu > 1:
        # DataParallel would split batches behind the record's back.
        args._n_gpu = 1


def check_classes(
    student: nn.Module, teachers: list[nn.Module], train: KnowledgeDataset, evaluation: KnowledgeDataset | None
) -> None:
    """Make sure that networks and data have the same number of classes.

    Raises:
        ValueError: When they have not, with each number, or when student and teacher are one object.
    """
    if any(student is teacher for teacher in teachers):
        raise ValueError("Student and teacher are the same object, of which one is frozen: load the network twice.")
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


def check_images(student: nn.Module, size: int) -> None:
    """Make sure that a network takes the data's images, by one of them.

    Raises:
        ValueError: When it does not, with the size that it was made for.
    """
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
