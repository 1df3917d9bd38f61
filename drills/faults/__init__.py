"""Drill: every fault is provoked, and seen to do no more harm than promised."""
