"""The slice browser of the notebooks.

The door is ``browse(prediction)``; start to read at ``browser.py``, then ``browser.js``.
"""

from lib.viewer.browser import Browser, browse

__all__ = ["Browser", "browse"]
