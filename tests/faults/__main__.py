"""Try the kit on every kind of fault: ``python -m tests.faults`` (``make faults``).

Prints how many tries came out right, were refused in a clear line, or ended in a traceback, a wrong
result, a lost file or a hang. Any of the last four makes the exit code 1.
"""

from __future__ import annotations

import argparse
import sys
import time

from tests.faults.page import record
from tests.faults.run import by_letter, jobs, run, show, table
from tests.faults.tries import all_kinds


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("--share", type=float, default=0.2, help="of all tries (default: 0.2)")
    parser.add_argument("--full", action="store_true", help="all tries, and record them")
    parser.add_argument("--kinds", nargs="*", default=[], help="letters, or parts of names")
    parser.add_argument("--try", type=int, dest="one", help="only the try of that number")
    parser.add_argument("--slowest", action="store_true", help="say what takes how long")
    given = parser.parse_args()
    kinds = [
        kind
        for kind in all_kinds().values()
        if not given.kinds or any(part == kind.letter or part in kind.name for part in given.kinds)
    ]
    if not kinds:
        parser.error(f"no kind is called {' or '.join(given.kinds)}")
    todo = jobs(kinds, 1 if given.full else given.share)
    if given.one is not None:
        todo = [(kind.name, given.one) for kind in kinds]
    started = time.monotonic()
    tally = run(kinds, todo)
    rows = table(kinds, tally)
    print(show(rows), "", show(by_letter(rows)), sep="\n")
    print(f"\n{len(todo)} tries in {time.monotonic() - started:.0f} s")
    if given.slowest:
        for name, seconds in tally.seconds.most_common(15):
            each = seconds / sum(tally.counts[name].values())
            print(f"{seconds:8.1f} s {each:8.3f} each  {name}")
    if given.full and given.one is None and not tally.troubles:
        record(rows)
    sys.exit(bool(tally.troubles))


if __name__ == "__main__":
    main()
