"""The slice browser of the notebooks.

The door is ``browse(prediction)``; start to read at ``browser.py``, then ``browser.js``.
"""

from lib.viewer.browser import Browser, browse
from lib.viewer.page import require_own_page

__all__ = ["Browser", "browse", "require_own_page"]
