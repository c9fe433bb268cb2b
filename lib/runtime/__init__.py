"""Run torch: device and precision, memory, the same bits each time, command lines, custom classes.

The door is ``pick_device``; start to read at ``device.py``. Nothing here knows a network, a loss or
data.
"""

# fmt: off
# isort: off
from lib.runtime.cli import CommandParser, run_command
from lib.runtime.device import Machine, Precision, deterministic, free_memory, peak_memory
from lib.runtime.device import pick_device, pick_precision, return_freed_memory, seed_everything
from lib.runtime.device import tune_allocator
from lib.runtime.fast_bias import use_fast_bias_gradient
from lib.runtime.fingerprints import code_fingerprint
from lib.runtime.own_code import load_class, load_function
from lib.runtime.recompute import Recomputing, can_recompute, set_recompute

__all__ = [
    "CommandParser", "Machine", "Precision", "Recomputing", "can_recompute", "code_fingerprint",
    "deterministic", "free_memory", "load_class", "load_function", "peak_memory", "pick_device",
    "pick_precision", "return_freed_memory", "run_command", "seed_everything", "set_recompute",
    "tune_allocator", "use_fast_bias_gradient",
]
