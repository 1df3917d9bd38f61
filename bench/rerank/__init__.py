"""Reranking: what each method gains (nDCG@10) and what it costs (ms, rates, disk), beside other libraries.

methods.py    the methods and numbers of candidates
measuring.py  one function for each thing that is measured
platform.py   a stack of real processes, and collections with token vectors that are indexed once
timing.py     one caller at a time, several at once, and a load of 0.6 of what the stack can do
indexing.py   rate of indexing with and without token vectors, and their bytes on disk
peers.py      sentence-transformers and FlashRank on the same weights and passages
peer.py       what runs in their processes
results.py    rows, build/bench/rerank.json, the tables and the plot
"""
