"""Where rows come from: files of common formats, folders of them, the Hub.

What is wrong with one is said in one sentence.
"""

import codecs
import csv
import difflib
import io
import json
import lzma
import re
import zipfile
import zlib

import datasets
import fsspec
import pandas as pd
import pyarrow.parquet
import zstandard
from datasets.exceptions import DatasetsError

from helpers.data import chats
from helpers.records import files, folders

FORMATS = {
    ".csv": "csv",
    ".tsv": "csv",
    ".json": "json",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".parquet": "parquet",
}
COMPRESSIONS = (".gz", ".bz2", ".xz", ".zip", ".zst")
SPREADSHEETS = (".xlsx", ".xls", ".ods")
HUB_NAME = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")  # owner/name
ROWS_AT_ONCE = 50_000  # of JSON lines: a table takes a fraction of what as many dicts do

# What `datasets` writes beside data.
BESIDE_DATA = ("dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json")

CLASS_FOLDERS = (
    " One folder a class, with text files in it? This line, run in it, writes the CSV: "
    "import pathlib, pandas; "
    "pandas.DataFrame([(p.read_text(encoding='utf-8'), p.parent.name) for p in "
    "sorted(pathlib.Path('.').glob('*/*.txt'))], columns=['text', 'label'])"
    ".to_csv('all.csv', index=False)"
)

# How files of other kinds begin, and what to do. UTF-32's mark begins with that of UTF-16, so it
# goes first.
WEB_PAGE = "a web page, perhaps an error or a login: fetch the file itself"
UTF_16 = "UTF-16, not UTF-8: save it as UTF-8"
FOREIGN = {
    b"PK\x03\x04": (
        "an Excel workbook or a zip: save the sheet as CSV (UTF-8), or end the zip's name in .zip"
    ),
    b"\xd0\xcf\x11\xe0": "an old Excel workbook: save the sheet as CSV (UTF-8)",
    b"\x1f\x8b": "compressed with gzip: let its name end in .gz",
    b"PAR1": "Parquet: let its name end in .parquet",
    b"%PDF": "a PDF: save its table as CSV (UTF-8)",
    b"version https://git-lfs": "a pointer of Git LFS, not the data: run git lfs pull",
    b"<!doctype html": WEB_PAGE,
    b"<html": WEB_PAGE,
    codecs.BOM_UTF32_LE: "UTF-32, not UTF-8: save it as UTF-8",
    codecs.BOM_UTF16_LE: UTF_16,
    codecs.BOM_UTF16_BE: UTF_16,
}

# What the libraries raise on broken files.
UNREADABLE = (
    ValueError,
    OSError,
    EOFError,
    RuntimeError,
    csv.Error,
    lzma.LZMAError,
    zlib.error,
    zipfile.BadZipFile,
    zstandard.ZstdError,
)
# A part of what a library says of a broken file, and what to do.
HINTS = {
    "end-of-stream": "; it is cut short: fetch it again.",
    "magic bytes not found": " It may be cut short: write or fetch it again.",
    "size reported by footer": "; it is cut short: write or fetch it again.",
    "Expecting": "; JSON wants double quotes, and no comma before a closing bracket.",
    "is encrypted": "; unpack it first.",
}


class DataError(ValueError):
    """The data cannot be used; the message is one sentence that says why and what to do."""


class Source:
    """What was read, and where each of its rows came from.

    Attributes: `table` (DataFrame), as it stands in the files; `files`, a list of (path, rows);
    `passed_over`, the names (list of str) of files of a folder that were not read.
    """

    def __init__(self, parts, passed_over=()):
        """parts: list of (Path, DataFrame). Raises DataError when there is no row."""
        self.files = [(path, len(table)) for path, table in parts]
        self.passed_over = list(passed_over)
        self.table = pd.concat([table for _, table in parts], ignore_index=True)
        if self.table.empty:
            raise DataError(f"{parts[0][0].name} holds no row.")

    def summary(self):
        """Which files were read and which were not (str), the first five of each by name."""
        read = listed(path.name for path, _ in self.files[:5])
        line = f"read {read} (files: {len(self.files)})"
        if self.passed_over:
            names = listed(self.passed_over[:5])
            line += f", not used: {names} (files: {len(self.passed_over)})"
        return line

    def where(self, positions):
        """Names (list of str) of the rows at `positions` (list of int, ascending).

        A name is the line where a row starts, or its number; with several files, and its file.
        """
        names, first = [], 0
        for path, count in self.files:
            inside = [position - first for position in positions if 0 <= position - first < count]
            for name in _row_names(path, inside):
                names.append(f"{path.name} {name}" if len(self.files) > 1 else name)
            first += count
        return names


def load(data_path):
    """Read a file, a folder of files, or a Hub dataset ("owner/name"). Returns a Source.

    A relative path is meant from notebooks/, whatever the working directory is. Files: CSV, TSV,
    JSON, JSON lines, Parquet, plain or compressed, told apart by their ending; UTF-8. Of a folder,
    hidden files and folders, other endings and what `datasets` writes beside data
    (dataset_info.json) are passed over. Of a Hub dataset the split `train` is read.
    Raises DataError.
    """
    path = folders.meant(data_path)
    if path.is_dir():
        return _load_folder(path)
    if path.is_file():
        _check_ending(path)
        return Source([(path, _read_file(path))])
    if HUB_NAME.fullmatch(str(data_path)) and not _format(path):
        return Source([(path, _read_hub(str(data_path)))])
    raise DataError(_why_not_there(path, data_path))


def listed(columns):
    """Column names (or file names) as text, for a message."""
    return chats.visible(", ".join(map(str, columns))) or "none"


def _load_folder(folder):
    """The Source of all data files in `folder` (Path) and below it."""
    inside = sorted(
        path for path in folder.rglob("*") if not path.is_dir() and not files.hidden(path, folder)
    )
    read, passed_over = [], []
    for path in inside:
        is_data = path.is_file() and _format(path) and path.name not in BESIDE_DATA
        (read if is_data else passed_over).append(path)
    if not read:
        hint = CLASS_FOLDERS if any(folder.glob("*/*.txt")) else ""
        raise DataError(
            f"data_path {folder.name}: no file in this folder ends in one of "
            f"{', '.join(FORMATS)}.{hint}"
        )
    parts = [(path, _read_file(path)) for path in read]
    first_path, first_table = parts[0]
    for path, table in parts:
        if set(table.columns) != set(first_table.columns):
            raise DataError(
                f"data_path {folder.name}: {path.name} has the columns {listed(table.columns)}, "
                f"but {first_path.name} has {listed(first_table.columns)}: a folder is read as one "
                "table, so they must be the same."
            )
    return Source(parts, [str(path.relative_to(folder)) for path in passed_over])


def _check_ending(path):
    """Raises DataError when the ending of a file (Path) is none that can be read."""
    if _format(path):
        return
    is_spreadsheet = path.suffix.lower() in SPREADSHEETS
    hint = " Save the sheet as CSV (UTF-8)." if is_spreadsheet else ""
    raise DataError(
        f"data_path {path.name}: the ending should be one of {', '.join(FORMATS)} "
        f"(or compressed).{hint}"
    )


def _why_not_there(path, data_path):
    """The sentence for what is neither a file nor a folder. path: what `data_path` means."""
    if path.is_symlink():
        return (
            f"data_path {path.name} is a link to {path.readlink()}, which is not there: mend it or "
            "name the file itself."
        )
    if path.exists():
        return f"data_path {path.name} is neither a file nor a folder."
    beside = [other.name for other in path.parent.iterdir()] if path.parent.is_dir() else []
    alike = difflib.get_close_matches(path.name, beside, n=1)
    hint = f" Did you mean {alike[0]}?" if alike else ""
    return f"data_path {data_path}: there is no such file or folder.{hint}"


def _ending(path):
    """The ending (str) that says what is in the file, that of a compression left out; or ""."""
    suffixes = [suffix.lower() for suffix in path.suffixes]
    if suffixes and suffixes[-1] in COMPRESSIONS:
        suffixes.pop()
    return suffixes[-1] if suffixes else ""


def _format(path):
    """One of the values of FORMATS, or None."""
    return FORMATS.get(_ending(path))


def _separator(path):
    return "\t" if _ending(path) == ".tsv" else ","


def _text(path):
    """The file as a text stream (context manager), decompressed by its ending."""
    return fsspec.open(str(path), "rt", encoding="utf-8-sig", compression="infer", newline="")


def _bytes(path):
    """The file as a stream of bytes (context manager), decompressed by its ending."""
    return fsspec.open(str(path), "rb", compression="infer")


def _read_file(path):
    """The table (DataFrame) in a file. Raises DataError."""
    if path.stat().st_size == 0:
        raise DataError(f"{path.name} is empty.")
    readers = {
        "csv": _read_csv,
        "json": _read_json,
        "jsonl": _read_json_lines,
        "parquet": _read_parquet,
    }
    try:
        _check_zip(path)
        _check_beginning(path)
        return readers[_format(path)](path)
    except DataError:
        raise
    except UnicodeDecodeError:
        raise DataError(_not_utf8(path)) from None
    except PermissionError:
        raise DataError(
            f"{path.name} may not be read by you: change its permissions, for example with "
            "chmod u+r."
        ) from None
    except UNREADABLE as error:
        raise DataError(_in_plain_words(path, error)) from None


def _check_zip(path):
    """Raises DataError when a zip does not hold exactly one file."""
    if path.suffix.lower() != ".zip":
        return
    with zipfile.ZipFile(path) as archive:
        count = len(archive.namelist())
    if count != 1:
        raise DataError(
            f"{path.name} holds {count or 'no'} files: a zip should hold one; or unpack it in a "
            "folder."
        )


def _check_beginning(path):
    """Raises DataError when a file begins like one of another kind, or is no text but should be."""
    with _bytes(path) as stream:
        head = stream.read(4096)
    is_parquet = _format(path) == "parquet"
    start = head.lstrip().lower() if head.lstrip().startswith(b"<") else head
    for sign, kind in FOREIGN.items():
        if start.startswith(sign) and not (is_parquet and sign == b"PAR1"):
            raise DataError(f"{path.name} is {kind}, and run again.")
    if head[257:262] == b"ustar":
        raise DataError(
            f"{path.name} is a tar archive: unpack it in a folder, and name the folder."
        )
    if not is_parquet and b"\0" in head:
        line = head[: head.index(b"\0")].count(b"\n") + 1
        raise DataError(
            f"{path.name} is no UTF-8 text: line {line} holds a NUL byte (UTF-16, or damaged?); "
            "save it as UTF-8."
        )


def _read_csv(path):
    """The table in a CSV or TSV file, all of it text."""
    separator = _separator(path)
    with _text(path) as stream:
        _, header = next(_csv_records(stream, separator), (1, []))
    _check_header(path, header, separator)
    table = pd.read_csv(path, dtype=str, keep_default_na=False, sep=separator, encoding="utf-8-sig")
    if not isinstance(table.index, pd.RangeIndex):
        raise DataError(
            f"{path.name}: the rows have more fields than the header: quote texts that hold a "
            "comma, and let the first line name the columns."
        )
    if separator == "\t":
        _check_quotation_marks(path, table)
    return table


def _csv_records(stream, separator):
    """The records of a CSV text stream: pairs of the line each starts on, and its fields.

    Blank lines are passed over, as pandas does; a line that holds a quoted nothing is none.
    """
    csv.field_size_limit(2**31 - 1)  # a long text is no error
    lines = []  # of the record at hand

    def remembered():
        for line in stream:
            lines.append(line)
            yield line

    start = 1
    for record in csv.reader(remembered(), delimiter=separator):
        only_blanks = len(record) < 2 and not "".join(record).strip(" \t")
        if not only_blanks or '"' in lines[0]:
            yield start, record
        start += len(lines)
        lines.clear()


def _check_header(path, header, separator):
    """Raises DataError when a column stands twice in `header` (list of str), or all are one."""
    for name in header:
        if name and header.count(name) > 1:
            raise DataError(
                f"{path.name}: the column {name!r} stands more than once in the header: rename one."
            )
    other = re.search("[;\t|,]", header[0]) if len(header) == 1 else None
    if other:
        raise DataError(
            f"{path.name}: the columns seem to be separated by something else than the ending "
            f"says, {other[0]!r} instead of {separator!r}: save it with commas as .csv or with "
            "tabs as .tsv."
        )


def _check_quotation_marks(path, table):
    """Raises DataError when a field of a TSV holds a whole row.

    Then a quotation mark at the field's start was closed rows later.
    """
    tabs = len(table.columns) - 1
    for name in table:
        for position in table.index[table[name].str.contains("\n", regex=False)]:
            further_lines = table.at[position, name].splitlines()[1:]
            if any(line.count("\t") == tabs for line in further_lines):
                raise DataError(
                    f"{path.name}: a field of row {position + 1} begins with a quotation mark and "
                    "runs over several rows: remove the mark, or close it and double the marks "
                    "inside."
                )


def _read_json_lines(path):
    """The table in a file of JSON lines; values stay what they are."""
    tables, records = [], []
    with _text(path) as stream:
        for number, line in _json_lines(stream):
            records.append(_json_record(path, number, line))
            if len(records) == ROWS_AT_ONCE:
                tables.append(pd.DataFrame(records, dtype=object))
                records = []
    if records or not tables:
        tables.append(pd.DataFrame(records, dtype=object))
    return pd.concat(tables, ignore_index=True)


def _json_lines(stream):
    """The lines of a text stream that are not blank, with their numbers: pairs (int, str)."""
    for number, line in enumerate(stream, 1):
        if line.strip():
            yield number, line


def _json_record(path, number, line):
    """The object (dict) in line `number` of a file of JSON lines. Raises DataError."""
    try:
        record = json.loads(line)
    except ValueError as error:
        reason = str(error)
        if isinstance(error, json.JSONDecodeError):
            reason = f"{error.msg.removesuffix(' at')} at column {error.colno}"
        hint = ""
        if number == 1:
            hint = " (One object over several lines? Then the ending should be .json.)"
        raise DataError(f"{path.name}, line {number}, is not JSON: {reason}.{hint}") from None
    if not isinstance(record, dict):
        raise DataError(
            f"{path.name}, line {number}, should be an object {{...}}, but is {line.strip()[:40]}."
        )
    return record


def _read_json(path):
    """The table in a JSON file: a list of objects, {"data": that list, …}, or lists by column."""
    with _text(path) as stream:
        try:
            value = json.load(stream)
        except json.JSONDecodeError as error:
            if error.msg == "Extra data":  # JSON lines under the name .json, as many datasets have
                return _read_json_lines(path)
            raise
    if isinstance(value, dict):
        lists = [inner for inner in value.values() if isinstance(inner, list)]
        if len(lists) == 1:
            value = lists[0]
    if not (_is_list_of_objects(value) or _is_table_by_column(value)):
        raise DataError(f"{path.name} should be a list of objects [{{...}}, ...], one a row.")
    return pd.DataFrame(value, dtype=object).reset_index(drop=True)


def _is_list_of_objects(value):
    return isinstance(value, list) and all(isinstance(record, dict) for record in value)


def _is_table_by_column(value):
    if not isinstance(value, dict) or not value:
        return False
    return all(isinstance(column, (list, dict)) for column in value.values())


def _read_parquet(path):
    """The table in a Parquet file, with the names of class labels."""
    source = path
    if path.suffix.lower() in COMPRESSIONS:
        with _bytes(path) as stream:
            source = io.BytesIO(stream.read())
    return _with_label_names(pd.read_parquet(source), pyarrow.parquet.read_schema(source))


def _read_hub(name):
    """The table in the split `train` of a Hub dataset "owner/name". Raises DataError."""
    try:
        dataset = datasets.load_dataset(name, split="train")
    except (OSError, ValueError, RuntimeError, DatasetsError) as error:
        reason = " ".join(str(error).split())[:160]
        raise DataError(
            f"data_path {name} is no file here and could not be had from the Hub as a dataset "
            f"({reason})."
        ) from None
    return _with_label_names(dataset.to_pandas(), dataset.features.arrow_schema)


def _with_label_names(table, schema):
    """The table with names of class labels in place of their numbers.

    schema: the table's Arrow schema, where `datasets` leaves the names.
    """
    if b"huggingface" not in (schema.metadata or {}):
        return table
    for column, feature in datasets.Features.from_arrow_schema(schema).items():
        if isinstance(feature, datasets.ClassLabel):
            names = dict(enumerate(feature.names))
            table[column] = [names.get(number) for number in table[column]]  # -1: not labelled
    return table


def _not_utf8(path):
    """The sentence for a file that is not UTF-8: which line, and what it looks like."""
    with _bytes(path) as stream:
        for number, line in enumerate(stream, 1):
            try:
                line.decode("utf-8")
            except UnicodeDecodeError as error:
                around = line[max(0, error.start - 12) : error.start + 12]
                shown = around.decode("cp1252", "replace").strip()
                return (
                    f"{path.name} is not UTF-8: line {number}, near {shown!r}, looks like "
                    "Windows-1252 or Latin-1; save it as UTF-8 and run again."
                )
    return f"{path.name} is not UTF-8: save it as UTF-8 and run again."


def _in_plain_words(path, error):
    """The sentence for what a library raised on reading a file."""
    reason = " ".join(str(error).replace(f"{path.parent}/", "").split())[:160]
    reason = (reason or type(error).__name__).removeprefix("Error tokenizing data. C error: ")
    fields = re.match(r"Expected (\d+) fields in line (\d+), saw (\d+)", reason)
    if fields:
        expected, line, count = fields.groups()
        return (
            f"{path.name}, line {line}, has {count} fields, but the header has {expected}: quote "
            "texts that hold a comma."
        )
    if reason.startswith("EOF inside string"):
        row = int(reason.split()[-1])
        return f"{path.name}: a quotation mark is opened in row {row} and never closed."
    if reason.startswith("No columns to parse"):
        return f"{path.name} is blank: its first line should name the columns."
    hint = next((hint for sign, hint in HINTS.items() if sign in reason), "")
    return f"{path.name} cannot be read as {_format(path)}: {reason}{hint}"


def _row_names(path, positions):
    """Where the rows of a file at `positions` (list of int) start, for a reader.

    Returns a list of str: "line 7" for files of text lines, else "row 6".
    """
    kind = _format(path)
    if not positions or kind not in ("csv", "jsonl"):
        return [f"row {position + 1}" for position in positions]
    wanted, lines = set(positions), {}
    with _text(path) as stream:
        if kind == "csv":
            records = _csv_records(stream, _separator(path))
            next(records)  # the header
        else:
            records = _json_lines(stream)
        for position, (line, _) in enumerate(records):
            if position in wanted:
                lines[position] = line
            if len(lines) == len(wanted):
                break
    return [f"line {lines[position]}" for position in positions]
