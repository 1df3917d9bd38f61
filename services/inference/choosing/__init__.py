"""The choice of an engine by measurement: on processors of different kinds different ones are the fastest.

choice.py  candidates, the rule, and the choice that is kept with the model's artifacts
timing.py  the child process that times the candidates
"""
