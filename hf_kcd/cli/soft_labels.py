"""Soft labels of a finished run: its teacher's answers on the points of its mask, on the images that its student saw."""

from pathlib import Path

from ..artifacts.run_folder import MASK_FOLDER
from ..condensation import KnowledgeMask
from ..data import SoftLabels
from ..methods import method_options
from ..models.loading import load_trained_model
from ..training.soft_labels import make_soft_labels
from .recipe import run_recipe
from .run import load_run_data, student_and_training_set, teachers_of


def soft_labels_of_run(run_folder: str | Path, *, num_views: int = 4, top_k: int = 0, bits: int = 8) -> SoftLabels:
    """Make soft labels for the mask of a finished run, with the run's teacher, images, seed and temperature.

    Args:
        run_folder: Folder of a run that condensed; its recipe.yaml and mask/ are read.
        num_views: Views of every point.
        top_k: Classes to store per row; 0 for all.
        bits: Bits of a logit, 8 or 16.

    Raises:
        FileNotFoundError: When the folder has no recipe or no mask.
        ValueError: When the run has no teacher or several, or a number is out of range.
    """
    recipe = run_recipe(run_folder)
    teachers = teachers_of(recipe)
    if len(teachers) != 1:
        raise ValueError(
            f"Soft labels come from one teacher, and the run in {run_folder} learned from {len(teachers) or 'none'}: leave "
            "them out."
        )
    mask = KnowledgeMask.from_pretrained(Path(run_folder) / MASK_FOLDER)
    _, dataset = student_and_training_set(recipe, load_run_data(recipe.config))
    dataset.apply(mask)
    name, checkpoint = teachers[0]
    options = {**method_options(recipe.args.method), **recipe.args.method_options}
    return make_soft_labels(
        load_trained_model(name, dataset.num_classes, checkpoint),
        dataset,
        num_views,
        top_k,
        bits,
        options.get("temperature") or 4.0,
        recipe.args.per_device_eval_batch_size,
        recipe.args.device,
        recipe.args.dataloader_num_workers,
    )
