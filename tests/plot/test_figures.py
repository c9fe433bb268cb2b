"""Figures: each is drawn, closed, titled, and can be written as a vector."""

import io
from dataclasses import replace
from types import SimpleNamespace

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_rgba
from PIL import Image

from lib import plot
from lib.config import BEST, Config
from lib.dataset import load_data
from lib.evaluate import BINS, THRESHOLDS, Calibration, _by_bin, calibrate
from lib.logger import Run
from lib.loss import DiceLoss, IOULoss
from lib.plot.given import EXPECTED
from lib.plot.images import zoom
from lib.plot.style import TRAINED_ON
from lib.predict import most_different, predict
from lib.stats import Spread, compare_ladder, compare_to_baseline, paired_test
from lib.transform import Augmentation
from lib.utils import KitError
from tests.conftest import NAMES
from tests.test_predict import Bright
from tests.viewer.test_browser import prediction


def run(seed=0, loss="DiceLoss", epochs=5, patients=8, **settings):
    """A run folder without a folder."""
    rng = np.random.default_rng(seed)
    made = Run.__new__(Run)
    history = pd.DataFrame(
        {
            "epoch": range(1, epochs + 1),
            "lr": 1e-3,
            "train loss": rng.random(epochs),
            "val loss": rng.random(epochs),
            "val_dsc": rng.random(epochs),
        }
    )
    tumours = np.random.default_rng(0).integers(2, 900, patients)  # the same in all runs
    tp, fp = rng.integers(1, tumours), rng.integers(1, 900, patients)
    fn = tumours - tp
    cases = pd.DataFrame(
        {
            "patient": [f"PHANTOM_{i:04}" for i in range(patients)],
            "slices": 18,
            "dsc": 2 * tp / (2 * tp + fp + fn),
            "dsc_native": 2 * tp / (2 * tp + fp + fn),
            "tp": tp,
            "fp": fp,
            "fn": fn,
        }
    )
    made.__dict__.update(
        folder=SimpleNamespace(name="run"),
        history=history,
        cases=cases,
        config=Config(loss=loss, **settings),
        info={"config": {}},
    )
    return made


def some_calibration():
    rng = np.random.default_rng(0)
    sums = _by_bin(rng.random(10_000).astype(np.float32), rng.random(10_000) > 0.5)
    return Calibration(
        sums[0].astype(int),
        sums[1] / sums[0],
        sums[2] / sums[0],
        THRESHOLDS,
        rng.random((6, len(THRESHOLDS))),
    )


def drawings(folder):
    """Name -> figure of every kind."""
    data = load_data(folder, 32)
    several = {"Dice": [run(0), run(1)], "IoU": run(2, "IOULoss")}
    return {
        "patient_slices": plot.patient_slices(data, next(iter(data.patients))),
        "overlays": plot.overlays(prediction(data, 2)),
        "curves": plot.curves(run()),
        "rate_range": plot.rate_range(run(lr_scheduler="range")),
        "sweep_scores": plot.sweep_scores({"a": run(0), "b": [run(1), run(2)]}),
        "dsc_bars": plot.dsc_bars(run().cases),
        "sweep_curves": plot.sweep_curves(several),
        "size_against_dsc": plot.size_against_dsc(run().cases),
        "lesion_sizes": plot.lesion_sizes(prediction(data, 2).lesions()),
        "forest": plot.forest(compare_to_baseline({"0": run(0), "a": run(1), "b": run(2)})),
        "dsc_strips": plot.dsc_strips({"Dice": run(0).cases["dsc"], "IoU": run(1).cases["dsc"]}),
        "calibration": plot.calibration(some_calibration()),
        "augmented_slices": plot.augmented_slices(data, NAMES[0], Augmentation(BEST)),
        "sliding_mask": plot.sliding_mask({"Dice": DiceLoss(), "IoU": IOULoss()}),
        "disagreement": plot.disagreement(
            {f"shift {n}": prediction(data, n, NAMES[:1]) for n in (2, 3)}
        ),
        "among": plot.among({"a": run(3)}, {"0": run(0), "a": run(1)}),
        "waterfall": plot.waterfall(compare_ladder({"0": run(0), "a": run(1), "b": run(2)})),
        "power_curve": plot.power_curve(Spread(0.01, 0.05, 0.1), (3, 5), 200),
        "seeds_curves": plot.seeds_curves({"Dice": [run(0), run(1)], "IoU": [run(2)]}),
    }


def test_every_figure_is_titled_closed_and_a_vector(tiny_kaggle):
    for name, figure in drawings(tiny_kaggle).items():
        assert not plt.get_fignums(), name
        assert any(axis.get_title() for axis in figure.axes), name
        assert all(
            axis.get_xlabel() or not axis.axison or axis.get_ylabel() for axis in figure.axes
        ), name
        stream = io.StringIO()
        figure.savefig(stream, format="svg")
        assert "<svg" in stream.getvalue(), name


def test_one_epoch_and_one_patient_can_be_drawn():
    plot.curves(run(epochs=1))
    nobody = run(epochs=3)  # split="all"
    nobody.history["val_dsc"] = np.nan
    plot.curves(nobody)
    plot.dsc_bars(run(patients=1).cases)
    plot.dsc_strips({"only": run(patients=1).cases["dsc"]})
    plot.sweep_curves({"only": run(epochs=1)})
    plot.size_against_dsc(run(patients=1).cases)


def test_a_mean_of_several_runs_ends_with_the_shortest():
    """Early stopping ends some: a mean of the others would jump."""
    runs = {"both": [run(0, epochs=8), run(1, epochs=5)]}
    mean = np.mean([one.history["val_dsc"][:5] for one in runs["both"]], axis=0)
    for figure in (plot.sweep_curves(runs), plot.sweep_scores(runs)):
        [line] = [
            line
            for axis in figure.axes
            if axis.get_title().startswith("validation DSC")
            for line in axis.lines
        ]
        assert list(line.get_xdata()) == [1, 2, 3, 4, 5]
        assert line.get_ydata() == pytest.approx(mean)


def test_legends_of_long_labels_are_within_the_figure():
    """What a report saves is not made wider for a legend."""
    text = "loss=FocalTverskyLoss, lr_scheduler=cosine, weight_decay=1e-4"
    for draw in (plot.sweep_curves, plot.sweep_scores, plot.seeds_curves):
        sizes = []
        for labels in ([f"{i}" for i in range(6)], [f"{text}, {i}" for i in range(6)]):
            figure = draw({label: run(seed) for seed, label in enumerate(labels)})
            figure.canvas.draw()
            [legend] = figure.legends
            box = legend.get_window_extent()
            assert box.x0 >= 0 and box.x1 <= figure.bbox.width, draw
            assert set(labels) <= {line.get_text()[: len(labels[0])] for line in legend.texts}
            assert min(axis.get_window_extent().width for axis in figure.axes) > 150, draw
            sizes.append(figure.get_figheight())
        assert sizes[1] > sizes[0], "the figure makes room for more rows"


def test_titles_of_long_labels_are_within_the_figure(tiny_kaggle):
    data = load_data(tiny_kaggle, 32)
    labels = [f"loss=FocalTverskyLoss, lr_scheduler=cosine, weight_decay=1e-{i}" for i in (3, 4)]
    figure = plot.disagreement(
        {label: prediction(data, shift, NAMES[:1]) for shift, label in enumerate(labels)}
    )
    figure.canvas.draw()
    for axis, label in zip(figure.axes[::2], labels, strict=True):
        assert axis.get_title().replace("\n", " ").startswith(f"{label}: DSC")
        box = axis.title.get_window_extent()
        assert box.x0 >= 0 and box.x1 <= figure.bbox.width


def test_strips_compare_the_patients_of_both_with_the_first():
    first = pd.Series({"a": 0.5, "b": 0.7, "c": 0.9})
    second = pd.Series({"d": 0.1, "c": 1.0, "b": 0.9, "a": 0.8})
    third = pd.Series({"e": 0.3})
    figure = plot.dsc_strips({"first": first, "second": second, "third": third})
    axis = figure.axes[0]
    words = [text.get_text() for text in axis.texts]
    assert words[0] == "0.700" and words[1].startswith("0.700   +0.200 (+0.1")
    assert words[2] == "0.300   no two patients in common"
    joined = [line.tolist() for group in axis.collections for line in group.get_segments()]
    expected = [[[value, 0], [second[name], 1]] for name, value in first.items()]
    assert sorted(joined) == sorted(expected)
    assert [label.get_text() for label in axis.get_yticklabels()] == ["first", "second", "third"]


def test_strips_have_the_interval_of_the_table_in_any_order():
    generator = np.random.default_rng(0)
    first, second = (pd.Series(generator.uniform(size=30)) for _ in range(2))
    found = paired_test(second - first)
    expected = f"{found.mean:+.3f} ({found.low:+.3f} to {found.high:+.3f})"
    for order in (first.index, first.index[::-1], generator.permutation(30)):
        axis = plot.dsc_strips({"first": first[order], "second": second}).axes[0]
        assert axis.texts[1].get_text().endswith(expected)


def test_pictures_are_cropped_to_the_head():
    volume = np.random.default_rng(0).integers(0, 30, (3, 60, 80)).astype(np.uint8)
    volume[1, 20:40, 30:44] = 250
    figure, axes = plt.subplots(1, 2)
    zoom(axes, volume)
    plt.close(figure)
    for axis in axes:
        (left, right), (bottom, top) = axis.get_xlim(), axis.get_ylim()
        assert left < 30 and right > 43 and top < 20 and bottom > 39
        assert right - left == pytest.approx(bottom - top) and right - left < 25


def test_a_picture_without_a_head_stays_whole():
    figure, axis = plt.subplots()
    axis.imshow(np.zeros((6, 8)))
    limits = axis.get_xlim()
    zoom([axis], np.zeros((2, 6, 8), np.uint8))
    plt.close(figure)
    assert axis.get_xlim() == limits


def test_what_cannot_be_drawn_is_said():
    with pytest.raises(KitError, match="no range test"):
        plot.rate_range(run())
    with pytest.raises(KitError, match="no runs"):
        plot.sweep_curves({})


@pytest.mark.parametrize("name", EXPECTED)
def test_wrong_things_are_refused_in_a_line_that_says_what_to_give(name):
    given = [[run(0), run(1)], SimpleNamespace(runs={}), None]
    for thing in given:
        more = [{}] if name == "among" else [3, 200] if name == "power_curve" else []
        with pytest.raises(KitError, match=rf"^{name}: expected a \w+, got a .*; give ") as error:
            getattr(plot, name)(thing, *more)
        assert "\n" not in f"{error.value}"


def test_every_figure_refuses_wrong_things():
    checked = {"patient_slices", "augmented_slices"}  # by ``require_loaded``
    assert set(EXPECTED) | checked == set(plot.__all__) - {"LiveView", "styled"}


def test_runs_and_tables_of_another_kind_are_refused(tiny_kaggle):
    for draw in (plot.sweep_curves, plot.sweep_scores, plot.seeds_curves):
        with pytest.raises(KitError, match=r"expected label -> run, .* got a DataFrame for 'Dice'"):
            draw({"Dice": run().cases})
        for nobody in ({}, {"Dice": []}):
            with pytest.raises(KitError, match=r"no runs( of Dice)? to draw; train some first"):
                draw(nobody)
    with pytest.raises(KitError, match="no scores to draw"):
        plot.dsc_strips({})
    with pytest.raises(KitError, match=r"Dice: expected a pandas\.Series .*got a Run"):
        plot.dsc_strips({"Dice": run()})
    table = compare_to_baseline({"0": run(0), "a": run(1)})
    for draw in (plot.dsc_bars, plot.size_against_dsc):
        with pytest.raises(KitError, match=r"no column 'patient'; give run\.cases"):
            draw(table)
    with pytest.raises(KitError, match=r"no column 'verdict'; give a table"):
        plot.forest(run().cases)
    data = load_data(tiny_kaggle, 32)
    for draw in (
        plot.patient_slices,
        lambda *given: plot.augmented_slices(*given, Augmentation(BEST)),
    ):
        with pytest.raises(KitError, match="no patient nobody there"):
            draw(data, "nobody")
        with pytest.raises(KitError, match=r"use load_data"):
            draw(tiny_kaggle, NAMES[0])


def test_patients_without_masks_leave_a_sentence():
    for cases in (
        pd.DataFrame({"patient": ["a"], "slices": [3], "seen": [False]}),
        run(patients=0).cases,
    ):
        for figure in (
            plot.size_against_dsc(cases),
            plot.dsc_bars(cases),
            plot.dsc_bars(cases, "dsc_native"),
        ):
            assert figure.texts[0].get_text() == "no patients with masks: nothing to show"


def test_a_prediction_of_nobody_leaves_a_sentence(tiny_kaggle):
    nobody = predict(Bright.trained(), tiny_kaggle, patients=[], device="cpu")
    for figure in (
        plot.overlays(nobody),
        plot.dsc_bars(nobody.cases),
        plot.size_against_dsc(nobody.cases),
    ):
        assert "nothing to show" in figure.texts[0].get_text()


def test_calibration_leaves_out_patients_trained_on(tiny_kaggle):
    network, data = Bright.trained(NAMES[:4]), load_data(tiny_kaggle, 32)
    result = calibrate(network, data, NAMES)
    assert (
        result.dsc.shape == (2, len(THRESHOLDS))
        and result.voxels.sum() == len(data.slices(NAMES[4:])) * 32 * 32
    )
    for patients in (NAMES[:4], ()):
        empty = calibrate(network, data, patients)
        assert empty.dsc.shape == (0, len(THRESHOLDS)) and not empty.voxels.any()
        assert "not trained on: nothing to show" in plot.calibration(empty).texts[0].get_text()


# --- patients that the network was trained on -----------------------------------------------------


HALF = pd.DataFrame(
    {
        "patient": list("abcde"),
        "slices": 9,
        "seen": [True, False, True, False, False],
        "dsc": [0.99, 0.2, 0.97, 0.4, 0.6],
        "dsc_native": [0.99, 0.2, 0.97, 0.4, 0.6],
        "tp": 10,
        "fp": 3,
        "fn": [5, 6, 7, 8, 9],
    }
)
ALL = HALF.assign(seen=True)
GREY = to_rgba(TRAINED_ON)


def scored(cases):
    """A prediction of which only the scores are looked at."""
    return SimpleNamespace(cases=cases)


def legend_of(axis):
    return [text.get_text() for text in axis.get_legend().get_texts()]


def test_bars_name_the_grid():
    cases = ALL.assign(dsc_native=ALL["dsc"])
    titles = [plot.dsc_bars(cases, column).axes[0].get_title() for column in ("dsc", "dsc_native")]
    assert titles[0].startswith("DSC, ")
    assert titles[1].startswith("DSC on the file's grid, ")


def test_bars_of_an_unknown_column_name_those_there_are():
    for cases in (ALL, ALL.drop(columns=["dsc", "dsc_native"])):
        for column in ("dice", "tp", None):
            with pytest.raises(KitError, match=f"{column}.* not one of dsc, dsc_native; choose"):
                plot.dsc_bars(cases, column)


def test_bars_count_the_patients_not_trained_on():
    [axis] = plot.dsc_bars(HALF).axes
    names = [label.get_text() for label in axis.get_yticklabels()]
    assert names == ["b", "d", "e", "c (trained on)", "a (trained on)"]
    assert [bar.get_facecolor() == GREY for bar in axis.containers[0]] == [
        False,
        False,
        False,
        True,
        True,
    ]
    assert axis.get_title() == "DSC, 3 patients and 2 trained on (not counted), worst first"
    assert {"mean 0.400", "median 0.400"} < set(legend_of(axis))


def test_bars_of_patients_all_trained_on_say_what_they_show():
    [axis] = plot.dsc_bars(ALL).axes
    assert (
        axis.get_title() == "DSC, 5 patients trained on\n(what the network remembers), worst first"
    )
    assert "mean 0.632" in legend_of(axis) and all(
        "(trained on)" in t.get_text() for t in axis.get_yticklabels()
    )


def test_sizes_of_patients_trained_on_are_grey_and_not_named():
    [axis] = plot.size_against_dsc(HALF).axes
    grey, others = axis.collections
    assert grey.get_offsets()[:, 0].tolist() == [15, 17] and others.get_offsets()[
        :, 0
    ].tolist() == [16, 18, 19]
    assert (
        legend_of(axis) == ["trained on", "others"]
        and "3 patients and 2 trained on" in axis.get_title()
    )
    assert [text.get_text() for text in axis.texts] == ["b", "d", "e"]
    [axis] = plot.size_against_dsc(ALL).axes
    assert [text.get_text() for text in axis.texts] == [
        "b",
        "d",
        "e",
    ] and "remembers" in axis.get_title()
    assert legend_of(axis) == ["trained on"]


def test_overlays_show_patients_not_trained_on_while_there_are_any(tiny_kaggle):
    data = load_data(tiny_kaggle, 32)
    ranked = prediction(data, 2).ranked()
    figure = plot.overlays(prediction(data, 2, seen=(ranked[0], ranked[5])))
    assert (
        len(figure.axes) == 6
    )  # above the worst, the median and the best of ranked[1:5]; below their errors
    for axis, name in zip(figure.axes[:3], (ranked[1], ranked[3], ranked[4]), strict=True):
        assert name in axis.get_title() and "trained on" not in axis.get_title()
    assert figure.get_suptitle() == "4 patients and 2 trained on (not counted)"
    figure = plot.overlays(prediction(data, 2, seen=NAMES))
    assert all("(trained on)" in axis.get_title() for axis in figure.axes[:3])
    assert figure.get_suptitle() == "6 patients trained on\n(what the network remembers)"


def test_two_that_differ_most_where_no_tumour_is_say_so(tiny_kaggle):
    [file] = tiny_kaggle.glob(f"*/{NAMES[0]}_1_mask.tif")
    Image.new("L", (32, 32)).save(file)
    data, name = load_data(tiny_kaggle, 32), NAMES[0]
    good, alarmed = (prediction(data, shift, (name,)) for shift in (0, 1))
    there = plot.disagreement({"good": good, "shifted": alarmed}).get_suptitle()
    mask, truth = good.mask(name), data.truth(name)
    assert not truth[0].any() and truth[1].any()
    mask[0] = 1
    alarmed = replace(good, _packed={name: np.packbits(mask)})
    title = plot.disagreement({"good": good, "alarmed": alarmed}).get_suptitle()
    assert "slice 1 of" in title and title.endswith("\nthere is no tumour in this slice")
    assert "no tumour" not in there


def test_a_loss_that_cannot_be_called_is_named():
    with pytest.raises(KitError, match=r"sliding_mask: Dice: .*make an object: DiceLoss\(\)"):
        plot.sliding_mask({"Dice": DiceLoss})
    with pytest.raises(KitError, match="sliding_mask: Dice: expected a function, got a int"):
        plot.sliding_mask({"Dice": 3})
    with pytest.raises(KitError, match="sliding_mask: Dice: expected a function, got a NoneType"):
        plot.sliding_mask({"Dice": None})


def test_labels_may_be_numbers():
    for draw in (plot.sweep_scores, plot.sweep_curves, plot.seeds_curves):
        assert draw({1e-3: run(), 1e-4: run()}).axes
    cases = run().cases.set_index("patient")["dsc"]
    assert plot.dsc_strips({1e-3: cases}).axes
    with pytest.raises(KitError, match=r"no runs of 0\.001 to draw"):
        plot.sweep_scores({1e-3: []})
    with pytest.raises(KitError, match=r"0\.001: expected a pandas\.Series .*got a DataFrame"):
        plot.dsc_strips({1e-3: run().cases})


def test_tables_and_predictions_of_another_kind_are_named():
    with pytest.raises(KitError, match=r"lesion_sizes: the table has no column 'kind'"):
        plot.lesion_sizes(run().cases)
    with pytest.raises(KitError, match=r"disagreement: a: expected a prediction, got a int"):
        plot.disagreement({"a": 1, "b": 2})


def test_one_run_leaves_a_sentence(tiny_kaggle):
    """The notebook goes on where a sweep had only=[]."""
    data = load_data(tiny_kaggle, 32)
    nothing = "no second run to compare with: nothing to show"
    for found in (most_different({"baseline": [run()]}, data), most_different({}, data)):
        assert plot.disagreement(found).texts[0].get_text() == nothing
    with pytest.raises(KitError, match=r"expected label -> run, .*got a list"):
        most_different([run(), run()], data)


def test_more_than_two_or_of_several_patients_are_refused(tiny_kaggle):
    data = load_data(tiny_kaggle, 32)
    one, other = prediction(data, 2, NAMES[:1]), prediction(data, 2, NAMES[1:2])
    several = prediction(data, 2, NAMES[:3])
    for given in ([one, one, one], [one, other], [several, several]):
        with pytest.raises(KitError, match=r"two predictions, both of .*\.most_different"):
            plot.disagreement(dict(enumerate(given)))


def test_cases_of_a_run_are_drawn_without_a_word_about_training():
    cases = run().cases
    for figure in (plot.dsc_bars(cases), plot.size_against_dsc(cases)):
        [axis] = figure.axes
        assert "8 patients" in axis.get_title() and "trained on" not in axis.get_title()
        assert all(
            "trained on" not in text for text in (legend_of(axis) if axis.get_legend() else [])
        )


def test_bins_count_every_voxel():
    p = np.array([0, 0.05, 0.1, 0.95, 1], np.float32)
    voxels, predicted, tumour = _by_bin(p, np.array([0, 0, 1, 1, 1]))
    assert voxels.tolist() == [2, 1, *[0] * (BINS - 3), 2] and tumour.sum() == 3
    assert predicted[0] == pytest.approx(0.05) and predicted[-1] == pytest.approx(1.95)
