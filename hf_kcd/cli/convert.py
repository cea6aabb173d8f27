"""`hf-kcd convert`: convert a checkpoint of another program to a folder for load_model, timm and transformers."""

import math
from collections.abc import Sequence
from pathlib import Path

from torch import nn

from ..artifacts.files import atomic_folder
from ..models import ModelSpec, save_model
from ..models.checkpoints import WEIGHT_FILES, Checkpoint, describe_networks_in, find_networks_in, read_checkpoint
from ..models.loading import load_checkpoint
from .options import CommandParser

_EPILOG = """example:
  hf-kcd convert resnet56_vanilla/ckpt_epoch_240.pth --output teachers/resnet56
  hf-kcd evaluate teachers/resnet56 --data cifar100

It reads files of RepDistiller, mdistiller, SSKD, TAKD and hf_kcd, and state dicts of any timm network (name it with
--network). No code in a file is ever run: a file with more than tensors and plain values is refused.

--mean and --std describe how the training images were normalized, in units of [0, 1]. No file says it. The defaults are
those of the network: for cifar_* 0.5071 0.4867 0.4408 and 0.2675 0.2565 0.2761, as in RepDistiller and mdistiller. SSKD
has mean 0.5071 0.4866 0.4409 and the same std; TAKD has 0.507 0.487 0.441 and 0.267 0.256 0.276."""


def main(arguments: Sequence[str]) -> None:
    """Run the command with the words behind its name."""
    parser = CommandParser(__doc__, _EPILOG)
    parser.add_argument("file", help="the checkpoint: .pth, .pt, .tar, .ckpt, .bin or .safetensors")
    parser.add_argument("--output", required=True, metavar="FOLDER", help="folder to write")
    parser.add_argument("--network", metavar="NAME", help="timm name of the network [found for cifar_* networks]")
    parser.add_argument("--part", metavar="NAME", help="which network of a file with several: student, teacher, …")
    parser.add_argument("--num_classes", type=int, metavar="N", help="refuse a file with another number of classes")
    parser.add_argument("--label_names", metavar="FILE", help="text file with one class name per line, in order")
    parser.add_argument("--mean", type=float, nargs="+", metavar="M", help="mean per channel (see below)")
    parser.add_argument("--std", type=float, nargs="+", metavar="S", help="standard deviation per channel (see below)")
    parser.add_argument("--overwrite", action="store_true", help="replace a network that FOLDER already holds")
    options = parser.parse_args(arguments)

    folder = Path(options.output)
    if not options.overwrite and any((folder / name).exists() for name in ("config.json", *WEIGHT_FILES)):
        raise ValueError(f"{folder} already holds a network: choose another --output, or add --overwrite.")
    checkpoint = read_checkpoint(options.file)
    network = options.network or _find_network(checkpoint, options.part)
    model = load_checkpoint(network, checkpoint, options.num_classes, options.part)
    labels = None if options.label_names is None else _read_label_names(options.label_names, model.num_classes)
    config = _data_config(model, options.mean, options.std)
    if folder.exists():
        save_model(model, folder, labels, config)
    else:
        with atomic_folder(folder) as temporary:
            save_model(model, temporary, labels, config)

    num_parameters = sum(parameter.numel() for parameter in model.parameters())
    print(f"{options.file}: {network}, {num_parameters:,} parameters, {model.num_classes} classes")
    if checkpoint.numbers:
        print("The file says: " + ", ".join(f"{name} {value:g}" for name, value in checkpoint.numbers.items()))
    mean, std = (" ".join(f"{value:g}" for value in config[name]) for name in ("mean", "std"))
    print(f"Images are normalized with mean {mean} and std {std}.\nWritten: {folder}\n")
    print(f"  from hf_kcd import load_model\n  model = load_model({str(folder)!r})")


def _find_network(checkpoint: Checkpoint, part: str | None) -> str:
    """Find the only cifar_* network that a checkpoint fits."""
    found = {name for name, _ in find_networks_in(checkpoint, part)}
    if len(found) != 1:
        said = describe_networks_in(checkpoint, part)
        raise ValueError(
            f"{checkpoint.path} does not say which network it holds. {said} Give a timm name as --network."
        )
    return found.pop()


def _read_label_names(path: str, num_classes: int) -> list[str]:
    try:
        names = [line.strip() for line in Path(path).read_text(encoding="utf-8").splitlines() if line.strip()]
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not a text file: write one class name per line.") from error
    if len(names) != num_classes:
        raise ValueError(f"{path} names {len(names)} classes and the network has {num_classes}: write one per line.")
    return names


def _data_config(model: nn.Module, mean: list[float] | None, std: list[float] | None) -> dict[str, tuple[float, ...]]:
    """Check a given normalization and complete it with the network's own."""
    spec = ModelSpec.of(model)
    config = {"mean": tuple(mean or spec.mean), "std": tuple(std or spec.std)}
    for name, values in config.items():
        if len(values) != (channels := len(spec.mean)):
            raise ValueError(f"--{name} has {len(values)} values for {channels} channels: give one for each.")
        if not all(math.isfinite(value) and (value > 0 or name == "mean") for value in values):
            raise ValueError(f"--{name} is {values}: give finite numbers, in units of [0, 1].")
    return config
