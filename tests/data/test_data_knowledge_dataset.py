"""What a batch holds, what a selection and a blend do to it, and what is refused."""

import io
from dataclasses import replace

import datasets
import numpy as np
import pytest
import torch
from PIL import Image

from hf_kcd.artifacts.identity import DatasetIdentity
from hf_kcd.data import CIFAR_PREPROCESSING, IMAGENET_PREPROCESSING, KnowledgeDataset, Preprocessing

RECIPE = replace(CIFAR_PREPROCESSING, size=12, padding=2)
STILL = replace(RECIPE, augmentation="none", padding=0)
CUT = replace(IMAGENET_PREPROCESSING, size=16)


def _normalised(images: np.ndarray, recipe: Preprocessing) -> np.ndarray:
    """The reference: uint8 or float [B, H, W, 3] to normalised [B, 3, H, W] in float64."""
    scaled = images.astype(np.float64) / 255
    return ((scaled - np.array(recipe.mean)) / np.array(recipe.std)).transpose(0, 3, 1, 2)


def _all(data: KnowledgeDataset) -> dict[str, torch.Tensor]:
    return data.__getitems__(list(range(len(data))))


def _pixels(data: KnowledgeDataset) -> np.ndarray:
    return _all(data)["pixel_values"].numpy()


# Both ways of storing images obey the same rules: decoded once (default budget), or anew for each batch (budget 0).
both_ways = pytest.mark.parametrize("memory_budget", [2**30, 0], ids=["in memory", "decoded each time"])


@both_ways
def test_batch_holds_normalised_pixels_labels_and_ids(make_dataset, pixels, memory_budget):
    data = KnowledgeDataset(make_dataset(pixels), RECIPE, training=False, memory_budget=memory_budget)
    batch = data.__getitems__([7, 0, 39])
    assert data.in_memory == bool(memory_budget)
    np.testing.assert_allclose(batch["pixel_values"], _normalised(pixels[[7, 0, 39]], RECIPE), atol=2e-6)
    assert batch["labels"].tolist() == [1, 0, 0] and batch["point_ids"].tolist() == [7, 0, 39]
    assert batch["partner_ids"].tolist() == [-1] * 3 and batch["perturbation"].tolist() == [0] * 3
    assert [batch[name].dtype for name in batch] == [torch.float32, *[torch.int64] * 3, torch.float32]
    assert batch["pixel_values"].is_contiguous()


def test_one_item_is_a_row_of_the_batch(make_dataset, pixels):
    data = KnowledgeDataset(make_dataset(pixels), RECIPE)
    assert data[5]["pixel_values"].shape == (3, 12, 12) and int(data[5]["point_ids"]) == 5
    with pytest.raises(IndexError):
        data[40]
    data.select([5, 9])
    with pytest.raises(IndexError):  # what lies behind the selection is left over from an earlier one
        data[2]


@both_ways
@pytest.mark.parametrize("augmentation", ["crop_flip", "crop"])
def test_training_image_is_one_window_of_the_padded_image(make_dataset, pixels, augmentation, memory_budget):
    recipe = replace(RECIPE, augmentation=augmentation)
    data = KnowledgeDataset(make_dataset(pixels[:6]), recipe, memory_budget=memory_budget)
    seen = set()
    for epoch in range(40):
        data.set_epoch(epoch)
        for image, augmented in zip(pixels, _pixels(data), strict=False):
            padded = np.pad(image, ((2, 2), (2, 2), (0, 0)))
            windows = {
                (top, left, step): padded[top : top + 12, left : left + 12][:, ::step]
                for top in range(5)
                for left in range(5)
                for step in (1, -1)
            }
            reference = _normalised(np.stack(list(windows.values())), recipe)
            (match,) = np.nonzero(np.abs(reference - augmented).max(axis=(1, 2, 3)) < 1e-5)
            assert len(match) == 1
            seen.add(list(windows)[match[0]])
    assert len(seen) == (50 if augmentation == "crop_flip" else 25)


@both_ways
def test_pixels_depend_on_seed_epoch_and_point_alone(make_dataset, pixels, memory_budget):
    data = KnowledgeDataset(make_dataset(pixels), RECIPE, seed=3, memory_budget=memory_budget)
    data.set_epoch(4)
    whole = _pixels(data)
    shuffled = [11, 3, 39, 20, 3]
    assert np.array_equal(data.__getitems__(shuffled)["pixel_values"], whole[shuffled])
    data.select([3, 11, 39])
    assert np.array_equal(_pixels(data), whole[[3, 11, 39]])
    data.select_all()
    data.set_epoch(5)
    assert not np.array_equal(_pixels(data), whole)
    data.set_epoch(4)
    assert np.array_equal(_pixels(data), whole)
    other = KnowledgeDataset(make_dataset(pixels), RECIPE, seed=4)
    other.set_epoch(4)
    assert not np.array_equal(_pixels(other), whole)


def test_both_ways_of_storing_give_the_same_pixels(make_dataset, pixels):
    stored, decoded = (KnowledgeDataset(make_dataset(pixels), RECIPE, memory_budget=size) for size in (2**30, 0))
    for data in (stored, decoded):
        data.select([4, 2, 9], partner=[1, -1, 4], perturbation=[0.3, 0.0, 0.1])
    assert np.array_equal(_pixels(stored), _pixels(decoded))
    assert np.array_equal(stored.image(4), decoded.image(4)) and np.array_equal(stored.image(4), pixels[4])


def test_selection_is_kept_ascending_with_its_partners(make_dataset, pixels):
    data = KnowledgeDataset(make_dataset(pixels), STILL)
    data.select(torch.tensor([9, 2, 30]), partner=np.array([5, -1, 6]), perturbation=[0.25, 0.0, 0.5])
    batch = _all(data)
    assert len(data) == 3 and data.selected.tolist() == [2, 9, 30] == batch["point_ids"].tolist()
    assert batch["partner_ids"].tolist() == [-1, 5, 6] and batch["perturbation"].tolist() == [0, 0.25, 0.5]
    data.selected.fill_(0)
    assert data.selected.tolist() == [2, 9, 30]


def test_selecting_all_in_any_order_is_as_never_having_selected(make_dataset, pixels):
    fresh, selected = (KnowledgeDataset(make_dataset(pixels), RECIPE) for _ in range(2))
    selected.select([1, 2], partner=[3, 4], perturbation=[0.5, 0.5])
    selected.select(np.random.default_rng(0).permutation(40))
    for name, values in _all(fresh).items():
        assert torch.equal(values, _all(selected)[name])


@both_ways
def test_mixing_is_convex_on_original_images_and_not_rounded(make_dataset, pixels, memory_budget):
    data = KnowledgeDataset(make_dataset(pixels), STILL, memory_budget=memory_budget)
    kept, partner, share = [1, 2, 3, 4], [2, 1, -1, 39], [0.3, 0.1, 0.2, 0.0]
    data.select(kept, partner, share)
    share = np.array([0.3, 0.1, 0.0, 0.0], dtype=np.float32).astype(np.float64).reshape(-1, 1, 1, 1)
    mixed = (1 - share) * pixels[kept] + share * pixels[partner]
    np.testing.assert_allclose(_pixels(data), _normalised(mixed, STILL), atol=2e-6)


def test_point_and_partner_share_one_crop_in_whole_batches(make_dataset, pixels):
    # Mixed before the crop: with the same image as partner, mixing changes nothing.
    data = KnowledgeDataset(make_dataset(np.concatenate([pixels[:5], pixels[:5]])), RECIPE)
    plain = _pixels(data)[:5]
    data.select(range(5), partner=range(5, 10), perturbation=[0.3] * 5)
    np.testing.assert_allclose(_pixels(data), plain, atol=1e-5)


def test_images_of_many_sizes_are_cut_resized_and_mixed(make_dataset, many_sizes):
    data = KnowledgeDataset(make_dataset(many_sizes), CUT)
    assert not data.in_memory
    data.set_epoch(2)
    alone = _pixels(data)
    assert alone.shape == (12, 3, 16, 16)
    data.set_epoch(3)
    assert not np.array_equal(_pixels(data), alone)
    data.set_epoch(2)
    data.select([4, 7, 8], partner=[8, -1, 4], perturbation=[0.5, 0.0, 0.25])
    mixed = _pixels(data)
    assert np.array_equal(mixed[1], alone[7])
    # What is left of the mixture without the point is the partner, cut in its own way, wherever it is mixed in.
    partner = (mixed[0] - 0.5 * alone[4]) / 0.5
    assert np.abs(partner - alone[8]).max() > 0.01
    data.select([3], partner=[8], perturbation=[0.5])
    np.testing.assert_allclose((_pixels(data)[0] - 0.5 * alone[3]) / 0.5, partner, atol=1e-4)


def test_images_of_many_sizes_are_evaluated_on_their_centre(make_dataset):
    squares = [Image.new("RGB", (side, side), (10 * side % 256, 30, 200)) for side in (20, 31, 54)]
    data = KnowledgeDataset(make_dataset(squares), CUT, training=False)
    expected = _normalised(np.stack([np.full((16, 16, 3), square.getpixel((0, 0))) for square in squares]), CUT)
    np.testing.assert_allclose(_pixels(data), expected, atol=1e-5)


def test_resizing_recipe_reads_kept_images_as_it_reads_files(make_dataset, pixels):
    stored, decoded = (KnowledgeDataset(make_dataset(pixels), CUT, memory_budget=size) for size in (2**30, 0))
    assert stored.in_memory and not decoded.in_memory
    assert np.array_equal(_pixels(stored), _pixels(decoded))


def test_a_late_image_of_another_size_sends_a_resizing_recipe_to_the_workers(make_dataset):
    images = [Image.new("RGB", (8, 8))] * 1000
    images[601] = Image.new("RGB", (8, 9))
    assert not KnowledgeDataset(make_dataset(images), CUT).in_memory
    with pytest.raises(ValueError, match="point 601 is 9 x 8 and the recipe is for 8 x 8"):
        KnowledgeDataset(make_dataset(images), replace(CIFAR_PREPROCESSING, size=8))


def test_memory_budget_counts_bytes(make_dataset, pixels):
    num_bytes = 40 * 12 * 12 * 3
    assert KnowledgeDataset(make_dataset(pixels), RECIPE, memory_budget=num_bytes).in_memory
    assert not KnowledgeDataset(make_dataset(pixels), RECIPE, memory_budget=num_bytes - 1).in_memory


def test_grey_palette_and_transparent_images_become_rgb(make_dataset):
    images = [Image.new("RGB", (4, 4), (200, 200, 200)), Image.new("L", (4, 4), 90), Image.new("P", (4, 4), 1)]
    images[2].putpalette([0, 0, 0, 1, 2, 3])
    images.append(Image.new("RGBA", (4, 4), (7, 8, 9, 128)))
    data = KnowledgeDataset(make_dataset(images), replace(STILL, size=4))
    colours = [data.image(point)[0, 0].tolist() for point in range(4)]
    assert colours == [[200, 200, 200], [90, 90, 90], [1, 2, 3], [7, 8, 9]]


def test_a_users_format_or_transform_is_not_applied(make_dataset, pixels):
    plain = make_dataset(pixels)
    for formatted in (plain.with_format("torch"), plain.with_transform(lambda rows: {"img": [0] * len(rows["img"])})):
        assert np.array_equal(_pixels(KnowledgeDataset(formatted, STILL)), _pixels(KnowledgeDataset(plain, STILL)))


def test_what_the_data_set_says_of_itself(make_dataset, pixels):
    dataset = make_dataset(pixels)
    data = KnowledgeDataset(dataset, RECIPE)
    data.select([3])
    assert data.num_points == 40 and data.num_classes == 3 and data.class_names[2] == "class 2"
    assert data.labels.tolist() == [index % 3 for index in range(40)]
    assert data.identity == DatasetIdentity.of(dataset)
    assert data.mean == RECIPE.mean and data.std == RECIPE.std and data.preprocessing == RECIPE


def test_blend_is_float32_truncated_and_adds_up(make_dataset, pixels):
    data = KnowledgeDataset(make_dataset(pixels), STILL)
    bank = pixels.copy()
    # Points are each other's partners: all partners are read before any point is written.
    for points, partners, shares in (([1, 2], [2, 1], [0.3, 0.2]), ([2, 9], [1, 2], [0.15, 0.0])):
        data.blend(points, partners, shares)
        share = np.array(shares, dtype=np.float32).reshape(-1, 1, 1, 1)
        mixed = (np.float32(1) - share) * bank[points].astype(np.float32) + share * bank[partners].astype(np.float32)
        bank[points] = mixed.astype(np.uint8)
    for point in (1, 2, 9, 10):
        assert np.array_equal(data.image(point), bank[point])
    np.testing.assert_allclose(_pixels(data), _normalised(bank, STILL), atol=2e-6)
    assert not np.array_equal(bank[2], pixels[2])
    data.restore_images()
    np.testing.assert_allclose(_pixels(data), _normalised(pixels, STILL), atol=2e-6)
    data.restore_images()
    data.blend([1], [2], [0.3])
    data.restore_images()
    assert np.array_equal(data.image(1), pixels[1])


def test_blend_truncates_by_hand(make_dataset):
    images = [np.full((4, 4, 3), value, np.uint8) for value in (10, 13)]
    data = KnowledgeDataset(make_dataset(images), replace(STILL, size=4))
    data.blend([0], [1], [0.3])  # 0.7 * 10 + 0.3 * 13 = 10.9
    assert data.image(0)[0, 0].tolist() == [10, 10, 10]


def test_blend_needs_kept_images(make_dataset, pixels):
    data = KnowledgeDataset(make_dataset(pixels), RECIPE, memory_budget=0)
    with pytest.raises(RuntimeError, match="memory_budget"):
        data.blend([1], [2], [0.3])
    data.restore_images()  # nothing to undo
    assert np.array_equal(data.image(1), pixels[1])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([],), "kept is empty"),
        (([1, 2, 1],), "kept holds 1 more than once"),
        (([1, 40],), "kept holds 40; this data set's ids are 0 to 39"),
        (([-1],), "kept holds -1"),
        (([0.0, 1.0],), "integer ids"),
        (([True, False],), "integer ids"),
        (([[1, 2]],), "integer ids"),
        (([1, 2], [3]), "give both"),
        (([1, 2], None, [0.1, 0.2]), "give both"),
        (([1, 2], [3], [0.1, 0.1]), "partner has the shape"),
        (([1, 2], [3, -2], [0.1, 0.1]), "partner holds -2"),
        (([1, 2], [3, 4], [0.1]), "perturbation has the shape"),
        (([1, 2], [3, 4], [0.1, 1.5]), "perturbation holds 1.5"),
        (([1, 2], [3, 4], [float("nan"), 0.1]), "perturbation holds nan"),
    ],
)
def test_a_refused_selection_changes_nothing(make_dataset, pixels, arguments, message):
    data = KnowledgeDataset(make_dataset(pixels), RECIPE)
    data.select([4, 8], partner=[15, -1], perturbation=[0.3, 0.0])
    before = _all(data)
    with pytest.raises(ValueError, match=message):
        data.select(*arguments)
    for name, values in _all(data).items():
        assert torch.equal(values, before[name])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([1, 1], [2, 3], [0.1, 0.1]), "points holds 1 more than once"),
        (([1], [-1], [0.1]), "partners holds -1"),
        (([1], [2, 3], [0.1]), "partners has the shape"),
        (([1], [2], [2.0]), "perturbations holds 2.0"),
    ],
)
def test_a_refused_blend_changes_nothing(make_dataset, pixels, arguments, message):
    data = KnowledgeDataset(make_dataset(pixels), STILL)
    with pytest.raises(ValueError, match=message):
        data.blend(*arguments)
    assert np.array_equal(data.image(1), pixels[1])


def test_data_that_cannot_be_used_is_refused(make_dataset, pixels):
    dataset = make_dataset(pixels)
    with pytest.raises(TypeError, match="IterableDataset"):
        KnowledgeDataset(dataset.to_iterable_dataset(), RECIPE)
    with pytest.raises(TypeError, match="split"):
        KnowledgeDataset(datasets.DatasetDict(train=dataset), RECIPE)
    with pytest.raises(ValueError, match="no image column"):
        KnowledgeDataset(dataset.remove_columns("img"), RECIPE)
    with pytest.raises(ValueError, match="no label column"):
        KnowledgeDataset(dataset.remove_columns("fine_label"), RECIPE)
    with pytest.raises(ValueError, match="coarse"):
        KnowledgeDataset(dataset, RECIPE, label_column="coarse")
    with pytest.raises(ValueError, match="no points"):
        KnowledgeDataset(dataset.select([]), RECIPE)
    with pytest.raises(ValueError, match="12 x 12 and the recipe is for 32 x 32"):
        KnowledgeDataset(dataset, CIFAR_PREPROCESSING)


@pytest.mark.parametrize(("label", "said"), [(-1, "-1"), (None, "nan")])
def test_a_missing_label_is_named_by_its_point(make_dataset, pixels, label, said):
    with pytest.raises(ValueError, match=f"Point 2 has the label {said}.*0 to 2"):
        KnowledgeDataset(make_dataset(pixels[:4], labels=[0, 1, label, 2]), RECIPE)


@both_ways
def test_a_broken_or_missing_image_is_named_by_its_point(make_dataset, pixels, memory_budget):
    whole = io.BytesIO()
    Image.fromarray(pixels[0]).save(whole, "PNG")
    cut_short = {"bytes": whole.getvalue()[:200], "path": None}
    healthy = {"bytes": whole.getvalue(), "path": None}
    for broken, message in ((cut_short, "point 3 cannot be decoded"), (None, "Point 3 has no image")):
        with pytest.raises(ValueError, match=message):
            data = KnowledgeDataset(
                make_dataset([healthy] * 3 + [broken] + [healthy] * 596), RECIPE, memory_budget=memory_budget
            )
            data.__getitems__([2, 3])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"augmentation": "crop_flp"}, "crop_flip"),
        ({"size": 0}, "size is 0"),
        ({"padding": -1}, "padding is -1"),
        ({"std": (0.2, 0.0, 0.2)}, "above 0"),
        ({"mean": (0.5,)}, "give three"),
    ],
)
def test_a_recipe_that_makes_no_sense_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        replace(CIFAR_PREPROCESSING, **changes)


def test_an_accelerator_needs_kept_images(make_dataset, many_sizes):
    with pytest.raises(ValueError, match="Leave device out"):
        KnowledgeDataset(make_dataset(many_sizes), CUT, device="meta")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an accelerator")
@pytest.mark.parametrize("recipe", [RECIPE, CUT], ids=["crop", "resized crop"])
def test_an_accelerator_gives_the_pixels_of_the_cpu(make_dataset, pixels, recipe):
    batches = []
    for device in ("cpu", "cuda"):
        data = KnowledgeDataset(make_dataset(pixels), recipe, device=device)
        data.blend([5, 6], [7, 8], [0.3, 0.2])
        data.select([9, 5, 1], partner=[8, -1, 5], perturbation=[0.3, 0.0, 0.1])
        batch = _all(data)
        assert {values.device.type for values in batch.values()} == {device}
        batches.append(batch)
    for name, values in batches[0].items():
        torch.testing.assert_close(values, batches[1][name].cpu())


def test_the_real_cifar100_has_the_pixels_that_it_is_known_for(cifar100_folder):
    from hf_kcd.data import load_image_data

    test = load_image_data("cifar100", cifar100_folder).eval
    data = KnowledgeDataset(test, replace(CIFAR_PREPROCESSING, mean=(0, 0, 0), std=(1, 1, 1)), training=False)
    images = _pixels(data).astype(np.float64)
    # The figures of the data's own README: pixel-exact against the original files.
    np.testing.assert_allclose(images.mean(axis=(0, 2, 3)), (0.50879641, 0.48739301, 0.44194221), atol=1e-7)
    np.testing.assert_allclose(images.std(axis=(0, 2, 3)), (0.26825157, 0.25736374, 0.27709577), atol=1e-7)
    assert torch.bincount(data.labels).tolist() == [100] * 100


def test_without_a_recipe_one_that_fits_the_images_is_taken(make_dataset, pixels):
    height = pixels[0].shape[0]
    data = KnowledgeDataset(make_dataset(pixels))
    assert (data.preprocessing.size, data.preprocessing.augmentation, data.preprocessing.padding) == (
        height,
        "crop_flip",
        height // 8,
    )
    sizes = [np.zeros((height + row, height, 3), np.uint8) for row in range(4)]
    assert KnowledgeDataset(make_dataset(sizes)).preprocessing == IMAGENET_PREPROCESSING


@both_ways
@pytest.mark.parametrize("size", [31, 5])
def test_images_are_resized_for_a_network_of_another_size(make_dataset, pixels, memory_budget, size):
    recipe = STILL.for_network(size, (0.5, 0.4, 0.3), (0.2, 0.3, 0.4))
    assert recipe.network_size == size and recipe.size == 12
    found = _pixels(KnowledgeDataset(make_dataset(pixels), recipe, memory_budget=memory_budget))
    # Pillow's bilinear filter on float pixels, which reduces with antialiasing.
    planes = _normalised(pixels, recipe).reshape(-1, 12, 12).astype(np.float32)
    expected = [np.asarray(Image.fromarray(plane).resize((size, size), Image.Resampling.BILINEAR)) for plane in planes]
    np.testing.assert_allclose(found, np.stack(expected).reshape(40, 3, size, size), atol=2e-5)


def test_resizing_comes_after_the_augmentation_and_is_the_same_in_any_batch(make_dataset, pixels):
    data = KnowledgeDataset(make_dataset(pixels), RECIPE.for_network(24))
    small = KnowledgeDataset(make_dataset(pixels), RECIPE)
    whole = _all(data)["pixel_values"]
    expected = torch.nn.functional.interpolate(_all(small)["pixel_values"], scale_factor=2, mode="bilinear")
    torch.testing.assert_close(whole, expected)
    for rows in ([3], [39, 3, 8]):
        assert torch.equal(data.__getitems__(rows)["pixel_values"], whole[rows])


def test_a_recipe_for_a_network_of_the_datas_own_size_resizes_nothing():
    assert RECIPE.for_network(12) == RECIPE == RECIPE.for_network()
    # Images of any size are cut at the network's size at once.
    assert CUT.for_network(24) == replace(CUT, size=24)
    with pytest.raises(ValueError, match="resize is 0"):
        replace(RECIPE, resize=0)
