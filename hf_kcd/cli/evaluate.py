"""`hf-kcd evaluate`: measure top-1 and top-5 accuracy of a network on a data set."""

import argparse
from collections.abc import Sequence
from typing import Any

import torch
from torch.utils.data import DataLoader
from transformers import EvalPrediction

from ..artifacts.files import write_json
from ..data import KnowledgeDataset, collate, load_image_data
from ..models.loading import load_trained_model
from ..training.metrics import compute_accuracy, rank_classes
from .options import CommandParser, mapping


def main(arguments: Sequence[str]) -> None:
    """Run the command with the words behind its name."""
    parser = CommandParser(__doc__, imports=True)
    parser.add_argument("model", help="a run's folder, a checkpoint's folder, hf_hub:user/name, or a timm name")
    parser.add_argument("--checkpoint", metavar="FILE", help="weights of a network given by its timm name")
    parser.add_argument("--model_args", type=mapping, metavar="MAPPING", help="its arguments, e.g. '{img_size: 64}'")
    parser.add_argument("--data", required=True, help="digits, cifar100, imagenet, a folder, or a Hub id")
    parser.add_argument("--data_dir", metavar="FOLDER", help="folder that holds the data; nothing is downloaded then")
    parser.add_argument("--split", help="split to evaluate on [found by its name]")
    parser.add_argument("--batch_size", type=int, metavar="N", default=256, help="images per step [%(default)s]")
    parser.add_argument("--num_workers", type=int, metavar="N", default=0, help="processes that load images [0]")
    parser.add_argument("--json", metavar="FILE", help="also write the result to this file")
    options = parser.parse_args(arguments)

    result = _evaluate(options)
    accuracy = f"top-1 {result['top1']:.2f} %, top-5 {result['top5']:.2f} %"
    print(f"{options.model} on {options.data}: {accuracy} of {result['num_points']:,} points")
    if options.json is not None:
        write_json(options.json, result)


def _evaluate(options: argparse.Namespace) -> dict[str, Any]:
    data = load_image_data(options.data, options.data_dir, eval_split=options.split)
    if data.eval is None:
        raise ValueError(f"{options.data} has no split with a known name to evaluate on: give one with --split.")
    dataset = KnowledgeDataset(data.eval, data.preprocessing, training=False)
    model = load_trained_model(options.model, dataset.num_classes, options.checkpoint, options.model_args)
    if options.checkpoint is None:
        # The configuration beside the weights says what images they were trained on.
        dataset = KnowledgeDataset(data.eval, data.preprocessing.as_network_expects(model), training=False)
    device = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else torch.device("cpu")
    model.eval().to(device)
    ranked, labels = [], []
    with torch.inference_mode():
        for batch in DataLoader(dataset, options.batch_size, collate_fn=collate, num_workers=options.num_workers):
            ranked.append(rank_classes(model(batch["pixel_values"].to(device))).cpu())
            labels.append(batch["labels"])
    accuracy = compute_accuracy(EvalPrediction(torch.cat(ranked).numpy(), torch.cat(labels).numpy()))
    return {"model": options.model, "data": options.data, "num_points": len(dataset), **accuracy}
