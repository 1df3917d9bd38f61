"""The small words of English, by what they say about the word that follows."""

from __future__ import annotations

_NUMBERS = "one two three four five six seven eight nine ten eleven twelve hundred thousand million"

DETERMINERS = frozenset(
    f"a an the this that these those my your his her its our their some any every each no all both another "
    f"many few several multiple {_NUMBERS}".split()
)
PREPOSITIONS = frozenset(
    "about above across after against along among around as at before behind below beneath beside between beyond "
    "by during for from in inside into like near of off on onto out outside over per than through throughout "
    "till toward towards under until up upon using via versus vs with within without".split()
)
QUESTION_WORDS = frozenset("how what when where which who whom whose why".split())
# What a verb follows: "to run", "you run", "can run".
BEFORE_VERBS = frozenset(
    "to i you we they it he she who can could may might must shall should will would do does did don't doesn't "
    "didn't can't cannot won't not please let's".split()
)
BE_AND_HAVE = frozenset("am is are was were be been being has have had having isn't aren't".split())
STOP_WORDS = (
    DETERMINERS
    | PREPOSITIONS
    | QUESTION_WORDS
    | BEFORE_VERBS
    | BE_AND_HAVE
    | frozenset(
        "and or but nor if then else so because while though although whether me him them us mine yours theirs "
        "myself yourself itself themselves there here also too very just only even more most less least such other "
        "same own again once ever never always often yet still much lot lots not n't yes no ok thanks etc "
        "what's how's who's where's that's it's i'm i've i'd i'll down first last next".split()
    )
)
