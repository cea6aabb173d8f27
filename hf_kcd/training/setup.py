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


# Arguments of transformers.Trainer that cannot work here, each with the reason and the way out.
_REFUSED = {
    "data_collator": "batches come ready from KnowledgeDataset: choose how images are prepared with a Preprocessing",
    "compute_loss_func": "the method computes the loss: register a DistillationMethod",
    "model_init": "a method is built for one student: make a trainer for each trial",
    "preprocess_logits_for_metrics": "it belongs to metrics of your own: give compute_metrics too",
}


def check_arguments(arguments: dict[str, Any]) -> None:
    """Refuse arguments of `transformers.Trainer` that cannot work here."""
    for name, reason in _REFUSED.items():
        if arguments.get(name) is not None:
            raise ValueError(f"{name} is not taken: {reason}.")


def check_launch(args: DistillationConfig) -> None:
    """Refuse launchers that shard weights, DeepSpeed and FSDP."""
    if args.deepspeed or args.fsdp:
        raise ValueError("DeepSpeed and FSDP shard weights that a step needs whole: launch with DDP (torchrun).")
    if args.n_gpu > 1:
        # DataParallel would split batches, and the record would miss points.
        args._n_gpu = 1


def find_callback(callbacks: list[TrainerCallback] | None) -> KCDTrainerCallback | None:
    """Find the only `KCDTrainerCallback` among the callbacks."""
    found = [callback for callback in callbacks or [] if isinstance(callback, KCDTrainerCallback)]
    if len(found) > 1:
        raise ValueError(f"{len(found)} KCDTrainerCallbacks would rewrite one selection: pass one.")
    return found[0] if found else None


def check_sources(args: DistillationConfig, teacher: Teacher, kcd: KCDTrainerCallback | None, mask: Any) -> None:
    """Refuse a mask or soft labels under a `KCDTrainerCallback`, and soft labels for a method that needs the network."""
    if kcd is not None and mask is not None:
        raise ValueError("A mask fixes the points of the whole training: leave out KCDTrainerCallback, or the mask.")
    if isinstance(teacher, SoftLabels):
        check_method(get_method(args.method))
        if kcd is not None:
            raise ValueError(
                "KCDTrainerCallback changes the selection of soft labels: leave it out, and pass the mask."
            )


def build_model(
    student: Network,
    teacher: Teacher,
    args: DistillationConfig,
    train_dataset: KnowledgeDataset,
    eval_dataset: KnowledgeDataset | None,
) -> DistillationModel:
    """Build the module that is trained: the student under its method, with the teachers beside it."""
    soft_labels = teacher if isinstance(teacher, SoftLabels) else None
    networks = (student, *as_teachers(None if soft_labels else teacher))
    num_classes = train_dataset.num_classes
    student, *teachers = (load_model(one, num_classes) if isinstance(one, str) else one for one in networks)
    if not any(weight.requires_grad for weight in student.parameters()):
        raise ValueError(
            "The student has no trainable weights, like a copy of a frozen teacher: call requires_grad_(True)."
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


def check_optimizer(optimizer: torch.optim.Optimizer | None, method: nn.Module) -> None:
    """Refuse an optimizer of the user that leaves out weights that a method trains, such as adapters."""
    if optimizer is None:
        return
    held = {id(weight) for group in optimizer.param_groups for weight in group["params"]}
    missing = [name for name, weight in method.named_parameters() if weight.requires_grad and id(weight) not in held]
    if missing:
        fault = f"The optimizer leaves out weights that the method trains ({', '.join(missing[:3])})"
        raise ValueError(f"{fault}: set optim, or pass optimizer_cls_and_kwargs, so that it gets them too.")


def build_schedule(
    args: DistillationConfig, train_dataset: KnowledgeDataset, kcd: KCDTrainerCallback | None
) -> CondensationSchedule:
    """Build the run's schedule, with its batches known; without condensation it is one stage of whole epochs."""
    epochs = args.num_train_epochs
    if kcd is not None:
        schedule = kcd.config.schedule(train_dataset.num_points, epochs)
    else:
        schedule = CondensationSchedule(len(train_dataset), epochs, epochs, 1.0, first_selection="after_first_stage")
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
    parts = {"student": student, "training set": train, "evaluation set": evaluation}
    parts |= {f"assistant {number}" if number else "teacher": teacher for number, teacher in enumerate(teachers)}
    counts = {name: one.num_classes for name, one in parts.items() if one is not None}
    if len(set(counts.values())) > 1:
        listed = ", ".join(f"{name} {count}" for name, count in counts.items())
        raise ValueError(
            f"Numbers of classes differ: {listed}. Make networks with "
            f"num_classes={train.num_classes}, or choose weights of this data; --new_classifier transfers a student."
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
        own = " x ".join(map(str, image_config(student).input_size))
        raise ValueError(
            f"{network_name(student)} does not take the data's images of 3 x {size} x {size}: {error} It was made for {own}: "
            f"create it for this size where it takes one (student_args, e.g. '{{img_size: {size}}}'), or resize the images "
            "(image_size, in Python Preprocessing.for_network)."
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
