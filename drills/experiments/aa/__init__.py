"""Experiments that change nothing, looked at after every event.

streams.py      people, answers and clicks, and what is known after each
experiments.py  experiments over such streams, decided by the product's code
compared.py     ways to look at them all the time: why the product has the one that it has
"""
