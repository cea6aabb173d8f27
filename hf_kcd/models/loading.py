"""Networks by name, folder or Hub id."""

import difflib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import timm
import torch
from safetensors import SafetensorError
from torch import nn

from ..artifacts.files import read_json
from ..hub.download import fetch_files, hub_errors
from .checkpoints import CHECKPOINT_SUFFIXES, WEIGHT_FILES, Checkpoint, classifiers_of, fit_checkpoint, read_checkpoint

_HUB_PREFIXES = ("hf_hub:", "hf-hub:")
_FOLDER_PREFIX = "local-dir:"


def load_model(
    name_or_path: str | Path, num_classes: int | None = None, checkpoint: str | Path | None = None
) -> nn.Module:
    """Make a network, with weights where its name has some.

    Args:
        name_or_path: A timm name ("cifar_resnet20", "resnet18"), initialized at random; a timm name with a tag
            ("resnet34.a1_in1k") or a Hub id ("hf_hub:user/name"), with its published weights; or a folder with
            `config.json` and weights, as `save_model` and timm write it.
        num_classes: Number of classes; by default as in the weights, or the network's own.
        checkpoint: A file with weights for a timm name: `.safetensors`, or a `torch.save` file with its state dict at any
            depth, also under the names of RepDistiller, mdistiller, SSKD or TAKD.

    Returns:
        The network, on the CPU, in training mode, as `timm.create_model` returns it.

    Raises:
        ValueError: For an unknown name, weights that do not fit or are not finite, a wrong number of classes, and a file
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
    if is_network and checkpoint is not None:
        return load_checkpoint(name, read_checkpoint(checkpoint), num_classes)
    if is_network:
        return _load_published(name, num_classes) if "." in name else timm.create_model(name, num_classes=num_classes)

    folder = Path(name.removeprefix(_FOLDER_PREFIX))
    if not (published or name.startswith(_FOLDER_PREFIX) or folder.is_dir()):
        raise no_such_network(name)
    if checkpoint is not None:
        fault = f"{name} has its own weights, but checkpoint={str(checkpoint)!r} was given too."
        raise ValueError(f"{fault} Name the checkpoint's own network, or leave the checkpoint out.")
    if published:
        return _load_published(name, num_classes)
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


def load_trained_model(name: str, num_classes: int, checkpoint: str | None = None) -> nn.Module:
    """Load a network as `load_model` does; refuse one without weights."""
    if checkpoint is None and not brings_weights(name):
        ways = "teacher_checkpoint (--checkpoint of hf-kcd evaluate), a folder, or a timm name with a tag (resnet34.tv_in1k)"
        raise ValueError(f"{name} is a network without weights: give {ways}.")
    return load_model(name, num_classes, checkpoint)


def load_student(
    name: str,
    num_classes: int,
    checkpoint: str | None = None,
    new_classifier: bool = False,
    freeze_backbone: bool = False,
) -> nn.Module:
    """Make the network to train: new, from weights, or transferred to other classes with a new classifier."""
    if checkpoint is None and not brings_weights(name):
        if new_classifier or freeze_backbone:
            option = "new_classifier" if new_classifier else "freeze_backbone"
            fault = f"{option} was asked for, but {name} starts without weights"
            raise ValueError(f"{fault}: give student_checkpoint, a folder, or a tagged name (resnet34.tv_in1k).")
        return load_model(name, num_classes)
    student = load_model(name, checkpoint=checkpoint)
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
    name: str, checkpoint: Checkpoint, num_classes: int | None = None, part: str | None = None
) -> nn.Module:
    """Make a network as `load_model`, with weights of a file that was read; `part` chooses one of several networks."""
    if not timm.is_model(name):
        raise no_such_network(name)
    model = _load_weights(timm.create_model(name, num_classes=num_classes), checkpoint, num_classes, part)
    # As timm records where weights are from. Its configuration is the name's: nobody knows the images of these weights.
    model.pretrained_cfg.update(source="file", file=checkpoint.path.name, hf_hub_id=None, url="")
    return model


def make_from_folder(folder: Path) -> nn.Module:
    """Make the network that a folder's `config.json` describes, initialized at random; its weights are not read."""
    if not (folder / "config.json").is_file():
        advice = "Write folders with save_model, or name the network: load_model('<timm name>', checkpoint='<file>')."
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


def _load_published(name: str, num_classes: int | None) -> nn.Module:
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
            model = timm.create_model(source, pretrained=True)
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
        advice = "Leave num_classes out, load other weights, or call reset_classifier on the loaded network."
        raise ValueError(f"{source} has {found} classes and num_classes={wanted} was asked for. {advice}")


def no_such_network(name: str) -> Exception:
    """Build the error for an unknown network name, for the caller to raise."""
    path = Path(name)
    if path.is_file():
        return ValueError(f"{name} is a file; name its network too: load_model('<timm name>', checkpoint={name!r}).")
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
    where = "timm.list_models() lists all, timm.list_models('cifar_*') hf_kcd's; register your own in timm first."
    return ValueError(f"Unknown network {name!r}. {hint}{where}")
