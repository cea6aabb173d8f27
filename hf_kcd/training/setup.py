"""Builds what a `DistillationTrainer` trains: data sets, networks and method that fit together, checked before a step."""

from collections.abc import Mapping
from typing import Any

import datasets
import torch
from torch import nn
from transformers import TrainerCallback
from transformers.utils import logging

from ..artifacts.identity import find_columns
from ..condensation import CondensationSchedule, KnowledgeMask
from ..data import KnowledgeDataset, SoftLabels
from ..methods import DistillationMethod, as_teachers, create_method
from ..methods.registry import get_method
from ..models import label_names, load_model
from ..models.configuration import described_as, set_images
from ..models.saving import rebuild
from .arguments import Network, Teacher
from .callback import KCDTrainerCallback
from .config import DistillationConfig
from .evaluation import EvaluationSets, as_evaluation_sets, as_knowledge_dataset
from .model import DistillationModel
from .networks import (
    as_student_expects,
    check_gradient_checkpointing,
    check_trainable,
    corrupts_memory,
    data_config,
    warn_of_other_images,
)
from .schedules import check_steps
from .soft_labels import check_method, teacher_spec

logger = logging.get_logger(__name__)


def use_one_device(args: DistillationConfig) -> None:
    """Use one device per process."""
    if args.n_gpu > 1:
        # DataParallel would split batches, and the record would miss points.
        args._n_gpu = 1


def find_callback(callbacks: list[TrainerCallback] | None) -> KCDTrainerCallback | None:
    """Find the only `KCDTrainerCallback` among the callbacks."""
    found = [callback for callback in callbacks or [] if isinstance(callback, KCDTrainerCallback)]
    if len(found) > 1:
        raise ValueError(f"{len(found)} KCDTrainerCallbacks would rewrite one selection: pass one.")
    if found:
        check_unused(found[0])
    return found[0] if found else None


def check_unused(callback: KCDTrainerCallback, train_dataset: KnowledgeDataset | None = None) -> None:
    """Refuse a callback that already condenses another data set than that of a trainer, if it has one yet."""
    if callback.condenser is not None and callback.dataset is not train_dataset:
        fault = "This KCDTrainerCallback holds the record and the mask of another trainer"
        raise ValueError(f"{fault}: pass a new one, KCDTrainerCallback(callback.config).")


def check_sources(
    args: DistillationConfig, teacher: Teacher, kcd: KCDTrainerCallback | None, mask: Any, mask_mixing: bool = True
) -> None:
    """Refuse a mask or soft labels under a `KCDTrainerCallback`, and soft labels for a method that needs the network."""
    if mask is None and not mask_mixing:
        raise ValueError("mask_mixing is False, but there is no mask whose points could be mixed: leave it out.")
    if kcd is not None and mask is not None:
        raise ValueError("A mask fixes the points of the whole training: leave out KCDTrainerCallback, or the mask.")
    if isinstance(teacher, SoftLabels):
        check_method(get_method(args.method))
        if kcd is not None:
            raise ValueError(
                "KCDTrainerCallback changes the selection of soft labels: leave it out, and pass the mask."
            )


def build_student_and_data(
    student: Network | None,
    args: DistillationConfig,
    train_dataset: datasets.Dataset | KnowledgeDataset,
    eval_dataset: EvaluationSets | None,
    blends: bool,
) -> tuple[nn.Module | None, KnowledgeDataset, KnowledgeDataset | dict[str, KnowledgeDataset] | None]:
    """Make what was passed by name or as plain data; a training changes only its own copy of a `KnowledgeDataset`.

    There is no student yet where `model_init` makes one for each training.
    """
    if isinstance(train_dataset, datasets.Dataset):
        image_column, label_column = find_columns(train_dataset)
        if isinstance(student, str):
            student = load_model(student, train_dataset.features[label_column].num_classes)
        preprocessing = None if student is None else as_student_expects(student, train_dataset, image_column)
        train_dataset = KnowledgeDataset(train_dataset, preprocessing, seed=args.seed)
    else:
        train_dataset = as_knowledge_dataset(train_dataset, args, training=True)
        student = load_model(student, train_dataset.num_classes) if isinstance(student, str) else student
        if student is not None:
            warn_of_other_images(student, train_dataset)
        train_dataset = train_dataset.copy(blends)
    names = None if student is None else label_names(student)
    # Without names the student is new, as a rule: it learns whatever order the data has.
    if names is not None:
        train_dataset = train_dataset.with_classes(names, "student", "training set")
    return student, train_dataset, as_evaluation_sets(eval_dataset, args, train_dataset)


def build_model(
    student: nn.Module,
    teacher: Teacher,
    args: DistillationConfig,
    train_dataset: KnowledgeDataset,
    eval_dataset: KnowledgeDataset | Mapping[str, KnowledgeDataset] | None,
) -> DistillationModel:
    """Build the module that is trained: the student under its method, with the teachers beside it."""
    soft_labels = teacher if isinstance(teacher, SoftLabels) else None
    num_classes = train_dataset.num_classes
    given = as_teachers(None if soft_labels else teacher)
    teachers = [one if isinstance(one, nn.Module) else load_model(one, num_classes) for one in given]
    _check_classes(student, teachers, train_dataset, eval_dataset)
    roles = [f"assistant {number}" if number else "teacher" for number in range(len(teachers))]
    columns = [train_dataset.columns_of(label_names(one), who) for who, one in zip(roles, teachers, strict=True)]
    preprocessing = train_dataset.preprocessing
    size, images = preprocessing.network_size, data_config(preprocessing)
    # Until it is trained, the student's own configuration stays as it is.
    with described_as(student, images):
        check_trainable(student, size, args.bf16 or args.fp16)
        if args.activation_checkpointing:
            check_gradient_checkpointing(student)
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
        for name, network in method.networks().items():
            set_images(network.pretrained_cfg, images)
            rebuild(network)
            _match_classes(network, name, train_dataset)
        if args.channels_last and args.device.type == "cpu" and (corrupts_memory(student) or corrupts_memory(method)):
            logger.warning(
                "channels_last is off: on a CPU it would corrupt the memory of this network (a fault of oneDNN)."
            )
            args.channels_last = False
        shown = (preprocessing.mean, preprocessing.std, (size, size))
        return DistillationModel(student, method, teachers, *shown, args.channels_last, columns)


def show_teacher(train_dataset: KnowledgeDataset, model: DistillationModel) -> None:
    """Let a teacher that was trained on larger images than the student's see them, where the data has them."""
    method, sizes = model.method, model.teacher_sizes
    changes_images = type(method).prepare_batch is not DistillationMethod.prepare_batch
    changes_students_alone = changes_images and not method.prepares_teacher_images
    needed = None if changes_students_alone or train_dataset.soft_labels is not None else max(sizes, default=None)
    shown = train_dataset.show_teacher(needed)
    student = train_dataset.preprocessing.network_size
    reason = "because the preprocessing keeps no more pixels"
    if changes_students_alone:
        reason = f"because method {method.name!r} changes only the student's (see prepares_teacher_images)"
    for size in sizes:
        if size < student or (size > student and shown is None):
            how = f"enlarged, {reason}" if size > student else "reduced"
            seen = f"is shown the student's {student} x {student}, {how}"
            logger.warning_once(f"The teacher was trained on images of {size} x {size} and {seen}.")


def build_schedule(
    args: DistillationConfig, train_dataset: KnowledgeDataset, kcd: KCDTrainerCallback | None
) -> CondensationSchedule:
    """Build the run's schedule, with its batches known; without condensation it is one stage of whole epochs."""
    epochs = args.num_train_epochs
    if kcd is not None:
        schedule = kcd.config.schedule(train_dataset.num_points, epochs)
        if kcd.config.final_ratio < 1 and schedule.num_kept(epochs - 1) == train_dataset.num_points:
            fault = f"final_ratio={kcd.config.final_ratio} drops none of the {train_dataset.num_points} points"
            raise ValueError(f"{fault} in {schedule.num_stages} stages: lower it, or train for fewer stages.")
    else:
        schedule = CondensationSchedule(len(train_dataset), epochs, epochs, 1.0, first_selection="after_first_stage")
    schedule = schedule.with_batches(
        args.train_batch_size, args.world_size, args.gradient_accumulation_steps, args.dataloader_drop_last
    )
    check_steps(args, schedule)
    return schedule


def check_selection(
    train_dataset: KnowledgeDataset, kcd: KCDTrainerCallback | None, mask: KnowledgeMask | None
) -> None:
    """Refuse a data set whose own selection or mixed images would be given up for those of a callback or a mask."""
    if kcd is None and mask is None:
        return
    num_selected, num_points = len(train_dataset), train_dataset.num_points
    own = f"the training set has a selection of its own ({num_selected:,} of {num_points:,} points)"
    if kcd is not None and train_dataset.is_changed:
        raise ValueError(
            f"KCDTrainerCallback starts from all points as they are, but {own}, or mixed images: call select_all() and "
            "restore_images() on it, or make it of these points alone, KnowledgeDataset(images.select(points))."
        )
    if (
        mask is not None
        and num_selected < num_points
        and not torch.equal(train_dataset.selected, mask.kept.sort().values)
    ):
        raise ValueError(
            f"The mask selects {len(mask.kept):,} points, but {own}: call select_all() on it, or leave the mask out."
        )


def select_points(
    train_dataset: KnowledgeDataset, mask: KnowledgeMask | None, mixing: bool, soft_labels: SoftLabels | None
) -> None:
    """Select a mask's points, and put soft labels into the batches."""
    if mask is not None:
        train_dataset.apply(mask, mixing)
    # Also None: the data set may come from a training with soft labels.
    train_dataset.use_soft_labels(soft_labels)
    num_empty = train_dataset.num_classes - len(train_dataset.labels[train_dataset.selected].unique())
    if num_empty:
        logger.warning(
            f"{num_empty:,} of {train_dataset.num_classes:,} classes have no point to train on: the student will not see them. "
            "Give more points, or data without these classes."
        )


def _check_classes(
    student: nn.Module,
    teachers: list[nn.Module],
    train: KnowledgeDataset,
    evaluation: KnowledgeDataset | Mapping[str, KnowledgeDataset] | None,
) -> None:
    if any(student is teacher for teacher in teachers):
        raise ValueError("Student and teacher are the same object, and the teacher is frozen: load the network twice.")
    first = int(train.labels[0])
    if (train.labels == first).all():
        fault = f"All {train.num_points} points of the training set are of one class ({train.class_names[first]})"
        raise ValueError(f"{fault}: there is nothing to tell apart. Give at least two classes.")
    parts = {"student": student, "training set": train}
    if isinstance(evaluation, Mapping):
        parts |= {f"evaluation set {name}": one for name, one in evaluation.items()}
    else:
        parts["evaluation set"] = evaluation
    parts |= {f"assistant {number}" if number else "teacher": teacher for number, teacher in enumerate(teachers)}
    counts = {name: one.num_classes for name, one in parts.items() if one is not None}
    if len(set(counts.values())) > 1:
        listed = ", ".join(f"{name} {count}" for name, count in counts.items())
        raise ValueError(
            f"Numbers of classes differ: {listed}. Make networks with "
            f"num_classes={train.num_classes}, or choose weights of this data; --new_classifier transfers a student."
        )


def _match_classes(network: nn.Module, name: str, dataset: KnowledgeDataset) -> None:
    """Let a network that learns along, and knows its classes in another order, answer in the order of the data's."""
    if (names := label_names(network)) is None:
        return
    columns = dataset.columns_of(names, name)
    if columns is not None:
        network.register_buffer("class_columns", torch.tensor(columns), persistent=False)
        network.register_forward_hook(lambda module, images, logits: logits.index_select(1, module.class_columns))
