"""Expansion of a query into variants: the original first, then others that weigh less.

Retrieval searches with all of them and fuses the results by weight. A variant helps if it finds what the original
misses, and misleads if it means something else; its weight says how far to trust it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum, auto

from services.expander import synonyms, templates
from services.expander.lexicon import Lexicon
from services.expander.words import Rewrite

MAX_VARIANTS = 16
# Templates fill up to this number if WordNet gives fewer variants.
_ENOUGH = 3


class Strategy(StrEnum):
    """Way to find variants."""

    SYNONYMS = auto()
    MULTI_QUERY = auto()


class Source(StrEnum):
    """Origin of a variant."""

    ORIGINAL = auto()
    SYNONYM = auto()
    TEMPLATE = auto()


@dataclass(frozen=True, slots=True)
class Variant:
    """Text to search with. The original weighs 1, all others between 0 and 1."""

    text: str
    weight: float
    source: Source


@dataclass(frozen=True, slots=True)
class Expansion:
    """Variants, the original first; `degraded_reason` is set if another strategy than the requested one served."""

    variants: tuple[Variant, ...]
    strategy_used: Strategy
    degraded_reason: str | None = None


class Expander:
    """Expander of queries. The same query gets the same variants from every replica.

    `synonym_weight` and `template_weight` are the weights of a certain variant, between 0 and 1.
    Without a lexicon, `multi_query` answers for `synonyms`, and the expansion is marked as degraded.
    """

    def __init__(self, lexicon: Lexicon | None, *, synonym_weight: float = 0.1, template_weight: float = 0.1) -> None:
        self._lexicon = lexicon
        self._synonym_weight = synonym_weight
        self._template_weight = template_weight

    def expand(self, query: str, strategy: Strategy, max_variants: int) -> Expansion:
        """Return at most `max_variants` variants, the original included; no two differ only in case and spaces."""
        variants = [Variant(query, 1.0, Source.ORIGINAL)]
        by_templates = templates.rewrites(query)
        if strategy == Strategy.SYNONYMS and self._lexicon:
            by_synonyms = synonyms.rewrites(query, self._lexicon)
            variants += _weighted(by_synonyms, self._synonym_weight, Source.SYNONYM)
            variants = _distinct(variants, max_variants)
            filling = _weighted(by_templates, self._synonym_weight, Source.TEMPLATE)
            variants = _distinct([*variants, *filling], max(len(variants), min(_ENOUGH, max_variants)))
            return Expansion(tuple(variants), Strategy.SYNONYMS)
        variants += _weighted(by_templates, self._template_weight, Source.TEMPLATE)
        variants = _distinct(variants, max_variants)
        reason = None if strategy == Strategy.MULTI_QUERY else "WordNet is missing: multi_query served"
        return Expansion(tuple(variants), Strategy.MULTI_QUERY, reason)


def _weighted(rewrites: Iterable[Rewrite], weight: float, source: Source) -> list[Variant]:
    return [Variant(rewrite.text, weight * rewrite.evidence, source) for rewrite in rewrites]


def _distinct(variants: Iterable[Variant], limit: int) -> list[Variant]:
    """Return the first `limit` variants that differ in more than case, spaces and the last punctuation mark."""
    by_words: dict[tuple[str, ...], Variant] = {}
    for variant in variants:
        by_words.setdefault(tuple(variant.text.casefold().rstrip("?!. \n\t").split()), variant)
    return list(by_words.values())[:limit]
