"""The demo's corpus: the documentation of the interpreter that runs the tests."""

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from demo import corpus as corpus_module
from demo.corpus import TEXT_LIMIT, Corpus, CorpusError, Passage, load


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("corpus")


@pytest.fixture(scope="module")
def corpus(folder):
    return load(folder)


@pytest.fixture(scope="module")
def by_title(corpus):
    return {passage.title: passage for passage in corpus.passages}


def test_there_are_at_least_five_thousand_passages(corpus):
    assert len(corpus.passages) >= 5000


def test_titles_are_unique(corpus):
    assert [title for title, count in Counter(passage.title for passage in corpus.passages).items() if count > 1] == []


def test_every_passage_says_something_and_not_too_much(corpus):
    assert all(passage.text.strip() and len(passage.text) <= TEXT_LIMIT for passage in corpus.passages)


@pytest.mark.parametrize(
    ("title", "kind"),
    [
        ("concurrent.futures.ThreadPoolExecutor.submit", "method"),
        ("concurrent.futures.ThreadPoolExecutor", "class"),
        ("argparse", "module"),
        ("argparse.ArgumentParser", "class"),
        ("asyncio.Lock", "class"),
        ("bisect.bisect_left", "function"),
        ("collections.abc.Mapping.get", "method"),
        ("decimal.Decimal.quantize", "method"),
        ("difflib.unified_diff", "function"),
        ("filecmp.cmp", "function"),
        ("getopt.getopt", "function"),
        ("hashlib.sha256", "function"),
        ("itertools.chain", "class"),
        ("math.floor", "function"),
        ("open", "function"),
        ("os.path.join", "function"),
        ("pathlib.PurePath.stem", "property"),
        ("random.randint", "function"),
        ("round", "function"),
        ("str.join", "method"),
        ("urllib.parse.urlsplit", "function"),
        ("ValueError", "class"),
    ],
)
def test_things_have_the_name_that_people_import(by_title, title, kind):
    assert by_title[title].kind == kind


@pytest.mark.parametrize(
    "title",
    [
        "builtins.round",
        "builtins.str.join",
        "posixpath.join",
        "posix.stat",
        "asyncio.locks.Lock",
        "concurrent.futures.thread.ThreadPoolExecutor",
        "random.Random.randint",
        "IOError",
    ],
)
def test_nothing_appears_under_a_second_name(by_title, title):
    assert title not in by_title


def test_what_is_inherited_is_told_once(by_title):
    assert "argparse.HelpFormatter" in by_title
    assert "argparse.RawTextHelpFormatter.format_help" not in by_title
    assert "collections.OrderedDict.get" not in by_title


def test_private_names_stay_out(by_title):
    assert not [title for title in by_title if any(part.startswith("_") for part in title.split("."))]


def test_a_function_shows_its_signature(by_title):
    assert by_title["difflib.get_close_matches"].text.startswith(
        "get_close_matches(word, possibilities, n=3, cutoff=0.6)"
    )


def test_a_class_without_docstring_is_told_by_its_constructor(by_title):
    assert "Initializes a new ThreadPoolExecutor instance." in by_title["concurrent.futures.ThreadPoolExecutor"].text


def test_a_method_belongs_to_the_module_that_it_is_imported_from(by_title):
    assert by_title["concurrent.futures.ThreadPoolExecutor.submit"].module == "concurrent.futures"
    assert by_title["str.join"].module == "builtins"


def test_texts_hold_no_addresses_of_this_run(corpus):
    assert not [passage.title for passage in corpus.passages if " at 0x" in passage.text.split("\n", 1)[0]]


def test_a_second_load_reads_what_the_first_one_kept(corpus, folder, monkeypatch):
    monkeypatch.setattr(corpus_module.subprocess, "run", None)
    assert load(folder).digest == corpus.digest


def test_collecting_again_gives_the_same(corpus, tmp_path):
    assert load(tmp_path).digest == corpus.digest


def test_the_digest_names_the_content():
    passage = Passage("round", "Rounds.", "builtins", "function")
    assert Corpus((passage,)).digest == Corpus((passage,)).digest
    assert Corpus((passage,)).digest != Corpus((Passage("round", "Squares.", "builtins", "function"),)).digest


def test_a_failed_collection_keeps_nothing_and_says_how_to_see_why(tmp_path, monkeypatch):
    monkeypatch.setattr(corpus_module.sys, "executable", "/bin/false")
    with pytest.raises(CorpusError, match="to see why, run"):
        load(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_collecting_needs_nothing_but_the_standard_library(tmp_path):
    file = tmp_path / "corpus.jsonl"
    subprocess.run(
        [sys.executable, "-I", "-S", Path(corpus_module.__file__), file], check=True, stderr=subprocess.DEVNULL
    )
    assert set(json.loads(file.read_text().splitlines()[0])) == {"title", "text", "module", "kind"}
