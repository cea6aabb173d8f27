"""Small image data sets made on the spot, and the real CIFAR-100 where it lies beside the repository."""

from collections.abc import Callable, Sequence
from pathlib import Path

import datasets
import numpy as np
import pytest
from PIL import Image


@pytest.fixture(autouse=True)
def quiet_and_clean(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """No progress bars, and no cache outside pytest's own folder."""
    datasets.disable_progress_bars()
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.getbasetemp() / "datasets")


@pytest.fixture(scope="session")
def make_dataset() -> Callable[..., datasets.Dataset]:
    """Return a function from images (arrays, PIL images or None) and labels to a data set of `img` and `fine_label`."""

    def make(images: Sequence, labels: Sequence | None = None, num_classes: int = 3) -> datasets.Dataset:
        names = datasets.ClassLabel(names=[f"class {label}" for label in range(num_classes)])
        features = datasets.Features({"img": datasets.Image(), "fine_label": names})
        labels = [index % num_classes for index in range(len(images))] if labels is None else labels
        return datasets.Dataset.from_dict({"img": list(images), "fine_label": labels}, features)

    return make


@pytest.fixture(scope="session")
def pixels() -> np.ndarray:
    """40 random images, uint8 [40, 12, 12, 3]."""
    return np.random.default_rng(7).integers(0, 256, (40, 12, 12, 3), dtype=np.uint8)


@pytest.fixture
def many_sizes() -> list[Image.Image]:
    """12 images, each of its own size, smooth as photographs are."""
    rng = np.random.default_rng(3)
    images = [Image.fromarray(rng.integers(0, 256, (3, 4, 3), dtype=np.uint8)) for _ in range(12)]
    return [image.resize((30 + 7 * index, 90 - 4 * index)) for index, image in enumerate(images)]


@pytest.fixture
def cifar100_folder() -> Path:
    """The real CIFAR-100."""
    folder = Path(__file__).resolve().parents[3] / "shared" / "data" / "cifar100"
    if not folder.is_dir():
        pytest.skip("CIFAR-100 does not lie in ../shared/data/cifar100")
    return folder
