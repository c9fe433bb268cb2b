"""Measure what `make bench` reports.

Pairs of things are measured in turns on this machine, and how cost grows with the data.
"""
