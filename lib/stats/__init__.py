"""Judge a change: did it help, and would it help again with other seeds?

Each patient is compared with itself, before and after. With two runs or more of a recipe, a verdict
is about the recipe: patients and seeds both vary. With one run each it is about these weights
alone. ``docs/statistics.md`` explains what is tested, what p means, and how often it errs.

The door is ``compare_to_baseline``; start to read at ``compare.py``, then the two tests that it
chooses from, ``paired.py`` and ``crossed.py``.
"""

# fmt: off
# isort: off
from lib.stats.compare import compare_ladder, compare_to_baseline
from lib.stats.crossed import Spread, crossed_test, spread
from lib.stats.luck import best_of_k, false_findings
from lib.stats.outcome import carried_by, outcomes
from lib.stats.paired import paired_test
from lib.stats.planning import detectable, more_runs, power, seeds_needed, smallest_difference
from lib.stats.scored import Runs, Scored
from lib.stats.verdicts import ALPHA, VERDICTS, holm, p_in_cell, p_in_words, verdict
from lib.stats.words import readable, resolution

__all__ = [
    "ALPHA", "VERDICTS", "Runs", "Scored", "Spread", "best_of_k", "carried_by", "compare_ladder",
    "compare_to_baseline", "crossed_test", "detectable", "false_findings", "holm", "more_runs",
    "outcomes", "p_in_cell", "p_in_words", "paired_test", "power", "readable", "resolution",
    "seeds_needed", "smallest_difference", "spread", "verdict",
]
