"""What a trainer asks of the networks that it gets: the student first of all."""

from typing import Any

import torch
from torch import nn
from transformers.utils import logging

from ..data import KnowledgeDataset, Preprocessing, guess_preprocessing
from ..data.preprocessing import check_channels
from ..models import image_config, network_name
from ..models.lending import lent
from ..models.loading import knows_its_images
from ..models.saving import not_rebuilt, rebuild

logger = logging.get_logger(__name__)


def data_config(preprocessing: Preprocessing) -> dict[str, Any]:
    """Return how an image is prepared for the student, in timm's terms; evaluation takes the center of larger images."""
    return {
        "input_size": (3, preprocessing.network_size, preprocessing.network_size),
        "mean": preprocessing.mean,
        "std": preprocessing.std,
        "interpolation": preprocessing.interpolation,
        "crop_pct": preprocessing.shown_share,
        "crop_mode": preprocessing.crop_mode,
    }


def check_trainable(student: nn.Module, size: int, mixed_precision: bool) -> None:
    """Refuse a student that cannot be trained on the data's images, or could not be loaded once it is saved."""
    weight = next((weight for weight in student.parameters() if weight.requires_grad), None)
    if weight is None:
        raise ValueError(
            "The student has no trainable weights, like a copy of a frozen teacher: call requires_grad_(True)."
        )
    half = {weight.dtype for weight in student.parameters() if weight.dtype in (torch.float16, torch.bfloat16)}
    if torch.float16 in half or (half and not mixed_precision):
        advice = "call student.float(), and pass bf16=True or fp16=True to compute in half precision"
        raise ValueError(f"The student has weights of {half.pop()}, and images and gradients are float32: {advice}.")
    check_channels(network_name(student), image_config(student).input_size[0])
    rebuilt = rebuild(student)
    image = torch.linspace(-1, 1, 3 * size * size, device=weight.device, dtype=weight.dtype).view(1, 3, size, size)
    try:
        with torch.no_grad(), lent(student):
            logits = student.eval()(image)
    except (RuntimeError, ValueError, AssertionError) as error:
        own = " x ".join(map(str, image_config(student).input_size))
        raise ValueError(
            f"{network_name(student)} does not take the data's images of 3 x {size} x {size}: {error} It was made for {own}: "
            f"create it for this size where it takes one (student_args, e.g. '{{img_size: {size}}}'), or resize the images "
            "(image_size, in Python Preprocessing.for_network)."
        ) from error
    with torch.no_grad():
        found = rebuilt(image)
    if not torch.allclose(found, logits, rtol=1e-3, atol=1e-3 * float(logits.abs().max()), equal_nan=True):
        raise not_rebuilt(student, "with the same tensors, its logits are others")


def check_gradient_checkpointing(student: nn.Module) -> None:
    """Refuse a student that cannot recompute its activations."""
    try:
        with lent(student):
            student.set_grad_checkpointing(True)
    except (AssertionError, AttributeError, NotImplementedError, TypeError) as error:
        fault = f"{network_name(student)} has no gradient checkpointing ({error})"
        raise ValueError(f"{fault}: leave activation_checkpointing and gradient_checkpointing out.") from error


def as_student_expects(student: nn.Module, dataset, image_column: str) -> Preprocessing | None:
    """Choose the preprocessing of a plain data set for a student that knows its images; None for the data's own."""
    if not knows_its_images(student):
        return None
    guessed = guess_preprocessing(dataset, image_column)
    own = guessed.as_network_expects(student)
    if own != guessed:
        logger.warning(
            f"The student has learned from images of {_images(own)}, so the data's ({_images(guessed)}) are prepared like "
            "these. Pass a KnowledgeDataset with a Preprocessing to choose otherwise."
        )
    return own


def warn_of_other_images(student: nn.Module, dataset: KnowledgeDataset) -> None:
    """Say that a student with weights of its own is shown images that it has not learned from."""
    if knows_its_images(student):
        given, own = dataset.preprocessing, dataset.preprocessing.as_network_expects(student)
        if own != given:
            logger.warning(
                f"The student has learned from images of {_images(own)}, and the training set shows it {_images(given)}. "
                "preprocessing.as_network_expects(student) prepares them like its own."
            )


def corrupts_memory(model: nn.Module) -> bool:
    """Return whether oneDNN, on a CPU, writes past the gradient of a weight of a network in channels-last format.

    It does so for strided 1x1 convolutions of a few channels (seen with 2 to 15 under torch 2.14), as in FastViT's stem.
    The process then dies at some later time, so that it cannot be tried.
    """
    convolutions = (module for module in model.modules() if isinstance(module, nn.Conv2d))
    return any(
        one.kernel_size == (1, 1) and max(one.stride) > 1 and one.in_channels < 16 and one.weight.requires_grad
        for one in convolutions
    )


def _images(preprocessing: Preprocessing) -> str:
    size = preprocessing.network_size
    mean, std = (", ".join(f"{value:.3g}" for value in values) for values in (preprocessing.mean, preprocessing.std))
    return f"{size} x {size}, mean {mean}, deviation {std}"
