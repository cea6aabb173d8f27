"""Pictures show the right numbers, and are really drawn."""

import datasets
import numpy as np
import pytest
from PIL import Image

from hf_kcd.artifacts.run_folder import pictures_of
from hf_kcd.data import DIGITS_PREPROCESSING, IMAGENET_PREPROCESSING, KnowledgeDataset
from hf_kcd.reporting import (
    contact_sheet,
    plot_curves,
    plot_hamming,
    plot_ranks,
    plot_stages,
    plot_values,
    save_figure,
    write_run_plots,
)


def check_drawn(figure, tmp_path):
    path = tmp_path / "figure.png"
    save_figure(figure, path)
    with Image.open(path) as image:
        assert image.format == "PNG" and min(image.size) > 300 and len(image.convert("RGB").getcolors(2**24)) > 10
    assert [file.name for file in tmp_path.iterdir()] == ["figure.png"]


@pytest.fixture
def stages(make_mask):
    """Three stages over 10 points: {8, 9} leave, then 8 returns while {6, 7} leave, then {5, 8} leave."""
    values = [5.0, 4.0, 3.0, 2.0, 1.5, 1.2, 1.0, 0.9, 0.5, 0.1]
    return [
        make_mask([0, 1, 2, 3, 4, 5, 6, 7], values, stage=1, mixing={6: (8, 0.0), 7: (9, 0.15)}),
        make_mask([1, 0, 8, 2, 3, 4, 5], [*values[:8], 3.5, 0.1], stage=2, mixing={6: (6, 0.1)}),
        make_mask([1, 0, 2, 3, 4], values, stage=3),
    ]


def points_dataset(sizes, names=("cat", "$\\dog$, or another")):
    rng = np.random.default_rng(0)
    images = [Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8)) for height, width in sizes]
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=list(names))})
    return datasets.Dataset.from_dict({"image": images, "label": [i % 2 for i in range(len(sizes))]}, features)


def heights(axes, name):
    container = next(bars for bars in axes.containers if bars.get_label().startswith(name))
    return [bar.get_height() for bar in container]


def test_curves_show_accuracy_loss_and_kept_points(make_results, tmp_path):
    figure = plot_curves(make_results())
    accuracy, loss, kept = figure.axes
    top1, top5 = accuracy.lines[:2]
    assert top1.get_xydata().tolist() == [[1, 40], [2, 60], [3, 71], [4, 70]]
    assert top5.get_ydata().tolist() == [80, 90, 94, 95]
    # The first epoch has no line in the log: it is left out, not drawn as 0.
    assert loss.lines[1].get_xydata().tolist() == [[2, 1.0], [3, 0.8], [4, 0.7]]
    stairs = kept.patches[0].get_data()
    assert stairs.values.tolist() == [100, 80, 80, 70] and stairs.edges.tolist() == [0, 1, 2, 3, 4]
    # Selections between epochs 1 and 2, and between 3 and 4.
    assert sorted(line.get_xdata()[0] for line in kept.lines) == [1, 3]
    title = accuracy.get_title(loc="left")
    assert "70.00 %" in title and "83.0 % of the full cost" in title
    check_drawn(figure, tmp_path)


def test_seeds_of_one_experiment_share_a_color_and_a_legend_entry(make_results):
    runs = [make_results(seed=0), make_results(seed=1), make_results(condensation=None)]
    figure = plot_curves(runs)
    colors = [line.get_color() for line in figure.axes[0].lines]
    assert colors[0] == colors[1] != colors[2]
    texts = [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
    assert texts == ["KC-KD, resnet20 → resnet8", "KD, resnet20 → resnet8"]


def test_a_run_without_evaluation_is_drawn_and_what_does_not_fit_is_refused(make_results):
    results = make_results(accuracy=None)
    for name in ("top1", "top5", "eval_loss", "loss"):
        results["history"][name] = [None] * 4
    for figure in (plot_curves(results), plot_curves([results, results])):
        assert [axes.texts[0].get_text() for axes in figure.axes[:2]] == ["nothing logged"] * 2
    with pytest.raises(ValueError, match="no run"):
        plot_curves([])
    with pytest.raises(ValueError, match="1 labels for 2 runs"):
        plot_curves([results, results], ["one"])


def test_stages_count_points_kept_mixed_returned_and_dropped(stages, tmp_path):
    figure = plot_stages(stages[::-1])
    top, bottom = figure.axes
    counts = [heights(top, name) for name in ("kept as", "kept, mixed", "discarded")]
    assert counts == [[6, 6, 5], [2, 1, 0], [2, 3, 5]]
    assert heights(bottom, "came back") == [0, 1, 0] and heights(bottom, "left") == [-2, -2, -2]
    check_drawn(figure, tmp_path)
    # Changes since a missing stage are not made up.
    bottom = plot_stages([stages[0], stages[2]]).axes[1]
    assert heights(bottom, "left")[0] == -2 and np.isnan(heights(bottom, "left")[1])


def test_values_are_counted_apart_for_kept_and_discarded_points(make_mask, tmp_path):
    rng = np.random.default_rng(0)
    values = rng.uniform(1, 2, 200).tolist()
    # A point that was never recorded has no value: its 0 is not drawn.
    values[0], frequency = 0.0, [0] + [1] * 199
    figure = plot_values([make_mask(list(range(150)), values, frequency, stage=1, value="cross_entropy")])
    axes = figure.axes[0]
    discarded, everything = (patch.get_data() for patch in axes.patches[:2])
    area = [np.sum(data.values - data.baseline) for data in (discarded, everything)]
    # 50 discarded and 149 recorded kept points, on one scale.
    assert area[1] / area[0] == pytest.approx(149 / 50)
    assert everything.edges[0] > 0.9
    assert axes.get_xscale() == "linear" and "cross entropy" in axes.get_xlabel()
    check_drawn(figure, tmp_path)
    for odd in ([-1.0, 5.0, -200.0, 0.0], [2.0, 2.0, 2.0]):
        axes = plot_values([make_mask([0, 1], odd)]).axes[0]
        (low, high), scale = axes.get_xlim(), axes.get_xscale()
        assert scale == "linear" and low < min(odd) and max(odd) < high


@pytest.mark.parametrize("lowest", [0.0, 1e-30])
def test_values_over_many_orders_of_magnitude_get_a_logarithmic_axis(make_mask, lowest):
    values = [lowest, *np.geomspace(1e-4, 4.0, 999)]
    axes = plot_values([make_mask(list(range(500, 1000)), values, value="entropy")]).axes[0]
    assert axes.get_xscale() == "log"
    # One value of 1e-30 must not squeeze all others into a corner.
    assert axes.get_xlim()[0] > 1e-5


def test_ranks_follow_equation_8(make_mask, tmp_path):
    # Ranks by score V * F^0.5: stage 1 has 4, 3 * sqrt(4) = 6, 1, 2 -> order 1, 0, 3, 2; stage 2 order 2, 1, 0, 3.
    first = make_mask([1, 0], [4.0, 3.0, 1.0, 2.0], frequency=[1, 4, 1, 1], stage=1, cost_exponent=0.5)
    second = make_mask([2], [1.0, 2.0, 3.0, 0.5], stage=2, cost_exponent=0.5)
    figure = plot_ranks([first, second], num_points=4, num_rising=1)
    lines = [line.get_ydata().tolist() for line in figure.axes[0].lines if len(line.get_ydata())]
    expected = [[0.75, 0.5], [1.0, 0.75], [0.25, 1.0], [0.5, 0.25]]
    assert sorted(lines[:4]) == sorted(expected)
    # The one point that rises most is the last before the threshold, 1 - K / N.
    assert lines[3:5] == [[0.25, 1.0], [0.5, 0.75]]
    check_drawn(figure, tmp_path)
    # A random ranking: the kept points are the least valuable by their recorded entropy, which did not rank them.
    first = make_mask([3, 2], [4.0, 3.0, 2.0, 1.0], stage=1)
    second = make_mask([2], [4.0, 3.0, 2.0, 1.0], stage=2)
    lines = [line.get_ydata().tolist() for line in plot_ranks([first, second], 4, 0).axes[0].lines]
    assert sorted(lines[:4]) == [[0.25, 0.5], [0.5, 0.75], [0.75, 1.0], [1.0, 0.25]]


def test_plots_of_masks_refuse_what_does_not_belong_together(stages, make_mask):
    for plot, masks, message in (
        (plot_stages, [], "No mask is given"),
        (plot_ranks, stages[:1], "two or more stages"),
        (plot_values, [stages[0], make_mask([0], [1.0, 2.0], stage=2)], "not about this data set"),
        (plot_stages, [stages[0], stages[0]], "have the same stage"),
        (plot_values, [make_mask([0], [0.0], frequency=[0])], "no recorded values"),
    ):
        with pytest.raises(ValueError, match=message):
            plot(masks)


def test_hamming_matrix_carries_its_numbers(stages, tmp_path):
    figure = plot_hamming(["R56>R20", "$\\formula$", "c"], stages)
    texts = [text.get_text() for text in figure.axes[0].texts]
    # {0..7} and {0..5, 8}: 6, 7, 8. {0..7} and {0..4}: 5, 6, 7. {0..5, 8} and {0..4}: 5, 8.
    assert texts == ["0", "3", "3", "3", "0", "2", "3", "2", "0"]
    check_drawn(figure, tmp_path)
    with pytest.raises(ValueError, match="different names"):
        plot_hamming(["a", "a", "b"], stages)


@pytest.mark.parametrize(
    ("preprocessing", "sizes"),
    [(DIGITS_PREPROCESSING, [(8, 8)] * 10), (IMAGENET_PREPROCESSING, [(224, 300), (280, 224)] * 5)],
    ids=["digits", "photographs"],
)
def test_contact_sheets_show_the_most_and_the_least_valuable_points(preprocessing, sizes, make_mask, tmp_path):
    dataset = KnowledgeDataset(points_dataset(sizes), preprocessing, training=False)
    values = [0.0, 0.1, 3.0, 0.3, 5.0, 0.002, 0.6, 0.7, 0.8, 4.0]
    mask = make_mask([4, 9, 2], values, identity=dataset.identity)
    for which, expected in (("most", [4, 9, 2, 8]), ("least", [0, 5, 1, 3])):
        figure = contact_sheet(dataset, mask, num=4, which=which)
        shown = [axes for axes in figure.axes if axes.images]
        assert len(shown) == 4
        for axes, point in zip(shown, expected, strict=True):
            np.testing.assert_array_equal(axes.images[0].get_array(), dataset.image(point))
            name, value = axes.texts[0].get_text().splitlines()
            assert name == ("$\\dog$" if point % 2 else "cat")
            assert float(value) == pytest.approx(float(mask.value[point]), abs=0.005)
    check_drawn(figure, tmp_path)


def test_contact_sheets_refuse_another_data_set_and_impossible_arguments(make_mask):
    dataset = KnowledgeDataset(points_dataset([(8, 8)] * 4), DIGITS_PREPROCESSING)
    mask = make_mask([0, 1], [1.0, 2.0, 3.0, 4.0], identity=dataset.identity)
    for changes, message in (
        ({"mask": make_mask([0], [1.0, 2.0])}, "not about this data set"),
        ({"which": "best"}, "'most' or the 'least'"),
        ({"num": 0}, "num is 0: give a whole number of at least 1"),
    ):
        with pytest.raises(ValueError, match=message):
            contact_sheet(**{"dataset": dataset, "mask": mask, **changes})
    # Asking for more than there are shows all.
    assert len([axes for axes in contact_sheet(dataset, mask, num=99).axes if axes.images]) == 4


def test_a_run_folder_gets_all_its_pictures(stages, make_results, tmp_path):
    paths = write_run_plots(tmp_path, make_results(), stages)
    assert [path.name for path in paths] == ["curves.png", "stages.png", "values.png", "ranks.png"]
    assert sorted(tmp_path.rglob("*.png")) == sorted(paths)
    assert pictures_of(tmp_path) == ["plots/curves.png"]
    assert pictures_of(tmp_path, ("ranks", "most_valuable")) == ["plots/ranks.png"]
    with pytest.raises(OSError, match="Cannot write"):
        save_figure(plot_curves(make_results()), paths[0] / "curves.png")
