"""Judgments: how well documents answer queries, by people, by clicks or by a language model. Knows nothing of Sluice.

judgments.py  lists of judgments, and how several become one
files.py      TREC's qrels, BEIR's tables, and JSON lines
clicks.py     attractiveness from clicks: clicks over expected clicks, and a position-based model
ubi.py        what was served and clicked, from lines of User Behavior Insights
judging.py    prompts and verdicts of a language model as the judge
agreement.py  agreement of two lists, of verdicts on pairs with a list, and of orders of systems
"""
