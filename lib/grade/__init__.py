"""Submit and grade: compute every claim of a class again, and run no code of a student.

The door is ``grade``, or ``python -m lib.grade SUBMISSIONS``; for students ``pack``, or ``python -m
lib.grade pack``. Start to read at ``run.py``, then ``one.py``.
"""

from lib.grade.pack import pack
from lib.grade.rubric import load_rubric
from lib.grade.run import grade

__all__ = ["grade", "load_rubric", "pack"]
