"""Write the student's report: every attempt, its numbers and figures, and the student's words.

The door is ``write_report``, or ``python -m lib.report``; start to read at ``write.py``.
"""

from lib.report.write import write_report

__all__ = ["write_report"]
