"""Networks by name, folder or Hub id."""

import difflib
import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import timm
import torch
from safetensors import SafetensorError
from torch import nn

from ..artifacts.files import read_json
from ..errors import warn_of_folder
from ..hub.download import fetch_files, hub_errors
from .checkpoints import CHECKPOINT_SUFFIXES, WEIGHT_FILES, Checkpoint, classifiers_of, fit_checkpoint, read_checkpoint

_HUB_PREFIXES = ("hf_hub:", "hf-hub:")
_FOLDER_PREFIX = "local-dir:"

# What timm.create_model takes for itself, and what the data decides.
_NOT_OF_A_NETWORK = set(inspect.signature(timm.create_model).parameters) - {"kwargs"} | {
    "num_classes",
    "features_only",
}


def load_model(
    name_or_path: str | Path,
    num_classes: int | None = None,
    checkpoint: str | Path | None = None,
    *,
    model_args: Mapping[str, Any] | None = None,
) -> nn.Module:
    """Make a network, with weights where its name has some.

    Args:
        name_or_path: A timm name ("cifar_resnet20", "resnet18"), initialized at random; a timm name with a tag
            ("resnet34.a1_in1k") or a Hub id ("hf_hub:user/name"), with its published weights; or a folder with
            `config.json` and weights, as `save_model` and timm write it.
        num_classes: Number of classes; by default as in the weights, or the network's own.
        checkpoint: A file with weights for a timm name: `.safetensors`, or a `torch.save` file with its state dict at any
            depth, also under the names of RepDistiller, mdistiller, SSKD or TAKD.
        model_args: Arguments of the network, as timm takes them: `{"img_size": 64}`. A folder has its own.

    Returns:
        The network, on the CPU, in training mode, as `timm.create_model` returns it.

    Raises:
        ValueError: For an unknown name or argument, weights that do not fit or are not finite, a wrong number of classes, and a file
            that is damaged or needs unpickling.
        FileNotFoundError: For a folder or file that does not exist.

    Example:
        >>> student = load_model("cifar_wrn_16_2", num_classes=100)
        >>> teacher = load_model("cifar_resnet20", checkpoint="resnet20_vanilla.pth")
    """
    name = str(name_or_path)
    published = name.startswith(_HUB_PREFIXES)
    # A network's name wins over a folder of the same name.
    is_network = not published and timm.is_model(name) and ("." not in name or timm.is_model_pretrained(name))
    if is_network:
        warn_of_folder("network", name)
    if is_network and checkpoint is not None:
        return load_checkpoint(name, read_checkpoint(checkpoint), num_classes, model_args=model_args)
    if is_network:
        return _load_published(name, num_classes, model_args) if "." in name else _make(name, num_classes, model_args)

    folder = Path(name.removeprefix(_FOLDER_PREFIX))
    if not (published or name.startswith(_FOLDER_PREFIX) or folder.is_dir()):
        raise no_such_network(name)
    if checkpoint is not None:
        fault = f"{name} has its own weights, but checkpoint={str(checkpoint)!r} was given too."
        raise ValueError(f"{fault} Name the checkpoint's own network, or leave the checkpoint out.")
    if published:
        return _load_published(name, num_classes, model_args)
    if model_args:
        fault = f"{name} has the arguments in its config.json, but {dict(model_args)} were given too"
        raise ValueError(f"{fault}: leave them out, or name the network as timm does and give its weights as a file.")
    return _load_weights(make_from_folder(folder), read_checkpoint(folder), num_classes)


def brings_weights(name: str) -> bool:
    """Return whether a network's name includes weights: a tag, a folder or a Hub id does, a bare timm name does not."""
    return "." in name or not timm.is_model(name)


def knows_its_images(model: nn.Module) -> bool:
    """Return whether a network has learned from images that its configuration describes; a bare file describes none."""
    # New normalizations have equal weights.
    learned = (
        weight.ndim == 1 and bool((weight != weight[0]).any())
        for module in model.modules()
        for name, weight in module.named_parameters(recurse=False)
        if name == "weight"
    )
    return model.pretrained_cfg.get("source") != "file" and any(learned)


def load_trained_model(
    name: str, num_classes: int, checkpoint: str | None = None, model_args: Mapping[str, Any] | None = None
) -> nn.Module:
    """Load a network as `load_model` does; refuse one without weights."""
    if checkpoint is None and not brings_weights(name):
        ways = "teacher_checkpoint (--checkpoint of hf-kcd evaluate), a folder, or a timm name with a tag (resnet34.tv_in1k)"
        folder = f" The folder of that name is ./{name}." if Path(name).is_dir() else ""
        raise ValueError(f"{name} is a network without weights: give {ways}.{folder}")
    return load_model(name, num_classes, checkpoint, model_args=model_args)


def load_student(
    name: str,
    num_classes: int,
    checkpoint: str | None = None,
    new_classifier: bool = False,
    freeze_backbone: bool = False,
    model_args: Mapping[str, Any] | None = None,
) -> nn.Module:
    """Make the network to train: new, from weights, or transferred to other classes with a new classifier."""
    if checkpoint is None and not brings_weights(name):
        if new_classifier or freeze_backbone:
            option = "new_classifier" if new_classifier else "freeze_backbone"
            fault = f"{option} was asked for, but {name} starts without weights"
            raise ValueError(f"{fault}: give student_checkpoint, a folder, or a tagged name (resnet34.tv_in1k).")
        return load_model(name, num_classes, model_args=model_args)
    student = load_model(name, checkpoint=checkpoint, model_args=model_args)
    if new_classifier:
        student.reset_classifier(num_classes)
        # They are the names of the old classes.
        student.pretrained_cfg.pop("label_names", None)
    elif student.num_classes != num_classes:
        fault = f"{checkpoint or name} has {student.num_classes} classes and the data has {num_classes}"
        raise ValueError(f"{fault}: add --new_classifier to transfer it.")
    if freeze_backbone:
        student.requires_grad_(False)
        classifier = student.get_classifier()
        for layer in classifier if isinstance(classifier, tuple) else (classifier,):
            layer.requires_grad_(True)
    return student


def load_checkpoint(
    name: str,
    checkpoint: Checkpoint,
    num_classes: int | None = None,
    part: str | None = None,
    model_args: Mapping[str, Any] | None = None,
) -> nn.Module:
    """Make a network as `load_model`, with weights of a file that was read; `part` chooses one of several networks."""
    if not timm.is_model(name):
        raise no_such_network(name)
    model = _load_weights(_make(name, num_classes, model_args), checkpoint, num_classes, part)
    # As timm records where weights are from. Its configuration is the name's: nobody knows the images of these weights.
    model.pretrained_cfg.update(source="file", file=checkpoint.path.name, hf_hub_id=None, url="")
    return model


def make_from_folder(folder: Path) -> nn.Module:
    """Make the network that a folder's `config.json` describes, initialized at random; its weights are not read."""
    if not (folder / "config.json").is_file():
        advice = (
            "Give the folder of a run or of save_model, or a timm name with the weights as checkpoint (--student_checkpoint, "
            "--teacher_checkpoint)."
        )
        raise FileNotFoundError(f"{folder} has no config.json, which names its network. {advice}")
    _read_config(folder / "config.json")
    return timm.create_model(f"{_FOLDER_PREFIX}{folder}")


def without_memory(make: Callable[[], nn.Module], look: Callable[[nn.Module], Any]) -> Any:
    """Make a network on the meta device and look at it; on the CPU where it needs real numbers."""
    try:
        with torch.device("meta"):
            model = make()
        return look(model)
    except (RuntimeError, ValueError) as error:
        # A network that computes with its own numbers (`x.item() for x in torch.linspace(...)`) needs real ones.
        if "meta" not in str(error):
            raise
        return look(make())


def _make(name: str, num_classes: int | None, model_args: Mapping[str, Any] | None, **options: Any) -> nn.Module:
    """Make a network of timm with arguments of its own."""
    model_args = dict(model_args or {})
    if reserved := sorted(_NOT_OF_A_NETWORK & model_args.keys()):
        raise ValueError(f"{', '.join(reserved)} of {name} cannot be chosen here: leave it out of the arguments.")
    try:
        return timm.create_model(name, num_classes=num_classes, **options, **model_args)
    except (TypeError, ValueError, AssertionError) as error:
        if not model_args:
            raise
        raise ValueError(
            f"{name} cannot be made with {model_args}: {error}. See the network's class in timm."
        ) from error


def _load_published(name: str, num_classes: int | None, model_args: Mapping[str, Any] | None = None) -> nn.Module:
    """Load a Hub id or a tagged name, refusing the new head that timm would make."""
    if name.startswith(_HUB_PREFIXES):
        repo_id, _, revision = name.partition(":")[2].partition("@")
        folder = fetch_files(repo_id, ["config.json"], [WEIGHT_FILES[0]], revision=revision or None)
        found = _read_config(folder / "config.json")["num_classes"]
        # Fetched files are checked and come from one commit; timm itself fetches weights of another format.
        source = f"{_FOLDER_PREFIX}{folder}" if (folder / WEIGHT_FILES[0]).is_file() else name
    else:
        repo_id, revision, source = f"timm/{name}", "", name
        found = timm.get_pretrained_cfg_value(name, "num_classes")
    _check_classes(name, found, num_classes)
    try:
        with hub_errors(repo_id, "model", revision or None, "read"):
            model = _make(source, None, model_args, pretrained=True)
    # A stranger's files may fail in timm with any of these.
    except (AssertionError, AttributeError, KeyError, RuntimeError, SafetensorError, TypeError) as error:
        raise ValueError(f"{name} cannot be loaded: {' '.join(str(error).split())[:500]}") from error
    if source != name:
        # As timm records where weights are from.
        model.pretrained_cfg.update(source="hf-hub", hf_hub_id=name.partition(":")[2], file=None)
    for key, tensor in model.state_dict().items():
        if not tensor.isfinite().all():
            raise ValueError(f"{name} cannot be used: {key} of its weights holds NaN or an infinity.")
    return model


def _read_config(path: Path) -> dict[str, Any]:
    config = read_json(path)
    timms_own = isinstance(config, dict) and isinstance(config.get("architecture"), str)
    timms_own = timms_own and type(config.get("num_classes")) is int and config["num_classes"] >= 0
    if not timms_own or not all(isinstance(config.get(key, {}), dict) for key in ("model_args", "pretrained_cfg")):
        advice = "Load it with transformers' AutoModelForImageClassification, and pass its `timm_model` if it has one."
        raise ValueError(f"{path} describes no timm network. {advice}")
    if not timm.is_model(config["architecture"]):
        raise _unknown_network(config["architecture"])
    return config


def _load_weights(
    model: nn.Module, checkpoint: Checkpoint, num_classes: int | None, part: str | None = None
) -> nn.Module:
    state_dict = fit_checkpoint(checkpoint, model, part)
    heads = [f"{name}.weight" for name in classifiers_of(model) if f"{name}.weight" in state_dict]
    if heads:
        found = len(state_dict[heads[0]])
        _check_classes(checkpoint.path, found, num_classes)
        if found != model.num_classes:
            model.reset_classifier(found)
    model.load_state_dict(state_dict)
    return model


def _check_classes(source: object, found: int, wanted: int | None) -> None:
    if wanted is not None and found != wanted:
        advice = (
            f"Give weights for {wanted} classes, or train them for these: --new_classifier on the command line, "
            "reset_classifier in Python."
        )
        raise ValueError(f"{source} has {found} classes and num_classes={wanted} was asked for. {advice}")


def no_such_network(name: str) -> Exception:
    """Build the error for an unknown network name, for the caller to raise."""
    path = Path(name)
    if path.is_file():
        advice = "give its timm name, and the file as checkpoint (--student_checkpoint, --teacher_checkpoint)"
        return ValueError(f"{name} is a file, which does not say its network: {advice}.")
    if path.suffix in CHECKPOINT_SUFFIXES or name.startswith((".", "/", "~")):
        return FileNotFoundError(f"{name} does not exist.")
    if "/" in name:
        return FileNotFoundError(f"There is no folder {name}. For a model on the Hub write 'hf_hub:{name}'.")
    return _unknown_network(name)


def _unknown_network(name: str) -> ValueError:
    # timm has more than a thousand networks: name only the nearest.
    known = timm.list_models() + timm.list_models(pretrained=True)
    nearest = difflib.get_close_matches(name.lower(), known, n=3, cutoff=0.5)
    if timm.is_model(f"cifar_{name}"):  # the papers' name for it
        nearest = [f"cifar_{name}"]
    hint = f"Did you mean {' or '.join(map(repr, nearest))}? " if nearest else ""
    where = (
        "hf-kcd models 'resnet*' lists those with such names, timm.list_models() all; your own: register it in timm"
    )
    where += " first (--import FILE on the command line)."
    return ValueError(f"Unknown network {name!r}. {hint}{where}")
