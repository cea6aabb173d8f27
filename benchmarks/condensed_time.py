"""Time whole condensed trainings against plain distillation, in turns in one run: is the time saved what C says?

Each round trains the same student from the same weights with KD, with KC-KD in the paper's preset and in the released
code's. What is compared are the seconds spent training, evaluation and saving excluded.

    python benchmarks/condensed_time.py --data cifar100 --data_dir ../shared/data/cifar100
"""

import argparse
import tempfile

import torch
from machine import describe_machine
from transformers.utils import logging as transformers_logging

from hf_kcd import DistillationConfig, DistillationTrainer, KCDConfig, KCDTrainerCallback, KnowledgeDataset, load_model
from hf_kcd.artifacts.files import write_json
from hf_kcd.data import load_image_data


def train(dataset: KnowledgeDataset, args: argparse.Namespace, condensation: KCDConfig | None) -> tuple[float, float]:
    """Train once.

    Returns:
        Seconds of training, and the cost C that was paid.
    """
    torch.manual_seed(0)
    student = load_model(args.student, dataset.num_classes)
    teacher = load_model(args.teacher, dataset.num_classes)
    # As if it had been trained on these images: they need not be prepared anew for it.
    recipe = dataset.preprocessing
    teacher.pretrained_cfg.update(input_size=(3, recipe.size, recipe.size), mean=recipe.mean, std=recipe.std)
    dataset.restore_images()
    dataset.select_all()
    with tempfile.TemporaryDirectory() as folder:
        config = DistillationConfig(
            folder, num_train_epochs=args.epochs, save_strategy="no", report_to="none", disable_tqdm=True
        )
        callbacks = [] if condensation is None else [KCDTrainerCallback(condensation)]
        trainer = DistillationTrainer(student, teacher, config, dataset, callbacks=callbacks)
        trainer.train()
    return sum(trainer.cost.seconds), trainer.cost.relative_cost


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="digits", help="data set: digits, cifar100, a folder or a Hub id")
    parser.add_argument("--data_dir", help="folder with the data set's files")
    parser.add_argument("--teacher", default="cifar_resnet20")
    parser.add_argument("--student", default="cifar_resnet8")
    parser.add_argument("--points", type=int, default=6400, help="points of the training set that are used")
    parser.add_argument("--epochs", type=int, default=12, help="epochs, in 6 stages")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--json", help="file to write the figures to")
    args = parser.parse_args()
    transformers_logging.set_verbosity_error()

    data = load_image_data(args.data, data_dir=args.data_dir)
    dataset = KnowledgeDataset(data.train.select(range(min(args.points, len(data.train)))), data.preprocessing)
    stage = args.epochs // 6
    runs = {
        "KD": None,
        "KC-KD, paper": KCDConfig.paper(epochs_per_stage=stage),
        "KC-KD, released code": KCDConfig.released_code(epochs_per_stage=stage),
    }
    seconds, cost = dict.fromkeys(runs, 0.0), {}
    for _ in range(args.rounds):
        for name, condensation in runs.items():
            spent, cost[name] = train(dataset, args, condensation)
            seconds[name] += spent

    print(
        f"{args.teacher} -> {args.student}, {dataset.num_points} points, {args.epochs} epochs in 6 stages, "
        f"{describe_machine()}, {args.rounds} rounds"
    )
    print("| training | seconds a round | ratio to KD | C paid | difference |\n|---|---:|---:|---:|---:|")
    for name, total in seconds.items():
        ratio = total / seconds["KD"]
        print(f"| {name} | {total / args.rounds:.1f} | {ratio:.4f} | {cost[name]:.4f} | {ratio - cost[name]:+.4f} |")
    if args.json:
        write_json(args.json, {"arguments": vars(args), "seconds": seconds, "cost": cost})


if __name__ == "__main__":
    main()
