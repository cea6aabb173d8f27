"""Predictions in NumPy float64, written from the papers alone."""

import numpy as np


def log_softmax(logits: np.ndarray, temperature: float = 1.0) -> np.ndarray:
    scaled = np.asarray(logits, dtype=np.float64) / temperature
    scaled = scaled - scaled.max(-1, keepdims=True)
    return scaled - np.log(np.exp(scaled).sum(-1, keepdims=True))


def softmax(logits: np.ndarray, temperature: float = 1.0) -> np.ndarray:
    return np.exp(log_softmax(logits, temperature))


def cross_entropy(logits: np.ndarray, labels: np.ndarray) -> float:
    return -log_softmax(logits)[np.arange(len(labels)), labels].mean()


def divergence(student: np.ndarray, target: np.ndarray, temperature: float) -> float:
    """T^2 KL(target || student), batch mean, from the student's logits and a target softened with T."""
    return temperature**2 * (target * (np.log(target) - log_softmax(student, temperature))).sum() / len(student)


def unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.sqrt((rows**2).sum(-1, keepdims=True))
