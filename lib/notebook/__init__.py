"""The first cell of a notebook, and notebooks run without a browser.

The door is ``start``, or ``python -m lib.notebook NOTEBOOK``; start to read at ``session.py``.
"""

from lib.notebook.session import Session, start

__all__ = ["Session", "start"]
