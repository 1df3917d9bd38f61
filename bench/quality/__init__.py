"""Quality: how good the answers are with each feature, on collections with known answers, and what tuned the weights.

beir.py       collections in BEIR's layout
configs.py    what is on in each configuration
asking.py     storing and asking through the gateway of a stack of real processes
kept.py       answers that outlive a run that was stopped
measures.py   nDCG, recall and so on, and how sure they are
results.py    rows, build/bench/quality.json, the table and the plot
evidence.py   what the stages say of a collection, asked once, for tuning
simulate.py   the first stage in numpy, for tuning
tune.py       curves of every weight, on train splits
"""
