"""Rows are read whole and exactly, or refused with file, line and column (RELIABILITY 44)."""

from __future__ import annotations

import csv
import io
import json

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from feilun import datasets
from feilun.datasets import delimited, text
from feilun.errors import DataError

GOOD = 'text,label\ngood,positive\n"bad, very\nbad",negative\n'
ROWS = [("good", "positive"), ("bad, very\nbad", "negative")]


@pytest.mark.parametrize(
    ("encoding", "declared"),
    [("utf-8", None), ("utf-8-sig", None), ("utf-16", None), ("latin-1", "latin-1"), ("gb18030", "gb18030")],
)
def test_rows_come_out_of_every_encoding(source, encoding, declared):
    body = GOOD.replace("very", "très").encode(encoding)
    frame = datasets.read_source(source("rows.csv", body), encoding=declared)
    assert frame.rows() == [ROWS[0], ("bad, très\nbad", "negative")]
    frame = datasets.read_source(source("rows.csv", body, encoding=declared))
    assert frame.height == 2


def test_latin_1_that_is_not_declared_names_the_line_and_the_setting(source):
    with pytest.raises(DataError) as caught:
        datasets.read_source(source("rows.csv", "text,label\na,b\ncafé,b\n".encode("latin-1")))
    assert caught.value.where == "rows.csv, line 3"
    assert "encoding =" in str(caught.value.hint)


@pytest.mark.parametrize("ending", ["\n", "\r\n"])
@pytest.mark.parametrize("last", [True, False])
def test_line_ends_and_blank_lines_do_not_matter(source, ending, last):
    body = ending.join(["text,label", "a,b", "", "c,d"]) + (ending if last else "")
    assert datasets.read_source(source("rows.csv", body)).rows() == [("a", "b"), ("c", "d")]


def test_a_tsv_without_header_or_quoting_is_read_as_its_facts_say(source):
    body = '\ufeff1_1\t-0.9\the said "no\n1_2\t0.5\t"\n'
    read = source("rows.tsv", body, columns=["id", "rating", "text"], quote="")
    assert datasets.read_source(read).rows() == [("1_1", "-0.9", 'he said "no'), ("1_2", "0.5", '"')]


def test_lines_to_skip_are_skipped(source):
    body = "569,30\n1,2\n3,4\n"
    assert datasets.read_source(source("rows.csv", body, skip=1, columns=["a", "b"])).rows() == [("1", "2"), ("3", "4")]
    assert datasets.read_source(source("rows.csv", "# note\na,b\n1,2\n", skip=1)).rows() == [("1", "2")]


def test_lines_are_texts_or_labels_and_texts(source):
    read = source("rows.txt", "0 bad film\n1 good\n", format="lines", columns=["label", "text"])
    assert datasets.read_source(read).rows() == [("0", "bad film"), ("1", "good")]
    read = source("rows.txt", "好\n\n很好 啊\n", format="lines", columns=["text"])
    assert datasets.read_source(read).rows() == [("好",), ("很好 啊",)]
    read = source("rows.txt", "0 bad\n\ngood\n", format="lines", columns=["label", "text"])
    with pytest.raises(DataError, match="no second part") as caught:
        datasets.read_source(read)
    assert caught.value.where == "rows.txt, line 3"


def test_json_lines_and_parquet_keep_their_types(source, tmp_path):
    read = source("rows.jsonl", '{"text": "a", "stars": 5}\n\n{"text": "b"}\n')
    assert datasets.read_source(read).rows() == [("a", 5), ("b", None)]
    pl.DataFrame({"text": ["a"], "stars": [5]}).write_parquet(tmp_path / "x")
    assert datasets.read_source(source("rows.parquet", (tmp_path / "x").read_bytes())).rows() == [("a", 5)]


CASES = {
    "empty": ("rows.csv", "", "the file is empty", "rows.csv"),
    "blank": ("rows.csv", " \n \n", "the file is empty", "rows.csv"),
    "header alone": ("rows.csv", "text,label\n", "there are no rows", "rows.csv"),
    "blank first line": ("rows.csv", "\ntext,label\na,b\n", "the first line is blank", "rows.csv"),
    "duplicate header": ("rows.csv", "text,label,text\na,b,c\n", "two columns are called 'text'", "rows.csv, line 1"),
    "duplicate after trimming": ("rows.csv", "text, text\na,b\n", "two columns are called 'text'", "rows.csv, line 1"),
    "unnamed column": ("rows.csv", "text,,label\na,b,c\n", "column 2 has no name", "rows.csv, line 1"),
    "too many cells": ("rows.csv", "a,b\n1,2\n1,2,3\n", "the row has 3 cells, the header 2", "rows.csv, line 3"),
    "too few cells": ("rows.csv", "a,b\n1,2\n\n1\n", "the row has 1 cells, the header 2", "rows.csv, line 4"),
    "all too few": ("rows.csv", "a,b,c\n1,2\n3,4\n", "the row has 2 cells, the header 3", "rows.csv, line 2"),
    "ragged after a break": ("rows.csv", 'a,b\n"1\n2",2\n1\n', "the row has 1 cells", "rows.csv, line 4"),
    "open quotation": ("rows.csv", 'a,b\n1,2\n3,"4\n5,6\n', "the row cannot be read", "rows.csv, after line 2"),
    "nul": ("rows.csv", "a,b\n1,\0\n", "NUL", "rows.csv, line 2"),
    "utf-16 without mark": ("rows.csv", "a,b\n1,2\n".encode("utf-16-le"), "NUL", "rows.csv, line 1"),
    "not json": ("rows.jsonl", '{"text": "a"}\n{"text": a}\n', "the line is not JSON", "rows.jsonl, line 2"),
    "not an object": ("rows.jsonl", '{"text": "a"}\n["a"]\n', "not a JSON object", "rows.jsonl, line 2"),
    "mixed": ("rows.jsonl", '{"t": 1.5}\n{"t": {"a": 1}}\n', "holds a record here and a number", "rows.jsonl, line 2"),
    "deep": ("rows.jsonl", '{"t": ' + "[" * 100_000 + "}\n", "", "rows.jsonl"),
    "not parquet": ("rows.parquet", "PAR1 but no more", "the Parquet file cannot be read", "rows.parquet"),
    "unknown format": ("rows.xlsx", "x", "in the format 'xlsx'", "rows.xlsx"),
}


@pytest.mark.parametrize("case", CASES)
def test_bad_files_are_refused_with_the_place_case_44(source, case):
    name, body, what, where = CASES[case]
    with pytest.raises(DataError) as caught:
        datasets.read_source(source(name, body))
    assert what in caught.value.what
    assert str(caught.value.where).startswith(where)


@pytest.mark.parametrize("name", ["rows.csv", "rows.jsonl"])
def test_a_200_mb_cell_is_refused_before_it_is_parsed_case_44(source, name):
    cell = b"x" * 200_000_000
    body = b"text,label\na,b\n" + cell + b",b\n" if name == "rows.csv" else b'{"text": "' + cell + b'"}\n'
    with pytest.raises(DataError, match="a line has 200,000") as caught:
        datasets.read_source(source(name, body))
    assert str(caught.value.where).endswith("line 3" if name == "rows.csv" else "line 1")


def test_a_large_cell_of_many_lines_is_refused_with_its_column_case_44(source, monkeypatch):
    monkeypatch.setattr(delimited, "CELL_LIMIT", 10_000)
    body = 'text,label\na,b\n"' + "line\n" * 3_000 + '",c\n'
    with pytest.raises(DataError, match="a cell has 15,000 bytes") as caught:
        datasets.read_source(source("rows.csv", body))
    assert caught.value.where == "rows.csv, row 2, column 'text'"


def test_a_file_larger_than_the_limit_is_refused_unread(source, monkeypatch):
    monkeypatch.setattr(text, "FILE_LIMIT", 100)
    with pytest.raises(DataError, match="100 is the most"):
        datasets.read_source(source("rows.csv", "a,b\n" * 100))


def test_a_missing_column_gets_a_hint_and_an_empty_one_is_refused_case_44(source):
    frame = datasets.read_source(source("rows.csv", "text,lable,empty\na,b,\nc,d,\n"))
    with pytest.raises(DataError) as caught:
        datasets.column(frame, "label", "rows.csv")
    assert caught.value.hint == "did you mean 'lable'?"
    with pytest.raises(DataError, match="empty in every row"):
        datasets.column(frame, "empty", "rows.csv")
    with pytest.raises(DataError) as caught:
        datasets.column(frame, "zzz", "rows.csv")
    assert caught.value.hint == "the columns are text, lable, empty"


def test_a_column_of_lists_is_not_text(source):
    frame = datasets.read_source(source("rows.jsonl", '{"text": ["a"]}\n'))
    with pytest.raises(DataError, match="holds List"):
        datasets.column(frame, "text", "rows.jsonl")


CELLS = st.text(st.characters(blacklist_categories=["Cs"], blacklist_characters="\0\r"), max_size=20)
TABLE = st.lists(st.tuples(CELLS, CELLS).filter(any), min_size=1, max_size=8)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(TABLE, st.sampled_from([",", "\t"]))
def test_what_the_csv_module_writes_is_read_back(source, rows, separator):
    written = io.StringIO(newline="")
    writer = csv.writer(written, delimiter=separator, lineterminator="\n", quoting=csv.QUOTE_ALL)
    writer.writerows([("a", "b"), *rows])
    name = "rows.csv" if separator == "," else "rows.tsv"
    assert datasets.read_source(source(name, written.getvalue())).rows() == rows


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(TABLE, st.booleans())
def test_what_the_json_module_writes_is_read_back(source, rows, escaped):
    body = "".join(json.dumps({"a": a, "b": b}, ensure_ascii=escaped) + "\n" for a, b in rows)
    assert datasets.read_source(source("rows.jsonl", body)).rows() == rows


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=200)
@given(st.binary(max_size=200), st.sampled_from(["rows.csv", "rows.tsv", "rows.jsonl", "rows.parquet"]))
def test_any_bytes_are_rows_or_a_data_error(source, body, name):
    try:
        frame = datasets.read_source(source(name, body))
    except DataError as error:
        assert error.where
    else:
        assert frame.height > 0


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=200)
@given(st.text('ab,"\n\t{}[]:1', max_size=40), st.sampled_from(["rows.csv", "rows.tsv", "rows.jsonl"]))
def test_any_text_is_rows_or_a_data_error(source, body, name):
    try:
        frame = datasets.read_source(source(name, body))
    except DataError as error:
        assert error.where
    else:
        assert frame.height > 0
