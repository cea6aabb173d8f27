"""A chain of distillations from one recipe: each assistant learns from those before it, the student from the last or all."""

from copy import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..artifacts.results import Results
from ..artifacts.run_folder import RECIPE_NAME, RESULTS_NAME
from ..methods import method_options
from ..methods.registry import get_method
from ..models import load_model
from ..models.loading import brings_weights
from ..reporting import describe_run, read_results
from .options import say
from .recipe import Recipe
from .run import assistant_folders, find_checkpoint, run, train


def run_chain(recipe: Recipe, command: str | None = None, quiet: bool = False) -> Results:
    """Train the assistants of a recipe that have no weights yet, then its student.

    Each assistant is a run of its own in `assistant-<number>` of the output folder, with the recipe's method and settings, on
    all points: condensation and masks are for the student. A resumed chain goes on with the first unfinished run.

    Args:
        recipe: What to train and how.
        command: The command line, for the results.
        quiet: Print nothing while training.

    Returns:
        The student's results.

    Raises:
        ValueError: When the recipe cannot be followed, or a finished assistant has other settings.
        RunFailed: When a training stops.
    """
    if recipe.config.assistants:
        links = assistant_recipes(recipe)
        _check(recipe, links)
        if recipe.args.should_save:
            recipe.save(Path(recipe.args.output_dir) / RECIPE_NAME)
        for link in links:
            _train_assistant(link, command, quiet)
    return run(recipe, command, quiet)


def assistant_recipes(recipe: Recipe) -> list[Recipe]:
    """Make the recipes of the assistants that still need training, in order, from the recipe of the chain."""
    folders = assistant_folders(recipe.config, recipe.args.output_dir)
    recipes = []
    for number, name in enumerate(recipe.config.assistants or []):
        if brings_weights(name):
            continue
        config = replace(
            recipe.config,
            student=name,
            student_checkpoint=None,
            new_classifier=False,
            freeze_backbone=False,
            assistants=folders[:number] or None,
            mask=None,
            condense=False,
            resume=_resumes(recipe),
        )
        args = copy(recipe.args)
        args.output_dir = folders[number]
        args.resume_from_checkpoint = None
        args.push_to_hub = False
        recipes.append(replace(recipe, config=config, args=args, kcd=None))
    return recipes


def _check(recipe: Recipe, links: list[Recipe]) -> None:
    """Refuse now what would otherwise fail only after the assistants are trained."""
    method = recipe.args.method
    if not get_method(method).teacher_reads:
        raise ValueError(
            f"Method {method!r} has no teacher, and so no assistants: leave them out, or choose takd or dgkd."
        )
    for name in recipe.config.assistants:
        load_model(name)
    load_model(recipe.config.student, checkpoint=recipe.config.student_checkpoint)
    for link in links:
        if (Path(link.args.output_dir) / RESULTS_NAME).exists() and link.config.resume:
            _check_finished(link)
    if not _resumes(recipe):
        for one in (*links, recipe):
            find_checkpoint(one)


def _check_finished(link: Recipe) -> None:
    folder, args = Path(link.args.output_dir), link.args
    results = read_results(folder / RESULTS_NAME)
    wanted: dict[str, Any] = {
        "student": link.config.student,
        "data": link.config.data,
        "method": args.method,
        "method_options": {**method_options(args.method), **args.method_options},
        "num_epochs": args.num_train_epochs,
        "seed": args.seed,
    }
    for name, value in wanted.items():
        if results[name] != value:
            raise ValueError(
                f"{folder} holds an assistant of another chain: {name} is {value} here and {results[name]} there. Choose "
                "another output_dir, or give the folder itself as the assistant."
            )


def _train_assistant(link: Recipe, command: str | None, quiet: bool) -> None:
    folder = Path(link.args.output_dir)
    if link.config.resume and (folder / RESULTS_NAME).exists():
        say(f"The assistant in {folder} is finished.")
        return
    results = train(link, command, quiet)
    if not quiet:
        say(describe_run(results, folder))
    # No process reads the assistant before the first has written it.
    link.args.distributed_state.wait_for_everyone()


def _resumes(recipe: Recipe) -> bool:
    return recipe.config.resume or recipe.args.resume_from_checkpoint is not None
