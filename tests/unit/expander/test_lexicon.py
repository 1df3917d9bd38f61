from __future__ import annotations

import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import nltk.data
import pytest

from services.chassis.errors import StartupError
from services.expander.lexicon import Part, Word, WordNetLexicon, locate_wordnet
from tools.fetch_wordnet import TARGET

FETCH = Path(__file__).parents[3] / "tools" / "fetch_wordnet.py"


@pytest.fixture
def copy(wordnet: WordNetLexicon, tmp_path: Path) -> Path:
    """A folder with all of WordNet's files, to be damaged; nltk opens no links."""
    return shutil.copytree(locate_wordnet(), tmp_path / "wordnet")


@pytest.fixture
def nowhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A machine without WordNet; the first folder of nltk's data path."""
    monkeypatch.setattr(nltk.data, "path", [str(tmp_path / "home"), str(tmp_path / "usr")])
    return tmp_path / "home"


def test_senses_come_with_their_words_and_how_often_each_was_seen(wordnet: WordNetLexicon) -> None:
    senses = wordnet.senses("car", Part.NOUN)
    assert len(senses) == 5
    assert {word.text: word.count for word in senses[0]} == {
        "car": 71,
        "auto": 2,
        "automobile": 15,
        "machine": 0,
        "motorcar": 1,
    }


def test_satellite_adjectives_have_counts_too(wordnet: WordNetLexicon) -> None:
    assert Word("cardinal", 3) in wordnet.senses("key", Part.ADJECTIVE)[0]


def test_verbs_know_the_sentences_that_they_stand_in(wordnet: WordNetLexicon) -> None:
    flee = next(sense for sense in wordnet.senses("run", Part.VERB) if "run away" in {word.text for word in sense})
    operate = next(sense for sense in wordnet.senses("run", Part.VERB) if "operate" in {word.text for word in sense})
    assert all(8 not in word.frames for word in flee)
    assert all(8 in word.frames for word in operate)


def test_phrases_are_found_as_one_entry(wordnet: WordNetLexicon) -> None:
    assert wordnet.base_forms("command lines", Part.NOUN) == ("command line",)


@pytest.mark.parametrize(
    ("form", "part", "lemmas"),
    [
        ("files", Part.NOUN, ("file",)),
        ("axes", Part.NOUN, ("ax", "axis")),
        ("children", Part.NOUN, ("child",)),
        ("ran", Part.VERB, ("run",)),
        ("stopping", Part.VERB, ("stop",)),
        ("happier", Part.ADJECTIVE, ("happy",)),
        ("quickly", Part.ADVERB, ("quickly",)),
        ("qwerty", Part.NOUN, ()),
        ("s", Part.VERB, ()),
        ("", Part.NOUN, ()),
        ("köln\udc80", Part.NOUN, ()),
    ],
)
def test_inflected_forms_lead_to_their_lemmas(
    wordnet: WordNetLexicon, form: str, part: Part, lemmas: tuple[str, ...]
) -> None:
    assert wordnet.base_forms(form, part) == lemmas


def test_irregular_forms_are_known(wordnet: WordNetLexicon) -> None:
    assert wordnet.irregular_forms("child", Part.NOUN) == ("children",)
    assert "ran" in wordnet.irregular_forms("run", Part.VERB)
    assert wordnet.irregular_forms("walk", Part.VERB) == ()


def test_scipy_and_scikit_learn_are_not_imported_for_it() -> None:
    program = "import sys, services.expander.lexicon; sys.exit(bool({'scipy', 'sklearn'} & set(sys.modules)))"
    subprocess.run([sys.executable, "-c", program], check=True)


def test_meanings_that_were_dropped_from_the_cache_are_read_again(wordnet: WordNetLexicon) -> None:
    fresh = WordNetLexicon(locate_wordnet())
    before = fresh.senses("car", Part.NOUN)
    for lemma in (line.split()[0] for line in (locate_wordnet() / "index.noun").open() if not line.startswith(" ")):
        if fresh.senses.cache_info().currsize == 4096:
            break
        fresh.senses(lemma.replace("_", " "), Part.NOUN)
    assert fresh.senses("car", Part.NOUN) == before


def test_the_first_and_the_last_word_of_each_file_are_found(wordnet: WordNetLexicon) -> None:
    for part, suffix in zip(Part, ("noun", "verb", "adj", "adv"), strict=True):
        lines = (locate_wordnet() / f"index.{suffix}").read_text().splitlines()
        words = [line.split()[0].replace("_", " ") for line in lines if not line.startswith(" ")]
        assert wordnet.senses(words[0], part)
        assert wordnet.senses(words[-1], part)


def test_threads_may_share_it(wordnet: WordNetLexicon) -> None:
    fresh = WordNetLexicon(locate_wordnet())
    words = ["run", "car", "function", "set", "take", "file", "line", "small"] * 8

    def look_up(word: str) -> object:
        return [fresh.senses(word, part) for part in Part]

    with ThreadPoolExecutor(8) as threads:
        found = list(threads.map(look_up, words))
    assert found == [[wordnet.senses(word, part) for part in Part] for word in words]


# --- Finding it


def test_the_explicit_folder_wins(copy: Path) -> None:
    assert locate_wordnet(copy) == copy


def test_an_explicit_folder_without_wordnet_is_not_replaced_by_another(wordnet: WordNetLexicon, tmp_path: Path) -> None:
    with pytest.raises(StartupError, match=str(tmp_path)):
        locate_wordnet(tmp_path)


def test_wordnet_is_found_on_the_data_path_of_nltk(copy: Path, nowhere: Path) -> None:
    (nowhere / "corpora").mkdir(parents=True)
    copy.rename(nowhere / "corpora" / "wordnet")
    assert locate_wordnet() == nowhere / "corpora" / "wordnet"


def test_set_up_puts_it_on_the_data_path_of_nltk() -> None:
    assert TARGET.parents[1] in map(Path, nltk.data.path)


def test_where_it_is_nowhere_the_error_names_the_places_and_the_remedy(nowhere: Path) -> None:
    with pytest.raises(StartupError) as caught:
        locate_wordnet()
    assert str(nowhere) in caught.value.message
    assert str(nowhere.parent / "usr") in caught.value.message
    assert "make wordnet" in caught.value.remedy
    assert "WORDNET_DIR" in caught.value.remedy


def test_a_missing_file_is_named(copy: Path) -> None:
    (copy / "cntlist.rev").unlink()
    with pytest.raises(StartupError, match=r"cannot be read: .*cntlist\.rev"):
        WordNetLexicon(copy)


@pytest.mark.parametrize("name", ["data.noun", "data.verb", "index.adj", "noun.exc", "cntlist.rev"])
def test_files_that_were_cut_off_are_refused(copy: Path, name: str) -> None:
    whole = (copy / name).read_bytes()
    (copy / name).write_bytes(whole[: len(whole) // 2].rstrip(b"\n"))
    with pytest.raises(StartupError, match="damaged"):
        WordNetLexicon(copy)


@pytest.mark.parametrize("content", [b"\n", b"something else\n" * 50, b"\x00\xff\n" * 50])
@pytest.mark.parametrize("name", ["data.noun", "index.adj"])
def test_files_of_something_else_are_refused(copy: Path, name: str, content: bytes) -> None:
    (copy / name).write_bytes(content)
    with pytest.raises(StartupError, match="damaged"):
        WordNetLexicon(copy)


def test_data_of_another_release_than_the_index_is_refused(copy: Path) -> None:
    first, _, rest = (copy / "data.verb").read_bytes().partition(b"\n")
    (copy / "data.verb").write_bytes(first + b" \n" + rest)
    with pytest.raises(StartupError, match=r"damaged: no synset of part v at"):
        WordNetLexicon(copy)


# --- Fetching it


def test_fetching_does_nothing_where_wordnet_is_already(copy: Path) -> None:
    before = sorted(copy.iterdir())
    done = subprocess.run([sys.executable, FETCH, "--into", copy], capture_output=True, text=True, check=True)
    assert str(copy) in done.stdout
    assert sorted(copy.iterdir()) == before


def test_fetching_says_what_to_do_where_there_is_no_apt(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, FETCH, "--into", tmp_path / "new"],
        env={"PATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "nltk.download" in done.stderr
    assert not (tmp_path / "new").exists()
