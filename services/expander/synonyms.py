"""The strategy `synonyms`: the query again, with a word or two replaced by one that means the same.

A replacement must be likely on three counts, and `evidence` is the product of the three probabilities:

    part(word)           the word has this part of speech here      context rules x WordNet's frequencies
    P(sense | word)      it has this meaning                        counts of the sense-tagged corpus
    P(sense | synonym)   the synonym has that meaning, too          the same, looked at from the other side

The last one keeps out words that are mostly used for something else ("party" for "company"). Counts come from
SemCor, a small corpus of general prose: what it never saw with a meaning is not used for it, unless both words have
no other meaning ("email", "electronic mail"). No tagger's data is at hand, so the part of speech is a guess from
endings and neighbours; it is multiplied in, so that a doubtful guess makes a light variant.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import combinations, pairwise
from math import prod
from typing import NamedTuple

from services.expander.backends import Part, Thesaurus, Word
from services.expander.words import BE_AND_HAVE, BEFORE_VERBS, DETERMINERS, PREPOSITIONS, STOP_WORDS

# What a variant must at least have going for it, and how often the corpus must have seen the synonym used so.
MIN_EVIDENCE = 0.05
MIN_COUNT = 2
# Counts are small: half an occurrence more for every sense, and one of an unknown sense for every synonym.
_SMOOTHING = 0.5
# Whoever pastes a page has said everything already; it also bounds the time that one query takes.
_MAX_WORDS = 64
_LONGEST_PHRASE = 4
_PAIRED = 8
_SHORTEST = 3

_TOKEN = re.compile(r"""(?P<quoted>"[^"]*"|“[^”]*”|«[^»]*»|`[^`]*`|(?<!\w)'[^']*'(?!\w))|[^\s"“”«»`]+""")
_WORD = re.compile(r"[A-Za-z]+(?:-[A-Za-z]+)*")
_ENDS_SENTENCE = (".", "!", "?", ":")
_VOWEL_SOUND = re.compile(r"(?!uni|us[aeiu]|uti|eu|one)[aeiou]|hour|honest|honou?r|heir", re.IGNORECASE)


class Rewrite(NamedTuple):
    """A whole query with words replaced, and how likely it is to mean the same, in (0, 1]."""

    text: str
    evidence: float


@dataclass(frozen=True, slots=True)
class _Token:
    start: int
    end: int
    text: str
    is_free: bool  # may be replaced


class _Replacement(NamedTuple):
    word: str  # in lower case; every place where it stands is replaced
    synonym: str
    evidence: float


def rewrites(query: str, thesaurus: Thesaurus) -> list[Rewrite]:
    """All rewrites of one or two words that are worth their evidence, best first; the same for the same query."""
    tokens = _tokens(query, thesaurus)
    singles = [(replacement,) for replacement in _replacements(tokens, thesaurus)]
    pairs = [
        (*one, *other) for one, other in combinations(singles[:_PAIRED], 2) if one[0].word != other[0].word
    ]
    found = [
        Rewrite(_replaced(query, tokens, chosen), prod(replacement.evidence for replacement in chosen))
        for chosen in [*singles, *pairs]
    ]
    found = [rewrite for rewrite in found if rewrite.evidence >= MIN_EVIDENCE]
    return sorted(found, key=lambda rewrite: -rewrite.evidence)


def _replaced(query: str, tokens: list[_Token], chosen: tuple[_Replacement, ...]) -> str:
    synonyms = {replacement.word: replacement.synonym for replacement in chosen}
    pieces, end = [], 0
    for token in tokens:
        if token.is_free and (synonym := synonyms.get(token.text.lower())):
            capital = token.text[0].isupper()
            pieces += [query[end : token.start], synonym[0].upper() + synonym[1:] if capital else synonym]
            end = token.end
    return "".join([*pieces, query[end:]])


# --- What may be replaced


def _tokens(query: str, thesaurus: Thesaurus) -> list[_Token]:
    tokens = []
    starts_sentence = True
    for match in _TOKEN.finditer(query):
        text, start = match.group(), match.start()
        core = text if match["quoted"] else text.strip("()[]{}<>,;:.!?…")
        start += text.find(core)
        is_free = (
            _WORD.fullmatch(core) is not None
            and len(core) > 2
            and core.lower() not in STOP_WORDS
            and (core.islower() or (starts_sentence and core[1:].islower()))
        )
        tokens.append(_Token(start, start + len(core), core, is_free))
        starts_sentence = text.endswith(_ENDS_SENTENCE)
    for place in _phrases(query, tokens, thesaurus) | _names(tokens):
        tokens[place] = replace(tokens[place], is_free=False)
    return tokens


def _phrases(query: str, tokens: list[_Token], thesaurus: Thesaurus) -> set[int]:
    """Places of words that belong together: WordNet's own phrases, and what is said twice ("line by line")."""
    places: set[int] = set()
    for first in range(len(tokens)):
        for last in range(first + 1, min(first + _LONGEST_PHRASE, len(tokens))):
            if query[tokens[last - 1].end : tokens[last].start].strip():
                break  # a comma is between them
            words = [token.text.lower() for token in tokens[first : last + 1]]
            if (len(words) == 3 and words[0] == words[2]) or _is_phrase(words, thesaurus):
                places.update(range(first, last + 1))
    return places


def _is_phrase(words: list[str], thesaurus: Thesaurus) -> bool:
    if not all(map(_WORD.fullmatch, words)):
        return False
    phrase = " ".join(words)
    verb, *rest = words
    return any(thesaurus.base_forms(phrase, part) for part in Part) or any(
        thesaurus.senses(" ".join([base, *rest]), Part.VERB)  # "looked up", "setting up"
        for base in thesaurus.base_forms(verb, Part.VERB)
    )


def _names(tokens: list[_Token]) -> set[int]:
    """Places of first words that are capitalised for more than being first: "Roman Empire"."""
    return {
        place
        for place, (token, following) in enumerate(pairwise(tokens))
        if token.text[:1].isupper() and following.text[:1].isupper()
    }


# --- What replaces it


def _replacements(tokens: list[_Token], thesaurus: Thesaurus) -> list[_Replacement]:
    """For every free word, its synonyms in the likeliest part of speech; best first."""
    words = [token.text.lower() for token in tokens]
    best: dict[tuple[str, str], float] = {}
    for place, token in enumerate(tokens[:_MAX_WORDS]):
        if not token.is_free or words.index(words[place]) < place:
            continue
        reading = _reading(words, place, thesaurus)
        if reading is None:
            continue
        has_object = reading.part == Part.VERB and _has_object(tokens, place)
        for synonym, evidence in _synonyms(reading.lemma, reading.part, has_object, thesaurus):
            inflected = _inflected(synonym, reading, words[place], thesaurus)
            if inflected and inflected not in words and _article_fits(words, place, inflected):
                key = (words[place], inflected)
                best[key] = max(best.get(key, 0.0), (_COMPOUND if _in_compound(tokens,place,reading,thesaurus) else 1)*reading.probability * evidence)
    found = [_Replacement(word, synonym, evidence) for (word, synonym), evidence in best.items()]
    return sorted(found, key=lambda replacement: -replacement.evidence)


def _synonyms(lemma: str, part: Part, acts_on_thing: bool, thesaurus: Thesaurus) -> Iterator[tuple[str, float]]:
    """Each synonym with P(sense | lemma) * P(sense | synonym)."""
    senses = thesaurus.senses(lemma, part)
    if acts_on_thing:  # its neighbour is an object: "run" in "run a function" cannot mean "flee"
        senses = tuple(sense for sense in senses if _word(lemma, sense).acts_on_things) or senses
    total = sum(_word(lemma, sense).count + _SMOOTHING for sense in senses)
    for sense in senses:
        likely = (_word(lemma, sense).count + _SMOOTHING) / total
        for synonym in sense:
            if not synonym.text.islower() or len(synonym.text)<_SHORTEST or synonym.text==lemma: continue
            if synonym.acts_on_things < acts_on_thing or (" " in synonym.text and part==Part.VERB): continue
            is_term = likely >= .5 and not synonym.text.isalpha() and len(thesaurus.senses(synonym.text, part)) == 1
            if synonym.count >= MIN_COUNT or is_term:
                yield synonym.text, likely * (synonym.count + _SMOOTHING) / (_uses(synonym.text, part, thesaurus) + 1)


def _uses(lemma: str, part: Part, thesaurus: Thesaurus) -> float:
    """How often the corpus uses the lemma as that part of speech, smoothed."""
    return sum(_word(lemma, sense).count + _SMOOTHING for sense in thesaurus.senses(lemma, part))


def _word(lemma: str, sense: tuple[Word, ...]) -> Word:
    return next(word for word in sense if word.text.lower() == lemma)


def _has_object(tokens, place):
    after = tokens[place + 1].text.lower() if place + 1 < len(tokens) else ""
    return after in DETERMINERS or (after !="" and after not in STOP_WORDS)


# --- Parts of speech


class _Reading(NamedTuple):
    part: Part
    lemma: str
    probability: float


def _reading(words: list[str], place: int, thesaurus: Thesaurus) -> _Reading | None:
    """The likeliest part of speech of a word in its query."""
    word = words[place]
    weights: dict[tuple[Part, str], float] = {}
    for part in Part:
        lemmas = thesaurus.base_forms(word, part)
        if lemmas:
            uses = max(_uses(lemma, part, thesaurus) for lemma in lemmas)
            weights[part, lemmas[0]] = uses * _fit(words, place, part, lemmas[0])
    if not weights:
        return None
    (part, lemma), weight = max(weights.items(), key=lambda item: item[1])
    return _Reading(part, lemma, weight / sum(weights.values()))


def _fit(words: list[str], place: int, part: Part, lemma: str) -> float:  # noqa: PLR0911 - one rule a line
    """How much likelier than by frequency alone a part of speech is between these neighbours."""
    word = words[place]
    before = words[place - 1] if place else ""
    after = words[place + 1] if place + 1 < len(words) else ""
    if part == Part.VERB:
        if before in BEFORE_VERBS:
            return 20
        if word.endswith("ing"):
            return 3 if after and before not in DETERMINERS and (after in DETERMINERS or after not in STOP_WORDS) else 0.05
        if before in DETERMINERS or before in PREPOSITIONS or after == "of":
            return 0.02
        if word == lemma and not before:  # an imperative, if it has an object
            return 20 if after in DETERMINERS else 3 if after else 1
        return 0.05 if word == lemma else 0.1 if word.endswith("s") else 0.3
    if part == Part.NOUN:
        if not before and after in DETERMINERS: return 0.02
        return 3 if before in DETERMINERS or before in PREPOSITIONS or after == "of" else 1
    if part == Part.ADJECTIVE:
        return 1 if (after and after not in STOP_WORDS) or before in BE_AND_HAVE else 0.1
    return 0.3


_COMPOUND=.5
def _in_compound(tokens,place,reading,thesaurus):
    near=[tokens[p] for p in (place-1,place+1) if 0<=p<len(tokens)]
    return reading.part==Part.NOUN and any(t.text.lower() not in STOP_WORDS and thesaurus.senses(t.text.lower(),Part.NOUN) for t in near)


# --- Inflection


def _inflected(synonym: str, reading: _Reading, word: str, thesaurus: Thesaurus) -> str | None:
    """The synonym in the form that `word` has, or None where no rule is sure to give good English."""
    part, lemma = reading.part, reading.lemma
    if word == lemma:
        return synonym
    ending = next((ending for ending in ("ing", "ed", "s") if word.endswith(ending)), None)
    if part == Part.NOUN and ending == "s" and not {"of", "in"} & set(synonym.split()):
        *before, noun = synonym.split(" ")
        plural = _plural(noun, thesaurus)
        return plural and " ".join([*before, plural])
    if part == Part.VERB and ending:
        verb, *after = synonym.split(" ")
        form = _verb_form(verb, ending, thesaurus)
        return form and " ".join([form, *after])
    return None


def _plural(noun: str, thesaurus: Thesaurus) -> str | None:
    irregular = thesaurus.irregular_forms(noun, Part.NOUN)
    plural = irregular[0] if irregular else _with_s(noun)
    return plural if noun in thesaurus.base_forms(plural, Part.NOUN) else None


def _verb_form(verb: str, ending: str, thesaurus: Thesaurus) -> str | None:
    irregular = thesaurus.irregular_forms(verb, Part.VERB)
    known = [form for form in irregular if form.endswith(ending)]
    if ending == "ed" and any(not form.endswith(("ed", "ing")) for form in irregular):
        return None  # "went" or "gone"? The query does not say which
    if known:
        form = known[0]
    elif ending == "s":
        form = _with_s(verb)
    elif ending == "ing":
        form = re.sub(r"ie$", "y", re.sub(r"(?<![eoy])e$", "", verb)) + "ing"
    else:
        form = re.sub(r"(?<![aeiou])y$", "i", verb.removesuffix("e")) + "ed"
    return form if verb in thesaurus.base_forms(form, Part.VERB) else None


def _with_s(word: str) -> str:
    if re.search(r"[^aeiou]y$", word):
        return word[:-1] + "ies"
    return word + ("es" if re.search(r"(s|x|z|ch|sh)$", word) else "s")


def _article_fits(words: list[str], place: int, synonym: str) -> bool:
    """Whether "a" and "an" before the word stay right."""
    return all(
        article not in ("a", "an") or (article == "an") == bool(_VOWEL_SOUND.match(synonym))
        for article, word in pairwise(words)
        if word == words[place]
    )
