"""`hf-kcd convert`: turn a checkpoint of another program into a folder that load_model, timm and transformers read."""

import argparse
import math
from collections.abc import Sequence
from pathlib import Path

from torch import nn

from ..artifacts.files import atomic_folder
from ..models import ModelSpec, save_model
from ..models.checkpoints import WEIGHT_FILES, Checkpoint, describe_networks_in, find_networks_in, read_checkpoint
from ..models.loading import load_checkpoint

_EPILOG = """example:
  hf-kcd convert resnet56_vanilla/ckpt_epoch_240.pth --output teachers/resnet56
  hf-kcd evaluate teachers/resnet56 --data cifar100

Read are files of RepDistiller, mdistiller, SSKD, TAKD and hf_kcd itself, and state dicts of any timm network (which
--network then names). Nothing in a file is ever run: one that holds more than tensors and plain values is refused.

--mean and --std are what the images were normalised with, in units of [0, 1], and are found in no file. Without them
they are those of the network: for cifar_* networks 0.5071 0.4867 0.4408 and 0.2675 0.2565 0.2761, as RepDistiller and
mdistiller have them. SSKD's mean is 0.5071 0.4866 0.4409 with the same std; TAKD's are 0.507 0.487 0.441 and 0.267
0.256 0.276."""


def main(arguments: Sequence[str]) -> None:
    """Run the command with the words behind its name."""
    parser = argparse.ArgumentParser(
        prog="hf-kcd convert",
        description=__doc__.split(": ")[1],
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("file", help="the checkpoint: .pth, .pt, .tar, .ckpt, .bin or .safetensors")
    parser.add_argument("--output", required=True, metavar="FOLDER", help="where to write")
    parser.add_argument("--network", metavar="NAME", help="its timm name; found among the cifar_* networks without it")
    parser.add_argument("--part", help="which network of the file, where it holds several: student, teacher, …")
    parser.add_argument("--num_classes", type=int, help="refuse the file when it has another number of classes")
    parser.add_argument("--label_names", metavar="FILE", help="text file with a class name per line, in their order")
    parser.add_argument("--mean", type=float, nargs="+", metavar="M", help="mean per channel (see below)")
    parser.add_argument("--std", type=float, nargs="+", metavar="S", help="standard deviation per channel (see below)")
    parser.add_argument("--overwrite", action="store_true", help="replace a network that is in FOLDER already")
    options = parser.parse_args(arguments)

    folder = Path(options.output)
    if not options.overwrite and any((folder / name).exists() for name in ("config.json", *WEIGHT_FILES)):
        raise ValueError(
            f"{folder} holds a network already: choose another --output, or add --overwrite to replace it."
        )
    checkpoint = read_checkpoint(options.file)
    network = options.network or find_network(checkpoint, options.part)
    model = load_checkpoint(network, checkpoint, options.num_classes, options.part)
    labels = None if options.label_names is None else read_label_names(options.label_names, model.num_classes)
    config = data_config(model, options.mean, options.std)
    write_network(model, folder, labels, config)

    num_parameters = sum(parameter.numel() for parameter in model.parameters())
    print(f"{options.file}: {network}, {num_parameters:,} parameters, {model.num_classes} classes")
    if checkpoint.numbers:
        print("The file says: " + ", ".join(f"{name} {value:g}" for name, value in checkpoint.numbers.items()))
    print(f"Images are normalised with mean {_listed(config['mean'])} and std {_listed(config['std'])}.")
    print(f"Written: {folder}\n")
    print(f"  from hf_kcd import load_model\n  model = load_model({str(folder)!r})")


def find_network(checkpoint: Checkpoint, part: str | None = None) -> str:
    """Find the one cifar_* network that a checkpoint holds.

    Args:
        checkpoint: What `read_checkpoint` returned.
        part: Where in the checkpoint to look; everywhere without it.

    Raises:
        ValueError: When it holds none, or several.
    """
    found = {name for name, _ in find_networks_in(checkpoint, part)}
    if len(found) != 1:
        raise ValueError(
            f"{checkpoint.path} does not say by itself what network it holds. {describe_networks_in(checkpoint, part)} "
            "Name the network with --network; any timm name is one."
        )
    return found.pop()


def read_label_names(path: str | Path, num_classes: int) -> list[str]:
    """Read class names from a text file, one per line.

    Raises:
        ValueError: When it is no text, or there are not as many as classes.
        FileNotFoundError: When it does not exist.
    """
    try:
        names = [line.strip() for line in Path(path).read_text(encoding="utf-8").splitlines() if line.strip()]
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is no text file: write one class name per line.") from error
    if len(names) != num_classes:
        raise ValueError(f"{path} names {len(names)} classes and the network has {num_classes}: write one per line.")
    return names


def data_config(
    model: nn.Module, mean: Sequence[float] | None, std: Sequence[float] | None
) -> dict[str, tuple[float, ...]]:
    """Put together what `save_model` shall write of the images' normalisation.

    Args:
        model: The network.
        mean: Mean per channel as it was given; None for the network's own.
        std: Standard deviation per channel likewise.

    Raises:
        ValueError: When there is not one value for each channel, or one cannot be.
    """
    spec = ModelSpec.of(model)
    config = {"mean": tuple(mean or spec.mean), "std": tuple(std or spec.std)}
    channels = len(spec.mean)
    for name, values in config.items():
        if len(values) != channels:
            raise ValueError(f"--{name} has {len(values)} values for {channels} channels: give one for each.")
        if not all(math.isfinite(value) and (value > 0 or name == "mean") for value in values):
            raise ValueError(f"--{name} is {values}: give finite numbers, in units of [0, 1].")
    return config


def write_network(
    model: nn.Module, folder: Path, label_names: list[str] | None, config: dict[str, tuple[float, ...]]
) -> None:
    """Write a network's folder; one that is new is whole or absent, in one that exists the other files stay."""
    if folder.exists():
        save_model(model, folder, label_names, config)
        return
    with atomic_folder(folder) as temporary:
        save_model(model, temporary, label_names, config)


def _listed(values: Sequence[float]) -> str:
    return " ".join(f"{value:g}" for value in values)
