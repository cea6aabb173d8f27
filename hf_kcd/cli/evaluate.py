"""`hf-kcd evaluate`: top-1 and top-5 accuracy of a network on a data set."""

import argparse
from collections.abc import Sequence
from typing import Any

import torch
from torch.utils.data import DataLoader
from transformers import EvalPrediction

from ..artifacts.files import write_json
from ..data import KnowledgeDataset, collate, load_image_data
from ..training.metrics import compute_accuracy, rank_classes
from .run import load_trained_model, recipe_of_network


def main(arguments: Sequence[str]) -> None:
    """Run the command with the words behind its name."""
    parser = argparse.ArgumentParser(prog="hf-kcd evaluate", description=__doc__.split(": ")[1], allow_abbrev=False)
    parser.add_argument("model", help="a run's folder, a checkpoint's folder, hf_hub:user/name, or a timm name")
    parser.add_argument("--checkpoint", help="file with the weights, for a timm name")
    parser.add_argument("--data", required=True, help="digits, cifar100, imagenet, a folder, or a Hub id")
    parser.add_argument("--data_dir", help="folder with that data, so that nothing is fetched")
    parser.add_argument("--split", help="split to evaluate on; found by name without it")
    parser.add_argument("--batch_size", type=int, default=256, help="images per step [%(default)s]")
    parser.add_argument("--num_workers", type=int, default=0, help="processes that decode images [%(default)s]")
    parser.add_argument("--json", metavar="FILE", help="write the result there, too")
    options = parser.parse_args(arguments)

    result = evaluate(options)
    print(
        f"{options.model} on {options.data}: top-1 {result['top1']:.2f} %, top-5 {result['top5']:.2f} % "
        f"of {result['num_points']:,} points"
    )
    if options.json is not None:
        write_json(options.json, result)


def evaluate(options: argparse.Namespace) -> dict[str, Any]:
    """Evaluate a network as the command's options say; accuracies in per cent."""
    data = load_image_data(options.data, options.data_dir, eval_split=options.split)
    if data.eval is None:
        raise ValueError(f"{options.data} has no split to evaluate on by its name: give one with --split.")
    dataset = KnowledgeDataset(data.eval, data.preprocessing, training=False)
    model = load_trained_model(options.model, dataset.num_classes, options.checkpoint)
    if options.checkpoint is None:
        # Weights with a configuration say what images they were trained on.
        dataset = KnowledgeDataset(data.eval, recipe_of_network(data.preprocessing, model), training=False)
    device = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else torch.device("cpu")
    model.eval().to(device)
    ranked, labels = [], []
    with torch.inference_mode():
        for batch in DataLoader(dataset, options.batch_size, collate_fn=collate, num_workers=options.num_workers):
            ranked.append(rank_classes(model(batch["pixel_values"].to(device))).cpu())
            labels.append(batch["labels"])
    accuracy = compute_accuracy(EvalPrediction(torch.cat(ranked).numpy(), torch.cat(labels).numpy()))
    return {"model": options.model, "data": options.data, "num_points": len(dataset), **accuracy}
