"""The contents of a batch, the effect of a selection, a blend and a mask on it, and what is refused."""

import io
from dataclasses import replace

import datasets
import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import transforms

from hf_kcd.artifacts.identity import DatasetIdentity
from hf_kcd.condensation import KnowledgeMask, Selection
from hf_kcd.data import CIFAR_PREPROCESSING, IMAGENET_PREPROCESSING, KnowledgeDataset, Preprocessing, load_image_data

CROP = replace(CIFAR_PREPROCESSING, size=12, padding=2)
STILL = replace(CROP, augmentation="none", padding=0)
CUT = replace(IMAGENET_PREPROCESSING, size=16)


def _normalized(images: np.ndarray, preprocessing: Preprocessing) -> np.ndarray:
    """The reference: uint8 or float [B, H, W, 3] to normalized [B, 3, H, W] in float64."""
    scaled = images.astype(np.float64) / 255
    return ((scaled - np.array(preprocessing.mean)) / np.array(preprocessing.std)).transpose(0, 3, 1, 2)


def _all(data: KnowledgeDataset) -> dict[str, torch.Tensor]:
    return data.__getitems__(list(range(len(data))))


def _pixels(data: KnowledgeDataset) -> np.ndarray:
    return _all(data)["pixel_values"].numpy()


def _assert_same(batch: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    assert batch.keys() == other.keys()
    assert all(torch.equal(values, other[name]) for name, values in batch.items())


# Both ways of storing images obey the same rules: decoded once (default budget), or anew for each batch (budget 0).
both_ways = pytest.mark.parametrize("memory_budget", [2**30, 0], ids=["in memory", "decoded each time"])


@both_ways
def test_batch_holds_normalized_pixels_labels_and_ids(make_dataset, pixels, memory_budget):
    dataset = make_dataset(pixels)
    data = KnowledgeDataset(dataset, CROP, training=False, memory_budget=memory_budget)
    batch = data.__getitems__([7, 0, 39])
    assert data.in_memory == bool(memory_budget)
    np.testing.assert_allclose(batch["pixel_values"], _normalized(pixels[[7, 0, 39]], CROP), atol=2e-6)
    assert batch["labels"].tolist() == [1, 0, 0] and batch["point_ids"].tolist() == [7, 0, 39]
    assert batch["partner_ids"].tolist() == [-1] * 3 and batch["perturbation"].tolist() == [0] * 3
    assert [batch[name].dtype for name in batch] == [torch.float32, *[torch.int64] * 3, torch.float32]
    assert batch["pixel_values"].is_contiguous()

    assert data[5]["pixel_values"].shape == (3, 12, 12) and int(data[5]["point_ids"]) == 5
    data.select([5, 9])
    with pytest.raises(IndexError):  # the buffer behind the selection is left over from an earlier one
        data[2]
    assert (len(data), data.num_points, data.num_classes, data.class_names[2]) == (2, 40, 3, "class 2")
    assert data.labels.tolist() == [index % 3 for index in range(40)]
    assert data.identity == DatasetIdentity.of(dataset) and np.array_equal(data.image(4), pixels[4])
    assert (data.mean, data.std, data.preprocessing) == (CROP.mean, CROP.std, CROP)


@pytest.mark.parametrize("augmentation", ["crop_flip", "crop"])
def test_training_image_is_one_window_of_the_padded_image(make_dataset, pixels, augmentation):
    preprocessing = replace(CROP, augmentation=augmentation)
    data = KnowledgeDataset(make_dataset(pixels[:1]), preprocessing)
    padded = np.pad(pixels[0], ((2, 2), (2, 2), (0, 0)))
    corners = [(top, left, step) for top in range(5) for left in range(5) for step in (1, -1)]
    windows = np.stack([padded[top : top + 12, left : left + 12][:, ::step] for top, left, step in corners])
    reference, seen = _normalized(windows, preprocessing), set()
    for epoch in range(300):
        data.set_epoch(epoch)
        (match,) = np.nonzero(np.abs(reference - _pixels(data)).max(axis=(1, 2, 3)) < 1e-5)
        assert len(match) == 1
        seen.add(corners[match[0]])
    assert len(seen) == (50 if augmentation == "crop_flip" else 25)


@both_ways
def test_pixels_depend_only_on_seed_epoch_and_point(make_dataset, pixels, memory_budget):
    data = KnowledgeDataset(make_dataset(pixels), CROP, seed=3, memory_budget=memory_budget)
    data.set_epoch(4)
    whole = _pixels(data)
    shuffled = [11, 3, 39, 20, 3]
    assert np.array_equal(data.__getitems__(shuffled)["pixel_values"], whole[shuffled])
    data.set_epoch(5)
    assert not np.array_equal(_pixels(data), whole)
    data.select([3, 11, 39])
    data.set_epoch(4)
    assert np.array_equal(_pixels(data), whole[[3, 11, 39]])
    other = KnowledgeDataset(make_dataset(pixels), CROP, seed=4)
    other.set_epoch(4)
    assert not np.array_equal(_pixels(other), whole)


@pytest.mark.parametrize("preprocessing", [CROP, CUT, STILL], ids=["crop", "resized crop", "none"])
def test_both_ways_of_storing_give_the_same_pixels(make_dataset, pixels, preprocessing):
    dataset = make_dataset(pixels)
    stored, decoded = (KnowledgeDataset(dataset, preprocessing, memory_budget=size) for size in (2**30, 0))
    assert stored.in_memory and not decoded.in_memory
    for data in (stored, decoded):
        data.select([4, 2, 9], partner=[1, -1, 4], perturbation=[0.3, 0.0, 0.1])
    _assert_same(_all(stored), _all(decoded))


def test_selection_is_kept_ascending_with_its_partners(make_dataset, pixels):
    data, fresh = (KnowledgeDataset(make_dataset(pixels), CROP) for _ in range(2))
    data.select(torch.tensor([9, 2, 30]), partner=np.array([5, -1, 6]), perturbation=[0.25, 0.0, 0.5])
    batch = _all(data)
    assert len(data) == 3 and data.selected.tolist() == [2, 9, 30] == batch["point_ids"].tolist()
    assert batch["partner_ids"].tolist() == [-1, 5, 6] and batch["perturbation"].tolist() == [0, 0.25, 0.5]
    data.selected.fill_(0)
    data.selection.partner.fill_(0)
    _assert_same(_all(data), batch)

    fresh.select(Selection.of([30, 9, 2], [6, 5, -1], [0.5, 0.25, 0.0]))
    _assert_same(_all(fresh), batch)
    assert [part.tolist() for part in fresh.selection] == [[2, 9, 30], [-1, 5, 6], [0, 0.25, 0.5]]
    # All points in any order are the data set that was never selected from.
    data.select(np.random.default_rng(0).permutation(40))
    _assert_same(_all(data), _all(KnowledgeDataset(make_dataset(pixels), CROP)))


def test_mixing_is_convex_before_the_crop_and_not_rounded(make_dataset, pixels):
    data = KnowledgeDataset(make_dataset(pixels), STILL)
    points, partner, perturbation = [1, 2, 3, 4], [2, 1, -1, 39], [0.3, 0.1, 0.0, 0.0]
    data.select(points, partner, perturbation)
    share = np.array(perturbation, dtype=np.float32).astype(np.float64).reshape(-1, 1, 1, 1)
    mixed = (1 - share) * pixels[points] + share * pixels[partner]
    np.testing.assert_allclose(_pixels(data), _normalized(mixed, STILL), atol=2e-6)

    # A twin as partner changes nothing, because both are mixed before one crop.
    data = KnowledgeDataset(make_dataset(np.concatenate([pixels[:5], pixels[:5]])), CROP)
    plain = _pixels(data)[:5]
    data.select(range(5), partner=range(5, 10), perturbation=[0.3] * 5)
    np.testing.assert_allclose(_pixels(data), plain, atol=1e-5)


def test_images_of_many_sizes_are_cut_resized_and_mixed(make_dataset, many_sizes):
    data = KnowledgeDataset(make_dataset(many_sizes), CUT)
    data.set_epoch(2)
    alone = _pixels(data)
    assert alone.shape == (12, 3, 16, 16)
    data.select([4, 7, 8], partner=[8, -1, 4], perturbation=[0.5, 0.0, 0.25])
    mixed = _pixels(data)
    assert np.array_equal(mixed[1], alone[7])
    # The mixture without the point is the partner, which has a cut of its own, the same for every point.
    partner = (mixed[0] - 0.5 * alone[4]) / 0.5
    assert np.abs(partner - alone[8]).max() > 0.01
    data.select([3], partner=[8], perturbation=[0.5])
    np.testing.assert_allclose((_pixels(data)[0] - 0.5 * alone[3]) / 0.5, partner, atol=1e-4)


def test_images_of_many_sizes_are_evaluated_as_torchvision_does(make_dataset, many_sizes):
    preprocessing = replace(CUT, size=56)
    data = KnowledgeDataset(make_dataset(many_sizes), preprocessing, training=False)
    evaluate = transforms.Compose([transforms.Resize(64), transforms.CenterCrop(56)])
    expected = np.stack([np.asarray(evaluate(image)) for image in many_sizes])
    np.testing.assert_allclose(_pixels(data), _normalized(expected, preprocessing), atol=2e-6)


def test_images_are_kept_if_they_have_one_size_and_fit_the_budget(make_dataset, pixels):
    num_bytes = 40 * 12 * 12 * 3
    assert KnowledgeDataset(make_dataset(pixels), CROP, memory_budget=num_bytes).in_memory
    assert not KnowledgeDataset(make_dataset(pixels), CROP, memory_budget=num_bytes - 1).in_memory
    images = [Image.new("RGB", (8, 8))] * 600
    images[521] = Image.new("RGB", (8, 9))  # behind the first batch of decoding, and not in the sample of sizes
    assert not KnowledgeDataset(make_dataset(images), CUT).in_memory
    with pytest.raises(ValueError, match="point 521 is 9 x 8, but .* expects 8 x 8"):
        KnowledgeDataset(make_dataset(images), replace(CIFAR_PREPROCESSING, size=8))
    with pytest.raises(ValueError, match="Leave device out"):
        KnowledgeDataset(make_dataset(pixels), CUT, memory_budget=0, device="meta")


def test_any_kind_of_image_becomes_rgb_whatever_the_format_of_the_data_set(make_dataset, pixels):
    images = [Image.new("RGB", (4, 4), (200, 200, 200)), Image.new("L", (4, 4), 90), Image.new("P", (4, 4), 1)]
    images[2].putpalette([0, 0, 0, 1, 2, 3])
    images.append(Image.new("RGBA", (4, 4), (7, 8, 9, 255)))
    data = KnowledgeDataset(make_dataset(images), replace(STILL, size=4))
    colors = [data.image(point)[0, 0].tolist() for point in range(4)]
    assert colors == [[200, 200, 200], [90, 90, 90], [1, 2, 3], [7, 8, 9]]

    plain = make_dataset(pixels)
    for formatted in (plain.with_format("torch"), plain.with_format("numpy", columns=["fine_label"])):
        assert np.array_equal(_pixels(KnowledgeDataset(formatted, STILL)), _pixels(KnowledgeDataset(plain, STILL)))


def test_blend_is_float32_truncated_and_adds_up(make_dataset, pixels):
    data = KnowledgeDataset(make_dataset(pixels), STILL)
    bank = pixels.copy()
    # Points are partners of each other, so all partners must be read before any point is written.
    for points, partners, shares in (([1, 2], [2, 1], [0.3, 0.2]), ([2, 9], [1, 2], [0.15, 0.0])):
        data.blend(Selection.of([*points, 30], [*partners, -1], [*shares, 0.0]))
        share = np.array(shares, dtype=np.float32).reshape(-1, 1, 1, 1)
        mixed = (np.float32(1) - share) * bank[points].astype(np.float32) + share * bank[partners].astype(np.float32)
        bank[points] = mixed.astype(np.uint8)
    for point in (1, 2, 9, 10):
        assert np.array_equal(data.image(point), bank[point])
    np.testing.assert_allclose(_pixels(data), _normalized(bank, STILL), atol=2e-6)
    assert not np.array_equal(bank[2], pixels[2])
    for _ in range(2):
        data.restore_images()
        np.testing.assert_allclose(_pixels(data), _normalized(pixels, STILL), atol=2e-6)
        data.blend([1], [2], [0.3])

    grays = KnowledgeDataset(make_dataset([np.full((4, 4, 3), value, np.uint8) for value in (10, 13)]))
    grays.blend([0], [1], [0.3])  # 0.7 * 10 + 0.3 * 13 = 10.9
    assert grays.image(0)[0, 0].tolist() == [10, 10, 10]

    decoded = KnowledgeDataset(make_dataset(pixels), CROP, memory_budget=0)
    decoded.restore_images()  # nothing to undo
    with pytest.raises(RuntimeError, match="memory_budget"):
        decoded.blend([1], [2], [0.3])


def test_a_mask_is_applied_mixed_blended_or_plain(make_dataset, pixels):
    data, by_hand = (KnowledgeDataset(make_dataset(pixels), CROP) for _ in range(2))
    parts = [torch.tensor([9, 2, 30]), torch.tensor([-1, 5, 6]), torch.tensor([0.0, 0.25, 0.5])]
    numbers = {"value": torch.zeros(40, dtype=torch.float64), "frequency": torch.zeros(40, dtype=torch.int64)}
    mask = KnowledgeMask(*parts, **numbers, stage=1, schedule={}, dataset=data.identity)
    history = [Selection.of([2, 7], [5, 1], [0.1, 0.3]), Selection(*(part[1:] for part in parts))]
    data.blend([3, 9], [4, 4], [0.5, 0.5])  # an earlier blend is undone

    blended = replace(mask, mixing_history=history)
    for applied, mixing, selected, blends in (
        (mask, True, parts, []),
        (blended, False, parts[:1], []),
        (blended, True, parts[:1], history),
    ):
        data.apply(applied, mixing)
        by_hand.select(*selected)
        for entry in blends:
            by_hand.blend(*entry)
        _assert_same(_all(data), _all(by_hand))
    with pytest.raises(ValueError, match="not about this data set"):
        KnowledgeDataset(make_dataset(pixels[::-1]), CROP).apply(mask)


def test_a_refused_selection_or_blend_changes_nothing(make_dataset, pixels):
    data = KnowledgeDataset(make_dataset(pixels), CROP)
    data.select([1, 8], partner=[15, -1], perturbation=[0.3, 0.0])
    before = _all(data)
    for arguments, message in (
        (([1, 2, 1],), "points holds 1 more than once"),
        (([1, 40],), "points holds 40 .*ids run from 0 to 39"),
        (([-1],), "points holds -1"),
        (([0.0, 1.0],), "integer ids"),
        (([True, False],), "integer ids"),
        (([[1, 2]],), "integer ids"),
        (([1, 2], [3]), "give both"),
        (([1, 2], None, [0.1, 0.2]), "give both"),
        (([1, 2], [3], [0.1, 0.1]), "partner is .1. "),
        (([1, 2], [3, -2], [0.1, 0.1]), "partner holds -2"),
        (([1, 2], [3, 2], [0.1, 0.1]), "its own partner"),
        (([1, 2], [3, 4], [0.1]), "perturbation is .1. "),
        (([1, 2], [3, 4], [0.1, 1.5]), "perturbation holds 1.5"),
        (([1, 2], [3, 4], [float("nan"), 0.1]), "perturbation holds nan"),
        (([1, 2], [3, -1], [0.1, 0.1]), "a point without a partner has the share 0"),
    ):
        for change in (data.select, data.blend):
            with pytest.raises(ValueError, match=message):
                change(*arguments)
            _assert_same(_all(data), before)
    with pytest.raises(ValueError, match="points is empty"):
        data.select([])


def test_data_that_cannot_be_used_is_refused(make_dataset, pixels):
    dataset = make_dataset(pixels)
    for data, options, error, message in (
        (dataset.to_iterable_dataset(), {}, TypeError, "IterableDataset"),
        (datasets.DatasetDict(train=dataset), {}, TypeError, "split"),
        (dataset.remove_columns("img"), {}, ValueError, "no image column"),
        (dataset.remove_columns("fine_label"), {}, ValueError, "no label column"),
        (dataset, {"label_column": "coarse"}, ValueError, "coarse"),
        (dataset.select([]), {}, ValueError, "no points"),
        (dataset, {"preprocessing": CIFAR_PREPROCESSING}, ValueError, "12 x 12, but .* expects 32 x 32"),
        (make_dataset(pixels[:4], labels=[0, 1, -1, 2]), {}, ValueError, "Point 2 has the label -1.*0 to 2"),
        (make_dataset(pixels[:4], labels=[0, 1, None, 2]), {}, ValueError, "Point 2 has the label nan.*0 to 2"),
    ):
        with pytest.raises(error, match=message):
            KnowledgeDataset(data, **options)


@both_ways
def test_a_broken_or_missing_image_is_named_by_its_point(make_dataset, pixels, memory_budget):
    whole = io.BytesIO()
    Image.fromarray(pixels[0]).save(whole, "PNG")
    cut_short, healthy = ({"bytes": content, "path": None} for content in (whole.getvalue()[:200], whole.getvalue()))
    for broken, message in ((cut_short, "point 3 cannot be decoded"), (None, "Point 3 has no image")):
        # So many images that neither the sample of sizes nor the identity reads point 3.
        dataset = make_dataset([healthy] * 3 + [broken] + [healthy] * 596)
        with pytest.raises(ValueError, match=message):
            KnowledgeDataset(dataset, CROP, memory_budget=memory_budget).__getitems__([2, 3])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an accelerator")
@pytest.mark.parametrize("preprocessing", [CROP, CUT], ids=["crop", "resized crop"])
def test_an_accelerator_gives_the_pixels_of_the_cpu(make_dataset, pixels, preprocessing):
    cpu, cuda = (KnowledgeDataset(make_dataset(pixels), preprocessing, device=device) for device in ("cpu", "cuda"))
    for data in (cpu, cuda):
        data.blend([5, 6], [7, 8], [0.3, 0.2])
        data.select([9, 5, 1], partner=[8, -1, 5], perturbation=[0.3, 0.0, 0.1])
    batch = _all(cuda)
    assert {values.device.type for values in batch.values()} == {"cuda"}
    torch.testing.assert_close({name: values.cpu() for name, values in batch.items()}, _all(cpu))


def test_the_real_cifar100_has_its_known_pixels(cifar100_folder):
    test = load_image_data("cifar100", cifar100_folder).eval
    data = KnowledgeDataset(test, replace(CIFAR_PREPROCESSING, mean=(0, 0, 0), std=(1, 1, 1)), training=False)
    images = _pixels(data).astype(np.float64)
    # The figures of the data's own README: pixel-exact against the original files.
    np.testing.assert_allclose(images.mean(axis=(0, 2, 3)), (0.50879641, 0.48739301, 0.44194221), atol=1e-7)
    np.testing.assert_allclose(images.std(axis=(0, 2, 3)), (0.26825157, 0.25736374, 0.27709577), atol=1e-7)
    assert torch.bincount(data.labels).tolist() == [100] * 100
