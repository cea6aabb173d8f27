"""Masks and results with known numbers, made by hand."""

import hashlib

import numpy as np
import pytest
import torch

from hf_kcd.artifacts.identity import DatasetIdentity
from hf_kcd.condensation import KnowledgeMask


@pytest.fixture
def make_mask():
    """Build a mask from the kept ids in rank order, {position in kept: (partner, share)}, values and frequencies."""

    def make(kept, values, frequency=None, stage=1, mixing=None, labels=None, identity=None, **schedule):
        num_points = len(values)
        partner, share = torch.full((len(kept),), -1), torch.zeros(len(kept))
        for position, (other, weight) in (mixing or {}).items():
            partner[position], share[position] = other, weight
        labels = np.array([0] * num_points if labels is None else labels, dtype="<i8")
        digest = hashlib.sha256(labels.tobytes()).hexdigest()
        return KnowledgeMask(
            kept=torch.tensor(kept),
            partner=partner,
            perturbation=share,
            value=torch.tensor(values, dtype=torch.float64),
            frequency=torch.tensor([1] * num_points if frequency is None else frequency),
            stage=stage,
            schedule=schedule,
            dataset=identity or DatasetIdentity(num_points, ("cat", "dog"), digest, "images"),
            provenance={"student": "cifar_resnet8", "teacher": "cifar_resnet20", "method": "kd", "seed": 3},
        )

    return make


@pytest.fixture
def make_results():
    """Build the results of a run of four epochs over 100 points in three stages."""

    def make(seed=0, top1=(40.0, 60.0, 71.0, 70.0), seconds=8.0, **changes):
        last, best = ({"top1": top1[-1], "top5": 95.0, "epoch": 4.0}, {"top1": max(top1), "top5": 94.0, "epoch": 3.0})
        return {
            **{"type": "hf_kcd.Results", "format_version": 1, "num_points": 100, "num_epochs": 4, "mask": None},
            **{"student": "cifar_resnet8", "teacher": "cifar_resnet20", "data": "digits", "method": "kd"},
            "method_options": {"temperature": 4.0},
            "condensation": {"value": "entropy", "final_ratio": 0.7},
            "accuracy": {"last": last, "best": best},
            "cost": {"planned": 0.825, "paid": 0.83, "points": 332},
            "seconds": {"training": seconds, "per_stage": []},
            "seed": seed,
            "history": {
                "epoch": [1, 2, 3, 4],
                "num_kept": [100, 80, 80, 70],
                "stage": [0, 1, 1, 2],
                "top1": list(top1),
                "top5": [80.0, 90.0, 94.0, 95.0],
                "eval_loss": [2.0, 1.5, 1.2, 1.1],
                "loss": [None, 1.0, 0.8, 0.7],
            },
            **changes,
        }

    return make
