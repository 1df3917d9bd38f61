"""Configurations: the features of each, and the one to compare it with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from sluice_client import Features, Policies, Policy, features


@dataclass(frozen=True)
class Config:
    """One way to answer. Every feature is set; what is left to the gateway are its weights and counts."""

    features: Features
    without: str
    """The configuration that lacks only the feature that this one is named for; empty where there is none."""

    @property
    def policies(self) -> Policies:
        """A stage that is on and fails ends the bench: a figure must not hide that it was left out."""
        needed = Policy.REQUIRED
        return Policies(
            expansion=needed if self.features.expansion else None,
            embedding=needed if self.features.dense else None,
            rerank=needed if self.features.rerank else None,
        )


def _on(*, dense: bool = True, lexical: bool = True, rerank: bool = False, expansion: str | None = None) -> Features:
    return features(
        dense=dense,
        lexical=lexical,
        rerank=rerank,
        rerank_method="cross_encoder" if rerank else None,
        expansion=expansion is not None,
        expansion_strategy=expansion,
    )


DENSE = "dense"
CONFIGS: Mapping[str, Config] = {
    DENSE: Config(_on(lexical=False), ""),
    "lexical": Config(_on(dense=False), ""),
    "hybrid": Config(_on(), DENSE),
    "+rerank": Config(_on(rerank=True), "hybrid"),
    "+synonyms": Config(_on(expansion="synonyms"), "hybrid"),
    "+multi_query": Config(_on(expansion="multi_query"), "hybrid"),
    "all": Config(_on(rerank=True, expansion="synonyms"), "+rerank"),
}
"""In the order of the table. `all` expands by synonyms, the gateway's own default."""
