"""Your runs among reference runs, ladders, power and seeds: what is drawn, and in which colour."""

from types import SimpleNamespace

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex, to_rgba

from lib import plot, stats
from lib.config import Config
from lib.plot.evidence import LANES, REFERENCE_RUN, YOUR_STYLE
from lib.plot.pixels import BLUE, VERMILION
from lib.plot.style import VERDICT_COLOURS
from lib.stats.crossed import UNKNOWN
from lib.stats.verdicts import CANNOT_TELL, NO_DIFFERENCE
from lib.stats.words import span
from lib.utils import KitError
from tests.plot.test_figures import legend_of, run

PATIENTS = 40
KNOWN = stats.Spread(seeds=0.01, patients=0.04, residual=0.05)


def recipe(mean, seeds=3, patients=PATIENTS, sd=0.004, size=80, first=1001):
    """Runs of a recipe whose means are spread around ``mean`` by multiples of ``sd``."""
    rng, config = np.random.default_rng(7), Config(image_size=size)
    hard = np.linspace(-0.1, 0.1, patients)
    names = [f"PHANTOM_{first + i}" for i in range(patients)]
    return [
        SimpleNamespace(
            config=config,
            cases=pd.DataFrame(
                {
                    "patient": names,
                    "dsc": mean + hard + sd * (seed - (seeds - 1) / 2) + noise - noise.mean(),
                }
            ),
        )
        for seed, noise in enumerate(rng.normal(0, 0.02, (seeds, patients)))
    ]


@pytest.fixture(scope="module")
def reference():
    return {"none": recipe(0.7), "poly": recipe(0.75), "step": recipe(0.62), "cosine": recipe(0.7)}


def dots(axis, marker, colour):
    """(x, y) of each dot of a kind."""
    lines = [
        line
        for line in axis.lines
        if line.get_marker() == marker and to_hex(line.get_color()) == to_hex(colour)
    ]
    return [(x, y) for line in lines for x, y in zip(*line.get_data(), strict=True)]


def yours(axis, marker="D"):
    return dots(axis, marker, YOUR_STYLE["color"])


def beside(axis):
    """The words right of the axis, by row."""
    texts = [text for text in axis.texts if text.get_position()[0] > 1]
    return {round(text.get_position()[1]): text for text in texts}


# --- among ----------------------------------------------------------------------------------------


def test_every_reference_run_is_a_dot_in_the_row_of_its_recipe(reference):
    [axis] = plot.among({}, reference).axes
    assert [label.get_text() for label in axis.get_yticklabels()] == list(reference)
    assert axis.yaxis_inverted()  # the baseline on top
    found = dots(axis, "o", REFERENCE_RUN)
    expected = [
        (each.cases["dsc"].mean(), row)
        for row, runs in enumerate(reference.values())
        for each in runs
    ]
    assert [x for x, _ in found] == pytest.approx([x for x, _ in expected])
    assert [round(y) for _, y in found] == [row for _, row in expected]
    dashed = [line for line in axis.lines if line.get_linestyle() == "--"]
    assert dashed[0].get_xdata() == pytest.approx([0.7, 0.7])


def test_bars_and_words_are_those_of_the_comparison(reference):
    [axis] = plot.among({}, reference).axes
    table = stats.compare_to_baseline(reference)
    bars = [line for line in axis.lines if line.get_linewidth() == 3]
    assert [bar.get_xdata() for bar in bars] == [
        pytest.approx([0.7 + row["CI low"], 0.7 + row["CI high"]])
        for row in table.to_dict("records")
    ]
    words = beside(axis)
    assert [words[row].get_text() for row in range(4)] == [
        "0.700",
        "0.750   +0.050   helps",
        "0.620   -0.080   hurts",
        f"0.700   +0.000   {NO_DIFFERENCE}",
    ]
    colours = [BLUE, VERMILION, "black"]
    assert [bar.get_color() for bar in bars] == colours
    assert [words[row].get_color() for row in range(4)] == ["black", *colours]


def test_the_title_tells_the_power(reference):
    title = plot.among({}, reference).axes[0].get_title().split("\n")
    table = stats.compare_to_baseline(reference)
    sizes = stats.detectable(table)
    assert title == [
        "reference runs, 40 patients",
        f"3 runs of each recipe find a true difference of {span(sizes)} with 80 % power",
    ]


def test_your_runs_are_marked_in_the_row_of_their_label(reference):
    figure = plot.among({"step": recipe(0.65, 1)[0], "poly": recipe(0.72, 2)}, reference)
    [axis] = figure.axes
    assert [(round(x, 3), round(y)) for x, y in yours(axis)] == [(0.718, 1), (0.722, 1), (0.65, 2)]
    assert axis.get_title().startswith("your runs among the reference runs, 40 patients\n3 runs")
    assert axis.get_title().count("\n") == 1  # scored as the reference runs
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert labels[-1] == "your run"
    assert "your run" not in [
        text.get_text() for text in plot.among({}, reference).legends[0].get_texts()
    ]


def test_runs_of_the_smoke_profile_are_arrows_and_the_title_says_how_they_were_scored(reference):
    mine = {"none": recipe(0.1, 2, patients=4, size=32), "poly": []}
    [axis] = plot.among(mine, reference).axes
    assert not yours(axis)
    [(x, y)] = yours(axis, "<")
    assert x == axis.get_xlim()[0] and round(y) == 0
    assert "0.100, 2 runs" in [text.get_text() for text in axis.texts]
    assert axis.get_title().endswith(
        "your runs: 4 of these patients, slices of 32x32 instead of 80x80; compare the means only"
    )
    others = {"none": recipe(0.99, 1, patients=5, first=1)}
    [axis] = plot.among(others, reference).axes
    assert "your runs: 5 other patients; compare" in axis.get_title()
    assert len(yours(axis, ">")) == 1 and "0.990" in [text.get_text() for text in axis.texts]


def test_patients_that_your_run_was_trained_on_do_not_count(reference):
    [mine] = recipe(0.7, 1)
    seen = np.arange(PATIENTS) < PATIENTS // 2
    cases = mine.cases.assign(seen=seen, dsc=np.where(seen, 1, 0.71))
    [axis] = plot.among({"none": SimpleNamespace(config=mine.config, cases=cases)}, reference).axes
    assert yours(axis)[0][0] == pytest.approx(0.71)
    assert "your runs: 20 of these patients" in axis.get_title()


@pytest.mark.parametrize("seeds", [1, 40])
def test_one_seed_and_forty_stay_within_their_row(seeds):
    reference = {"baseline": recipe(0.7, seeds, sd=0.0001), "best": recipe(0.74, seeds, sd=0.0001)}
    [axis] = plot.among({}, reference).axes
    found = dots(axis, "o", REFERENCE_RUN)
    assert len(found) == 2 * seeds and [round(y) for _, y in found] == [0] * seeds + [1] * seeds
    assert len({round(y, 2) for _, y in found}) == (2 if seeds == 1 else 2 * len(LANES))
    said = axis.get_title().split("\n")[1]
    assert said.startswith("a recipe with one run" if seeds == 1 else "40 runs of each recipe find")


def test_a_single_recipe_has_nothing_to_be_compared_with(reference):
    [axis] = plot.among({}, {"none": reference["none"]}).axes
    assert axis.get_title() == "reference runs, 40 patients"
    assert beside(axis)[0].get_text() == "0.700"


def test_a_layout_that_was_drawn_stays(reference, tmp_path):
    """Empty lines make the constrained layout shrink the axis at every drawing."""
    figure = plot.among({"poly": []}, reference)
    heights = []
    for _ in range(2):
        figure.savefig(tmp_path / "figure.png")
        heights.append(figure.axes[0].get_position().height)
    assert heights[0] == pytest.approx(heights[1])


def test_among_says_what_is_missing(reference):
    with pytest.raises(KitError, match="no reference runs of any recipe to show; give"):
        plot.among({}, {})
    with pytest.raises(KitError, match="no reference runs of poly to show; give"):
        plot.among({}, {"none": reference["none"], "poly": []})
    with pytest.raises(KitError, match=r"no reference runs of mine; call .* none, poly, step, cos"):
        plot.among({"mine": recipe(0.7)}, reference)
    unscored = SimpleNamespace(config=Config(), cases=pd.DataFrame({"patient": ["a"]}))
    with pytest.raises(KitError, match="your poly: a run has no DSC; score it on patients with"):
        plot.among({"poly": unscored}, reference)
    assert not plt.get_fignums()


# --- waterfall ------------------------------------------------------------------------------------


STEPS = pd.DataFrame(
    {
        "label": ["fresh", "stronger", "dropout", "flips"],
        "mean DSC": [0.74, 0.745, 0.725, 0.735],
        "difference": [0.04, 0.005, -0.02, 0.01],
        "CI low": [0.02, -0.01, -0.03, -0.02],
        "CI high": [0.06, 0.02, -0.01, 0.04],
        "verdict": ["helps", NO_DIFFERENCE, "hurts", CANNOT_TELL],
        "patients": 200,
        "compared with": ["as shipped", "fresh", "stronger", "dropout"],
    }
)


def test_bars_of_a_waterfall_float_from_step_to_step():
    [axis] = plot.waterfall(STEPS).axes
    steps, totals = axis.patches[:4], axis.patches[4:]
    assert [(bar.get_x(), bar.get_width()) for bar in steps] == [
        pytest.approx(each) for each in ((0.7, 0.04), (0.74, 0.005), (0.745, -0.02), (0.725, 0.01))
    ]
    assert [bar.get_x() + bar.get_width() for bar in totals] == pytest.approx([0.7, 0.735])
    assert [bar.get_x() for bar in totals] == pytest.approx([axis.get_xlim()[0]] * 2)
    labels = ["as shipped", "+ fresh", "+ stronger", "+ dropout", "+ flips", "all steps"]
    assert [label.get_text() for label in axis.get_yticklabels()] == labels
    assert axis.yaxis_inverted() and "200 patients" in axis.get_title()


def test_colours_and_words_of_a_waterfall_are_those_of_the_verdicts():
    [axis] = plot.waterfall(STEPS).axes
    colours = [VERDICT_COLOURS[verdict] for verdict in STEPS["verdict"]]
    assert len(set(colours)) == 4
    assert [bar.get_edgecolor() for bar in axis.patches[:4]] == [to_rgba(c) for c in colours]
    words = beside(axis)
    assert [words[row].get_text() for row in range(6)] == [
        "0.700",
        "+0.040   helps",
        f"+0.005   {NO_DIFFERENCE}",
        "-0.020   hurts",
        "+0.010   cannot tell",
        "0.735   +0.035 to the first",
    ]
    assert [words[row].get_color() for row in range(1, 5)] == colours


def test_whiskers_of_a_waterfall_begin_at_the_step_before():
    [axis] = plot.waterfall(STEPS).axes
    whiskers = [line.get_xdata() for line in axis.lines if line.get_marker() == "|"]
    expected = [[0.72, 0.76], [0.73, 0.76], [0.715, 0.735], [0.705, 0.765]]
    assert whiskers == [pytest.approx(ends) for ends in expected]
    low, high = axis.get_xlim()
    assert low < 0.7 and high > 0.765
    unknown = STEPS.assign(**{"CI low": np.nan, "CI high": np.nan})
    assert not [line for line in plot.waterfall(unknown).axes[0].lines if line.get_marker() == "|"]


def test_a_waterfall_of_a_ladder_ends_at_its_top():
    ladder = {"low": recipe(0.7), "middle": recipe(0.76), "top": recipe(0.78)}
    [axis] = plot.waterfall(stats.compare_ladder(ladder)).axes
    assert beside(axis)[3].get_text() == "0.780   +0.080 to the first"


def test_a_waterfall_needs_a_ladder(reference):
    for table in (stats.compare_to_baseline(reference), STEPS.iloc[:0]):
        with pytest.raises(KitError, match=r"no steps to show; give a table of .*compare_ladder"):
            plot.waterfall(table)


# --- power ----------------------------------------------------------------------------------------


def test_curves_of_power_cross_where_80_percent_are_reached():
    [axis] = plot.power_curve(KNOWN, (3, 5, 10), 200, candidates=2).axes
    smallest = [stats.smallest_difference(KNOWN, runs, 200, 2) for runs in (3, 5, 10)]
    crossings = [line for line in axis.lines if line.get_marker() == "o"]
    assert [line.get_xdata()[0] for line in crossings] == pytest.approx(smallest)
    assert [line.get_ydata()[0] for line in crossings] == [0.8] * 3
    curves = [line for line in axis.lines if len(line.get_xdata()) > 2]
    for curve, crossing in zip(curves, crossings, strict=True):
        x, power = curve.get_data()
        assert (np.diff(power) > -1e-9).all() and curve.get_color() == crossing.get_color()
        assert np.interp(crossing.get_xdata()[0], x, power) == pytest.approx(0.8, abs=0.01)
    level = [line for line in axis.lines if line.get_linestyle() == ":"]
    assert level[0].get_ydata() == [0.8, 0.8]
    assert legend_of(axis)[1] == f"5 runs of each: 80 % from {smallest[1]:.3f}"
    assert axis.get_title() == "what a sweep can find, 200 patients, 2 candidates"


def test_two_runs_do_not_squeeze_the_other_curves():
    [axis] = plot.power_curve(KNOWN, (2, 10), 200).axes
    far, near = (stats.smallest_difference(KNOWN, runs, 200) for runs in (2, 10))
    assert near < axis.get_xlim()[1] < far
    assert legend_of(axis)[0] == f"2 runs of each: 80 % from {far:.3f}"


def test_a_curve_that_never_reaches_80_percent_has_no_dot():
    [axis] = plot.power_curve(stats.Spread(0.02, 0.05, 0.1), (2, 20), 2).axes
    assert axis.get_xlim()[1] == 1  # no difference of scores is larger
    few, many = legend_of(axis)[:2]
    assert few == "2 runs of each: never 80 %" and many.startswith("20 runs of each: 80 % from 0.")
    assert len([line for line in axis.lines if line.get_marker() == "o"]) == 1


def test_a_difference_that_was_seen_is_marked():
    [axis] = plot.power_curve(KNOWN, 5, 200, seen=-0.2).axes
    assert legend_of(axis)[1] == "difference seen: -0.200"
    [line] = [line for line in axis.lines if line.get_linestyle() == "--"]
    assert line.get_xdata() == [0.2, 0.2] and axis.get_xlim()[1] > 0.2
    assert axis.get_title().endswith("1 candidate")


def test_power_of_no_plan_is_refused():
    with pytest.raises(KitError, match=r"runs \[\], seen None; give a number of runs"):
        plot.power_curve(KNOWN, (), 200)
    with pytest.raises(KitError, match=r"seen nan; give .* a finite difference"):
        plot.power_curve(KNOWN, 5, 200, seen=np.nan)
    with pytest.raises(KitError, match="1 seeds, 200 patients"):
        plot.power_curve(KNOWN, (5, 1), 200)
    with pytest.raises(KitError, match="SD that is no number"):
        plot.power_curve(UNKNOWN, 5, 200)


# --- seeds ----------------------------------------------------------------------------------------


def test_each_seed_is_a_thin_line_and_their_median_a_thick_one():
    runs = {"baseline": [run(seed) for seed in range(5)], "best": run(9)}
    figure = plot.seeds_curves(runs)
    [axis] = figure.axes
    thin, thick = (
        [line for line in axis.lines if (line.get_linewidth() < 1) == small]
        for small in (True, False)
    )
    assert [len(thin), len(thick)] == [6, 2]
    assert [line.get_color() for line in thin] == [BLUE] * 5 + [VERMILION]
    assert [line.get_color() for line in thick] == [BLUE, VERMILION]
    scores = [each.history["val_dsc"] for each in runs["baseline"]]
    np.testing.assert_allclose(thin[2].get_ydata(), scores[2])
    median = np.median(scores, axis=0)
    np.testing.assert_allclose(thick[0].get_ydata(), median)
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert labels[0] == f"baseline: 5 seeds, {median[-1]:.3f} at the end"
    assert labels[1].startswith("best: 1 seed, ")


def test_the_median_ends_with_the_shortest_run():
    [axis] = plot.seeds_curves({"both": [run(0, epochs=5), run(1, epochs=3)]}).axes
    assert axis.lines[0].get_xdata().tolist() == [1, 2, 3, 4, 5]
    assert axis.lines[-1].get_xdata().tolist() == [1, 2, 3]


def test_seeds_without_scores_are_refused():
    with pytest.raises(KitError, match="no runs to draw; train some"):
        plot.seeds_curves({})
    with pytest.raises(KitError, match="no runs of best to draw; train some"):
        plot.seeds_curves({"best": []})
    nobody = run()
    nobody.history["val_dsc"] = np.nan
    with pytest.raises(KitError, match="all has no run with a validation DSC"):
        plot.seeds_curves({"all": [nobody]})
