"""Statistics against enumeration by hand, scipy, published rules, and 1,000 null sweeps."""

import itertools
import json
import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from lib.config import Config
from lib.logger import Run, RunFolder
from lib.stats import (
    best_of_k,
    compare_ladder,
    compare_to_baseline,
    holm,
    paired_test,
    readable,
    resolution,
    sign_flip_p,
    smallest_detectable,
    verdict,
)
from lib.utils import KitError

PATIENTS = [f"P{i:02}" for i in range(10)]
# DSC differences, many of them tied, zero, or opposite
DIFFERENCES = st.lists(
    st.integers(-30, 30).map(lambda n: n / 100) | st.floats(-1, 1), min_size=2, max_size=7
)
OPPOSITE = {"helps": "hurts", "hurts": "helps", "cannot tell": "cannot tell"}


def normal(n, mean=0.02, sd=0.05, seed=0):
    return np.random.default_rng(seed).normal(mean, sd, n)


def brute_force_p(differences):
    """Share of all sign patterns whose sum is as far from 0 as the observed one."""
    observed = abs(math.fsum(differences))
    sums = [
        abs(math.fsum(sign * d for sign, d in zip(signs, differences, strict=True)))
        for signs in itertools.product((1, -1), repeat=len(differences))
    ]
    return sum(total >= observed - 1e-12 for total in sums) / len(sums)


def run_of(scores, patients=PATIENTS, **config):
    """A run that was read already: nothing on disk."""
    run = Run(Path("nowhere"))
    run.__dict__.update(
        cases=pd.DataFrame({"patient": patients, "dsc": scores, "dsc_native": scores}),
        config=Config(**config),
    )
    return run


def compare(baseline, candidates, metric="dsc"):
    """Compare candidates with a baseline that has no other label."""
    return compare_to_baseline({"baseline": baseline, **candidates}, metric)


# --- one comparison -------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [2, 3, 6, 9, 12])
def test_exact_permutation_p(n):
    differences = normal(n, seed=n)
    assert paired_test(differences).p == pytest.approx(brute_force_p(differences), abs=1e-12)


@given(DIFFERENCES)
@settings(max_examples=40, deadline=None)
def test_exact_permutation_p_with_ties(differences):
    differences = np.round(differences, 6)
    assert sign_flip_p(differences) == pytest.approx(brute_force_p(differences), abs=1e-12)


def test_permutation_p_by_hand():
    # of the 8 sign patterns of 1, 2, 4 only +++ and --- reach 7; 5 = -1 + 2 + 4 is reached by those
    # and by itself
    assert paired_test([0.1, 0.2, 0.4]).p == 2 / 8
    assert paired_test([-0.1, 0.2, 0.4]).p == 4 / 8
    assert paired_test([0.1] * 14).p == 2 / 2**14  # still exact


def test_more_patients_than_can_be_enumerated():
    differences = normal(40)
    p = sign_flip_p(differences)
    assert p == sign_flip_p(differences)
    assert p == pytest.approx(stats.ttest_1samp(differences, 0).pvalue, abs=0.01)
    assert 0 < paired_test([0.1] * 40).p < 0.001  # the observed order counts: never 0


def test_interval_is_scipys_bca():
    differences = normal(10)
    result = paired_test(differences)
    theirs = stats.bootstrap(
        (differences,), np.mean, method="BCa", n_resamples=99_999, rng=1
    ).confidence_interval
    assert (result.low, result.high) == pytest.approx(tuple(theirs), abs=2e-3)
    assert result.mean == pytest.approx(differences.mean(), abs=1e-9)
    assert result.sd == pytest.approx(differences.std(ddof=1), abs=1e-9)


def test_wilcoxon():
    # signed ranks 1, 2, -3, 4, 5: W- = 3, and 5 of the 32 patterns give a rank sum of 3 or less
    assert paired_test([0.01, 0.02, -0.03, 0.04, 0.05]).p_wilcoxon == 2 * 5 / 32
    differences = normal(10)
    assert paired_test(differences).p_wilcoxon == pytest.approx(stats.wilcoxon(differences).pvalue)


def test_share_improved_counts_no_ties():
    assert paired_test([0.1, 0.2, 0, -0.1]).improved == 0.5


@given(DIFFERENCES)
@settings(max_examples=25, deadline=None)
def test_swapping_before_and_after_swaps_the_verdict_only(differences):
    result, swapped = paired_test(differences), paired_test([-d for d in differences])
    assert swapped.p == result.p
    assert swapped.p_wilcoxon == pytest.approx(result.p_wilcoxon)
    assert swapped.mean == pytest.approx(-result.mean, abs=1e-12)
    assert swapped.verdict == OPPOSITE[result.verdict]


def test_swapping_keeps_the_sampled_p():
    assert paired_test(normal(30)).p == paired_test(-normal(30)).p


@given(DIFFERENCES, st.randoms())
@settings(max_examples=25, deadline=None)
def test_order_of_patients_does_not_matter(differences, random):
    shuffled = random.sample(differences, len(differences))
    np.testing.assert_array_equal(paired_test(shuffled), paired_test(differences))


@given(DIFFERENCES)
@settings(max_examples=25, deadline=None)
def test_ranges(differences):
    result = paired_test(differences)
    assert 2 / 2 ** len(differences) <= result.p <= 1
    assert 0 <= result.p_wilcoxon <= 1
    assert min(differences) - 1e-9 <= result.low <= result.high <= max(differences) + 1e-9


@pytest.mark.filterwarnings("error")
def test_no_difference():
    result = paired_test([0.0] * 10)
    assert result == (10, 0, 0, 0, 0, 1, 1, 0)
    assert result.verdict == "cannot tell"


@pytest.mark.filterwarnings("error")
def test_equal_differences_up_to_rounding():
    result = paired_test([0.3 - 0.2, 0.2 - 0.1, 0.5 - 0.4] * 3)  # not the same floats
    assert result.low == result.high == result.mean == pytest.approx(0.1)
    assert (result.sd, result.p, result.verdict) == (0, 2 / 2**9, "helps")


def test_differences_that_cancel_up_to_rounding():
    assert paired_test([0.1, 0.2, -0.3]).p == 1  # 0.1 + 0.2 - 0.3 is not 0


@pytest.mark.filterwarnings("error")
def test_one_patient():
    result = paired_test([0.4])
    assert np.isnan([result.sd, result.low, result.high]).all()
    assert (result.p, result.p_wilcoxon, result.verdict) == (1, 1, "cannot tell")


@pytest.mark.parametrize("bad", [[], [0.1, math.nan], [math.inf, 0.1], [[0.1, 0.2]]])
def test_what_is_not_a_number_per_patient_is_refused(bad):
    with pytest.raises(KitError, match="one finite number a patient"):
        paired_test(bad)


def test_text():
    assert str(paired_test([0.1] * 10)) == (
        "+0.100 (95 % CI +0.100 to +0.100), p = 0.002 (Wilcoxon p = 0.002), "
        "10 of 10 patients improved: helps"
    )
    worse = str(paired_test([-0.1] * 12))
    assert "p < 0.001" in worse
    assert worse.endswith("hurts")


# --- several comparisons --------------------------------------------------------------------------


def test_holm_by_hand():
    # sorted 0.005, 0.01, 0.03, 0.04 times 4, 3, 2, 1 = 0.02, 0.03, 0.06, 0.04; the last may not
    # fall below 0.06
    np.testing.assert_allclose(holm([0.01, 0.04, 0.03, 0.005]), [0.03, 0.06, 0.06, 0.02])
    np.testing.assert_allclose(holm([0.6, 0.7]), [1, 1])
    assert holm([]).tolist() == []


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_holm_rejects_what_the_stepwise_rule_rejects(p_values):
    rejected, order = set(), sorted(range(len(p_values)), key=p_values.__getitem__)
    for step, i in enumerate(order):
        if p_values[i] * (len(p_values) - step) > 0.05:
            break
        rejected.add(i)
    adjusted = holm(p_values)
    assert set(np.flatnonzero(adjusted <= 0.05)) == rejected
    assert (np.diff(adjusted[order]) >= 0).all()
    assert ((adjusted >= p_values) & (adjusted <= 1)).all()


@pytest.mark.parametrize("bad", [[0.1, math.nan], [-0.1], [1.1]])
def test_holm_refuses_what_is_no_probability(bad):
    with pytest.raises(KitError, match="0 to 1"):
        holm(bad)


def test_verdict_at_the_limit():
    assert [verdict(*pair) for pair in ((0.1, 0.05), (-0.1, 0.05), (0.1, 0.0501))] == [
        "helps",
        "hurts",
        "cannot tell",
    ]


def test_compare():
    before, noise = normal(10, 0.8), normal(10, 0, 0.004, seed=1)
    table = compare(
        run_of(before),
        {
            "better": run_of(before + 0.03 + noise),
            "worse": run_of(before - 0.03 + noise),
            "same": run_of(before + noise),
        },
    )
    assert list(table["label"]) == ["better", "worse", "same"]
    assert list(table["verdict"]) == ["helps", "hurts", "cannot tell"]
    alone = paired_test(0.03 + noise)
    first = table.iloc[0]
    np.testing.assert_allclose(
        first[["difference", "SD", "CI low", "CI high", "p"]].astype(float),
        [alone.mean, alone.sd, alone.low, alone.high, alone.p],
        atol=1e-9,
    )
    assert first["mean DSC"] == pytest.approx((before + 0.03 + noise).mean())
    np.testing.assert_allclose(table["p (Holm)"], holm(table["p"]))
    assert list(first[["improved", "patients", "seeds"]]) == [1, 10, 1]


def test_correction_can_change_a_verdict():
    before, change = normal(10, 0.8), np.array([0.05] * 9 + [-0.05])  # p is 22 of 1,024
    better, same = run_of(before + change), {str(i): run_of(before) for i in range(9)}
    assert list(compare(run_of(before), {"one": better})["verdict"]) == ["helps"]
    assert set(compare(run_of(before), {"one": better, **same})["verdict"]) == {"cannot tell"}


def test_seeds_are_averaged_per_patient():
    first, second, third = (normal(10, 0.8, seed=seed) for seed in range(3))
    shuffled = run_of(second[::-1], PATIENTS[::-1])  # in another order
    row = compare([run_of(first), run_of(third)], {"two seeds": [run_of(first), shuffled]}).iloc[0]
    expected = paired_test((first + second) / 2 - (first + third) / 2)
    assert (row["patients"], row["seeds"]) == (10, 2)  # n is patients, never seeds
    assert (row["difference"], row["p"]) == pytest.approx((expected.mean, expected.p))


def test_other_metric():
    run, other = run_of([0.5] * 10), run_of([0.5] * 10)
    other.cases["dsc_native"] += 0.1
    assert compare(run, {"a": other}, "dsc_native").iloc[0]["difference"] == pytest.approx(0.1)
    with pytest.raises(KitError, match="hd95"):  # less is better there
        compare(run, {"a": other}, "hd95")


def test_other_patients_are_named():
    run = run_of([0.5] * 10)
    with pytest.raises(
        KitError, match=r"^few: other patients than the baseline's \(it lacks P08, P09\)"
    ):
        compare(run, {"few": run_of([0.5] * 8, PATIENTS[:8])})
    with pytest.raises(KitError, match=r"it alone scored X; it lacks P00"):
        compare(run, {"swapped": run_of([0.5] * 10, ["X", *PATIENTS[1:]])})
    with pytest.raises(KitError, match=r"^baseline: other patients"):
        compare([run, run_of([0.5] * 9, PATIENTS[:9])], {"a": run})


def test_what_a_network_was_trained_on_is_not_compared():
    run, other = run_of([0.5] * 10), run_of([0.6] * 10)
    other.cases["seen"] = [False] * 8 + [True] * 2
    for baseline, candidate in ((run, other), (other, run)):
        with pytest.raises(KitError, match="its network was trained on 2 of the patients"):
            compare(baseline, {"remembers": candidate})
    other.cases["seen"] = False
    assert compare(run, {"fair": other})["difference"].item() == pytest.approx(0.1)


def test_other_grids_compare_on_the_files_grid_only():
    run, other = run_of([0.5] * 10), run_of([0.6] * 10, image_size=128)
    with pytest.raises(KitError, match="dsc_native"):
        compare(run, {"small": other})
    assert list(compare(run, {"small": other}, "dsc_native")["verdict"]) == ["helps"]


def test_missing_scores_and_runs_are_named():
    run = run_of([0.5] * 10)
    with pytest.raises(KitError, match="unlabelled: no dsc for P03"):
        compare(run, {"unlabelled": run_of([0.5] * 3 + [math.nan] + [0.5] * 6)})
    with pytest.raises(KitError, match="failed: no finished run"):
        compare(run, {"failed": []})
    with pytest.raises(KitError, match="one run has nothing to be compared with"):
        compare(run, {})


def test_runs_read_from_their_folders(tmp_path):
    for name, score in (("a", 0.5), ("b", 0.6)):
        folder = RunFolder(tmp_path, name)
        folder.write_cases(
            [{"patient": patient, "dsc": score + i / 100} for i, patient in enumerate(PATIENTS)]
        )
        (folder.path / "run.json").write_text(json.dumps({"config": Config().to_dict()}))
    first, second = (Run(tmp_path / "runs" / name) for name in "ab")
    assert list(compare(first, {"b": second})["verdict"]) == ["helps"]


# --- what so few patients can show ----------------------------------------------------------------


def test_ten_patients_show_no_less_than_the_spread():
    assert smallest_detectable(0.05, 10) == pytest.approx(0.05, abs=0.001)
    assert smallest_detectable(0.05, 2000) == pytest.approx(
        (1.96 + 0.8416) * 0.05 / math.sqrt(2000), rel=0.01
    )
    assert smallest_detectable(0.0, 10) == 0


def test_simulated_power():
    shift = smallest_detectable(0.05, 10)
    samples = np.random.default_rng(0).normal(shift, 0.05, (250, 10))
    found = np.mean([sign_flip_p(sample) <= 0.05 for sample in samples])
    assert found == pytest.approx(0.8, abs=0.08)  # three standard errors


@pytest.mark.parametrize(("n", "candidates"), [(1, 1), (5, 1), (6, 2), (7, 4)])
def test_too_few_patients_show_nothing(n, candidates):
    assert math.isinf(smallest_detectable(0.05, n, alpha=0.05 / candidates))
    run = run_of([0.5] * n, PATIENTS[:n])
    table = compare(run, {str(i): run_of([0.9] * n, PATIENTS[:n]) for i in range(candidates)})
    assert set(table["verdict"]) == {"cannot tell"}  # although all patients agree
    assert "cannot show any difference" in resolution(table)


def test_resolution_line():
    before = normal(10, 0.8)
    one = compare(run_of(before), {"a": run_of(before + normal(10))})
    spread = one["SD"][0]
    assert resolution(one) == (
        f"10 patients whose differences have an SD of {spread:.3f}, 1 candidate. A true difference "
        f"of {smallest_detectable(spread, 10):.3f} would be found with 80 % power; smaller ones "
        f"are usually missed."
    )
    three = compare(run_of(before), {label: run_of(before + normal(10)) for label in "abc"})
    assert ", 3 candidates. A true difference" in resolution(three)
    assert smallest_detectable(spread, 10, alpha=0.05 / 3) > smallest_detectable(spread, 10)


def test_best_of_equal_recipes():
    table = best_of_k(10, 0.05, (1, 2, 20)).set_index("recipes")
    independent, common = table["independent differences"], table["common baseline"]
    unit = 0.05 / math.sqrt(10)
    assert independent.to_numpy() == pytest.approx(
        [0, unit / math.sqrt(math.pi), 1.867 * unit], abs=1e-3
    )
    assert common.to_numpy() == pytest.approx(independent / math.sqrt(2), abs=1e-3)
    pd.testing.assert_frame_equal(best_of_k(), best_of_k())
    assert best_of_k()["common baseline"].is_monotonic_increasing


def null_sweep(rng):
    """A baseline and three recipes, none better: skewed DSC around each patient's difficulty."""
    difficulty = rng.beta(8, 1.5, 10)  # mean 0.84, a tail of hard patients
    spread = rng.uniform(10, 60, 10)  # hard to tell on some patients, easy on others
    return [
        run_of(rng.beta(difficulty * spread, (1 - difficulty) * spread + 1e-3)) for _ in range(4)
    ]


@pytest.mark.slow
def test_at_most_one_null_sweep_in_twenty_has_a_false_finding():
    rng = np.random.default_rng(2026)
    sweeps = [null_sweep(rng) for _ in range(1000)]
    verdicts = [
        set(compare(baseline, dict(zip("abc", others, strict=True)))["verdict"])
        for baseline, *others in sweeps
    ]
    helps, any_finding = (
        np.mean([bool(found & kinds) for found in verdicts])
        for kinds in ({"helps"}, {"helps", "hurts"})
    )
    print(f"false helps {helps:.1%}, false findings {any_finding:.1%} of 1,000 null sweeps")
    assert helps <= 0.05
    assert any_finding <= 0.05


def test_a_comparison_for_reading(capsys):
    runs = [run_of(np.linspace(0.6, 0.8, len(PATIENTS)) + gain) for gain in (0.0, 0.05)]
    table = readable(compare_to_baseline(dict(zip(["before", "after"], runs, strict=True))))
    assert list(table.index) == ["after"]
    assert list(table) == [
        "mean DSC",
        "difference",
        "CI low",
        "CI high",
        "p (Holm)",
        "improved",
        "verdict",
    ]
    assert "seeds" in readable(compare(runs[0], {"two": runs}))
    assert table.loc["after", ["difference", "improved", "verdict"]].tolist() == [
        0.05,
        1.0,
        "helps",
    ]
    assert not capsys.readouterr().out


# --- a ladder -------------------------------------------------------------------------------------


def test_every_step_is_compared_with_the_one_below():
    scores = [
        normal(10, 0.7),
        normal(10, 0.75, seed=1),
        normal(10, 0.78, seed=2),
        normal(10, 0.77, seed=3),
    ]
    compared = compare_ladder(dict(zip("abcd", map(run_of, scores), strict=True)))
    assert "3 candidates" in resolution(compared)
    table = readable(compared)
    assert list(table.index) == ["b", "c", "d"]
    assert list(table["compared with"]) == ["a", "b", "c"]
    pairs = [paired_test(after - before) for before, after in itertools.pairwise(scores)]
    for column, attribute in (
        ("difference", "mean"),
        ("CI low", "low"),
        ("CI high", "high"),
        ("improved", "improved"),
    ):
        np.testing.assert_allclose(
            table[column], [getattr(pair, attribute) for pair in pairs], atol=5.1e-4
        )
    adjusted = holm(pair.p for pair in pairs)
    assert list(table["p (Holm)"]) == ["< 0.001" if p < 0.001 else f"{p:.3f}" for p in adjusted]
    assert list(table["verdict"]) == [
        verdict(pair.mean, p) for pair, p in zip(pairs, adjusted, strict=True)
    ]
    np.testing.assert_allclose(
        table["to the first"],
        [score.mean() - scores[0].mean() for score in scores[1:]],
        atol=5.1e-4,
    )
    np.testing.assert_allclose(
        table["mean DSC"], [score.mean() for score in scores[1:]], atol=5.1e-4
    )


def test_a_ladder_needs_two_steps_of_the_same_patients():
    with pytest.raises(KitError, match="two steps"):
        compare_ladder({"a": run_of([0.5] * 10)})
    with pytest.raises(KitError, match=r"^b: other patients"):
        compare_ladder({"a": run_of([0.5] * 10), "b": run_of([0.5] * 8, PATIENTS[:8])})


def test_a_ladders_steps_may_have_several_seeds():
    first, second, third = (normal(10, 0.8, seed=seed) for seed in range(3))
    table = readable(
        compare_ladder(
            {"one": [run_of(first), run_of(second)], "two": [run_of(second), run_of(third)]}
        )
    )
    assert table.loc["two", "difference"] == pytest.approx(((third - first) / 2).mean(), abs=5.1e-4)
