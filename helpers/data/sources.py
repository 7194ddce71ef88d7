"""Where rows come from: files of common formats, folders of them, the Hub; and what is wrong with one, in one sentence."""

import codecs
import csv
import difflib
import io
import json
import lzma
import re
import zipfile
import zlib
from pathlib import Path

import fsspec
import pandas as pd
import pyarrow.parquet
import zstandard

from helpers.data import chats
from helpers.records import files

FORMATS = {
    ".csv": "csv",
    ".tsv": "csv",
    ".json": "json",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".parquet": "parquet",
}
BESIDE_DATA = (
    "dataset_info.json",
    "dataset_infos.json",
    "dataset_dict.json",
    "state.json",
)  # what `datasets` writes beside data
CLASS_FOLDERS = (
    " One folder a class, with text files in it? This line, run in it, writes the CSV: "
    "import pathlib, pandas; pandas.DataFrame([(p.read_text(encoding='utf-8'), p.parent.name) for p in "
    "sorted(pathlib.Path('.').glob('*/*.txt'))], columns=['text', 'label']).to_csv('all.csv', index=False)"
)
FOREIGN = {  # how files of other kinds begin, and what to do
    b"PK\x03\x04": "an Excel workbook or a zip: save the sheet as CSV (UTF-8), or end the zip's name in .zip",
    b"\xd0\xcf\x11\xe0": "an old Excel workbook: save the sheet as CSV (UTF-8)",
    b"\x1f\x8b": "compressed with gzip: let its name end in .gz",
    b"PAR1": "Parquet: let its name end in .parquet",
    b"%PDF": "a PDF: save its table as CSV (UTF-8)",
    b"version https://git-lfs": "a pointer of Git LFS, not the data: run git lfs pull",
    b"<!doctype html": "a web page, perhaps an error or a login: fetch the file itself",
    b"<html": "a web page, perhaps an error or a login: fetch the file itself",
    codecs.BOM_UTF32_LE: "UTF-32, not UTF-8: save it as UTF-8",
    codecs.BOM_UTF16_LE: "UTF-16, not UTF-8: save it as UTF-8",
    codecs.BOM_UTF16_BE: "UTF-16, not UTF-8: save it as UTF-8",
}
COMPRESSIONS = (".gz", ".bz2", ".xz", ".zip", ".zst")
HINTS = {  # what a library says of a broken file, and what to do
    "end-of-stream": "; it is cut short: fetch it again.",
    "magic bytes not found": " It may be cut short: write or fetch it again.",
    "size reported by footer": "; it is cut short: write or fetch it again.",
    "Expecting": "; JSON wants double quotes, and no comma before a closing bracket.",
    "is encrypted": "; unpack it first.",
}
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


class DataError(ValueError):
    """The data cannot be used; the message is one sentence that says why and what to do."""


class Source:
    """What was read: `table` (DataFrame, as it stands in the files) and where each of its rows came from.

    Attributes besides: `files`, a list of (path, rows); `passed_over`, the names of files of a folder that were not read.
    """

    def __init__(self, parts, passed_over=()):
        self.files = [(path, len(table)) for path, table in parts]
        self.passed_over = list(passed_over)
        self.table = pd.concat([table for _, table in parts], ignore_index=True)
        if self.table.empty:
            raise DataError(f"{parts[0][0].name} holds no row.")

    def where(self, positions):
        """Names (list of str) of the rows at `positions`: the line where each starts, or its number, and its file."""
        named, first = [], 0
        for path, count in self.files:
            inside = [
                position - first for position in positions if first <= position < first + count
            ]
            named += [
                f"{path.name} {place}" if len(self.files) > 1 else place
                for place in _places(path, inside)
            ]
            first += count
        return named


def load(data_path):
    """Read a file, a folder of files, or a Hub dataset ("owner/name"). Returns a Source.

    Files: CSV, TSV, JSON, JSON lines, Parquet, plain or compressed, told apart by their ending; UTF-8.
    Of a folder, hidden files and folders, other endings and what `datasets` writes beside data (dataset_info.json) are passed over.
    Of a Hub dataset the split `train` is read. Raises DataError.
    """
    path = Path(data_path).expanduser()
    if path.is_dir():
        inside = sorted(p for p in path.rglob("*") if not p.is_dir() and not files.hidden(p, path))
        files = [
            file
            for file in inside
            if file.is_file() and _format(file) and file.name not in BESIDE_DATA
        ]
        if not files:
            hint = CLASS_FOLDERS if any(path.glob("*/*.txt")) else ""
            raise DataError(
                f"data_path {path.name}: no file in this folder ends in one of {', '.join(FORMATS)}.{hint}"
            )
        parts = [(file, _read(file)) for file in files]
        for file, table in parts[1:]:
            if set(table.columns) != set(parts[0][1].columns):
                raise DataError(
                    f"data_path {path.name}: {file.name} has the columns {listed(table.columns)}, but {files[0].name} "
                    f"has {listed(parts[0][1].columns)}: a folder is read as one table, so they must be the same."
                )
        return Source(parts, [str(file.relative_to(path)) for file in inside if file not in files])
    if path.is_file():
        if not _format(path):
            excel = (
                " Save the sheet as CSV (UTF-8)."
                if path.suffix.lower() in (".xlsx", ".xls", ".ods")
                else ""
            )
            raise DataError(
                f"data_path {path.name}: the ending should be one of {', '.join(FORMATS)} (or compressed).{excel}"
            )
        return Source([(path, _read(path))])
    if re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*", str(data_path)) and not _format(path):
        return Source([(path, _read_hub(str(data_path)))])
    if path.is_symlink():
        raise DataError(
            f"data_path {path.name} is a link to {path.readlink()}, which is not there: mend it or name the file itself."
        )
    if path.exists():
        raise DataError(f"data_path {path.name} is neither a file nor a folder.")
    beside = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
    near = difflib.get_close_matches(path.name, beside, n=1)
    raise DataError(
        f"data_path {data_path}: there is no such file or folder."
        + (f" Did you mean {near[0]}?" if near else "")
    )


def listed(columns):
    """Column names (or file names) as text, for a message."""
    return chats.visible(", ".join(map(str, columns))) or "none"


def _ending(path):
    """The ending (str) that says what is in the file, that of a compression left out; "" without one."""
    suffixes = [s.lower() for s in path.suffixes]
    if suffixes and suffixes[-1] in COMPRESSIONS:
        suffixes.pop()
    return suffixes[-1] if suffixes else ""


def _format(path):
    return FORMATS.get(_ending(path))


def _separator(path):
    return "\t" if _ending(path) == ".tsv" else ","


def _text(path):
    """The file as a text stream (context manager), decompressed by its ending."""
    return fsspec.open(str(path), "rt", encoding="utf-8-sig", compression="infer", newline="")


def _read(path):
    kind = _format(path)
    if path.stat().st_size == 0:
        raise DataError(f"{path.name} is empty.")
    csv.field_size_limit(2**31 - 1)  # a long text is no error
    try:
        if path.suffix.lower() == ".zip":
            with zipfile.ZipFile(path) as archive:
                count = len(archive.namelist())
            if count != 1:
                raise DataError(
                    f"{path.name} holds {count or 'no'} files: a zip should hold one; or unpack it in a folder."
                )
        _foreign(path, kind)
        if kind == "csv":
            separator = _separator(path)
            with _text(path) as stream:
                header = next(csv.reader(stream, delimiter=separator), [])
            twice = [name for name in header if name and header.count(name) > 1]
            if twice:
                raise DataError(
                    f"{path.name}: the column {twice[0]!r} stands more than once in the header: rename one."
                )
            other = re.search("[;\t|,]", header[0]) if len(header) == 1 else None
            if other:
                raise DataError(
                    f"{path.name}: the columns seem to be separated by something else than the ending says, {other[0]!r} "
                    f"instead of {separator!r}: save it with commas as .csv or with tabs as .tsv."
                )
            table = pd.read_csv(
                path, dtype=str, keep_default_na=False, sep=separator, encoding="utf-8-sig"
            )
            if not isinstance(table.index, pd.RangeIndex):
                raise DataError(
                    f"{path.name}: the rows have more fields than the header: quote texts that hold a comma, and let the first line name the columns."
                )
            if separator == "\t":
                _swallowed(path, table)
            return table
        if kind == "parquet":
            with fsspec.open(str(path), "rb", compression="infer") as stream:
                whole = io.BytesIO(stream.read()) if path.suffix.lower() in COMPRESSIONS else path
            return _with_names(pd.read_parquet(whole), pyarrow.parquet.read_schema(whole))
        return _read_lines(path) if kind == "jsonl" else _read_json(path)
    except UnicodeDecodeError:
        raise DataError(_not_utf8(path)) from None
    except DataError:
        raise
    except PermissionError:
        raise DataError(
            f"{path.name} may not be read by you: change its permissions, for example with chmod u+r."
        ) from None
    except UNREADABLE as error:
        reason = (
            " ".join(str(error).replace(f"{path.parent}/", "").split())[:160]
            or type(error).__name__
        )
        reason = reason.removeprefix("Error tokenizing data. C error: ")
        fields = re.match(r"Expected (\d+) fields in line (\d+), saw (\d+)", reason)
        if fields:
            expected, line, saw = fields.groups()
            raise DataError(
                f"{path.name}, line {line}, has {saw} fields, but the header has {expected}: quote texts that hold a comma."
            ) from None
        if reason.startswith("EOF inside string"):
            raise DataError(
                f"{path.name}: a quotation mark is opened in row {int(reason.split()[-1])} and never closed."
            ) from None
        if reason.startswith("No columns to parse"):
            raise DataError(
                f"{path.name} is blank: its first line should name the columns."
            ) from None
        hint = next((hint for sign, hint in HINTS.items() if sign in reason), "")
        raise DataError(f"{path.name} cannot be read as {kind}: {reason}{hint}") from None


def _foreign(path, kind):
    """Raises DataError when the file begins like one of another kind, or is no text although its ending says so."""
    with fsspec.open(str(path), "rb", compression="infer") as stream:
        head = stream.read(4096)
    start = head.lstrip().lower() if head.lstrip()[:1] == b"<" else head
    for sign, what in FOREIGN.items():
        if start.startswith(sign) and not (kind == "parquet" and sign == b"PAR1"):
            raise DataError(f"{path.name} is {what}, and run again.")
    if head[257:262] == b"ustar":
        raise DataError(
            f"{path.name} is a tar archive: unpack it in a folder, and name the folder."
        )
    if kind != "parquet" and b"\0" in head:
        line = head[: head.index(b"\0")].count(b"\n") + 1
        raise DataError(
            f"{path.name} is no UTF-8 text: line {line} holds a NUL byte (UTF-16, or damaged?); save it as UTF-8."
        )


def _swallowed(path, table):
    """Raises DataError when a field of a TSV holds a whole row: a quotation mark at its start was closed rows later."""
    columns = len(table.columns)
    for name in table:
        for position in table.index[table[name].str.contains("\n", regex=False)]:
            if any(
                line.count("\t") == columns - 1
                for line in table.at[position, name].splitlines()[1:]
            ):
                raise DataError(
                    f"{path.name}: a field of row {position + 1} begins with a quotation mark and runs over several rows: "
                    "remove the mark, or close it and double the marks inside."
                )


def _read_lines(path, chunk=50_000):
    chunks, records = [], []
    with _text(path) as stream:
        for number, line in enumerate(stream, 1):
            if not line.strip():
                continue
            try:
                record = json.loads(line)
            except ValueError as error:
                what = (
                    f"{error.msg.removesuffix(' at')} at column {error.colno}"
                    if isinstance(error, json.JSONDecodeError)
                    else str(error)
                )
                hint = (
                    " (One object over several lines? Then the ending should be .json.)"
                    if number == 1
                    else ""
                )
                raise DataError(f"{path.name}, line {number}, is not JSON: {what}.{hint}") from None
            if not isinstance(record, dict):
                raise DataError(
                    f"{path.name}, line {number}, should be an object {{...}}, but is {line.strip()[:40]}."
                )
            records.append(record)
            if len(records) == chunk:  # a frame takes a fraction of what as many dicts do
                chunks.append(pd.DataFrame(records, dtype=object))
                records = []
    if records or not chunks:
        chunks.append(pd.DataFrame(records, dtype=object))
    return pd.concat(chunks, ignore_index=True)


def _read_json(path):
    with _text(path) as stream:
        try:
            value = json.load(stream)
        except json.JSONDecodeError as error:
            if (
                error.msg == "Extra data"
            ):  # JSON lines under the name .json, as many datasets have them
                return _read_lines(path)
            raise
    if isinstance(value, dict) and sum(isinstance(inner, list) for inner in value.values()) == 1:
        value = next(
            inner for inner in value.values() if isinstance(inner, list)
        )  # {"data": [...], "version": ...}
    by_column = (
        isinstance(value, dict)
        and value
        and all(isinstance(inner, (list, dict)) for inner in value.values())
    )
    if not by_column and not (
        isinstance(value, list) and all(isinstance(record, dict) for record in value)
    ):
        raise DataError(f"{path.name} should be a list of objects [{{...}}, ...], one a row.")
    return pd.DataFrame(value, dtype=object).reset_index(drop=True)


def _read_hub(name):
    from datasets import load_dataset
    from datasets.exceptions import DatasetsError

    try:
        dataset = load_dataset(name, split="train")
    except (OSError, ValueError, RuntimeError, DatasetsError) as error:
        reason = " ".join(str(error).split())[:160]
        raise DataError(
            f"data_path {name} is no file here and could not be had from the Hub as a dataset ({reason})."
        ) from None
    return _with_names(dataset.to_pandas(), dataset.features.arrow_schema)


def _with_names(table, schema):
    """The table with the names of class labels, where `datasets` left them in the Arrow schema, in place of their numbers."""
    if b"huggingface" in (schema.metadata or {}):
        from datasets import ClassLabel, Features

        for column, feature in Features.from_arrow_schema(schema).items():
            if isinstance(feature, ClassLabel):
                names = dict(enumerate(feature.names))
                table[column] = [names.get(number) for number in table[column]]  # -1: not labelled
    return table


def _not_utf8(path):
    """The sentence for a file that is not UTF-8: which line, and what it looks like."""
    with fsspec.open(str(path), "rb", compression="infer") as stream:
        for number, line in enumerate(stream, 1):
            try:
                line.decode("utf-8")
            except UnicodeDecodeError as error:
                shown = (
                    line[max(0, error.start - 12) : error.start + 12]
                    .decode("cp1252", "replace")
                    .strip()
                )
                return (
                    f"{path.name} is not UTF-8: line {number}, near {shown!r}, looks like Windows-1252 or Latin-1; "
                    "save it as UTF-8 and run again."
                )
    return f"{path.name} is not UTF-8: save it as UTF-8 and run again."


def _places(path, positions):
    """Where the rows at `positions` start: line numbers of text files, else row numbers."""
    if not positions:
        return []
    kind = _format(path)
    if kind not in ("csv", "jsonl"):
        return [f"row {position + 1}" for position in positions]
    starts, wanted = {}, set(positions)
    with _text(path) as stream:
        if kind == "csv":
            reader = csv.reader(stream, delimiter=_separator(path))
            blank = lambda record: (
                len(record) < 2 and not "".join(record).strip(" \t")
            )  # pandas, too, passes over such lines
            next(record for record in reader if not blank(record))
            before, number = reader.line_num, 0
            for record in reader:
                if not blank(record):
                    if number in wanted:
                        starts[number] = before + 1
                    number += 1
                before = reader.line_num
                if number > max(wanted):
                    break
        else:
            numbers = (number for number, line in enumerate(stream, 1) if line.strip())
            starts = {
                position: number for position, number in enumerate(numbers) if position in wanted
            }
    return [f"line {starts[position]}" for position in positions]
