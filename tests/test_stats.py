"""Statistics against enumeration by hand, scipy, published rules, simulation, and null sweeps.

``python -m pytest tests/test_stats.py -m long -k "null_sweeps or other_methods" -s`` prints the
tables in docs/statistics.md.
"""

import itertools
import json
import math
import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from lib.config import Config
from lib.logger import Run, RunFolder
from lib.plot import forest
from lib.stats import (
    VERDICTS,
    Spread,
    best_of_k,
    carried_by,
    compare_ladder,
    compare_to_baseline,
    crossed_test,
    detectable,
    false_findings,
    holm,
    more_runs,
    outcomes,
    paired_test,
    power,
    readable,
    resolution,
    seeds_needed,
    smallest_difference,
    spread,
    verdict,
)
from lib.stats.paired import sign_flip_p, smallest_detectable
from lib.stats.planning import MOST_RUNS, Design, spread_of
from lib.stats.scored import PAIRS, pairs_from
from lib.stats.verdicts import ALPHA, CANNOT_TELL, NEGLIGIBLE, NO_DIFFERENCE, corrected
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


def runs_of(scores):
    """Runs of scores (runs, patients), the seeds counted from 0."""
    return seeded(scores, range(len(scores)))


def seeded(scores, seeds, **config):
    """Runs of scores (runs, patients) with these seeds."""
    patients = [f"P{i:03}" for i in range(len(scores[0]))]
    return [
        run_of(list(row), patients, seed=seed, **config)
        for row, seed in zip(scores, seeds, strict=True)
    ]


def drawn(rng, seeds, patients, sds, shifts=(0.0, 0.0), common=0.0):
    """Scores (runs, patients) of recipes whose variances are known, normal.

    ``common`` is the SD of what equal seeds do to all recipes alike.
    """
    difficulty = rng.normal(0.7, 0.1, patients) + rng.normal(0, common, (seeds, 1))
    return [
        difficulty
        + shift
        + rng.normal(0, sds.patients / math.sqrt(2), patients)
        + rng.normal(0, sds.seeds, (seeds, 1))
        + rng.normal(0, sds.residual, (seeds, patients))
        for shift in shifts
    ]


def skewed(rng, runs, patients, seed_sd=0.02):
    """DSC (runs, patients) of one recipe: most near 0.85, a few that a run finds or misses."""
    luck = rng.normal(0, 1, (runs, 1))
    scores = 0.8 + 0.12 * rng.beta(4, 2, patients) + seed_sd * luck
    scores = scores + rng.normal(0, 0.03, scores.shape)
    chance = stats.norm.ppf(rng.uniform(0.2, 0.9, patients))
    missed = chance + 25 * seed_sd * luck + rng.normal(0, 1, scores.shape) < 0
    hard = rng.random(patients) < 0.12
    return np.where(hard & missed, rng.uniform(0, 0.05, scores.shape), scores).clip(0, 1)


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


# --- one comparison, several runs -----------------------------------------------------------------

# scores (2 recipes, runs, patients), many of them tied
CROSSED = st.tuples(st.integers(2, 4), st.integers(2, 6), st.integers(0, 10**6)).map(
    lambda sizes: np.random.default_rng(sizes[2]).integers(0, 20, (2, *sizes[:2])) / np.array(20.0)
)


def by_loops(before, after):
    """Variance of the mean difference and its df, by the sums of squares of a textbook."""
    n = before.shape[1]
    gains = [after[:, p].mean() - before[:, p].mean() for p in range(n)]
    terms = [(np.var(gains, ddof=1) / n, n - 1)]
    seeds, shared = [], []
    for scores in (before, after):
        runs = len(scores)
        rows, columns, grand = scores.mean(axis=1), scores.mean(axis=0), scores.mean()
        ss_runs = n * sum((row - grand) ** 2 for row in rows)
        ss_left = sum(
            (scores[s, p] - rows[s] - columns[p] + grand) ** 2
            for s in range(runs)
            for p in range(n)
        )
        df = (runs - 1) * (n - 1)
        seeds.append((ss_runs / (runs - 1) / (n * runs), runs - 1))
        shared.append((ss_left / df / (n * runs), df))
    total = terms[0][0] + sum(v for v, _ in seeds) - sum(v for v, _ in shared)
    variance = max(total, terms[0][0], sum(v for v, _ in seeds))
    return variance, variance**2 / sum(v**2 / df for v, df in terms + seeds + shared)


@pytest.mark.parametrize(("seeds", "patients"), [(2, 3), (3, 10), (5, 30)])
def test_crossed_test_by_sums_of_squares(seeds, patients):
    rng = np.random.default_rng(seeds)
    before, after = drawn(rng, seeds, patients, Spread(0.02, 0.05, 0.04), (0, 0.03))
    result = crossed_test(before, after)
    variance, df = by_loops(before, after)
    theirs = stats.t(df, after.mean() - before.mean(), math.sqrt(variance))
    assert (result.se**2, result.df) == pytest.approx((variance, df))
    assert (result.low, result.high) == pytest.approx(theirs.interval(0.95))
    assert result.p == pytest.approx(2 * min(theirs.cdf(0), theirs.sf(0)))
    one_sided = theirs.sf(NEGLIGIBLE), theirs.cdf(-NEGLIGIBLE)
    assert result.p_equivalence == pytest.approx(max(one_sided))


def test_without_scatter_between_runs_it_is_the_paired_t_test():
    before, after = normal(12, 0.8), normal(12, 0.82, seed=1)
    result = crossed_test(np.array([before] * 3), np.array([after] * 2))
    theirs = stats.ttest_rel(after, before)
    assert (result.p, result.df) == pytest.approx((theirs.pvalue, theirs.df))
    assert (result.low, result.high) == pytest.approx(tuple(theirs.confidence_interval()))


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ([0.80, 0.83, 0.78, 0.81], [0.85, 0.86, 0.91, 0.84]),
        ([0.80, 0.83, 0.78], [0.85, 0.86, 0.91, 0.84]),
        ([0.80, 0.83, 0.78, 0.75, 0.81, 0.79], [0.85, 0.86]),  # alike by chance
        ([0.80, 0.83, 0.78, 0.75, 0.81, 0.79], [0.75, 0.96]),
    ],
)
def test_without_scatter_between_patients_it_is_the_more_cautious_t_test_of_the_runs(before, after):
    shape = normal(20, 0)  # the same for all
    result = crossed_test(*(np.add.outer(one, shape) for one in (before, after)))
    tests = [stats.ttest_ind(after, before, equal_var=alike) for alike in (False, True)]
    assert result.p == pytest.approx(max(test.pvalue for test in tests))
    low, high = min((test.confidence_interval() for test in tests), key=lambda each: each.low)
    assert (result.low, result.high) == pytest.approx((low, high))


@pytest.mark.parametrize(("few", "many"), [(2, 10), (2, 38), (3, 37), (4, 20), (5, 35)])
def test_a_few_runs_beside_many_find_nothing_where_there_is_nothing(few, many):
    """Welch's t test alone does so in up to 8 % of these draws, where 5 % are nominal."""
    rng, spread, count = np.random.default_rng(0), Spread(0.023, 0.02, 0.05), 1500
    found = 0
    for _ in range(count):
        runs = drawn(rng, few + many, 20, spread, (0, 0))[0]
        found += crossed_test(runs[:many], runs[many:]).p <= ALPHA
    assert found / count <= 0.064


@pytest.mark.parametrize(("few", "many"), [(3, 37), (4, 20), (7, 30)])
def test_power_agrees_with_simulation_where_a_few_runs_are_beside_many(few, many):
    rng, spread, count = np.random.default_rng(0), Spread(0.023, 0.02, 0.05), 1000
    plan = Design(spread, (many, few), 20, 1)
    size = plan.smallest()
    found = sum(
        crossed_test(before[:many], after[:few]).p <= ALPHA
        for before, after in (drawn(rng, many, 20, spread, (0, size)) for _ in range(count))
    )
    assert found / count == pytest.approx(plan.finds(size), abs=0.05)


def test_without_scatter_between_patients_pairs_of_runs_are_the_t_test_of_runs():
    before, gains, shape = np.array([0.8, 0.7, 0.75]), np.array([0.01, 0.02, 0.012]), normal(20, 0)
    scores = np.add.outer(before, shape), np.add.outer(before + gains, shape)
    result = crossed_test(*scores, paired=True)
    theirs = stats.ttest_1samp(gains, 0)
    assert (result.p, result.df) == pytest.approx((theirs.pvalue, theirs.df))
    assert (result.low, result.high) == pytest.approx(tuple(theirs.confidence_interval()))
    shared = math.sqrt(np.cov(before, before + gains)[0, 1])
    assert result.spread == pytest.approx((gains.std(ddof=1) / math.sqrt(2), 0, 0, shared))
    assert result.se < crossed_test(*scores).se / 5  # what the seed does to both cancels


def test_without_scatter_between_runs_pairs_of_runs_are_the_paired_t_test():
    before, after = normal(12, 0.8), normal(12, 0.82, seed=1)
    result = crossed_test(np.array([before] * 3), np.array([after] * 3), paired=True)
    theirs = stats.ttest_rel(after, before)
    assert (result.p, result.df) == pytest.approx((theirs.pvalue, theirs.df))
    assert result.spread.patients == pytest.approx((after - before).std(ddof=1))


@pytest.mark.parametrize(
    ("before", "after", "paired"),
    [
        ({}, {"tta": True}, True),
        ({"ema": 0.99}, {"tta": True, "component": "all"}, True),
        ({}, {"lr": 1e-3, "tta": True}, False),
        ({"lr_scheduler": "plateau"}, {"lr_scheduler": "plateau", "ema": 0.99}, False),
        ({"lr_scheduler": "mine:rate"}, {"lr_scheduler": "mine:rate", "ema": 0.99}, False),
    ],
)
def test_recipes_that_differ_after_training_share_their_trainings(before, after, paired):
    scores = drawn(np.random.default_rng(3), 3, 10, Spread(0.02, 0.02, 0.02), (0, 0.03))
    runs = [
        [run_of(one, seed=seed, **changes) for seed, one in enumerate(each)]
        for each, changes in zip(scores, (before, after), strict=True)
    ]
    row = compare_to_baseline({"before": runs[0], "after": runs[1]}).iloc[0]
    assert row["CI low"] == pytest.approx(crossed_test(*scores, paired=paired).low)
    others = [run_of(one, seed=seed + 1, **after) for seed, one in enumerate(scores[1])]
    row = compare_to_baseline({"before": runs[0], "after": others}).iloc[0]
    assert row["CI low"] == pytest.approx(crossed_test(*scores).low)  # other seeds
    fewer = compare_to_baseline({"before": runs[0], "after": runs[1][1:]}).iloc[0]
    common = (scores[0][1:], scores[1][1:]) if paired else (scores[0], scores[1][1:])
    assert fewer["CI low"] == pytest.approx(crossed_test(*common, paired=paired).low)
    assert fewer["paired"] == paired and fewer["baseline seeds"] == len(common[0])
    one = compare_to_baseline({"before": runs[0], "after": runs[1][:1]}).iloc[0]
    assert one["baseline seeds"] == 3 and not one["paired"]


@pytest.mark.parametrize("compare", [compare_to_baseline, compare_ladder, outcomes, spread])
def test_other_things_than_labelled_runs_are_named(compare):
    run = run_of([0.5] * 10)
    for wrong, got in (
        ([run, run], "got a list"),
        (None, "got a NoneType"),
        ((each for each in [run]), "got a generator"),
        ({"a": run, "b": run.cases}, "got a DataFrame for 'b'"),
        ({"a": run, "b": "run"}, "got a str for 'b'"),
    ):
        with pytest.raises(KitError, match=f"expected label -> run, .*{got}"):
            compare(wrong)


@pytest.mark.parametrize(
    ("before", "after", "compared"),
    [
        (range(5), range(5), range(5)),
        (range(8), (6, 2, 3, 4, 5), None),  # pairs alone would give up the others
        (range(6), (5, 4, 3, 2, 1, 0), (5, 4, 3, 2, 1, 0)),  # those that both have
        (range(11), (9, 2, 8, 4, 6, 7, 3, 1), (9, 2, 8, 4, 6, 7, 3, 1, 0, 5, 10)),  # all count
        (range(4), range(4), None),  # few pairs find less than runs apart
        (range(8), (7, 8, 9, 10, 11), None),
        (range(8), (3, 4, 5, 6, 8), None),  # one without a partner
        ((0, 1, 2, 3, 4, 4), range(5), None),  # which one is the partner of 4?
        (range(6), (3,), None),
    ],
)
def test_runs_are_compared_seed_by_seed(before, after, compared):
    scores = [normal(10, 0.7, seed=i) for i in range(20)]
    first = seeded(scores[: len(before)], before)
    row = compare(first, {"other": seeded(scores[-len(after) :], after, lr=0.002)}).iloc[0]
    whole = np.array(scores[: len(before)]), np.array(scores[-len(after) :])
    assert row["paired"] == (compared is not None)
    if compared is not None:
        whole = whole[0][list(compared)], whole[1]  # ``before`` counts from 0
    expected = crossed_test(*whole, paired=compared is not None)
    assert (row["CI low"], row["p"]) == pytest.approx((expected.low, expected.p))
    assert (row["baseline seeds"], row["seeds"]) == (len(whole[0]), len(whole[1]))


def test_what_equal_seeds_have_in_common_is_no_error():
    rng, found = np.random.default_rng(3), []
    for _ in range(300):
        scores = drawn(rng, 8, 40, Spread(0.01, 0.02, 0.03), (0, 0.02), common=0.05)
        found.append([crossed_test(*scores, paired=paired).p <= 0.05 for paired in (True, False)])
    paired, apart = np.mean(found, axis=0)
    known = Spread(0.01, 0.02, 0.03)
    assert paired == pytest.approx(power(known, 8, 40, 0.02), abs=0.06)
    assert apart < paired / 3


@pytest.mark.parametrize("shared", [0.0, 0.013, 0.018])  # a correlation of 0, 0.32 and 0.61
@pytest.mark.parametrize("baseline", [10, 40])
def test_a_further_run_of_a_candidate_costs_no_power(baseline, shared):
    known = Spread(math.sqrt(0.023**2 - shared**2), 0.1, 0.15, shared)
    smallest = [
        Design(known, (baseline, runs), 200, 1, runs >= pairs_from(baseline, runs)).smallest()
        for runs in range(2, 11)
    ]
    for one, next_one in itertools.pairwise(smallest):
        assert next_one < 1.03 * one  # the slope costs a degree of freedom


def test_all_runs_of_a_large_baseline_count_beside_few_of_a_candidate():
    scores = [normal(10, 0.7, seed=i) for i in range(45)]
    row = compare(seeded(scores[:40], range(40)), {"other": seeded(scores[40:], range(5), lr=0.1)})
    counts = row[["baseline seeds", "seeds", "paired"]].to_numpy().tolist()
    assert counts == [[40, 5, False]]
    rng, known = np.random.default_rng(4), Spread(0.03, 0.02, 0.05)
    found = []
    for _ in range(300):
        before, after = drawn(rng, 40, 200, known, (0, 0.045))
        found.append(crossed_test(before, after[:5], paired=pairs_from(40, 5) <= 5).p <= ALPHA)
    assert np.mean(found) > power(known, 5, 200, 0.045) + 0.15


def test_a_training_cut_short_is_compared_with_itself():
    scores = [normal(10, 0.7, seed=i) for i in range(20)]
    row = compare(seeded(scores, range(20)), {"short": seeded(scores[:3], range(3), patience=3)})
    assert row["paired"].tolist() == [True] and row["baseline seeds"].tolist() == [3]


@pytest.mark.parametrize("runs", [2, 3, 5])
def test_power_agrees_with_simulation_where_runs_are_paired(runs):
    known, rng = Spread(seeds=0.02, patients=0.02, residual=0.03), np.random.default_rng(runs)
    size = Design(known, (runs, runs), 50, 1, paired=True).smallest()
    found = 0
    for _ in range(400):
        before, after = drawn(rng, runs, 50, known, (0, size))
        found += crossed_test(before, after, paired=True).p <= 0.05
    assert found / 400 == pytest.approx(0.8, abs=0.06)
    names = [f"P{i:02}" for i in range(50)]
    recipe = [run_of(one, names, seed=i) for i, one in enumerate(before)]
    with_flips = [run_of(one, names, seed=i, tta=True) for i, one in enumerate(after)]
    table = compare_to_baseline({"a": recipe, "b": with_flips})
    own = spread_of(table.iloc[0])
    smallest = Design(own, (runs, runs), 50, 1, paired=True).smallest()
    assert f"A true difference of {smallest:.3f} would be found" in resolution(table)


def test_further_runs_count_by_a_regression_of_those_with_equal_seeds():
    rng, shape = np.random.default_rng(5), normal(20, 0)  # patients do not differ
    before = rng.normal(0.7, 0.02, 30)
    after = 0.2 + 0.5 * before[:8] + rng.normal(0, 0.01, 8)
    scores = np.add.outer(before, shape), np.add.outer(after, shape)
    result = crossed_test(*scores, paired=True)
    line = stats.linregress(before[:8], after)
    assert 0 < line.slope < 1
    assert result.mean == pytest.approx(line.intercept + (line.slope - 1) * before.mean())
    rest = (1 - line.slope) * 22 / 30  # how much the runs without a partner count
    left = after - (1 - rest) * before[:8]
    away = (before[:8].mean() - before.mean()) ** 2 / (7 * before[:8].var(ddof=1))
    terms = [
        (left.var(ddof=1) * 7 / 6 * (1 / 8 + away), 6),
        (rest**2 * before.var(ddof=1) / 22, 29),
    ]
    assert result.se**2 == pytest.approx(sum(term for term, _ in terms))
    assert result.df == pytest.approx(result.se**4 / sum(term**2 / df for term, df in terms))
    back = crossed_test(*scores[::-1], paired=True)
    assert (back.p, back.se, back.low) == pytest.approx((result.p, result.se, -result.high))
    other = np.concatenate([scores[0][:8], scores[0][:7:-1]]), scores[1]  # the others in any order
    assert crossed_test(*other, paired=True)[:-2] == pytest.approx(result[:-2])
    with pytest.raises(KitError, match="fewer than 8 pairs of runs"):
        crossed_test(scores[0], scores[1][:7], paired=True)


@pytest.mark.filterwarnings("error")
def test_pairs_that_do_not_differ_have_no_slope():
    before, after = np.full((9, 5), 0.0), np.full((8, 5), 0.1)
    before[8] = 0.3
    result = crossed_test(before, after, paired=True)
    assert result.mean == pytest.approx(0.1 - 0.3 / 9)
    assert result.high - result.low < 0.3


def test_runs_that_are_alike_count_as_pairs_and_others_as_two_groups():
    """At the two ends: what the seed does is all, or nothing."""
    rng, shape = np.random.default_rng(6), normal(20, 0)
    before, change = rng.normal(0.7, 0.02, 30), rng.normal(0.01, 1e-4, 8)
    alike = np.add.outer(before, shape), np.add.outer(before[:8] + change, shape)
    pairs = crossed_test(alike[0][:8], alike[1], paired=True)
    found = crossed_test(*alike, paired=True)
    assert found.mean == pytest.approx(pairs.mean, abs=1e-4)
    assert found.spread.shared == pytest.approx(before[:8].std(ddof=1), rel=0.02)
    opposed = np.add.outer(0.7 - before[:8], shape)  # a slope below 0 is none
    found, apart = crossed_test(alike[0], opposed, paired=True), crossed_test(alike[0], opposed)
    assert found.mean == pytest.approx(apart.mean)


@pytest.mark.parametrize(
    ("pairs", "known"),
    [
        (8, Spread(0.02, 0.02, 0.03, shared=0.0)),
        (12, Spread(0.02, 0.02, 0.03, shared=0.02)),
        (12, Spread(0.02, 0.02, 0.03, shared=0.04)),
        (8, Spread(0.004, 0.05, 0.2, shared=0.006)),  # patients and single patients' luck
    ],
)
def test_level_and_power_of_pairs_beside_further_runs(pairs, known):
    rng, found, count = np.random.default_rng(8), [], 36
    size = Design(known, (count, pairs), 50, 1, paired=True).smallest()
    if known.shared <= known.seeds:
        assert size < 0.95 * Design(known, (pairs, pairs), 50, 1, paired=True).smallest()
    for _ in range(600):
        before, after = drawn(rng, count, 50, known, (0, size), common=known.shared)
        tests = [crossed_test(before, after[:pairs] - less, paired=True) for less in (size, 0)]
        found.append([test.p <= 0.05 for test in tests])
    level, reached = np.mean(found, axis=0)
    assert level <= 0.068  # two standard errors above 5 %
    assert reached == pytest.approx(0.8, abs=0.05)


def test_a_recipe_with_one_run_borrows_the_seeds_variance():
    shape, means = normal(20, 0), np.array([0.80, 0.83, 0.78])
    many, one = np.add.outer(means, shape), np.add.outer([0.9], shape)
    forth, back = crossed_test(many, one), crossed_test(one, many)
    assert forth.se**2 == pytest.approx(means.var(ddof=1) * (1 / 3 + 1))
    assert forth.df == pytest.approx(2)
    assert (back.p, back.mean) == pytest.approx((forth.p, -forth.mean))
    assert forth.spread == pytest.approx((means.std(ddof=1), 0, 0, 0)) == back.spread


@given(CROSSED)
@settings(max_examples=40, deadline=None)
def test_swapping_recipes_swaps_the_sign_only(scores):
    forth, back = crossed_test(*scores), crossed_test(*scores[::-1])
    assert (forth.p, forth.p_equivalence, forth.se) == pytest.approx(
        (back.p, back.p_equivalence, back.se)
    )
    assert (forth.mean, forth.low, forth.high) == pytest.approx((-back.mean, -back.high, -back.low))


@given(CROSSED, st.randoms())
@settings(max_examples=40, deadline=None)
def test_order_of_runs_and_patients_does_not_matter(scores, random):
    order = [random.sample(range(size), size) for size in scores.shape[1:]]
    shuffled = scores[:, order[0]][:, :, order[1]]
    np.testing.assert_allclose(
        crossed_test(*shuffled)[:-2], crossed_test(*scores)[:-2], rtol=1e-6, atol=1e-9
    )


@given(CROSSED)
@settings(max_examples=60, deadline=None)
def test_intervals_and_p_agree(scores):
    result = crossed_test(*scores)
    assert 0 <= result.p <= 1 and 0 <= result.p_equivalence <= 1
    assert (result.p < 0.05) == (not result.low <= 0 <= result.high)
    margin = stats.t.ppf(0.95, result.df) * result.se  # the 90 % interval
    inside = abs(result.mean) + margin < NEGLIGIBLE
    assert (result.p_equivalence < 0.05) == inside


@pytest.mark.filterwarnings("error")
def test_equal_runs():
    scores = np.full((3, 5), 0.7)
    same, better = crossed_test(scores, scores), crossed_test(scores, scores + 0.1)
    assert (same.p, same.mean, same.sd) == (1, 0, 0) and same.p_equivalence < 1e-6
    assert better.p < 1e-6 and better.p_equivalence > 0.99


@pytest.mark.filterwarnings("error")
def test_one_patient_with_several_runs():
    result = crossed_test(np.array([[0.5], [0.6]]), np.array([[0.7], [0.9]]))
    assert (result.mean, result.p, result.p_equivalence) == (0.25, 1, 1)
    assert np.isnan([result.sd, result.low, result.se, *result.spread]).all()
    table = compare(runs_of([[0.5], [0.6]]), {"a": runs_of([[0.7], [0.9]])})
    assert table["verdict"].tolist() == [CANNOT_TELL]


@pytest.mark.parametrize(
    ("before", "after", "words"),
    [
        (np.zeros((1, 4)), np.zeros((1, 4)), "one run each"),
        (np.zeros((0, 4)), np.zeros((3, 4)), "one run each"),
        (np.zeros((2, 4)), np.zeros((2, 5)), "the same patients"),
        (np.zeros(4), np.zeros(4), "the same patients"),
        (np.zeros((2, 4)), np.full((2, 4), math.nan), "not a finite number"),
    ],
)
def test_what_cannot_be_crossed_is_refused(before, after, words):
    with pytest.raises(KitError, match=words):
        crossed_test(before, after)


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


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8), st.integers(1, 8))
def test_holm_with_a_limit_multiplies_by_no_more(p_values, at_most):
    adjusted, order = holm(p_values, at_most), np.argsort(p_values)
    factors = [min(len(p_values) - step, at_most) for step in range(len(p_values))]
    expected = np.maximum.accumulate(np.sort(p_values) * factors).clip(max=1)
    np.testing.assert_allclose(adjusted[order], expected)
    assert (adjusted <= holm(p_values)).all()


def comparisons(differences, p_values, equivalence):
    return pd.DataFrame(
        {"difference": differences, "p": p_values, "p (equivalence)": equivalence}, dtype=float
    )


def test_differences_and_equivalence_are_corrected_together():
    # 5 hypotheses, of which 3 can be true at once: the factors are 3, 3, 3, 2, 1
    table = corrected(comparisons([0.1, 0.0, 0.03], [0.001, 0.9, 0.02], [math.nan, 0.015, 0.7]))
    assert table["p (Holm)"].tolist() == pytest.approx([0.003, 1, 0.06])
    assert table["verdict"].tolist() == ["helps", NO_DIFFERENCE, CANNOT_TELL]
    alone = corrected(comparisons([0.001], [0.6], [0.05]))
    assert alone["verdict"].tolist() == [NO_DIFFERENCE]  # one of the two must be false
    single_runs = comparisons([0.1, 0.1], [0.03, 0.04], [math.nan] * 2)
    assert corrected(single_runs)["p (Holm)"].tolist() == holm([0.03, 0.04]).tolist()


@pytest.mark.parametrize("equal", [1, 3])
def test_a_table_has_a_false_verdict_one_time_in_twenty(equal):
    """Of three candidates some are equal to the baseline, the others differ by just 0.02."""
    rng, df, error = np.random.default_rng(equal), 12, NEGLIGIBLE / 5
    truth = np.array([0.0] * equal + [NEGLIGIBLE] * (3 - equal))
    wrong = 0
    for _ in range(1000):
        found = truth + error * rng.standard_normal(3)
        errors = error * np.sqrt(rng.chisquare(df, 3) / df)
        p = 2 * stats.t.sf(abs(found) / errors, df)
        equivalence = stats.t.sf((NEGLIGIBLE - abs(found)) / errors, df)
        verdicts = corrected(comparisons(found, p, equivalence))["verdict"]
        wrong += any(
            said in ("hurts", "helps" if true == 0 else NO_DIFFERENCE)
            for said, true in zip(verdicts, truth, strict=True)
        )
    assert wrong <= 0.064 * 1000


def test_verdict_at_the_limit():
    assert [verdict(*pair) for pair in ((0.1, 0.05), (-0.1, 0.05), (0.1, 0.0501))] == [
        "helps",
        "hurts",
        "cannot tell",
    ]
    assert verdict(0.001, 0.06, 0.05) == NO_DIFFERENCE == "no difference larger than 0.02"
    assert verdict(0.001, 0.05, 0.001) == "helps"  # a small difference is one
    assert verdict(0.001, 0.06, 0.06) == verdict(0.0, 1.0) == CANNOT_TELL
    assert VERDICTS == ("helps", "hurts", "no difference larger than 0.02", "cannot tell")


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


def test_runs_with_several_seeds_are_crossed_with_patients():
    first, second, third, fourth = (normal(10, 0.8, seed=seed) for seed in range(4))
    shuffled = run_of(second[::-1], PATIENTS[::-1])  # in another order
    row = compare(
        [run_of(first), run_of(third)], {"two": [run_of(first), shuffled], "one": run_of(fourth)}
    ).iloc[0]
    expected = crossed_test(np.array([first, third]), np.array([first, second]))
    assert (row["patients"], row["seeds"], row["baseline seeds"]) == (10, 2, 2)
    cells = row[["difference", "SD", "CI low", "CI high", "p", "p (equivalence)", "improved"]]
    assert cells.tolist() == pytest.approx(
        [getattr(expected, name) for name in ("mean", "sd", "low", "high")]
        + [expected.p, expected.p_equivalence, expected.improved]
    )
    assert spread_of(row) == pytest.approx(expected.spread)
    assert row["mean DSC"] == pytest.approx((first.mean() + second.mean()) / 2)
    assert math.isnan(row["p (Wilcoxon)"])  # it would not know the seeds


def test_equivalent_recipes_have_a_verdict_of_their_own():
    rng = np.random.default_rng(7)
    scores = drawn(rng, 5, 40, Spread(0.004, 0.01, 0.01), (0, 0, 0.1))
    runs = dict(zip(["baseline", "same", "better"], map(runs_of, scores), strict=True))
    table = compare_to_baseline(runs)
    assert table["verdict"].tolist() == [NO_DIFFERENCE, "helps"]
    assert list(readable(table)["more runs"]) == ["", ""]
    assert forest(table).axes[0].texts[0].get_text().endswith(NO_DIFFERENCE)
    ladder = compare_ladder(runs)
    assert ladder["verdict"].tolist() == [NO_DIFFERENCE, "helps"]
    assert ladder["to the first"].tolist() == pytest.approx(table["difference"].tolist())


def test_one_run_each_is_about_these_weights():
    first, second = normal(10, 0.8), normal(10, 0.8, seed=1)
    row = compare(run_of(first), {"other": run_of(second)}).iloc[0]
    assert row["p"] == paired_test(second - first).p
    assert math.isnan(row["p (equivalence)"]) and np.isnan(spread_of(row)).all()
    same = compare(run_of(first), {"same": run_of(first)})
    assert same["verdict"].tolist() == [CANNOT_TELL]  # other seeds may differ


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
    sd = one["SD"][0]
    assert resolution(one) == (
        f"10 patients whose differences have an SD of {sd:.3f}, 1 candidate.\nA true difference "
        f"of {smallest_detectable(sd, 10):.3f} would be found with 80 % power; smaller ones "
        f"are usually missed.\nOne run each, so p is about these weights, not about the recipe."
    )
    three = compare(run_of(before), {label: run_of(before + normal(10)) for label in "abc"})
    assert ", 3 candidates.\nA true difference" in resolution(three)
    assert smallest_detectable(sd, 10, alpha=0.05 / 3) > smallest_detectable(sd, 10)


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


# --- before a sweep -------------------------------------------------------------------------------

SDS = Spread(seeds=0.02, patients=0.05, residual=0.06)


def test_spread_finds_known_variances():
    rng = np.random.default_rng(1)
    scores = drawn(rng, 60, 400, SDS, (0, 0.1, 0.05, 0))
    found = spread({str(i): runs_of(each) for i, each in enumerate(scores)})
    assert found[:3] == pytest.approx(SDS[:3], rel=0.1) and found.shared < SDS.seeds / 3
    alone = spread({"baseline": runs_of(scores[0])})
    assert alone[::2] == pytest.approx(SDS[::2], rel=0.2) and alone.patients == 0
    assert alone.of_run(400) == pytest.approx(scores[0].mean(axis=1).std(ddof=1), rel=0.02)


def test_spread_leaves_out_what_equal_seeds_have_in_common():
    rng = np.random.default_rng(1)
    scores = drawn(rng, 60, 400, SDS, (0, 0.1, 0.05), common=0.1)
    paired = {str(i): runs_of(each) for i, each in enumerate(scores)}
    assert spread(paired) == pytest.approx(SDS._replace(shared=0.1), rel=0.15)
    apart = {str(i): seeded(each, range(i, i + 60)) for i, each in enumerate(scores)}
    assert spread(apart).seeds == pytest.approx(math.hypot(0.1, SDS.seeds), rel=0.15)


def test_spread_is_never_negative():
    rng = np.random.default_rng(0)
    for _ in range(20):
        scores = drawn(rng, 2, 4, Spread(0, 0, 0.1))
        assert min(spread(dict(zip("ab", map(runs_of, scores), strict=True)))) >= 0


@pytest.mark.parametrize("runs", [{}, {"a": [run_of(normal(10))]}, {"a": runs_of([[0.5], [0.6]])}])
def test_spread_needs_runs_and_patients(runs):
    with pytest.raises(KitError, match="two patients and two runs"):
        spread(runs)


@pytest.mark.parametrize(
    ("seeds", "patients", "sds", "candidates"),
    [
        (2, 10, SDS, 1),
        (5, 30, SDS, 1),
        (5, 30, SDS, 4),
        (3, 200, Spread(0.03, 0.02, 0.1), 1),  # seeds are the limit
        (4, 20, Spread(0.0, 0.0, 0.1), 1),  # nothing but the residual
        (8, 10, Spread(0.0, 0.08, 0.02), 1),  # patients are the limit
    ],
)
def test_power_agrees_with_simulation(seeds, patients, sds, candidates):
    rng = np.random.default_rng(1)
    size = smallest_difference(sds, seeds, patients, candidates)
    assert power(sds, seeds, patients, size, candidates) == pytest.approx(0.8, abs=1e-6)
    p = [
        crossed_test(*drawn(rng, seeds, patients, sds, (0, size)), paired=seeds >= PAIRS).p
        for _ in range(600)
    ]
    assert np.mean(np.array(p) <= 0.05 / candidates) == pytest.approx(0.8, abs=0.05)


def test_power_on_skewed_scores():
    rng = np.random.default_rng(2)
    pool = skewed(rng, 400, 30)
    known = spread({"baseline": runs_of(pool)})
    assert 0.02 < known.of_run(30) < 0.04
    size = smallest_difference(known, 5, 30)
    found = []
    for _ in range(600):
        runs = pool[rng.permutation(len(pool))[:10]]
        found.append(crossed_test(runs[:5], runs[5:] + size, paired=True).p <= 0.05)
    assert np.mean(found) == pytest.approx(0.8, abs=0.05)


def test_power_grows_and_starts_at_the_level():
    assert power(SDS, 5, 30, 0.0) <= 0.055
    assert power(SDS, 5, 30, 0.03) == power(SDS, 5, 30, -0.03)
    for one, more in (
        ((SDS, 5, 30, 0.03), (SDS, 5, 30, 0.04)),
        ((SDS, 5, 30, 0.03), (SDS, 8, 30, 0.03)),
        ((SDS, 5, 30, 0.03), (SDS, 5, 60, 0.03)),
        ((SDS, 5, 30, 0.03, 4), (SDS, 5, 30, 0.03, 1)),
    ):
        assert power(*one) < power(*more)
    assert power(Spread(0, 0, 0), 2, 2, 0.01) == 1


def test_seeds_needed():
    needed = seeds_needed(SDS, 100, 0.03)
    assert needed is not None and 2 < needed < MOST_RUNS
    assert power(SDS, needed - 1, 100, 0.03) < 0.8 <= power(SDS, needed, 100, 0.03)
    assert seeds_needed(SDS, 10, 0.03) is None  # patients are the limit
    assert seeds_needed(SDS, 100, 0.3) == 2
    equal = seeds_needed(Spread(0.01, 0.01, 0.02), 100, 0.0)  # until equivalence is established
    assert equal is not None and power(Spread(0.01, 0.01, 0.02), equal, 100, 0.0) < 0.06


@pytest.mark.parametrize(
    "arguments", [(SDS, 1, 30), (SDS, 5, 1), (SDS, 5, 30, 0), (Spread(math.nan, 0, 0), 5, 30)]
)
def test_a_plan_out_of_range_is_refused(arguments):
    with pytest.raises(KitError, match=r"^power: "):
        smallest_difference(*arguments)


@pytest.mark.parametrize("seeds", [0.0, 0.02, 0.1])
@pytest.mark.parametrize("candidates", [1, 8])
def test_too_few_runs_and_patients_find_no_difference_that_there_can_be(seeds, candidates):
    known = Spread(seeds, 0.05, 0.1)
    size = smallest_difference(known, 2, 2, candidates)
    assert math.isinf(size) and power(known, 2, 2, 1.0, candidates) < 0.8
    assert smallest_difference(known, 20, 200, candidates) < 0.2
    assert smallest_difference(Spread(0, 0, 0), 2, 2) == pytest.approx(0, abs=1e-9)


def test_a_table_of_two_patients_says_that_no_difference_would_be_found():
    scores = [[0.4, 0.6], [0.5, 0.7]]
    runs = {label: runs_of(np.array(scores) + 0.1 * place) for place, label in enumerate("abc")}
    table = compare_to_baseline(runs)
    assert np.isinf(detectable(table)).all()
    told = "b, c: no difference, however large, would be found with 80 % power."
    assert told in resolution(table) and "A true difference" not in resolution(table)
    assert readable(table)["80 % power from"].tolist() == [math.inf, math.inf]


# --- after a sweep --------------------------------------------------------------------------------


def sweep_of(sds, shifts, seeds=3, patients=30):
    scores = drawn(np.random.default_rng(3), seeds, patients, sds, (0, *shifts))
    return dict(zip(["baseline", "a", "b", "c"], map(runs_of, scores), strict=False))


def test_a_table_says_how_many_more_runs_would_settle_it():
    table = compare_to_baseline(sweep_of(Spread(0.02, 0.01, 0.03), (0.02, 0.2)))
    assert table["verdict"].tolist() == [CANNOT_TELL, "helps"]
    more = more_runs(table)
    assert more[1] == 0 and 0 < more[0] < MOST_RUNS
    row = table.iloc[0]
    known = spread_of(row)
    assert more[0] == seeds_needed(known, 30, row["difference"], 2) - 3
    assert readable(table)["more runs"].tolist() == [f"{more[0]:.0f} each", ""]
    assert readable(table)["80 % power from"].tolist() == detectable(table).round(3).tolist()
    line = resolution(table)
    assert line.startswith("30 patients, 3 runs of each recipe, 2 candidates.\nThe mean of a run ")
    told = (
        "So many more runs of each recipe would settle these, if the differences stay as they are: "
    )
    assert f"{told}a {more[0]:.0f}." in line
    assert max(map(len, line.splitlines())) < 120


def test_further_runs_are_those_of_the_recipe_with_fewer():
    both = sweep_of(Spread(0.02, 0.01, 0.03), (0.02,), seeds=20)
    table = compare_to_baseline({"baseline": both["baseline"], "a": both["a"][:4]})
    [more] = more_runs(table)
    assert 0 < more < MOST_RUNS
    assert readable(table)["more runs"].tolist() == [f"{more:.0f}"]
    lines = resolution(table)
    assert "of the recipe with fewer, then of both, would settle these" in lines
    assert f"as they are: a {more:.0f}." in lines


def test_more_seeds_do_not_help_where_patients_are_the_limit():
    table = compare_to_baseline(sweep_of(Spread(0.001, 0.2, 0.01), (0.02,), patients=8))
    assert more_runs(table).tolist() == [math.inf]
    assert readable(table)["more runs"].tolist() == ["more patients"]
    assert resolution(table).endswith(
        "More runs alone would not settle a: more patients are needed."
    )


def test_the_line_uses_the_model_of_the_test():
    table = compare_to_baseline(sweep_of(SDS, (0.0, 0.0, 0.0)))
    known = [spread_of(row) for row in table.to_dict("records")]
    sizes = [smallest_difference(each, 3, 30, 3) for each in known]
    assert detectable(table).tolist() == sizes
    assert (
        f"A true difference of {min(sizes):.3f} to {max(sizes):.3f}, by candidate, would be found "
        f"with 80 % power" in resolution(table)
    )
    moves = [each.of_run(30) for each in known]
    assert f"by an SD of {min(moves):.3f} to {max(moves):.3f}." in resolution(table)
    one = compare_to_baseline(sweep_of(SDS, (0.0,)))
    assert f"A true difference of {detectable(one)[0]:.3f} would be found" in resolution(one)


def test_other_heads_under_the_same_names_are_not_compared():
    """Phantoms of all seeds have the same names."""
    runs = {"baseline": run_of([0.5] * 10), "same": run_of([0.6] * 10), "other": run_of([0.6] * 10)}
    for label, voxels in (("baseline", 100), ("same", 100), ("other", 101)):
        cases = runs[label].cases
        runs[label].__dict__["cases"] = cases.assign(tp=50, fp=0, fn=[voxels - 50, *[50] * 9])
    others = {label: run for label, run in runs.items() if label != "other"}
    assert len(compare_to_baseline(others)) == 1
    with pytest.raises(KitError, match=r"other: scored on other data .*\(P00 has other masks\)"):
        compare_to_baseline(runs)


def test_a_training_counts_once():
    runs = sweep_of(SDS, (0.0,))
    runs["a"][2] = runs["a"][0]
    with pytest.raises(KitError, match="a: the run with seed 0 is there twice"):
        compare_to_baseline(runs)


def test_a_candidate_that_scatters_takes_no_power_from_the_others():
    steady, wild = Spread(0.01, 0.02, 0.05), Spread(0.2, 0.02, 0.05)
    rng = np.random.default_rng(3)
    baseline, a = map(runs_of, drawn(rng, 5, 30, steady, (0, 0)))
    alone = compare_to_baseline({"baseline": baseline, "a": a, "b": a})
    b = runs_of(drawn(rng, 5, 30, wild, (0,))[0])
    beside = compare_to_baseline({"baseline": baseline, "a": a, "b": b})
    assert detectable(beside)[0] == detectable(alone)[0] < detectable(beside)[1] / 5


def test_rows_with_one_run_each_and_several():
    runs = sweep_of(SDS, (0.0, 0.0))
    runs["baseline"], runs["a"] = runs["baseline"][:1], runs["a"][:1]
    table = compare_to_baseline(runs)
    assert table["seed SD"].isna().tolist() == [True, False]
    line = resolution(table)
    assert "1 against 3 runs" in line
    assert line.endswith("a: one run each, so p is about these weights, not about the recipe.")
    mixed = {"x": runs["a"], "y": runs["b"], "z": runs["baseline"]}  # 1 against 3, 3 against 1
    assert "1 to 3 runs of each recipe" in resolution(compare_ladder(mixed))
    assert math.isnan(more_runs(table)[0]) and more_runs(table)[1] > 0
    assert math.isnan(detectable(table)[0]) and detectable(table)[1] > 0
    assert readable(table)["more runs"].iloc[0] == ""


# --- beside the mean ------------------------------------------------------------------------------


def test_patients_who_carry_half_of_the_difference():
    assert carried_by([0.9, 0.8] + [0.01] * 28) == 2  # half of 1.98 is 0.99
    assert carried_by([0.05] * 30) == 15
    assert carried_by([-0.9, -0.8] + [-0.01] * 28) == 2
    assert carried_by([0.5, -0.4, 0.01]) == 1
    assert carried_by([0.0] * 5) == carried_by([0.1, -0.1]) == carried_by([0.1, 0.2, -0.3]) == 0
    row = compare(run_of([0.1] * 2 + [0.8] * 8), {"rescues": run_of([0.8] * 10)}).iloc[0]
    assert row["half of it from"] == 1


@given(DIFFERENCES)
def test_no_fewer_patients_carry_half(differences):
    count, total = carried_by(differences), sum(differences)
    gains = sorted((d if total > 0 else -d for d in differences), reverse=True)
    assert count <= len(differences)
    if count:
        assert sum(gains[:count]) >= abs(total) / 2 - 1e-8
        assert sum(gains[: count - 1]) < abs(total) / 2 + 1e-8


def test_outcomes_by_hand():
    first, second = run_of([0.0, 0.8, 0.9], list("abc")), run_of([0.6, 0.8, 0.7], list("abc"))
    for run, found in ((first, 0), (second, 30)):
        run.cases[["tp", "fp", "fn"]] = [[found, 0, 50 - found], [80, 20, 20], [9, 1, 1]]
    table = outcomes({"two": [first, second], "one": second})
    assert list(table) == [
        "mean DSC",
        "median",
        "pooled DSC",
        "missed",
        "SD between seeds",
        "patients",
        "runs",
    ]
    means = 1.7 / 3, 2.1 / 3
    pooled = 2 * 89 / (2 * 89 + 21 + 71), 2 * 119 / (2 * 119 + 21 + 41)
    assert table.loc["two"].tolist() == pytest.approx(
        [np.mean(means), 0.8, np.mean(pooled), 0.5, np.std(means, ddof=1), 3, 2]
    )
    assert table.loc["one", ["median", "missed", "runs"]].tolist() == [0.7, 0, 1]
    assert math.isnan(table.loc["one", "SD between seeds"])
    with pytest.raises(KitError, match="bare: cases without the counts tp, fp, fn"):
        outcomes({"bare": run_of([0.5] * 10)})
    with pytest.raises(KitError, match="no recipe"):
        outcomes({})


SWEEPS = int(os.environ.get("SWEEPS", "300"))
"""Simulated sweeps of the long tests; docs/statistics.md shows those of SWEEPS=1000."""


# --- does it keep its word? -----------------------------------------------------------------------


def test_null_sweeps_are_dealt_from_the_runs():
    runs = runs_of(skewed(np.random.default_rng(4), 40, 30))
    found = false_findings(runs, candidates=3, seeds=5, sweeps=20)
    assert found.helps <= found.any <= 0.1
    further = false_findings(runs, candidates=3, seeds=8, sweeps=20, further=8)
    assert further.helps <= further.any <= 0.1
    # any two single runs that differ in the same way for all patients count as a finding
    always = false_findings(runs_of(np.linspace(0.1, 0.9, 8)[:, None] + np.zeros(6)), 1, 1, 10)
    assert always.any == 1 and 0 < always.helps < 1


@pytest.mark.parametrize("numbers", [(3, 5, 10), (0, 5, 10), (3, 0, 10), (1, 1, 0)])
def test_null_sweeps_need_enough_runs(numbers):
    with pytest.raises(KitError, match=r"^false_findings: 10 runs"):
        false_findings(runs_of(np.full((10, 4), 0.5)), *numbers)


@pytest.mark.long
@pytest.mark.parametrize("seed_sd", [0.0, 0.02])
@pytest.mark.parametrize(
    ("seeds", "patients"), [(5, 30), (5, 200), (3, 30), (2, 30), (5, 10), (1, 10)]
)
def test_null_sweeps_seldom_find_anything(seeds, patients, seed_sd):
    runs = skewed(np.random.default_rng(2026), 60, patients, seed_sd)
    found = false_findings(runs_of(runs), candidates=3, seeds=seeds, sweeps=SWEEPS)
    sd = runs.mean(axis=1).std(ddof=1)
    print(
        f"| {patients} | {seeds} | {sd:.3f} | {found.helps:.1%} | {found.any:.1%} |".replace(
            "%", " %"
        )
    )
    if seeds > 1:  # one run each is about its weights
        assert found.helps <= 0.064 and found.any <= 0.064


def hierarchical_bootstrap_p(before, after, rng):
    """Two-sided p of 400 resamples of runs and of patients."""
    patients = rng.multinomial(before.shape[1], np.full(before.shape[1], 1 / before.shape[1]), 400)
    means = [
        (rng.multinomial(len(scores), np.full(len(scores), 1 / len(scores)), 400) @ scores)
        / len(scores)
        for scores in (before, after)
    ]
    resampled = ((means[1] - means[0]) * patients).sum(axis=1)
    return 2 * min(np.mean(resampled <= 0), np.mean(resampled >= 0))


@pytest.mark.long
@pytest.mark.parametrize("patients", [30, 200])
@pytest.mark.parametrize("kind", ["normal", "skewed", "skewed, no seed effect"])
def test_other_methods_err_more_often_or_find_less(kind, patients):
    rng, found = np.random.default_rng(5), []
    flips = rng.choice([-1, 1], (999, patients))  # as ``sign_flip_p`` draws them, but fewer
    for _ in range(SWEEPS):
        if kind == "normal":
            before, after = drawn(rng, 5, patients, Spread(0.03, 0.05, 0.05))
        else:
            scores = skewed(rng, 10, patients, 0.02 if kind == "skewed" else 0)
            before, after = scores[:5], scores[5:]
        for gain in (0, 0.05):
            differences = after.mean(axis=0) + gain - before.mean(axis=0)
            found.append(
                (
                    crossed_test(before, after + gain).p,
                    np.mean(abs(flips @ differences) >= abs(differences.sum())),
                    hierarchical_bootstrap_p(before, after + gain, rng),
                )
            )
    shares = (np.array(found) <= 0.05).reshape(-1, 2, 3).mean(axis=0)
    cells = " | ".join(f"{size:.0%}, {power:.0%}" for size, power in shares.T)
    print(f"| {kind} | {patients} | {cells} |".replace("%", " %"))
    assert shares[0, 0] <= 0.065
    if "no seed" not in kind:
        assert shares[0, 1] > 0.1  # sign flips do not know the seeds


def null_sweep(rng):
    """A baseline and three recipes, none better: skewed DSC around each patient's difficulty."""
    difficulty = rng.beta(8, 1.5, 10)  # mean 0.84, a tail of hard patients
    spread = rng.uniform(10, 60, 10)  # hard to tell on some patients, easy on others
    return [
        run_of(rng.beta(difficulty * spread, (1 - difficulty) * spread + 1e-3)) for _ in range(4)
    ]


@pytest.mark.long
def test_at_most_one_null_sweep_in_twenty_has_a_false_finding():
    rng = np.random.default_rng(2026)
    sweeps = [null_sweep(rng) for _ in range(SWEEPS)]
    verdicts = [
        set(compare(baseline, dict(zip("abc", others, strict=True)))["verdict"])
        for baseline, *others in sweeps
    ]
    helps, any_finding = (
        np.mean([bool(found & kinds) for found in verdicts])
        for kinds in ({"helps"}, {"helps", "hurts"})
    )
    print(f"false helps {helps:.1%}, false findings {any_finding:.1%} of {SWEEPS} null sweeps")
    assert helps <= 0.05
    assert any_finding <= 0.05


# --- a table for reading --------------------------------------------------------------------------


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
        "half of it from",
        "verdict",
    ]
    assert {"seeds", "more runs"} < set(readable(compare(runs[0], {"two": runs})))
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
