"""Algorithm 1 in NumPy, written from the paper alone: what a condenser and a training are compared with."""

import numpy as np
from formulas import log_softmax

from hf_kcd.condensation import KCDConfig


def value_of(name: str, student, teacher, labels) -> np.ndarray:
    """The value of every row; the entropy (Eq. 7) also for "random", where the record still shows it."""
    student = log_softmax(student)
    if name == "cross_entropy":
        return -student[np.arange(len(student)), np.asarray(labels)]
    if name == "kd_divergence":
        teacher = log_softmax(teacher)
        return (np.exp(teacher) * (teacher - student)).sum(1)
    return -(np.exp(student) * student).sum(1)


class ByHand:
    """Observes and selects as `KnowledgeCondenser` should; a selection is (kept, partner, perturbation) in rank order."""

    def __init__(self, config: KCDConfig, num_points: int, num_epochs: int, seed: int = 0):
        self.config, self.num_points, self.num_epochs, self.seed = config, num_points, num_epochs, seed
        self.value, self.frequency = np.zeros(num_points), np.zeros(num_points, dtype=np.int64)
        self.open = np.full(num_points, np.nan)
        self.epoch, self.selections, self.num_kept = 0, [], num_points

    def observe(self, ids, student, teacher=None, labels=None) -> None:
        np.fmax.at(self.open, np.asarray(ids), value_of(self.config.value, student, teacher, labels))

    def end_epoch(self) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
        seen = ~np.isnan(self.open)
        self.frequency[seen] += 1
        count = self.frequency[seen]
        mean = (count - 1) / count * self.value[seen] + self.open[seen] / count  # Eq. 12
        self.value[seen] = mean if self.config.online_recording else self.open[seen]
        self.open[:] = np.nan
        self.epoch += 1
        stage_length, by_epoch = self.config.epochs_per_stage, self.config.first_selection == "after_first_epoch"
        if (self.epoch - by_epoch) % stage_length:
            return None
        number = len(self.selections) + 1
        if self.config.shape == "exponential":
            share = self.config.final_ratio ** min(1, number * stage_length / self.num_epochs)
            size = int(self.num_points * share + 1e-9)
        else:
            num_stages = -(-self.num_epochs // stage_length)
            size = self.num_points - number * int(self.num_points * (1 - self.config.final_ratio) / num_stages + 1e-9)
        self.selections.append(self._select(size))
        self.num_kept = size
        return self.selections[-1]

    def _select(self, size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        scores = self.value * np.maximum(self.frequency, 1) ** self.config.cost_exponent  # Eq. 13
        scores[self.frequency == 0] = np.inf
        if self.config.value == "random":
            scores = np.random.Generator(np.random.PCG64([self.seed, self.epoch])).random(self.num_points)
        order = np.argsort(-scores, kind="stable")
        kept, discarded = order[:size], order[size:]
        before = self.num_kept if self.config.partners == "newly_discarded" else self.num_points
        num_low = min(size, before - size)
        partner, perturbation = np.full(size, -1), np.zeros(size)
        for k in range(num_low if self.config.augmentation != "none" else 0):
            rank = size - num_low + k
            partner[rank] = discarded[k]  # Eq. 14
            share = k / num_low if self.config.augmentation == "adaptive" else 1
            perturbation[rank] = self.config.max_perturbation * share  # Eq. 15
        return kept, partner, perturbation
