"""Predictions in NumPy, for the losses that compare them."""

import numpy as np


def softmax(logits: np.ndarray, temperature: float = 1.0) -> np.ndarray:
    powers = np.exp((logits - logits.max(-1, keepdims=True)) / temperature)
    return powers / powers.sum(-1, keepdims=True)


def cross_entropy(logits: np.ndarray, labels: np.ndarray) -> float:
    return -np.mean([np.log(p[y]) for p, y in zip(softmax(logits), labels, strict=True)])


def divergence(target: np.ndarray, logits: np.ndarray, temperature: float) -> float:
    """T^2 KL of probabilities softened with T, batch mean."""
    return temperature**2 * (target * np.log(target / softmax(logits, temperature))).sum() / len(logits)
