"""The random numbers are uniform and depend only on seed, epoch and point; the image operations are the known ones."""

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import stats

from hf_kcd.data.augmentation import RESIZED_CROP_DRAWS, crop_and_flip, resized_crop, uniform

_MASK = 2**64 - 1
_GOLDEN = 0x9E3779B97F4A7C15


def _finalize(state: int) -> int:
    state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & _MASK
    return state ^ (state >> 31)


def test_numbers_are_chained_splitmix64_finalizers():
    assert _finalize(_GOLDEN) == 0xE220A8397B1DCDAF  # the generator's published first output for the seed 0
    drawn = uniform(-5, 3, np.array([0, 49_999, 1_281_166]), 4, stream=1)
    for row, point in zip(drawn, (0, 49_999, 1_281_166), strict=True):
        for draw, number in enumerate(row):
            state = 0
            for word in (-5 & _MASK, 3, 1, point, draw):
                state = _finalize((state + (word + 1) * _GOLDEN) & _MASK)
            assert number == (state >> 11) / 2**53
    np.testing.assert_array_equal(drawn[1:2, :2], uniform(-5, 3, np.array([49_999]), 2, stream=1))


def test_numbers_are_uniform_and_neighboring_points_epochs_seeds_and_draws_independent():
    ids = np.arange(20_000)
    points, later_epoch, other_seed = uniform(0, 0, ids, 2), uniform(0, 1, ids, 1), uniform(1, 0, ids, 1)
    for other in (uniform(0, 0, ids + 1, 1), later_epoch, other_seed, points[:, 1:]):
        counts, _, _ = np.histogram2d(points[:, 0], other[:, 0], bins=9, range=[[0, 1], [0, 1]])
        for observed in (counts.sum(0), counts.sum(1), counts.ravel()):
            statistic = ((observed - observed.mean()) ** 2 / observed.mean()).sum()
            assert stats.chi2.ppf(1e-4, len(observed) - 1) < statistic < stats.chi2.ppf(1 - 1e-4, len(observed) - 1)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
@pytest.mark.parametrize("padding", [0, 2])
def test_crop_and_flip_is_pad_slice_mirror(dtype, padding):
    rng = np.random.default_rng(0)
    images = rng.integers(1, 256, (50, 3, 6, 9))
    top, left = rng.integers(0, 2 * padding + 1, (2, 50))
    flip = rng.random(50) < 0.5
    expected = np.empty_like(images)
    for index, image in enumerate(images):
        padded = np.pad(image, ((0, 0), (padding, padding), (padding, padding)))
        window = padded[:, top[index] : top[index] + 6, left[index] : left[index] + 9]
        expected[index] = window[..., ::-1] if flip[index] else window
    arguments = (torch.from_numpy(values) for values in (top, left, flip))
    cut = crop_and_flip(torch.from_numpy(images).to(dtype), *arguments, padding)
    assert cut.dtype == dtype
    np.testing.assert_array_equal(cut.numpy(), expected)


def test_resized_crop_takes_8_to_100_percent_at_ratios_of_3_4_to_4_3():
    # Red is the column and green the row, so the slopes of a cut tell how wide and how high the part was.
    width, height, size = 240, 200, 40
    image = np.zeros((height, width, 3), np.uint8)
    image[..., 0], image[..., 1] = np.arange(width), np.arange(height)[:, None]
    areas, ratios, mirrored = [], [], []
    for draws in uniform(0, 0, np.arange(400), RESIZED_CROP_DRAWS):
        cut = np.asarray(resized_crop(Image.fromarray(image), size, draws), dtype=np.float64)
        inner = slice(5, -5)  # the ends are blurred
        slope = np.polyfit(np.arange(size)[inner], cut[size // 2, inner, 0], 1)[0]
        box_width = abs(slope) * size
        box_height = np.polyfit(np.arange(size)[inner], cut[inner, size // 2, 1], 1)[0] * size
        areas.append(box_width * box_height / (width * height))
        ratios.append(box_width / box_height)
        mirrored.append(slope < 0)
    areas, log_ratios = np.array(areas), np.log(ratios)
    assert 0.07 < areas.min() < 0.12 and 0.9 < areas.max() < 1.02
    assert abs(areas.mean() - 0.54) < 0.06  # uniform, but for large parts that do not fit and are drawn again
    assert np.abs(log_ratios).max() < np.log(4 / 3) + 0.06
    assert np.log(4 / 3) - np.abs(log_ratios).max() < 0.05
    assert abs(np.mean(mirrored) - 0.5) < 0.1


@pytest.mark.parametrize("place", [0.0, 0.999])
def test_resized_crop_reaches_every_edge(place):
    # 8 % of 400 pixels at a ratio of 1 (halfway between 3/4 and 4/3 in logarithms) is a box of 6 x 6.
    image = np.random.default_rng(0).integers(0, 256, (20, 20, 3), dtype=np.uint8)
    draws = np.concatenate([np.tile([0.0, 0.5, place, place], (RESIZED_CROP_DRAWS - 1) // 4), [0.9]])
    edge = slice(0, 6) if place == 0 else slice(14, 20)
    np.testing.assert_array_equal(np.asarray(resized_crop(Image.fromarray(image), 6, draws)), image[edge, edge])


@pytest.mark.parametrize("tall", [False, True])
def test_resized_crop_of_a_strip_falls_back_to_the_center(tall):
    # No part of a 400 x 10 strip has 8 % of its area and a ratio of 3/4 to 4/3: the center, 13 pixels long, is taken.
    strip = np.zeros((10, 400, 3), np.uint8)
    strip[:, 193:206] = 255
    ends = strip.copy()
    ends[:, 194:205] = 0
    draws = uniform(0, 0, np.array([1]), RESIZED_CROP_DRAWS)[0]
    images = [Image.fromarray(image.transpose(1, 0, 2) if tall else image) for image in (strip, ends)]
    inside, both_ends = (np.asarray(resized_crop(image, 13, draws)) for image in images)
    assert inside.min() == 255 and both_ends.mean() == pytest.approx(255 * 2 / 13, rel=0.01)
