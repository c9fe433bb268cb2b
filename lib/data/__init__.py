"""From files on disk to arrays: the Kaggle layout, and a cache of prepared slices.

The door is ``find_root``; start to read at ``places.py``. ``lib.dataset`` makes a data set of it.
"""

# fmt: off
# isort: off
from lib.data.cache import Cache, open_cache
from lib.data.cache_place import cache_folder, place_in_cache
from lib.data.files import encode_masks, read_patient, write_images, write_masks
from lib.data.outlook import count_slices, is_prepared
from lib.data.patients import Patient, list_patients
from lib.data.places import find_root

__all__ = [
    "Cache", "Patient", "cache_folder", "count_slices", "encode_masks", "find_root", "is_prepared",
    "list_patients", "open_cache", "place_in_cache", "read_patient", "write_images", "write_masks",
]
