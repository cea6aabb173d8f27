"""The guide "Knowledge Distillation for Computer Vision" of transformers, with hf_kcd: a ViT teaches a MobileNet.

python examples/trainer_tutorial.py DATA TEACHER STUDENT REPOSITORY [METRIC]

DATA is a folder with train/, validation/ and test/ (one folder of photographs for each class), or a data set of the Hub
with these splits, such as AI-Lab-Makerere/beans. TEACHER is a timm ViT with your classes: a folder of save_model(), or
hf_hub:user/name. STUDENT is a timm name, such as mobilenetv3_small_100. The student is pushed to REPOSITORY (me/name).
METRIC is evaluate's "accuracy", whose script it fetches from the Hub, or the folder of a copy. Without compute_metrics, the
trainer reports `accuracy` too, and fetches nothing.
"""

import sys

import evaluate
import numpy as np
from datasets import load_dataset

from hf_kcd import DistillationConfig, DistillationTrainer

data, teacher, student, repository, *metric = sys.argv[1:]
dataset, accuracy = load_dataset(data), evaluate.load(*(metric or ["accuracy"]))


def compute_metrics(prediction):
    labels = np.argmax(prediction.predictions, axis=1)
    return accuracy.compute(references=prediction.label_ids, predictions=labels)


every_epoch = {"logging_strategy": "epoch", "eval_strategy": "epoch", "save_strategy": "epoch"}
best = {"load_best_model_at_end": True, "metric_for_best_model": "accuracy"}
args = DistillationConfig(
    "my-awesome-model", num_train_epochs=30, per_device_train_batch_size=8, **every_epoch, **best
)
sets = {"train_dataset": dataset["train"], "eval_dataset": dataset["validation"]}
trainer = DistillationTrainer(student, teacher, args, compute_metrics=compute_metrics, **sets)
trainer.train()
print(trainer.evaluate(dataset["test"], metric_key_prefix="test"))
print(trainer.push_to_hub(repository))
