"""Maintain the kit: reference results, weights, figures, the student edition.

Nothing in lib imports it. Start to read at ``reference.py``.
"""
