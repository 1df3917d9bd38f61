"""Percentiles of samples and histograms, intervals that say how sure a figure is, agreement of rankings.

Needs numpy and scipy alone.

percentiles.py  one definition for samples, one for histograms
intervals.py    rates, differences of rates, bootstrap
sequences.py    means and differences of means, looked at all the time; adjusted by history
answers.py      what an answer came to, in every metric of experiments
units.py        values of users, from their answers
planning.py     users that an effect needs
rankings.py     overlap, and rank-biased overlap
"""
