"""Keep runs: the run folder, the only source of truth, and the result CSVs made from it.

The doors are ``finished_runs`` and ``write_result_csvs``; start to read at ``run.py``, which reads
a folder. ``folder.py`` and ``record.py`` write it while ``lib.train`` trains.
"""

# fmt: off
# isort: off
from lib.logger.folder import Place, RunFolder, require_plan
from lib.logger.identity import SCHEMA, description, run_id, stated_id, updated
from lib.logger.record import Epoch, Record, Stateful
from lib.logger.results import FOLD, find_run, finished_runs, outside_folds, write_result_csvs
from lib.logger.run import Run, all_runs
from lib.logger.sound import checkpoint_hashes, file_hash, require_sound
from lib.logger.tables import BEST_CSV, HISTORY_COLUMNS, TABLES, TRAIN_CSV, Table, to_csv

__all__ = [
    "BEST_CSV", "FOLD", "HISTORY_COLUMNS", "SCHEMA", "TABLES", "TRAIN_CSV", "Epoch", "Place",
    "Record", "Run", "RunFolder", "Stateful", "Table", "all_runs", "checkpoint_hashes",
    "description", "file_hash", "find_run", "finished_runs", "outside_folds", "require_plan",
    "require_sound", "run_id", "stated_id", "to_csv", "updated", "write_result_csvs",
]
