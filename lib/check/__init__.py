"""Checks of your own code: exercises, custom networks and losses, tried on small inputs.

The door is ``check("module:Class")`` and ``check_exercises(module)``, or ``python -m lib.check``;
start to read at ``exercises.py``, or at ``custom.py``.
"""

from lib.check.custom import check
from lib.check.exercises import check_exercises

__all__ = ["check", "check_exercises"]
