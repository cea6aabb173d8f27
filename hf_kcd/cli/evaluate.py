"""`hf-kcd evaluate`: measure top-1 and top-5 accuracy of a network on a data set."""

import argparse
from collections.abc import Sequence
from typing import Any

import torch
from torch.utils.data import DataLoader
from transformers import EvalPrediction

from ..artifacts.files import write_json
from ..artifacts.identity import find_columns
from ..data import KnowledgeDataset, collate
from ..models import label_names
from ..models.loading import load_trained_model
from ..training.evaluation import check_labeled
from ..training.metrics import compute_accuracy, rank_classes
from .data import DataConfig, add_data_options, data_of
from .options import CommandParser, mapping


def main(arguments: Sequence[str]) -> None:
    """Run the command with the words behind its name."""
    parser = CommandParser(__doc__, imports=True)
    parser.add_argument("model", help="a run's folder, a checkpoint's folder, hf_hub:user/name, or a timm name")
    parser.add_argument("--checkpoint", metavar="FILE", help="weights of a network given by its timm name")
    parser.add_argument("--model_args", type=mapping, metavar="MAPPING", help="its arguments, e.g. '{img_size: 64}'")
    add_data_options(parser)
    parser.add_argument("--split", dest="eval_split", help="the same as --eval_split")
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
    config = DataConfig(**data_of(options))
    data = config.load()
    if data.eval is None:
        raise ValueError(f"{options.data} has no split with a known name to evaluate on: give one with --eval_split.")
    _, label_column = find_columns(data.eval, **config.columns)
    num_classes = data.eval.features[label_column].num_classes
    model = load_trained_model(options.model, num_classes, options.checkpoint, options.model_args)
    # The configuration beside the weights says what images they were trained on.
    preprocessing = data.preprocessing if options.checkpoint else data.preprocessing.evaluation_of(model)
    dataset = KnowledgeDataset(data.eval, preprocessing, training=False, **config.columns)
    check_labeled(dataset)
    dataset = dataset.with_classes(label_names(model), "network", "evaluation set")
    device = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else torch.device("cpu")
    model.eval().to(device)
    ranked, labels = [], []
    with torch.inference_mode():
        for batch in DataLoader(dataset, options.batch_size, collate_fn=collate, num_workers=options.num_workers):
            ranked.append(rank_classes(model(batch["pixel_values"].to(device))).cpu())
            labels.append(batch["labels"])
    accuracy = compute_accuracy(EvalPrediction(torch.cat(ranked).numpy(), torch.cat(labels).numpy()))
    return {"model": options.model, "data": options.data, "num_points": len(dataset), **accuracy}
