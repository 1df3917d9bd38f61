"""Speed: what a stage makes of its hardware, against its own model in-process and against other servers.

workload.py      distinct English texts of known lengths
load.py          clients in a process of their own: closed loop, open loop; gRPC and HTTP
raw.py           the same model in-process, in a process of its own
stages.py        a stage as a real process
measurements.py  one function for each thing that is measured
results.py       rows, build/bench/speed.json, the table and the plot
session.py       what measurements share while a run lasts, with the interleaving of rounds
peers.py         infinity-emb and plain sentence-transformers
soak.py          memory over very many calls
"""
