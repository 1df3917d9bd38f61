"""Our reader of WordNet's files, word by word against nltk's."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nltk.data
import pytest
from nltk.corpus.reader.wordnet import WordNetCorpusReader

from services.expander.backends import Part, WordNetThesaurus, locate_wordnet

# Every so-many-th lemma of each part of speech.
STEP = 97
CATEGORIES = {"noun": 1, "verb": 2, "adj": 3, "adv": 4}


@pytest.fixture(scope="module")
def nltk_reader(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """nltk's reader over the same files. It wants two more that Debian leaves out, and a folder below its data path."""
    root = tmp_path_factory.mktemp("nltk_data")
    folder = root / "corpora" / "wordnet"
    shutil.copytree(locate_wordnet(), folder, ignore=shutil.ignore_patterns("*.svg"))
    (folder / "lexnames").write_text("".join(f"{number:02d}\tcategory.{number}\t1\n" for number in range(45)))
    nltk.data.path.insert(0, str(root))
    with pytest.MonkeyPatch.context() as patch:
        # Relates other versions of WordNet to this one, by the index that is not there.
        patch.setattr(WordNetCorpusReader, "map_wn", lambda *_: None)
        yield WordNetCorpusReader(str(folder), None)
    nltk.data.path.remove(str(root))


@pytest.fixture(scope="module")
def thesaurus() -> WordNetThesaurus:
    return WordNetThesaurus(Path(locate_wordnet()))


@pytest.mark.parametrize("part", Part)
def test_words_meanings_and_counts_are_those_that_nltk_reads(
    nltk_reader: Any, thesaurus: WordNetThesaurus, part: Part
) -> None:
    offsets = nltk_reader._lemma_pos_offset_map
    lemmas = sorted(lemma for lemma in offsets if part.value in offsets[lemma])[::STEP]
    assert lemmas
    for lemma in lemmas:
        senses = thesaurus.senses(lemma.replace("_", " "), part)
        ours = [[(word.text, word.count) for word in sense] for sense in senses]
        theirs = [
            [(word.name().replace("_", " "), word.count()) for word in synset.lemmas()]
            for offset in offsets[lemma][part.value]
            if (synset := nltk_reader.synset_from_pos_and_offset(part.value, offset))
        ]
        assert ours == theirs, lemma
