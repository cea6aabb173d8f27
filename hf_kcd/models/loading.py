"""A network by name, folder or Hub id, and the folder that timm, transformers and `load_model` all read."""

import difflib
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import timm
from safetensors import SafetensorError
from timm.models._hub import save_config_for_hf
from torch import nn

from ..artifacts.files import read_json, save_tensors, write_json
from ..errors import unknown_name
from ..hub.download import fetch_files, hub_errors
from .checkpoints import (
    CHECKPOINT_SUFFIXES,
    WEIGHT_FILES,
    Checkpoint,
    classifiers_of,
    fit_checkpoint,
    read_checkpoint,
)
from .configuration import network_name

_HUB_PREFIXES = ("hf_hub:", "hf-hub:")
_FOLDER_PREFIX = "local-dir:"
_DATA_KEYS = ("input_size", "mean", "std", "interpolation", "crop_pct", "crop_mode")


def load_model(
    name_or_path: str | Path, num_classes: int | None = None, checkpoint: str | Path | None = None
) -> nn.Module:
    """Make a network, with the weights that its name stands for.

    Args:
        name_or_path: A timm name ("cifar_resnet20", "resnet18"), initialised at random; a timm name with a tag
            ("resnet34.a1_in1k") or a Hub id ("hf_hub:user/name"), with the weights published under it; or a folder
            with `config.json` and its weights, as `save_model` and timm write it.
        num_classes: Number of classes; None takes what the weights have, or the network's own number.
        checkpoint: A file with weights for a network named by its timm name: `.safetensors` or a `torch.save` file
            that has its state dict anywhere in it, also with the names of RepDistiller, mdistiller, SSKD or TAKD.

    Returns:
        The network, on the CPU, in training mode, as `timm.create_model` returns it.

    Raises:
        ValueError: For an unknown name, weights that do not fit the network or are not finite, another number of
            classes than asked for, and a file that is damaged or would have to be unpickled.
        FileNotFoundError: For a folder or file that does not exist.

    Example:
        >>> student = load_model("cifar_wrn_16_2", num_classes=100)
        >>> teacher = load_model("cifar_resnet20", checkpoint="resnet20_vanilla.pth")
    """
    name = str(name_or_path)
    published = name.startswith(_HUB_PREFIXES)
    # A network's name is one wherever it is written, also beside a folder that is called the same.
    is_network = not published and timm.is_model(name) and ("." not in name or timm.is_model_pretrained(name))
    if is_network and checkpoint is not None:
        return load_checkpoint(name, read_checkpoint(checkpoint), num_classes)
    if is_network:
        return _load_published(name, num_classes) if "." in name else timm.create_model(name, num_classes=num_classes)

    folder = Path(name.removeprefix(_FOLDER_PREFIX))
    if not (published or name.startswith(_FOLDER_PREFIX) or folder.is_dir()):
        raise no_such_network(name)
    if checkpoint is not None:
        raise ValueError(
            f"{name} brings its own weights, and checkpoint={str(checkpoint)!r} was given besides. Give the name of "
            "the network that the checkpoint was trained with, or leave the checkpoint out."
        )
    return _load_published(name, num_classes) if published else _load_folder(folder, num_classes)


def brings_weights(name: str) -> bool:
    """Whether the name of a network comes with weights: a tag, a folder or a Hub id does, a bare timm name does not."""
    return "." in name or not timm.is_model(name)


def load_trained_model(name: str, num_classes: int, checkpoint: str | None = None) -> nn.Module:
    """Load a network with trained weights.

    Args:
        name: What `load_model` takes.
        num_classes: Number of classes of the data.
        checkpoint: File with weights, for a network given by its timm name.

    Raises:
        ValueError: When the name comes without weights and there is no checkpoint.
    """
    if checkpoint is None and not brings_weights(name):
        raise ValueError(
            f"{name} is a network without weights: give the file that has them (teacher_checkpoint; --checkpoint of "
            "hf-kcd evaluate), the folder of a run instead of the name, or a timm name with a tag such as resnet34.tv_in1k."
        )
    return load_model(name, num_classes, checkpoint)


def load_student(
    name: str,
    num_classes: int,
    checkpoint: str | None = None,
    new_classifier: bool = False,
    freeze_backbone: bool = False,
) -> nn.Module:
    """Make a network to train: new, from weights, or transferred to other classes.

    Args:
        name: What `load_model` takes.
        num_classes: Number of classes of the data.
        checkpoint: File with weights to start from, for a network given by its timm name.
        new_classifier: Replace the classifier of the weights.
        freeze_backbone: Train the classifier alone.

    Raises:
        ValueError: When the weights have other classes and no new classifier was asked for, or there are no weights to
            transfer.
    """
    if checkpoint is None and not brings_weights(name):
        for option, asked in (("new_classifier", new_classifier), ("freeze_backbone", freeze_backbone)):
            if asked:
                raise ValueError(
                    f"{option} was asked for, but {name} starts without weights: give student_checkpoint, a folder, or a "
                    "timm name with a tag such as resnet34.tv_in1k."
                )
        return load_model(name, num_classes)
    student = load_model(name, checkpoint=checkpoint)
    if new_classifier:
        student.reset_classifier(num_classes)
    elif student.num_classes != num_classes:
        raise ValueError(
            f"{checkpoint or name} has {student.num_classes} classes and the data has {num_classes}: add --new_classifier "
            "to transfer it to them."
        )
    if freeze_backbone:
        student.requires_grad_(False)
        classifier = student.get_classifier()
        for layer in classifier if isinstance(classifier, tuple) else (classifier,):
            layer.requires_grad_(True)
    return student


def load_checkpoint(
    name: str, checkpoint: Checkpoint, num_classes: int | None = None, part: str | None = None
) -> nn.Module:
    """Make a network with weights out of a file that has been read.

    Args:
        name: A timm name.
        checkpoint: What `read_checkpoint` returned.
        num_classes: Number of classes; None takes what the weights have.
        part: Where in the checkpoint the network lies ("student"), for one that has several.

    Raises:
        ValueError: For an unknown name, weights that do not fit the network or are not finite, and another number of
            classes than asked for.
    """
    if not timm.is_model(name):
        raise no_such_network(name)
    model = timm.create_model(name, num_classes=num_classes)
    _load_weights(model, model.pretrained_cfg["architecture"], checkpoint, num_classes, part)
    return model


def save_model(
    model: nn.Module,
    folder: str | Path,
    label_names: Sequence[str] | None = None,
    data_config: dict[str, Any] | None = None,
) -> None:
    """Write a network as `model.safetensors` and `config.json`, for `load_model`, timm and transformers.

    Each file is whole or absent, the configuration being written last; other files of the folder stay.

    Args:
        model: A timm network.
        folder: Where to write; made when it does not exist.
        label_names: The classes' names, in the order of the logits.
        data_config: What the network's images went through, in timm's terms: of `input_size` (C, H, W), `mean`, `std`,
            `interpolation`, `crop_pct`, `crop_mode`; what is not given stays as the network has it.

    Raises:
        ValueError: When the network is not timm's, the names are not as many as the classes, or `data_config` has an
            unknown key.
        OSError: When the folder cannot be written.
    """
    network_name(model)
    folder = Path(folder)
    if label_names is not None and len(label_names) != model.num_classes:
        raise ValueError(
            f"{len(label_names)} label names were given for {model.num_classes} classes: give one for each."
        )
    for key in data_config or {}:
        if key not in _DATA_KEYS:
            raise unknown_name("key of data_config", key, _DATA_KEYS)

    with tempfile.TemporaryDirectory() as scratch:
        config_path = Path(scratch) / "config.json"
        save_config_for_hf(model, config_path, model_config={"label_names": list(label_names or [])})
        config = read_json(config_path)
    config["pretrained_cfg"].update(data_config or {})
    # transformers passes the number of classes itself, and a second time would be an error; it stays at the root.
    config.get("model_args", {}).pop("num_classes", None)

    save_tensors(folder / WEIGHT_FILES[0], model.state_dict(), metadata={"format": "pt"})
    write_json(folder / "config.json", config)


def make_from_folder(folder: Path) -> nn.Module:
    """Make the network that a folder's `config.json` describes, initialised at random.

    Args:
        folder: A folder as `save_model` and timm write it; its weights are not looked at.

    Raises:
        FileNotFoundError: When it has no `config.json`.
        ValueError: When that describes no timm network.
    """
    if not (folder / "config.json").is_file():
        raise FileNotFoundError(
            f"{folder} has no config.json, which says what network it holds. Write folders with save_model, or "
            "name the network: load_model('<timm name>', checkpoint='<file>')."
        )
    _read_config(folder / "config.json")
    return timm.create_model(f"{_FOLDER_PREFIX}{folder}")


def _load_published(name: str, num_classes: int | None) -> nn.Module:
    """Load what timm finds under a Hub id or a tagged name, refusing the new head that timm would make."""
    if name.startswith(_HUB_PREFIXES):
        repo_id, _, revision = name.partition(":")[2].partition("@")
        folder = fetch_files(repo_id, ["config.json"], [WEIGHT_FILES[0]], revision=revision or None)
        found = _read_config(folder / "config.json")["num_classes"]
        # What was fetched is checked and of one commit; weights of another format timm fetches itself.
        source = f"{_FOLDER_PREFIX}{folder}" if (folder / WEIGHT_FILES[0]).is_file() else name
    else:
        repo_id, revision, source = f"timm/{name}", "", name
        found = timm.get_pretrained_cfg_value(name, "num_classes")
    _check_classes(name, found, num_classes)
    try:
        with hub_errors(repo_id, "model", revision or None, "read"):
            model = timm.create_model(source, pretrained=True)
    # What a stranger's files hold may fail in timm as anything.
    except (AssertionError, AttributeError, KeyError, RuntimeError, SafetensorError, TypeError) as error:
        raise ValueError(f"{name} cannot be loaded: {' '.join(str(error).split())[:500]}") from error
    if source != name:
        # As timm notes where weights are from.
        model.pretrained_cfg.update(source="hf-hub", hf_hub_id=name.partition(":")[2], file=None)
    for key, tensor in model.state_dict().items():
        if not tensor.isfinite().all():
            raise ValueError(f"{name} cannot be used: {key} of its weights holds NaN or an infinity.")
    return model


def _load_folder(folder: Path, num_classes: int | None) -> nn.Module:
    model = make_from_folder(folder)
    _load_weights(model, model.pretrained_cfg["architecture"], read_checkpoint(folder), num_classes)
    return model


def _read_config(path: Path) -> dict[str, Any]:
    config = read_json(path)
    timms_own = isinstance(config, dict) and isinstance(config.get("architecture"), str)
    timms_own = timms_own and type(config.get("num_classes")) is int and config["num_classes"] >= 0
    if not timms_own or not all(isinstance(config.get(key, {}), dict) for key in ("model_args", "pretrained_cfg")):
        raise ValueError(
            f"{path} describes no timm network. A model that transformers saved is loaded with "
            "AutoModelForImageClassification; where it wraps a timm network, pass its `timm_model`."
        )
    if not timm.is_model(config["architecture"]):
        raise _unknown_network(config["architecture"])
    return config


def _load_weights(
    model: nn.Module, architecture: str, checkpoint: Checkpoint, num_classes: int | None, part: str | None = None
) -> None:
    state_dict = fit_checkpoint(checkpoint, model, architecture, part)
    weight = next(
        (state_dict[f"{name}.weight"] for name in classifiers_of(model) if f"{name}.weight" in state_dict), None
    )
    if weight is not None:
        _check_classes(checkpoint.path, len(weight), num_classes)
        if len(weight) != model.num_classes:
            model.reset_classifier(len(weight))
    model.load_state_dict(state_dict)


def _check_classes(source: object, found: int, wanted: int | None) -> None:
    if wanted is not None and found != wanted:
        raise ValueError(
            f"{source} has {found} classes and num_classes={wanted} was asked for. Leave num_classes out, or load "
            "weights that were trained on your classes; for a new head call reset_classifier on the loaded network."
        )


def no_such_network(name: str) -> Exception:
    """Build the error for a name that stands for no network, to be raised by the caller."""
    path = Path(name)
    if path.is_file():
        return ValueError(
            f"{name} is a file with weights, and the network they belong to has to be named: "
            f"load_model('<timm name>', checkpoint={name!r})."
        )
    if path.suffix in CHECKPOINT_SUFFIXES or name.startswith((".", "/", "~")):
        return FileNotFoundError(f"{name} does not exist.")
    if "/" in name:
        return FileNotFoundError(f"There is no folder {name}. For a model on the Hub write 'hf_hub:{name}'.")
    return _unknown_network(name)


def _unknown_network(name: str) -> ValueError:
    # timm knows more than a thousand networks: only the nearest are named.
    known = timm.list_models() + timm.list_models(pretrained=True)
    nearest = difflib.get_close_matches(name.lower(), known, n=3, cutoff=0.5)
    if timm.is_model(f"cifar_{name}"):  # the name that papers give it
        nearest = [f"cifar_{name}"]
    hint = f"Did you mean {' or '.join(map(repr, nearest))}? " if nearest else ""
    return ValueError(
        f"Unknown network {name!r}. {hint}timm.list_models() lists all of them, timm.list_models('cifar_*') those of "
        "hf_kcd; a network of your own has to be registered in timm before it is loaded."
    )
