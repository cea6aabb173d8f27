"""What `distill` and `train-teacher` share: data, networks and trainer from a recipe; train; write everything."""

import os
import sys
from pathlib import Path

import datasets
import timm
import torch
from torch import nn
from transformers import set_seed

from ..artifacts.identity import find_columns
from ..artifacts.results import Results, write_results
from ..artifacts.run_folder import MASK_FOLDER, RECIPE_NAME, RESULTS_NAME, STAGES_FOLDER
from ..condensation import KnowledgeMask
from ..data import ImageData, KnowledgeDataset, Preprocessing, SoftLabels, first_points, load_image_data
from ..methods.registry import get_method
from ..models import load_model
from ..publishing import push_student
from ..reporting import write_run_plots
from ..training import DistillationTrainer, KCDTrainerCallback
from ..training.checkpoint import last_whole_checkpoint
from ..training.results import run_results
from .interruption import interruptible
from .progress import show_progress
from .recipe import Recipe, RunConfig


class RunFailed(Exception):
    """A training that had begun and could not go on; the message says why."""


def run(recipe: Recipe, command: str | None = None, quiet: bool = False) -> Results:
    """Do what `train` does, as the last thing that the process trains."""
    results = train(recipe, command, quiet)
    if torch.distributed.is_initialized():
        # gloo's threads must not outlive the interpreter; the DDP module that uses them went with the trainer.
        torch.distributed.destroy_process_group()
    return results


def train(recipe: Recipe, command: str | None = None, quiet: bool = False) -> Results:
    """Train as a recipe says and write the run's folder.

    Args:
        recipe: What to train and how.
        command: The command line, for the results.
        quiet: Print nothing while training.

    Returns:
        The results, as `results.json` has them.

    Raises:
        ValueError: When the recipe cannot be followed; nothing has been written yet.
        RunFailed: When the training itself stops.
    """
    config, args = recipe.config, recipe.args
    checkpoint = find_checkpoint(recipe)
    if not sys.stderr.isatty():
        datasets.disable_progress_bars()
    with args.main_process_first(desc="data"):
        data = load_run_data(config)
    trainer = make_trainer(recipe, data)
    trainer.data_name, trainer.command = config.data, command
    show_progress(trainer, quiet)
    folder = Path(args.output_dir)
    if args.should_save:
        recipe.save(folder / RECIPE_NAME)
    if not quiet:
        say(_announcement(trainer, recipe))
    try:
        with interruptible(trainer):
            trainer.train(resume_from_checkpoint=checkpoint)
        trainer.save_networks()
        results = run_results(trainer, data=config.data, command=command)
        if args.should_save:
            if trainer.kcd is not None and trainer.kcd.mask is not None:
                trainer.kcd.mask.save_pretrained(folder / MASK_FOLDER)
            if config.plots:
                draw_plots(folder, results, trainer.train_dataset)
            # Last, because a folder with results is a finished run.
            write_results(folder / RESULTS_NAME, results)
    except (ValueError, RuntimeError, OSError, FloatingPointError) as error:
        raise RunFailed(f"{error} (The run is in {folder}; --resume continues from its last checkpoint.)") from error
    if args.push_to_hub and trainer.is_world_process_zero():
        _publish(folder, trainer)
    return results


def _publish(folder: Path, trainer: DistillationTrainer) -> None:
    args = trainer.args
    try:
        commit = push_student(folder, trainer.hub_model_id, private=args.hub_private_repo, revision=args.hub_revision)
    except (ValueError, OSError) as error:
        raise RunFailed(
            f"{error} (The run is finished and whole in {folder}; hf-kcd push {folder} {trainer.hub_model_id} publishes it.)"
        ) from error
    say(f"Published: {commit.repo_url}")


def make_trainer(recipe: Recipe, data: ImageData) -> DistillationTrainer:
    """Make the networks, the data sets and the trainer of a recipe.

    Args:
        recipe: What to train and how.
        data: What `load_run_data` loaded.
    """
    config, args = recipe.config, recipe.args
    student, train = student_and_training_set(recipe, data)
    evaluation = None
    if data.eval is None:
        args.eval_strategy = "no"
    else:
        columns = {"image_column": config.image_column, "label_column": config.label_column}
        evaluation = KnowledgeDataset(data.eval, train.preprocessing, training=False, **columns)
    mask = None if config.mask is None else KnowledgeMask.from_pretrained(config.mask)
    teachers = [load_trained_model(name, train.num_classes, checkpoint) for name, checkpoint in teachers_of(recipe)]
    return DistillationTrainer(
        student,
        SoftLabels.from_pretrained(config.mask) if config.soft_labels else teachers,
        args,
        train_dataset=train,
        eval_dataset=evaluation,
        callbacks=None if recipe.kcd is None else [KCDTrainerCallback(recipe.kcd)],
        mask=mask,
        mask_mixing=config.mask_mixing,
    )


def student_and_training_set(recipe: Recipe, data: ImageData) -> tuple[nn.Module, KnowledgeDataset]:
    """Make the network that is trained, and the training set as it is shown to it.

    Args:
        recipe: What to train and how.
        data: What `load_run_data` loaded.
    """
    config, args = recipe.config, recipe.args
    label_column = find_columns(data.train, config.image_column, config.label_column)[1]
    # The student's first weights are a function of the seed alone.
    set_seed(args.seed)
    student = load_student(config, data.train.features[label_column].num_classes)
    images = data.preprocessing.for_network(config.image_size)
    if config.image_size is None and config.student_checkpoint is None and brings_weights(config.student):
        images = recipe_of_network(data.preprocessing, student)
    columns = {"image_column": config.image_column, "label_column": config.label_column}
    return student, KnowledgeDataset(data.train, images, seed=args.seed, **columns)


def teachers_of(recipe: Recipe) -> list[tuple[str, str | None]]:
    """Name the networks that a run learns from, each with its file of weights if it has one.

    Returns:
        The teacher and all assistants for a method of several teachers, the last of them for any other.
    """
    config = recipe.config
    if config.teacher is None:
        return []
    assistants = assistant_folders(config, recipe.args.output_dir)
    teachers = [(config.teacher, config.teacher_checkpoint), *((folder, None) for folder in assistants)]
    return teachers if get_method(recipe.args.method).many_teachers else teachers[-1:]


def assistant_folders(config: RunConfig, output_dir: str) -> list[str]:
    """Name the assistants by where their weights are, or will be once they have been trained."""
    return [
        name if brings_weights(name) else str(Path(output_dir) / f"assistant-{number}")
        for number, name in enumerate(config.assistants or [], start=1)
    ]


def load_run_data(config: RunConfig) -> ImageData:
    """Load a run's data set, cut to `train_points` where that is given."""
    data = load_image_data(
        config.data,
        config.data_dir,
        train_split=config.train_split,
        eval_split=config.eval_split,
        image_column=config.image_column,
        label_column=config.label_column,
    )
    if config.train_points is None:
        return data
    train = first_points(data.train, config.train_points, config.label_column)
    return ImageData(train, data.eval, data.preprocessing, data.name)


def load_student(config: RunConfig, num_classes: int) -> nn.Module:
    """Make the network that is trained: new, from weights, or transferred to other classes.

    Args:
        config: What is trained.
        num_classes: Number of classes of the data.

    Raises:
        ValueError: When it has other classes and no new classifier was asked for, or has no weights to transfer.
    """
    if config.student_checkpoint is None and not brings_weights(config.student):
        for name in ("new_classifier", "freeze_backbone"):
            if getattr(config, name):
                raise ValueError(
                    f"{name} was asked for, but {config.student} starts without weights: give student_checkpoint, a "
                    "folder, or a timm name with a tag such as resnet34.tv_in1k."
                )
        return load_model(config.student, num_classes)
    student = load_model(config.student, checkpoint=config.student_checkpoint)
    if config.new_classifier:
        student.reset_classifier(num_classes)
    elif student.num_classes != num_classes:
        raise ValueError(
            f"{config.student_checkpoint or config.student} has {student.num_classes} classes and the data has "
            f"{num_classes}: add --new_classifier to transfer it to them."
        )
    if config.freeze_backbone:
        student.requires_grad_(False)
        classifier = student.get_classifier()
        for layer in classifier if isinstance(classifier, tuple) else (classifier,):
            layer.requires_grad_(True)
    return student


def brings_weights(name: str) -> bool:
    """Whether a network's name stands for weights: a tag, a folder or a Hub id does, a bare timm name does not."""
    return "." in name or not timm.is_model(name)


def recipe_of_network(recipe: Preprocessing, model: nn.Module) -> Preprocessing:
    """Prepare a data set's images as the configuration of a network says that its own were.

    Args:
        recipe: The data set's own recipe.
        model: A timm network.
    """
    return recipe.as_network_expects(model)


def load_trained_model(name: str, num_classes: int, checkpoint: str | None = None) -> nn.Module:
    """Load a network with weights that somebody trained.

    Args:
        name: What `load_model` takes.
        num_classes: Number of classes of the data.
        checkpoint: File with weights, for a network by its timm name.

    Raises:
        ValueError: When the name stands for a network without weights.
    """
    if checkpoint is None and not brings_weights(name):
        raise ValueError(
            f"{name} names a network without weights: give the file that has them (teacher_checkpoint; --checkpoint of "
            "hf-kcd evaluate), a run's folder in place of the name, or a timm name with a tag such as resnet34.tv_in1k."
        )
    return load_model(name, num_classes, checkpoint)


def draw_plots(folder: Path, results: Results, dataset: KnowledgeDataset | None) -> list[Path]:
    """Draw the plots of a finished run into its folder."""
    masks = [KnowledgeMask.from_pretrained(stage) for stage in sorted((folder / STAGES_FOLDER).glob("stage-*"))]
    return write_run_plots(folder, results, masks, dataset)


def say(text: str) -> None:
    """Print, once however many processes there are."""
    if os.environ.get("RANK", "0") == "0":
        print(text, flush=True)


def summary(results: Results, folder: str | Path) -> str:
    """Say in a few lines how a run ended."""
    lines = [f"\n{results['student']} on {results['data']}, method {results['method']}"]
    if results["accuracy"] is not None:
        last, best = results["accuracy"]["last"], results["accuracy"]["best"]
        lines.append(
            f"  accuracy  top-1 {last['top1']:.2f} %, top-5 {last['top5']:.2f} % after the last epoch "
            f"(best top-1 {best['top1']:.2f} %, epoch {best['epoch']:g})"
        )
    cost, seconds = results["cost"], results["seconds"]["training"]
    lines.append(f"  cost      {cost['paid']:.2%} of the points of a whole training (planned {cost['planned']:.2%})")
    if cost.get("step") not in (None, 1.0):
        lines.append(
            f"            {cost['paid'] * cost['step']:.2%} of its computation, a step being {cost['step']:.2f} of one of KD"
        )
    lines.append(f"  time      {seconds:.1f} s of training")
    lines.append(f"  folder    {folder}")
    for name, accuracy in results["networks"].items():
        reached = "" if accuracy is None else f", top-1 {accuracy['last']['top1']:.2f} %"
        lines.append(f"  beside it {Path(folder) / name}{reached}")
    return "\n".join(lines)


def find_checkpoint(recipe: Recipe) -> str | None:
    """Find what to continue from, and refuse to write over a run."""
    folder = Path(recipe.args.output_dir)
    if recipe.args.resume_from_checkpoint is not None:
        return recipe.args.resume_from_checkpoint
    if recipe.config.resume:
        try:
            checkpoint = last_whole_checkpoint(folder)
        except FileNotFoundError:
            say(f"{folder} has no whole checkpoint: starting from the beginning.")
            return None
        say(f"Continuing from {checkpoint}.")
        return str(checkpoint)
    if (folder / RESULTS_NAME).exists():
        raise ValueError(f"{folder} holds a finished run: choose another output_dir, or add --resume to continue it.")
    if any(folder.glob("checkpoint-*")):
        raise ValueError(
            f"{folder} holds a run that was interrupted: add --resume to continue it, or choose another output_dir."
        )
    return None


def _announcement(trainer: DistillationTrainer, recipe: Recipe) -> str:
    config, args = recipe.config, recipe.args
    num_parameters = sum(parameter.numel() for parameter in trainer.student.parameters())
    sources = [name for name, _ in teachers_of(recipe)]
    if config.soft_labels:
        sources = [f"the soft labels of {trainer.teacher_name}"]
    source = f"from {', '.join(sources)}" if sources else "alone"
    lines = [
        f"Training {config.student} ({num_parameters:,} parameters) {source} with method {args.method} on {config.data}: "
        f"{len(trainer.train_dataset):,} points, {args.num_train_epochs} epochs, seed {args.seed}, on {args.device.type}."
    ]
    if recipe.kcd is not None:
        schedule = trainer.schedule
        lines.append(
            f"Condensing to {recipe.kcd.final_ratio:.0%} of the points, T = {recipe.kcd.epochs_per_stage} epochs a stage, by "
            f"{recipe.kcd.value}: {schedule.relative_cost:.2%} of the cost of training on all."
        )
    return "\n".join(lines)
