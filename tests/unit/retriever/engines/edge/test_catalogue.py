"""The file that names what a data folder holds."""

import json

import pytest

from services.retriever.engines.edge.catalogue import FILE, FOLDER, CatalogueFile, CatalogueLost


@pytest.fixture
def filled(tmp_path):
    catalogue = CatalogueFile(tmp_path)
    for version in ("a-v1", "a-v2"):
        (tmp_path / FOLDER / version).mkdir(parents=True)
        catalogue.add(version, {"dimension": 2, "kept": True})
    catalogue.point("a", "a-v1")
    return tmp_path


def test_what_was_changed_is_read_again(filled):
    catalogue = CatalogueFile(filled)
    catalogue.note("a-v1", {"kept": False, "more": "x"})
    catalogue.point("a", "a-v2")
    catalogue.remove("a-v1")
    again = CatalogueFile(filled)
    assert again.versions == {"a-v2": {"dimension": 2, "kept": True}}
    assert again.aliases == {"a": "a-v2"}
    again.point("b", "a-v2")
    again.remove("a-v2")
    assert (CatalogueFile(filled).versions, CatalogueFile(filled).aliases) == ({}, {})


def test_a_change_that_cannot_be_written_has_not_happened(filled):
    catalogue = CatalogueFile(filled)
    with pytest.raises(TypeError):
        catalogue.note("a-v1", {"kept": object()})
    assert catalogue.versions["a-v1"] == {"dimension": 2, "kept": True}
    assert CatalogueFile(filled).versions == catalogue.versions


@pytest.mark.parametrize(
    "content", [None, "", "{}", "[]", '{"versions": ', '{"format": 2, "versions": {}, "aliases": {}}']
)
def test_data_without_their_catalogue_are_not_taken_for_none(filled, content):
    (filled / FILE).unlink()
    if content is not None:
        (filled / FILE).write_text(content)
    with pytest.raises(CatalogueLost, match=r"is missing, and .* holds the passages of a-v1, a-v2|cannot be read"):
        CatalogueFile(filled)


def test_an_empty_folder_gets_a_catalogue_at_once(tmp_path):
    CatalogueFile(tmp_path)
    assert (tmp_path / FILE).is_file()
    assert json.loads((tmp_path / FILE).read_text()) == {"format": 1, "versions": {}, "aliases": {}}
