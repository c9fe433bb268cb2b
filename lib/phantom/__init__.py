"""The generated patients: heads with tumours that stand in where no real data is there.

The door is ``write_phantom``, or ``python -m lib.phantom``; start to read at ``write.py``.
"""

from lib.phantom.write import PHANTOM_FOLDER, make_patient, write_phantom

__all__ = ["PHANTOM_FOLDER", "make_patient", "write_phantom"]
