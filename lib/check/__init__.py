"""Checks of your own code: a custom network or loss, tried on random images for a second.

The door is ``check("module:Class")``, or ``python -m lib.check module:Class``; start to read at
``custom.py``.
"""

from lib.check.custom import check

__all__ = ["check"]
