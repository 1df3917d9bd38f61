"""Percentiles of samples and histograms, and intervals that say how sure a figure is. Needs numpy and scipy alone.

percentiles.py  one definition for samples, one for histograms
intervals.py    rates, differences of rates, bootstrap
"""
