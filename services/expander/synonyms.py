"""Strategy `synonyms`: the query with one or two words replaced by synonyms.

A replacement must be likely in three ways, and its evidence is the product of the three probabilities:

    P(part | word, neighbours)   that the word is, say, a verb here
    P(sense | word)              that it has the meaning that the two words share
    P(sense | synonym)           that the synonym has it, too: "party" can mean "company", but hardly ever does

They are estimated from how often a sense-tagged corpus (SemCor, in WordNet's `cntlist.rev`) uses each word with each
meaning. The corpus is small and of general prose, so a meaning that it has not seen is not believed (see
`_is_attested`), and a query that it knows too little about has no rewrites.

The part of speech is a guess from WordNet's morphology and frequencies and from the neighbouring words (`_fit`);
a doubtful guess lowers the evidence. The neighbours also tell if a verb has an object, which rules out senses by
WordNet's sentence frames.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import combinations, pairwise
from math import prod
from typing import NamedTuple

from services.expander.lexicon import Lexicon, Part, Sense, Word
from services.expander.words import (
    BE,
    BEFORE_VERBS,
    DETERMINERS,
    MAX_WORDS,
    PREPOSITIONS,
    STOP_WORDS,
    Rewrite,
    Token,
    tokenize,
)

MIN_EVIDENCE = 0.1
# In a compound the neighbour has fixed the meaning already, and half of a name is seldom replaced: "context manager".
_IN_COMPOUND = 0.5
# A meaning that the corpus never saw still counts as half an occurrence.
_UNSEEN = 0.5
_LONGEST_PHRASE = 4
# Only the best replacements are also tried two at a time.
_PAIRED = 8

# Sentence frames of wninput(5WN): "Somebody ----s something", and those that end with the verb or in a preposition.
_WITH_OBJECT = frozenset({8})
_WITHOUT_OBJECT = frozenset({1, 2, 3, 4, 6, 7, 12, 13, 22, 23, 27})

_VOWEL_SOUND = re.compile(r"(?!uni|us[aeiu]|uti|eu|one)[aeiou]|hour|honest|hono|heir", re.IGNORECASE)


class _Replacement(NamedTuple):
    word: str  # in lower case; it is replaced wherever it stands
    synonym: str
    evidence: float


class _Reading(NamedTuple):
    part: Part
    lemma: str
    probability: float


def rewrites(query: str, lexicon: Lexicon) -> list[Rewrite]:
    """Return all rewrites of one or two words with enough evidence, best first; deterministic."""
    tokens = tokenize(query)
    if len(tokens) > MAX_WORDS:
        return []
    places = _free_places(query, tokens, lexicon)
    free = [tokens[place] for place in places]
    singles = _replacements(tokens, places, lexicon)
    pairs = [pair for pair in combinations(singles[:_PAIRED], 2) if pair[0].word != pair[1].word]
    found = []
    for chosen in (*((single,) for single in singles), *pairs):
        evidence = prod(replacement.evidence for replacement in chosen)
        if evidence >= MIN_EVIDENCE:
            found.append(Rewrite(_replaced(query, free, chosen), evidence))
    return sorted(found, key=lambda rewrite: -rewrite.evidence)


def _replaced(query: str, free: list[Token], chosen: tuple[_Replacement, ...]) -> str:
    synonyms = {replacement.word: replacement.synonym for replacement in chosen}
    pieces, end = [], 0
    for token in free:
        if synonym := synonyms.get(token.text.lower()):
            is_capitalised = token.text[0].isupper()
            pieces += [query[end : token.start], synonym.capitalize() if is_capitalised else synonym]
            end = token.end
    return "".join([*pieces, query[end:]])


# --- Words that may be replaced


def _free_places(query: str, tokens: list[Token], lexicon: Lexicon) -> list[int]:
    """Return the places of words that are no name, identifier, stop word, quotation or part of a phrase."""
    phrases = _phrases(query, tokens, lexicon)
    free = []
    for place, token in enumerate(tokens):
        following = tokens[place + 1].text if place + 1 < len(tokens) else ""
        starts_sentence = place == 0 or tokens[place - 1].ends_sentence
        is_capitalised = token.text[1:].islower() and starts_sentence and not following[:1].isupper()
        if (
            place not in phrases
            and token.is_word
            and len(token.text) > 2
            and token.text.lower() not in STOP_WORDS
            and (token.text.islower() or is_capitalised)
        ):
            free.append(place)
    return free


def _phrases(query: str, tokens: list[Token], lexicon: Lexicon) -> set[int]:
    """Return the places of words in phrases: WordNet's own, and repetitions ("line by line")."""
    places: set[int] = set()
    for first in range(len(tokens)):
        for end in range(first + 2, min(first + _LONGEST_PHRASE, len(tokens)) + 1):
            words = [token.text.lower() for token in tokens[first:end]]
            if query[tokens[end - 2].end : tokens[end - 1].start].strip():
                break  # a comma stands between them
            is_said_twice = len(words) == 3 and words[0] == words[2]
            if is_said_twice or (all(token.is_word for token in tokens[first:end]) and _is_phrase(words, lexicon)):
                places.update(range(first, end))
    return places


def _is_phrase(words: list[str], lexicon: Lexicon) -> bool:
    verb, *rest = words
    return any(lexicon.base_forms(" ".join(words), part) for part in Part) or any(
        lexicon.senses(" ".join([base, *rest]), Part.VERB)  # "looked up", "setting up"
        for base in lexicon.base_forms(verb, Part.VERB)
    )


# --- Replacements


def _replacements(tokens: list[Token], free: list[int], lexicon: Lexicon) -> list[_Replacement]:
    """Return every synonym of every free word, inflected like the word; best first."""
    words = [token.text.lower() for token in tokens]
    best: dict[tuple[str, str], float] = {}
    for word in dict.fromkeys(words[place] for place in free):
        places = [place for place in free if words[place] == word]
        readings = [_reading(words, place, lexicon) for place in places]
        reading = readings[0]
        if reading is None or any(other is None or other.part != reading.part for other in readings):
            continue  # unknown, or used in two ways: "book a book"
        certainty = reading.probability * (_IN_COMPOUND if _is_in_compound(words, places[0], reading, lexicon) else 1)
        for synonym, evidence in _synonyms(reading, _allowed_frames(words, places[0], reading), lexicon):
            form = _inflected(synonym, word, reading, lexicon)
            if form and form not in words and _article_fits(words, word, form):
                best[word, form] = max(best.get((word, form), 0), certainty * evidence)
    found = [_Replacement(word, form, evidence) for (word, form), evidence in best.items()]
    return sorted(found, key=lambda replacement: -replacement.evidence)


def _synonyms(reading: _Reading, frames: frozenset[int] | None, lexicon: Lexicon) -> Iterator[tuple[str, float]]:
    """Yield synonyms with P(sense | word) * P(sense | synonym), of the senses that fit any of `frames`."""
    part, lemma, _ = reading
    senses = lexicon.senses(lemma, part)
    fitting = [sense for sense in senses if frames is None or _as_used(lemma, sense).frames & frames]
    total = sum(_as_used(lemma, sense).count + _UNSEEN for sense in fitting)
    for sense in fitting:
        share = (_as_used(lemma, sense).count + _UNSEEN) / total
        for word in sense:
            if (
                (frames is None or word.frames & frames)
                and _is_wanted(word.text, reading)
                and _is_attested(word, reading, share, lexicon)
            ):
                # One more occurrence, of something else: a word seen once is not sure to mean this.
                yield word.text, share * (word.count + _UNSEEN) / (_uses(word.text, part, lexicon) + 1)


def _is_wanted(synonym: str, reading: _Reading) -> bool:
    """True unless a name, an abbreviation, a phrasal verb or a description with "of"."""
    words = synonym.split()
    return (
        synonym != reading.lemma
        and synonym.islower()
        and len(synonym) > 2
        and STOP_WORDS.isdisjoint(words)
        and not (len(words) > 1 and reading.part == Part.VERB)
    )


def _is_attested(synonym: Word, reading: _Reading, share: float, lexicon: Lexicon) -> bool:
    """True if seen twice with this meaning, or a technical term, which a small corpus of prose hardly has.

    A term is written with a space or hyphen, means one thing only, and is either the word itself made more exact
    ("data file") or the synonym of one that is unambiguous as well ("electronic mail" for "email").
    """
    part, lemma, _ = reading
    is_term = not synonym.text.isalpha() and len(lexicon.senses(synonym.text, part)) == 1
    is_exact = synonym.text.endswith(f" {lemma}") and share >= 0.5
    return synonym.count > 1 or (is_term and (is_exact or len(lexicon.senses(lemma, part)) == 1))


def _uses(lemma: str, part: Part, lexicon: Lexicon) -> float:
    """Return the smoothed count of the lemma in the corpus, as that part of speech."""
    return sum(_as_used(lemma, sense).count + _UNSEEN for sense in lexicon.senses(lemma, part))


def _as_used(lemma: str, sense: Sense) -> Word:
    return next(word for word in sense if word.text.lower() == lemma)


# --- Parts of speech


def _reading(words: list[str], place: int, lexicon: Lexicon) -> _Reading | None:
    """Return the likeliest part of speech of a word in its query; None if WordNet lacks the word."""
    weights: dict[tuple[Part, str], float] = {}
    for part in Part:
        if lemmas := lexicon.base_forms(words[place], part):
            lemma = max(lemmas, key=lambda lemma: _uses(lemma, part, lexicon))
            weights[part, lemma] = _uses(lemma, part, lexicon) * _fit(words, place, part, lemma)
    if not weights:
        return None
    (part, lemma), weight = max(weights.items(), key=lambda item: item[1])
    return _Reading(part, lemma, weight / sum(weights.values()))


def _fit(words: list[str], place: int, part: Part, lemma: str) -> float:
    """Return the factor by which the neighbours make a part of speech likelier than its frequency alone."""
    before, word, after = _neighbourhood(words, place)
    starts_noun_phrase = before in DETERMINERS or (before in PREPOSITIONS and before != "to")
    if part == Part.VERB:
        return _fit_of_verb(before, word, after, lemma)
    if part == Part.NOUN:
        is_command = not before and after in DETERMINERS  # "sort a list"
        return 0.02 if is_command else 3 if starts_noun_phrase or after == "of" else 1
    if part == Part.ADJECTIVE:
        return 3 if starts_noun_phrase and _is_content(after) else 1 if _is_content(after) or before in BE else 0.1
    return 0.3


def _fit_of_verb(before: str, word: str, after: str, lemma: str) -> float:
    has_object = after in DETERMINERS or _is_content(after)
    if before in BEFORE_VERBS and before not in DETERMINERS:
        return 20
    if word.endswith("ing"):
        return 3 if has_object and before not in DETERMINERS else 0.05
    if before in DETERMINERS or before in PREPOSITIONS or after == "of":
        return 0.02
    if word != lemma:
        return 0.1 if word.endswith("s") else 0.3
    if before:
        return 0.05
    return 20 if after in DETERMINERS else 3 if after else 1  # the first word: a command, if anything follows


def _allowed_frames(words: list[str], place: int, reading: _Reading) -> frozenset[int] | None:
    """Return the sentence frames that a verb's neighbour leaves possible; None for all."""
    _, word, after = _neighbourhood(words, place)
    if reading.part != Part.VERB or word.endswith("ed"):  # "files sorted by size" has its object before
        return None
    if after in DETERMINERS or _is_content(after):
        return _WITH_OBJECT
    return _WITHOUT_OBJECT if after in PREPOSITIONS else None


def _is_in_compound(words: list[str], place: int, reading: _Reading, lexicon: Lexicon) -> bool:
    before, _, after = _neighbourhood(words, place)
    return reading.part == Part.NOUN and any(
        _is_content(word) and lexicon.base_forms(word, Part.NOUN) for word in (before, after)
    )


def _neighbourhood(words: list[str], place: int) -> tuple[str, str, str]:
    """Return the word before, the word, and the word after; empty if there is none."""
    before, word, after = ["", *words, ""][place : place + 3]
    return before, word, after


def _is_content(word: str) -> bool:
    return word != "" and word not in STOP_WORDS


# --- Inflection


def _inflected(synonym: str, word: str, reading: _Reading, lexicon: Lexicon) -> str | None:
    """Return the synonym inflected like `word`, or None if no rule is sure to give good English."""
    part, lemma, _ = reading
    if word == lemma:
        return synonym
    *before, last = synonym.split(" ")
    form = None
    if part == Part.NOUN and word.endswith("s"):
        form = _plural(last, lexicon)
    elif part == Part.VERB and (ending := next((e for e in ("ing", "ed", "s") if word.endswith(e)), None)):
        form = _verb_form(last, ending, lexicon)
    # A form that WordNet does not lead back to the synonym is no English.
    return " ".join([*before, form]) if form and last in lexicon.base_forms(form, part) else None


def _plural(noun: str, lexicon: Lexicon) -> str | None:
    if noun.endswith("ness"):
        return None
    irregular = lexicon.irregular_forms(noun, Part.NOUN)
    return irregular[0] if irregular else _with_s(noun)


def _verb_form(verb: str, ending: str, lexicon: Lexicon) -> str | None:
    irregular = lexicon.irregular_forms(verb, Part.VERB)
    if ending == "ed" and any(not form.endswith(("ed", "ing")) for form in irregular):
        return None  # "went" or "gone"? An ending in -ed does not say which
    if known := next((form for form in irregular if form.endswith(ending)), None):
        return known
    if ending == "s":
        return _with_s(verb)
    if ending == "ing":
        return re.sub("ie$", "y", re.sub("(?<![eoyi])e$", "", verb)) + "ing"
    return re.sub("(?<![aeiou])y$", "i", verb.removesuffix("e")) + "ed"


def _with_s(word: str) -> str:
    if re.search("[^aeiou]y$", word):
        return word[:-1] + "ies"
    return word + ("es" if word.endswith(("s", "x", "z", "ch", "sh")) else "s")


def _article_fits(words: list[str], word: str, synonym: str) -> bool:
    """True if an "a" or "an" before the word may stay."""
    return all(
        (before == "an") == bool(_VOWEL_SOUND.match(synonym))
        for before, after in pairwise(words)
        if after == word and before in ("a", "an")
    )
