"""What `distill` and `train-teacher` share: make data, networks and trainer from a recipe, train, write the run's folder."""

import sys
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import datasets
import torch
from torch import nn

from ..artifacts.classes import class_positions
from ..artifacts.identity import find_columns
from ..artifacts.results import Results, write_results
from ..artifacts.run_folder import MASK_FOLDER, RECIPE_NAME, RESULTS_NAME
from ..artifacts.run_lock import hold_folder
from ..condensation import KnowledgeMask
from ..data import ImageData, KnowledgeDataset, SoftLabels, first_points
from ..methods.registry import get_method
from ..models import label_names
from ..models.loading import brings_weights, load_student, load_trained_model
from ..publishing import push_student
from ..reporting import describe_run, write_run_plots
from ..training import DistillationTrainer, KCDTrainerCallback
from ..training.checkpoint import check_whole, last_whole_checkpoint
from ..training.first_phase import describe_first_phase
from ..training.interruption import TrainingStopped, interruptible
from ..training.progress import show_progress
from ..training.results import run_results
from ..training.seeding import seeded
from .options import RunFailed, RunStopped, say
from .recipe import Recipe, RunConfig


def run(recipe: Recipe, quiet: bool = False) -> Results:
    """Do what `train` does, as the last training of this process."""
    results = train(recipe, quiet)
    if torch.distributed.is_initialized():
        # gloo's threads must not outlive the interpreter; the DDP module that used them is gone with the trainer.
        torch.distributed.destroy_process_group()
    return results


def train(recipe: Recipe, quiet: bool = False) -> Results:
    """Train as a recipe says, write the run's folder, and return what `results.json` holds.

    A ValueError means that the recipe cannot be followed and nothing is written yet; RunFailed, that training stopped.
    """
    config, args = recipe.config, recipe.args
    checkpoint = find_checkpoint(recipe)
    if not sys.stderr.isatty():
        datasets.disable_progress_bars()
    with args.main_process_first(desc="data"):
        data = load_run_data(config)
    with seeded(args.seed):
        trainer = _make_trainer(recipe, data)
    trainer.data_name, trainer.command = config.data, recipe.command
    show_progress(trainer, quiet)
    with hold_folder(args.output_dir) if args.should_save else nullcontext():
        # Another run may have ended here while this one was prepared.
        check_free(recipe)
        return _train(trainer, recipe, checkpoint, quiet)


def _train(trainer: DistillationTrainer, recipe: Recipe, checkpoint: str | None, quiet: bool) -> Results:
    config, args = recipe.config, recipe.args
    folder = Path(args.output_dir)
    if args.should_save:
        recipe.save(folder / RECIPE_NAME)
    if not quiet:
        say(_announcement(trainer, recipe))
    try:
        with interruptible(trainer):
            trainer.train(resume_from_checkpoint=checkpoint)
        trainer.save_networks()
        results = run_results(trainer, data=config.data, command=recipe.command)
        if args.should_save:
            if trainer.kcd is not None and trainer.kcd.mask is not None:
                trainer.kcd.mask.save_pretrained(folder / MASK_FOLDER)
            if config.plots:
                write_run_plots(folder, results, dataset=trainer.train_dataset)
            # Last, because a folder with results is a finished run.
            write_results(folder / RESULTS_NAME, results)
    except TrainingStopped as stop:
        raise RunStopped(f"{stop}, with a whole checkpoint in {folder}") from None
    except (ValueError, RuntimeError, OSError, FloatingPointError) as error:
        # A resumed run repeats its steps to the bit, also one that broke.
        resumable = not isinstance(error, FloatingPointError) and any(folder.glob("checkpoint-*"))
        resume = "; --resume continues from its last checkpoint" if resumable else ""
        raise RunFailed(f"{error} (The run is in {folder}{resume}.)") from error
    if args.push_to_hub and trainer.is_world_process_zero():
        _publish(folder, trainer)
    if not quiet:
        say(describe_run(results, folder))
    return results


def _publish(folder: Path, trainer: DistillationTrainer) -> None:
    args = trainer.args
    try:
        commit = push_student(folder, trainer.hub_model_id, private=args.hub_private_repo, revision=args.hub_revision)
    except (ValueError, OSError) as error:
        again = f"hf-kcd push {folder} {trainer.hub_model_id}"
        raise RunFailed(f"{error} (The run is complete in {folder}; publish it with: {again})") from error
    say(f"Published: {commit.repo_url}")


def _make_trainer(recipe: Recipe, data: ImageData) -> DistillationTrainer:
    config, args = recipe.config, recipe.args
    student, train_set = student_and_training_set(recipe, data)
    if data.eval is None and args.eval_strategy != "no":
        args.eval_strategy = "no"
        advice = "Name one with --eval_split."
        say(f"{config.data} has no split to evaluate on (test, validation, …): the student is not evaluated. {advice}")
    mask = None if config.mask is None else KnowledgeMask.from_pretrained(config.mask)
    teachers = load_teachers(recipe, train_set.num_classes)
    source = SoftLabels.from_pretrained(config.mask) if config.soft_labels else teachers
    callbacks = None if recipe.kcd is None else [KCDTrainerCallback(recipe.kcd)]
    sets = {"train_dataset": train_set, "eval_dataset": data.eval}
    points = {"callbacks": callbacks, "mask": mask, "mask_mixing": config.mask_mixing}
    return DistillationTrainer(student, source, args, **sets, **points)


def student_and_training_set(recipe: Recipe, data: ImageData) -> tuple[nn.Module, KnowledgeDataset]:
    """Make the student and its training set from what `load_run_data` loaded."""
    config, args = recipe.config, recipe.args
    _, label_column = find_columns(data.train, **config.columns)
    num_classes = data.train.features[label_column].num_classes
    transfer = {"new_classifier": config.new_classifier, "freeze_backbone": config.freeze_backbone}
    # The student's first weights are a function of the seed alone.
    with seeded(args.seed):
        options = {**transfer, "model_args": config.student_args}
        student = load_student(config.student, num_classes, config.student_checkpoint, **options)
    brought = config.student_checkpoint is not None or brings_weights(config.student)
    if brought and not config.new_classifier and label_names(student) is None:
        class_positions(None, data.train.features[label_column].names, "student", "training set")
    prepared = data.preprocessing
    if config.image_augmentation is not None:
        prepared = prepared.with_augmentation(config.image_augmentation)
    preprocessing = prepared.for_network(config.image_size)
    if config.image_size is None and config.student_checkpoint is None and brings_weights(config.student):
        preprocessing = prepared.as_network_expects(student)
    return student, KnowledgeDataset(data.train, preprocessing, seed=args.seed, **config.columns)


def teachers_of(recipe: Recipe) -> list[tuple[str, str | None]]:
    """Name the teacher and all assistants of a run, or the last where the method has one, each with its weights' file."""
    config = recipe.config
    if config.teacher is None:
        return []
    assistants = assistant_folders(config, recipe.args.output_dir)
    teachers = [(config.teacher, config.teacher_checkpoint), *((folder, None) for folder in assistants)]
    return teachers if get_method(recipe.args.method).many_teachers else teachers[-1:]


def load_teachers(recipe: Recipe, num_classes: int) -> list[nn.Module]:
    """Load what `teachers_of` names; `teacher_args` are those of the teacher, not of its assistants."""
    own = (recipe.config.teacher, recipe.config.teacher_checkpoint)
    return [
        load_trained_model(name, num_classes, file, recipe.config.teacher_args if (name, file) == own else None)
        for name, file in teachers_of(recipe)
    ]


def assistant_folders(config: RunConfig, output_dir: str) -> list[str]:
    """Name the assistants by the places of their weights, which may still have to be trained."""
    return [
        name if brings_weights(name) else str(Path(output_dir) / f"assistant-{number}")
        for number, name in enumerate(config.assistants or [], start=1)
    ]


def load_run_data(config: RunConfig) -> ImageData:
    """Load the data set of a run, cut to `train_points` where that is given."""
    data = config.load()
    if config.train_points is None:
        return data
    return replace(data, train=first_points(data.train, config.train_points, config.label_column))


def find_checkpoint(recipe: Recipe) -> str | None:
    """Find the checkpoint to continue from; refuse to write over a run."""
    check_free(recipe)
    folder = Path(recipe.args.output_dir)
    if recipe.args.resume_from_checkpoint is not None:
        check_whole(recipe.args.resume_from_checkpoint)
        return recipe.args.resume_from_checkpoint
    if not recipe.config.resume:
        return None
    if not any(folder.glob("checkpoint-*")):
        say(f"{folder} has no checkpoint: starting from the beginning.")
        return None
    checkpoint = last_whole_checkpoint(folder)
    say(f"Continuing from {checkpoint}.")
    return str(checkpoint)


def check_free(recipe: Recipe) -> None:
    """Refuse to write over a finished run, and over an interrupted one that is not resumed."""
    folder = Path(recipe.args.output_dir)
    if (folder / RESULTS_NAME).exists():
        raise ValueError(f"{folder} holds a finished run, which is never written over: choose another output_dir.")
    if not recipe.resumes and any(folder.glob("checkpoint-*")):
        raise ValueError(f"{folder} holds an interrupted run: add --resume, or choose another output_dir.")


def _announcement(trainer: DistillationTrainer, recipe: Recipe) -> str:
    config, args = recipe.config, recipe.args
    num_parameters = sum(parameter.numel() for parameter in trainer.student.parameters())
    sources = [name for name, _ in teachers_of(recipe)]
    if config.soft_labels:
        sources = [f"the soft labels of {trainer.teacher_name}"]
    source = f"from {', '.join(sources)}" if sources else "alone"
    text = (
        f"Training {config.student} ({num_parameters:,} parameters) {source} with method {args.method} on {config.data}: "
        f"{len(trainer.train_dataset):,} points, {args.num_train_epochs} epochs, seed {args.seed}, on {args.device.type}."
    )
    if trainer.method.first_phase is not None:
        text += f"\n{describe_first_phase(trainer.method, trainer.schedule.batches(0))}"
    if (kcd := recipe.kcd) is None:
        return text
    return (
        f"{text}\nCondensing to {kcd.final_ratio:.0%} of the points, one selection per {kcd.epochs_per_stage} epochs by "
        f"{kcd.value}: {trainer.schedule.relative_cost:.2%} of the cost of training on all points."
    )
