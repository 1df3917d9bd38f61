"""Runbook (b) with enrichment: from nobody to everybody, after a regression that was taken back."""
