"""Train every variant of a plan from the command line.

``python -m lib.sweep PLAN --data DIR --out DIR [--workers 2] [--seeds 42 43]``
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

from lib.config import REFERENCE, Config
from lib.data import count_slices, is_prepared
from lib.dataset import BrainData, load_data
from lib.runtime import CommandParser, run_command
from lib.runtime.cli import DATA_HELP, RESUMES, add_arguments, changed_fields
from lib.stats import compare_to_baseline, outcomes, readable, resolution
from lib.sweep.plans import PLANS, Overrides, Plan, find_plan
from lib.sweep.run import EXECUTORS, chosen, chosen_labels, cost_beforehand, cost_of, sweep
from lib.sweep.task import make_tasks
from lib.utils import KitError


def main() -> None:
    """Run the command line."""
    arguments = _parser().parse_args()
    end(_one_plan(arguments, changed_fields(arguments)))


def _parser() -> CommandParser:
    """Return the parser of the command line."""
    plans = "\n".join(
        f"  {plan.name:<14}{len(plan.variants):>3} variants   {plan.question}"
        for plan in PLANS.values()
    )
    parser = CommandParser(
        prog="python -m lib.sweep",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description=f"Train every variant of a plan.\n\nplans:\n{plans}",
    )
    parser.add_argument("plan", help="one of the plans above, or your own: module:PLAN")
    parser.add_argument(
        "--seeds",
        type=int,
        nargs="+",
        default=(),
        help="train every variant with each of these seeds",
    )
    parser.add_argument(
        "--only",
        nargs="*",
        metavar="VARIANT",
        help="variants to train beside the reference (default: all)",
    )
    add_sweep_arguments(parser)
    return parser


def add_sweep_arguments(parser: CommandParser) -> None:
    """Give a parser the options of every sweep, and one per field of ``Config``."""
    parser.add_argument("--data", required=True, help=DATA_HELP)
    parser.add_argument("--out", default="result", help="folder of results (default: result)")
    parser.add_argument(
        "--executor",
        default="auto",
        choices=EXECUTORS,
        help="local: one run after the other; processes: several at once, one thread each; ray; "
        "auto: processes where they are faster, on a CPU, else local (default: auto)",
    )
    parser.add_argument(
        "--workers", type=int, help="processes: runs at once (default: as many as cores)"
    )
    parser.add_argument(
        "--gpus", type=float, help="ray: GPUs of a run, e.g. 0.5 (default: 1 where there are any)"
    )
    parser.add_argument("--cpus", type=float, help="ray: CPU cores of a run (default: 1)")
    parser.add_argument("--dry-run", action="store_true", help="only print what it would cost")
    add_arguments(parser)


def executor_options(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return the options of the executor that were given."""
    return {
        name: value
        for name in ("workers", "gpus", "cpus")
        if (value := getattr(arguments, name)) is not None
    }


def end(failures: dict[str, str]) -> NoReturn:
    """Print which variants failed, label -> why, and exit: with 1 if there are any."""
    for label, why in failures.items():
        print(f"failed: {label}: {why}", file=sys.stderr)
    sys.exit(1 if failures else 0)


def _one_plan(arguments: argparse.Namespace, changes: Overrides) -> dict[str, str]:
    """Train a plan, or only say what it would cost.

    Returns:
        Label -> why it failed.
    """
    plan, changes = with_own_value(find_plan(arguments.plan), changes)
    base = replace(REFERENCE, **changes)
    if arguments.dry_run:
        print(_forecast(plan, base, arguments))
        return {}
    data = load(arguments, base)
    done = sweep(
        plan,
        base,
        data,
        arguments.out,
        arguments.seeds,
        arguments.executor,
        arguments.only,
        **executor_options(arguments),
    )
    nobody = [run.id for runs in done.runs.values() for run in runs if run.cases.empty]
    if nobody:
        print(f"\n{nobody[0]} scored nobody: there is nothing to compare. Leave out --split all")
    elif len(done.runs) > 1:
        table = compare_to_baseline(done.runs)
        print(f"\n{plan.question}\n{resolution(table)}\n{readable(table).to_string()}")
        print(f"\nBeside the mean:\n{outcomes(done.runs).round(3).to_string()}")
    return done.failures


def _forecast(plan: Plan, base: Config, arguments: argparse.Namespace) -> str:
    """Return what a plan would cost, without downloading, unpacking or preparing anything."""
    options = executor_options(arguments)
    if is_prepared(arguments.data, base.image_size, base.preprocessing):
        data = load(arguments, base)
        tasks = make_tasks(plan, base, data, Path(arguments.out).absolute(), arguments.seeds)
        tasks = chosen(tasks, arguments.only)
        return str(cost_of(tasks, data, arguments.executor, **options))
    slices = count_slices(arguments.data)
    trials = plan.trials(base, arguments.seeds)
    labels = chosen_labels(plan.name, list(plan.configs(base)), arguments.only)
    configs = [trial.config for trial in trials if trial.label in labels]
    cost = cost_beforehand(configs, slices, arguments.executor, **options)
    return (
        f"{cost}\n{slices:,} slices that are not prepared yet, so nobody knows which of the runs "
        f"are finished"
    )


def with_own_value(plan: Plan, changes: Overrides) -> tuple[Plan, Overrides]:
    """Return a plan with a further variant for a value of its own field, and the other changes.

    ``lib.sweep loss --loss my_module:MyLoss`` compares that loss with those of the plan. A value
    that the plan has makes that variant the reference.

    Raises:
        KitError: every variant sets the field, and others: the value would have no effect.
    """
    others = dict(changes)
    for field, value in changes.items():
        fields = [set(variant) for variant in plan.variants.values()]
        if not all(field in names for names in fields):
            continue
        if {field} in fields:
            if value not in [variant[field] for variant in plan.variants.values()]:
                del others[field]
                plan = replace(plan, variants={**plan.variants, str(value): {field: value}})
        else:
            raise KitError(
                f"--{field.replace('_', '-')}: every variant of plan {plan.name} sets {field}; "
                f"leave it out, or take another plan"
            )
    return plan, others


def load(arguments: argparse.Namespace, base: Config) -> BrainData:
    """Load the data for a sweep of ``base``, and print what was found."""
    data = load_data(arguments.data, base.image_size, base.preprocessing)
    print(data.report())
    return data


if __name__ == "__main__":
    run_command(main, RESUMES)
