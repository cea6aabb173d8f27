"""A chain of distillations from one recipe: each assistant learns from those before it, the student from the last or all."""

from copy import copy
from dataclasses import replace
from pathlib import Path

from ..artifacts.classes import class_positions
from ..artifacts.run_folder import RECIPE_NAME, RESULTS_NAME
from ..methods import method_options
from ..methods.registry import get_method
from ..models import label_names, load_model
from ..models.loading import brings_weights
from ..reporting import read_results
from ..training.results import optimization
from .options import say
from .recipe import Recipe
from .run import assistant_folders, find_checkpoint, run, train

# Condensation, masks and transferred weights are for the student alone.
_ASSISTANT = {"student_checkpoint": None, "student_args": None, "mask": None}
_ASSISTANT |= dict.fromkeys(("new_classifier", "freeze_backbone", "condense"), False)


def run_chain(recipe: Recipe) -> None:
    """Train the assistants that have no weights yet, each as a run in `assistant-<number>`, then the student.

    A resumed chain goes on with the first unfinished run.
    """
    if recipe.config.assistants:
        links = assistant_recipes(recipe)
        _check(recipe, links)
        if recipe.args.should_save:
            recipe.save(Path(recipe.args.output_dir) / RECIPE_NAME)
        for link in links:
            if _is_finished(link):
                say(f"The assistant in {link.args.output_dir} is finished.")
                continue
            train(link)
            # No process reads the assistant before the first has written it.
            link.args.distributed_state.wait_for_everyone()
    run(recipe)


def assistant_recipes(recipe: Recipe) -> list[Recipe]:
    """Make the recipes of the assistants that still need training, in order, from the recipe of the chain."""
    folders = assistant_folders(recipe.config, recipe.args.output_dir)
    recipes = []
    for number, name in enumerate(recipe.config.assistants or []):
        if not brings_weights(name):
            own = {**_ASSISTANT, "student": name, "assistants": folders[:number] or None, "resume": recipe.resumes}
            args = copy(recipe.args)
            args.output_dir, args.resume_from_checkpoint, args.push_to_hub = folders[number], None, False
            recipes.append(replace(recipe, config=replace(recipe.config, **own), args=args, kcd=None))
    return recipes


def _check(recipe: Recipe, links: list[Recipe]) -> None:
    """Refuse now what would otherwise fail only after the assistants are trained."""
    method = recipe.args.method
    if not get_method(method).teacher_reads:
        raise ValueError(f"Method {method!r} has no teacher: leave the assistants out, or choose takd or dgkd.")
    config = recipe.config
    options = {"checkpoint": config.teacher_checkpoint, "model_args": config.teacher_args}
    teacher = label_names(load_model(config.teacher, **options))
    for number, name in enumerate(config.assistants, start=1):
        if (names := label_names(load_model(name))) is not None:
            class_positions(names, teacher, f"assistant {number}", "teacher")
    options = {"checkpoint": config.student_checkpoint, "model_args": config.student_args}
    student = label_names(load_model(config.student, **options))
    if student is not None and not config.new_classifier:
        class_positions(student, teacher, "student", "teacher")
    for link in filter(_is_finished, links):
        _check_finished(link)
    if not recipe.resumes:
        for one in (*links, recipe):
            find_checkpoint(one)


def _is_finished(link: Recipe) -> bool:
    return link.config.resume and (Path(link.args.output_dir) / RESULTS_NAME).exists()


def _check_finished(link: Recipe) -> None:
    folder, args = Path(link.args.output_dir), link.args
    results = read_results(folder / RESULTS_NAME)
    options = {**method_options(args.method), **args.method_options}
    wanted = {"student": link.config.student, "data": link.config.data, "method": args.method}
    wanted |= {"method_options": options, "num_epochs": args.num_train_epochs, "seed": args.seed}
    wanted |= {"num_points": link.config.train_points or results["num_points"], **optimization(args)}
    # The keys of the optimization lie one level deeper.
    results = {**results, **results.get("optimisation", {})}
    for name, value in wanted.items():
        # What an optimizer or a schedule did not read is recorded as None.
        if results.get(name) not in (None, value):
            raise ValueError(
                f"{folder} holds an assistant of another chain: {name} is {value} here and {results[name]} there. Choose "
                "another output_dir, or give the folder itself as the assistant."
            )
