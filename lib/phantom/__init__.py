"""The generated patients: heads with tumours that stand in where no real data is there.

The doors are ``write_phantom`` and ``write_test_set``, or ``python -m lib.phantom``; start to read
at ``write.py``.
"""

from lib.phantom.write import (
    PHANTOM_FOLDER,
    is_phantom,
    make_patient,
    write_phantom,
    write_test_set,
)

__all__ = ["PHANTOM_FOLDER", "is_phantom", "make_patient", "write_phantom", "write_test_set"]
