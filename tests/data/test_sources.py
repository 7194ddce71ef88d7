"""Reading files, folders and Hub datasets: each format, and a sentence for each broken file."""

import gzip
import json
import lzma
import subprocess
import sys

import datasets
import pandas as pd
import pytest
import zstandard
from data_files import GOOD, QUESTIONS, ROWS, lines, parquet, read, write, zipped

from helpers.data import sources
from helpers.records import folders

SOURCES = {
    "a.csv": GOOD,
    "bom.csv": "\ufeff" + GOOD,
    "mac.csv": GOOD.replace("\n", "\r"),
    "windows.csv": GOOD.replace("\n", "\r\n"),
    "a.tsv": GOOD.replace(",", "\t"),
    "A.TSV": GOOD.replace(",", "\t"),
    "a.json": json.dumps(ROWS),
    "nested.json": json.dumps({"version": 1, "data": ROWS}),
    "columns.json": json.dumps({name: [row[name] for row in ROWS] for name in ROWS[0]}),
    "lines.json": lines(ROWS),
    "a.jsonl": lines(ROWS),
    "a.parquet": parquet(ROWS),
    "a.csv.gz": gzip.compress(GOOD.encode()),
    "a.csv.zst": zstandard.compress(GOOD.encode()),
    "a.jsonl.zst": zstandard.compress(lines(ROWS).encode()),
    "a.jsonl.xz": lzma.compress(lines(ROWS).encode()),
    "a.csv.zip": zipped(a_csv=GOOD),
    "a.jsonl.zip": zipped(a_jsonl=lines(ROWS)),
}


@pytest.mark.parametrize("name", SOURCES)
def test_every_format_is_read(tmp_path, name):
    assert read(write(tmp_path / name, SOURCES[name]))[1]["question"].tolist() == QUESTIONS


def test_a_relative_path_is_meant_from_notebooks_wherever_it_is_read(tmp_path, monkeypatch):
    """Else the file whose hash is recorded would not be the one that is read."""
    write(tmp_path / "data" / "inbox.csv", GOOD)  # what it would mean from the working directory
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    source = sources.load("../data/inbox.csv")
    assert [path.resolve() for path, _ in source.files] == [folders.REPOSITORY / "data/inbox.csv"]
    with pytest.raises(sources.DataError) as caught:
        sources.load("../data/imbox.csv")
    assert str(caught.value) == (
        "data_path ../data/imbox.csv: there is no such file or folder. Did you mean inbox.csv?"
    )
    monkeypatch.setenv("HOME", str(tmp_path))
    assert sources.load("~/data/inbox.csv").table["question"].tolist() == QUESTIONS


def test_a_folder_is_one_table_and_says_which_file(tmp_path):
    write(tmp_path / "d" / "1.csv", GOOD)
    write(
        tmp_path / "d" / "2.jsonl",
        lines([{"question": "x", "answer": ""}, {"question": "last", "answer": "b"}]),
    )
    write(tmp_path / "d" / "README.md", "not data")
    _, rows, report = read(tmp_path / "d")
    assert rows["question"].tolist() == [*QUESTIONS, "last"]
    assert report.loc["empty answer", "first places"] == "2.jsonl line 1"


BROKEN = {
    "nothing-here.csv": (None, "no such file"),
    "questoins.csv": (None, "no such file"),
    "a.txt": (GOOD, "ending"),
    "a.xlsx": (b"PK", "Save the sheet as CSV"),
    "noending": (GOOD, "ending"),
    "empty.csv": ("", "empty.csv is empty"),
    "empty.jsonl": ("", "empty.jsonl is empty"),
    "blank.jsonl": ("\n\n", "holds no row"),
    "header.csv": ("question,answer\n", "holds no row"),
    "latin1.csv": ((GOOD + "caf\xe9,a\n").encode("latin-1"), "line 14.*Windows-1252"),
    "latin1.csv.gz": (
        gzip.compress((GOOD + "caf\xe9,a\n").encode("latin-1")),
        "line 14.*Windows-1252",
    ),
    "latin1.jsonl": (
        '{"question": "caf\xe9", "answer": "a"}'.encode("latin-1"),
        "line 1.*Windows-1252",
    ),
    "utf16.csv": (GOOD.encode("utf-16"), "UTF-16"),
    "semicolons.csv": (GOOD.replace(",", ";"), "separated by something else"),
    "tabs.csv": (GOOD.replace(",", "\t"), "separated by something else"),
    "commas.tsv": (GOOD, "',' instead of"),
    "european.csv": ("question;answer\nx, y, z;a\nw;b\n", "separated by something else"),
    "swallowed.tsv": (
        'question\tanswer\n"x\ta\ny\tb\nz"\tc\n',
        "row 1 begins with a quotation mark",
    ),
    "nul.jsonl": (b'{"question": "x", "answer": "y"}\n\x00\n', "line 2 holds a NUL byte"),
    "twice.csv": ("question,question,answer\nx,y,a\n", "'question' stands more than once"),
    "more.csv": ("question,answer\nx,a,c\ny,b,d\n", "more fields than the header"),
    "comma.csv": ("question,answer\nx,a\nhello, there,b\n", "line 3, has 3 fields"),
    "quote.csv": ('question,answer\n"x,a\ny,b\n', "quotation mark"),
    "cut.json": ('[{"question": "x", "answer": "y"},', "cannot be read as json"),
    "text.json": ('"hello"', "list of objects"),
    "lists.json": ("[[1, 2]]", "list of objects"),
    "numbers.json": ('{"a": 1}', "list of objects"),
    "none.json": ("[]", "holds no row"),
    "bad.jsonl": ('{"question": "x", "answer": "y"}\n{oops\n', "line 2, is not JSON"),
    "list.jsonl": ('{"question": "x", "answer": "y"}\n[1]\n', "line 2, should be an object"),
    "pretty.jsonl": (json.dumps(ROWS, indent=2), "the ending should be .json"),
    "garbage.parquet": (b"garbage", "cannot be read as parquet"),
    "cut.parquet": (parquet(ROWS)[:-20], "cannot be read as parquet"),
    "garbage.csv.gz": (b"not gz", "cannot be read as csv"),
    "cut.jsonl.gz": (gzip.compress(lines(ROWS).encode())[:40], "ended before"),
    "cut.csv.xz": (lzma.compress(GOOD.encode())[:40], "ended before"),
    "bad.csv.xz": ("question,answer", "cannot be read as csv"),
    "bad.csv.zip": ("question,answer", "cannot be read as csv"),
    "bad.csv.zst": ("question,answer", "cannot be read as csv"),
    "two.csv.zip": (zipped(a_csv=GOOD, b_csv=GOOD), "two.csv.zip holds 2 files"),
    "emptydir": ("folder", "no file in this folder"),
    "folder.csv": ("folder", "no file in this folder"),
    "utf16.json": (json.dumps(ROWS).encode("utf-16"), "UTF-16"),
    "nobom16.csv": (GOOD.encode("utf-16-le"), "line 1 holds a NUL byte"),
    "utf32.csv": (GOOD.encode("utf-32"), "UTF-32"),
    "nul.csv": (GOOD + "\0\0", "line 14 holds a NUL byte"),
    "excel.csv": (zipped(a_xml="x", b_xml="y"), "Excel workbook"),
    "oldexcel.csv": (b"\xd0\xcf\x11\xe0" + bytes(500), "old Excel workbook"),
    "gzip.csv": (gzip.compress(GOOD.encode()), "let its name end in .gz"),
    "columns.csv": (parquet(ROWS), "let its name end in .parquet"),
    "page.csv": ("<!DOCTYPE html>\n<html><body>, a, b</body></html>\n", "a web page"),
    "page.json": ("\n<HTML>", "a web page"),
    "page.parquet": ("<html>404</html>", "a web page"),
    "paper.csv": (b"%PDF-1.4\n%\xe2\xe3", "a PDF"),
    "pointer.parquet": (
        "version https://git-lfs.github.com/spec/v1\noid sha256:a\n",
        "git lfs pull",
    ),
    "archive.csv.gz": (gzip.compress(b"a.csv" + bytes(252) + b"ustar" + bytes(250)), "tar archive"),
    "none.csv.zip": (zipped(), "holds no files"),
    "cut.csv.gz": (gzip.compress(GOOD.encode())[:60], "cut short: fetch it again"),
    "half.parquet": (
        parquet(ROWS)[: len(parquet(ROWS)) // 2],
        "cut short: write or fetch it again",
    ),
    "comma.json": ('[{"question": "x", "answer": "y"},]', "no comma before a closing bracket"),
    "single.json": ("[{'question': 'x'}]", "double quotes"),
    "column.jsonl": (
        lines(ROWS) + '{"question": "x", "answer"}\n',
        "line 13, is not JSON: Expecting ':' delimiter at column 27",
    ),
    "twicebelow.csv": ("\n\nq,q\nx,y\n", "'q' stands more than once"),
    "blank.csv": ("\n\n", "blank.csv is blank"),
    "title.csv": ("My export\nquestion,answer\nx,a\ny,b\n", "let the first line name the columns"),
    "uneven.json": ('{"question": ["x", "y"], "answer": ["a"]}', "same length"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_file_gets_one_sentence_that_names_it(tmp_path, name):
    content, sentence = BROKEN[name]
    write(tmp_path / "questions.csv", GOOD)
    if content == "folder":
        (tmp_path / name).mkdir()
    elif content is not None:
        write(tmp_path / name, content)
    with pytest.raises(sources.DataError, match=sentence) as caught:
        sources.load(tmp_path / name)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 400
    if name == "questoins.csv":
        assert "Did you mean questions.csv?" in str(caught.value)


def test_files_of_a_folder_must_fit_together(tmp_path):
    write(tmp_path / "a.csv", GOOD)
    write(tmp_path / "b.csv", "frage,antwort\nx,y\n")
    with pytest.raises(
        sources.DataError,
        match="b.csv has the columns frage, antwort, but a.csv has question, answer",
    ):
        read(tmp_path)


def test_a_hub_dataset_is_read_with_its_label_names(monkeypatch):
    features = datasets.Features(
        {"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["bad", "good"])}
    )
    made = datasets.Dataset.from_dict(
        {"text": ["x", "y", "z"], "label": [1, 0, -1]}, features=features
    )
    asked = []
    monkeypatch.setattr(
        datasets, "load_dataset", lambda *args, **kwargs: asked.append((args, kwargs)) or made
    )
    _, rows, report = read("someone/reviews")
    assert asked == [(("someone/reviews",), {"split": "train"})]
    assert (
        rows["answer"].tolist() == ["good", "bad"]
        and report.loc["empty answer", "first places"] == "row 3"
    )


def test_a_hub_dataset_that_cannot_be_had_is_said(monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    with pytest.raises(
        sources.DataError, match="nobody/nothing is no file here and could not be had from the Hub"
    ):
        sources.load("nobody/nothing")


def test_files_beside_the_data_are_passed_over_and_class_folders_get_a_hint(tmp_path):
    (tmp_path / "a.csv").write_text("question,answer\nq,a\n")
    for name in ("dataset_info.json", "README.md", "LICENSE"):
        (tmp_path / name).write_text("{}")
    source = sources.load(tmp_path)
    assert [path.name for path, _ in source.files] == ["a.csv"]
    assert source.passed_over == ["LICENSE", "README.md", "dataset_info.json"]
    (tmp_path / "classes" / "spam").mkdir(parents=True)
    (tmp_path / "classes" / "spam" / "1.txt").write_text("hi")
    with pytest.raises(sources.DataError, match="One folder a class") as caught:
        sources.load(tmp_path / "classes")
    line = str(caught.value).partition("writes the CSV: ")[2]
    subprocess.run([sys.executable, "-c", line], cwd=tmp_path / "classes", check=True)
    assert (tmp_path / "classes" / "all.csv").read_text() == "text,label\nhi,spam\n"


def test_parquet_keeps_the_names_of_its_labels(tmp_path):
    features = datasets.Features(
        {"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["bad", "good"])}
    )
    made = datasets.Dataset.from_dict(
        {"text": ["x", "y", "z", "w"], "label": [1, 0, -1, None]}, features=features
    )
    made.to_parquet(tmp_path / "a.parquet")
    _, rows, report = read(tmp_path / "a.parquet")
    assert rows["answer"].tolist() == ["good", "bad"] and report.loc["empty answer", "rows"] == 2


def test_links_that_lead_nowhere_and_files_that_may_not_be_read_are_said(tmp_path, monkeypatch):
    write(tmp_path / "folder" / "a.csv", GOOD)
    (tmp_path / "folder" / "b.csv").symlink_to(tmp_path / "gone.csv")
    assert sources.load(tmp_path / "folder").passed_over == ["b.csv"]
    with pytest.raises(
        sources.DataError, match="b.csv is a link to .*gone.csv, which is not there"
    ):
        sources.load(tmp_path / "folder" / "b.csv")

    def refused(*args, **kwargs):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(sources.fsspec, "open", refused)
    with pytest.raises(sources.DataError, match="a.csv may not be read by you"):
        sources.load(tmp_path / "folder" / "a.csv")


def test_hidden_folders_are_passed_over(tmp_path):
    write(tmp_path / "all" / "mine.csv", GOOD)
    write(tmp_path / "all" / ".ipynb_checkpoints" / "mine-checkpoint.csv", GOOD.replace("ab", "ba"))
    assert [path.name for path, _ in sources.load(tmp_path / "all").files] == ["mine.csv"]


def test_lines_of_blanks_do_not_shift_line_numbers(tmp_path):
    path = write(tmp_path / "mine.csv", "\n" + GOOD.replace("\n", "\n \n", 2) + "   \n,\n\nlast,\n")
    report, text = read(path)[2].to_string(), path.read_text().split("\n")
    assert (
        f"line {text.index(',') + 1}" in report and f"line {text.index('last,') + 1}" in report
    ), report


@pytest.mark.parametrize("nothing", ['""', '" "'])
def test_a_line_of_a_quoted_nothing_is_a_row(tmp_path, nothing):
    """pandas takes it for one; else the numbers of later lines would shift, and the last fail."""
    path = write(tmp_path / "mine.csv", f"question,answer\n{nothing}\nx,a\n\ny,b\n,c\n")
    source = sources.load(path)
    assert source.where(range(4)) == ["line 2", "line 3", "line 5", "line 6"]


def test_rows_are_named_by_the_line_where_they_start_or_by_their_number(tmp_path):
    csv_file = write(tmp_path / "a.csv", 'question,answer\n"two\nlines",a\nx,b\n')
    assert sources.load(csv_file).where([0, 1]) == ["line 2", "line 4"]
    json_lines = write(tmp_path / "a.jsonl", "\n" + lines(ROWS[:2]))
    assert sources.load(json_lines).where([1]) == ["line 3"]
    assert sources.load(write(tmp_path / "a.json", json.dumps(ROWS))).where([1]) == ["row 2"]


def test_the_last_ending_decides_and_parquet_may_be_compressed(tmp_path):
    assert len(read(write(tmp_path / "old.tsv.csv", GOOD))[1]) == 12
    pd.DataFrame(ROWS).to_parquet(tmp_path / "mine.parquet")
    packed = write(
        tmp_path / "packed.parquet.gz", gzip.compress((tmp_path / "mine.parquet").read_bytes())
    )
    assert len(read(packed)[1]) == 12


def test_long_texts_and_nested_ids_are_read(tmp_path):
    path = write(tmp_path / "long.csv", f'question,answer\n"{"x " * 80_000}",yes\nb,no\n,no\n')
    assert read(path)[2].loc["empty question", "first places"] == "line 4"
    path = write(
        tmp_path / "a.jsonl", lines([{"id": {"$oid": str(i)}, **row} for i, row in enumerate(ROWS)])
    )
    assert len(read(path)[1]) == 12
