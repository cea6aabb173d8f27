"""Time a KD step of `DistillationTrainer` against a bare PyTorch loop over the same tensors, side by side in one run.

Both train the same pair on the same prepared batches of the same data set, in turns, so that whatever else the machine
does falls on both. A step is data, teacher, student, loss, backward, update.

    python benchmarks/step_time.py --data cifar100 --data_dir ../shared/data/cifar100
"""

import argparse
import statistics
import tempfile
import time

import torch
from machine import describe_machine
from torch.nn import functional as F
from transformers import TrainerCallback
from transformers.utils import logging as transformers_logging

from hf_kcd import DistillationConfig, DistillationTrainer, KCDConfig, KCDTrainerCallback, KnowledgeDataset, load_model
from hf_kcd.artifacts.files import write_json
from hf_kcd.data import load_image_data
from hf_kcd.losses import kd_loss

WARM_UP = 10


class StepClock(TrainerCallback):
    """Notes the time at the end of every step."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def on_step_end(self, args, state, control, **kwargs):
        self.times.append(time.perf_counter())


def bare_loop(dataset: KnowledgeDataset, student, teacher, batch_size: int, num_steps: int, channels_last: bool):
    """What a distillation step costs with nothing around it; the seconds of each step."""
    optimizer = torch.optim.SGD(student.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4)
    order = torch.randperm(len(dataset)).tolist()
    student.train()
    teacher.eval()
    times = [time.perf_counter()]
    for step in range(num_steps):
        start = step * batch_size % (len(order) - batch_size)
        batch = dataset.__getitems__(order[start : start + batch_size])
        images, labels = batch["pixel_values"], batch["labels"]
        if channels_last:
            images = images.contiguous(memory_format=torch.channels_last)
        with torch.no_grad():
            teacher_logits = teacher(images)
        logits = student(images)
        loss = 0.1 * F.cross_entropy(logits, labels) + 0.9 * kd_loss(logits, teacher_logits, 4.0)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        times.append(time.perf_counter())
    return differences(times)


def trainer_loop(
    dataset: KnowledgeDataset, student, teacher, batch_size: int, num_steps: int, condense: bool, **options
):
    """The same under `DistillationTrainer`, recording values where `condense`; the seconds of each step."""
    clock = StepClock()
    with tempfile.TemporaryDirectory() as folder:
        config = DistillationConfig(
            folder,
            per_device_train_batch_size=batch_size,
            max_steps=num_steps,
            save_strategy="no",
            logging_steps=100,
            report_to="none",
            disable_tqdm=True,
            **options,
        )
        callbacks = [clock, *([KCDTrainerCallback(KCDConfig())] if condense else [])]
        DistillationTrainer(student, teacher, config, dataset, callbacks=callbacks).train()
    return differences(clock.times)


def differences(times: list[float]) -> list[float]:
    """Seconds between one time and the next, the warm-up left out."""
    return [after - before for before, after in zip(times[WARM_UP:-1], times[WARM_UP + 1 :], strict=True)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="digits", help="data set: digits, cifar100, a folder or a Hub id")
    parser.add_argument("--data_dir", help="folder with the data set's files")
    parser.add_argument("--teacher", default="cifar_resnet20")
    parser.add_argument("--student", default="cifar_resnet8")
    parser.add_argument("--batch_size", type=int, default=64)
    parser.add_argument("--points", type=int, default=12800, help="points of the training set that are used")
    parser.add_argument("--steps", type=int, default=60, help="steps of each loop in each round")
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--contiguous", action="store_true", help="leave the channels-last memory format out")
    parser.add_argument("--json", help="file to write the figures to")
    args = parser.parse_args()
    transformers_logging.set_verbosity_error()

    data = load_image_data(args.data, data_dir=args.data_dir)
    train = data.train.select(range(min(args.points, len(data.train))))
    dataset = KnowledgeDataset(train, data.preprocessing)
    teacher = load_model(args.teacher, dataset.num_classes)
    # As if it had been trained on these images: they need not be prepared anew for it.
    size = data.preprocessing.size
    teacher.pretrained_cfg.update(input_size=(3, size, size), mean=data.preprocessing.mean, std=data.preprocessing.std)
    channels_last = not args.contiguous
    seconds: dict[str, list[float]] = {"bare loop": [], "DistillationTrainer": [], "… with KCD recording": []}
    for _ in range(args.rounds):
        for name in seconds:
            student = load_model(args.student, dataset.num_classes)
            if name == "bare loop":
                if channels_last:
                    student, teacher = (net.to(memory_format=torch.channels_last) for net in (student, teacher))
                steps = bare_loop(dataset, student, teacher, args.batch_size, args.steps, channels_last)
            else:
                condense = name != "DistillationTrainer"
                steps = trainer_loop(
                    dataset, student, teacher, args.batch_size, args.steps, condense, channels_last=channels_last
                )
            seconds[name] += steps

    medians = {name: 1e3 * statistics.median(values) for name, values in seconds.items()}
    bare = medians["bare loop"]
    print(
        f"{args.teacher} -> {args.student}, batch {args.batch_size}, {dataset.preprocessing.size} px, "
        f"{'channels last' if channels_last else 'contiguous'}, {describe_machine()}, "
        f"{args.rounds} rounds of {args.steps - WARM_UP} steps"
    )
    print("| loop | ms/step (median) | overhead ms | overhead % |\n|---|---:|---:|---:|")
    for name, value in medians.items():
        print(f"| {name} | {value:.2f} | {value - bare:+.2f} | {100 * (value / bare - 1):+.1f} |")
    if args.json:
        write_json(args.json, {"arguments": vars(args), "milliseconds": medians, "threads": torch.get_num_threads()})


if __name__ == "__main__":
    main()
