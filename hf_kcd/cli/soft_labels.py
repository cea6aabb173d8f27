"""Soft labels of a finished run: its teacher's answers on the points of its mask, on the images that its student saw."""

from collections.abc import Sequence
from pathlib import Path

from ..artifacts.run_folder import MASK_FOLDER, RECIPE_NAME
from ..condensation import KnowledgeMask
from ..data import SoftLabels
from ..methods import method_options
from ..training.soft_labels import make_soft_labels
from .recipe import read_recipe
from .run import load_run_data, load_teachers, student_and_training_set, teachers_of


def soft_labels_of_run(
    run_folder: str | Path, *, num_views: int = 4, top_k: int = 0, bits: int = 8, data: Sequence[str] = ()
) -> SoftLabels:
    """Make soft labels for the mask of a finished run, with the run's teacher, images, seed and temperature.

    `top_k` is the number of classes to store per row, 0 for all; `bits` are those of a logit, 8 or 16. `data` are options of
    the command line that name the data where they are not as in the run's recipe.
    """
    path = Path(run_folder) / RECIPE_NAME
    if not path.is_file():
        raise FileNotFoundError(f"{run_folder} has no {RECIPE_NAME}: give the folder that a run was written to.")
    recipe = read_recipe("distill", ["--config", str(path), "--output_dir", str(run_folder), *data])
    args, number = recipe.args, len(teachers_of(recipe))
    if number != 1:
        raise ValueError(
            f"Soft labels need one teacher, and {run_folder} learned from {number or 'none'}: leave them out."
        )
    mask = KnowledgeMask.from_pretrained(Path(run_folder) / MASK_FOLDER)
    _, dataset = student_and_training_set(recipe, load_run_data(recipe.config))
    # Both are published together.
    dataset = dataset.with_classes(mask.dataset.class_names, "knowledge mask")
    dataset.apply(mask)
    (teacher,) = load_teachers(recipe, dataset.num_classes)
    options = {**method_options(args.method), **args.method_options}
    temperature, batch_size = options.get("temperature") or 4.0, args.per_device_eval_batch_size
    settings = (num_views, top_k, bits, temperature, batch_size, args.device, args.dataloader_num_workers)
    return make_soft_labels(teacher, dataset, *settings)
