"""Question/answer files: reading them, and saying in one sentence what is wrong with one."""

from pathlib import Path

import pandas as pd

READERS = {
    ".csv": lambda path: pd.read_csv(path, dtype=str, keep_default_na=False),
    ".tsv": lambda path: pd.read_csv(path, dtype=str, keep_default_na=False, sep="\t"),
    ".jsonl": lambda path: pd.read_json(path, lines=True, dtype=False),
    ".json": lambda path: pd.read_json(path, dtype=False),
    ".parquet": pd.read_parquet,
}


class DataError(ValueError):
    """The data file cannot be used; the message is one sentence that says why and what to do."""


def read(path, question_column, answer_column):
    """Read a question/answer file. Returns (rows, report).

    rows: DataFrame with the columns id, question and answer (text, left as it is), in file order;
    report: {reason: rows dropped}. CSV, TSV, JSON, JSON lines and Parquet, by the file's ending.
    Raises DataError for a missing or unreadable file, a missing column, or no usable row.
    """
    path = Path(path)
    if not path.is_file():
        raise DataError(f"data_path {path.name}: there is no such file (looked for it from {path.parent.resolve().name}/).")
    reader = READERS.get(path.suffix.lower())
    if reader is None:
        raise DataError(f"data_path {path.name}: the ending should be one of {', '.join(READERS)}.")
    try:
        table = reader(path)
    except UnicodeDecodeError as error:
        raise DataError(f"{path.name} is not UTF-8 (byte {error.start}): save it as UTF-8 and run again.") from None
    except ValueError as error:
        raise DataError(f"{path.name} cannot be read as {path.suffix[1:]}: {str(error).splitlines()[0]}") from None
    for name in (question_column, answer_column):
        if name not in table.columns:
            there = ", ".join(map(str, table.columns))
            raise DataError(f"{path.name} has no column {name!r}; it has: {there}.")
    rows = pd.DataFrame({"question": table[question_column], "answer": table[answer_column]})
    rows.insert(0, "id", table["id"].astype(str) if "id" in table else [f"row{i}" for i in range(1, len(table) + 1)])
    text = rows[["question", "answer"]].map(lambda value: isinstance(value, str))
    empty = rows[["question", "answer"]].map(lambda value: isinstance(value, str) and not value.strip())
    twice = rows.duplicated(["question", "answer"])
    keep = text.all(axis=1) & ~empty.any(axis=1)
    report = {
        "not text": int((~text.all(axis=1)).sum()),
        "empty question or answer": int(empty.any(axis=1).sum()),
        "exact duplicate": int((twice & keep).sum()),
    }
    rows = rows[keep & ~twice].reset_index(drop=True)
    if rows.empty:
        raise DataError(f"{path.name} has no usable row: every question or answer is empty or not text.")
    return rows, report


def labels(answers):
    """Return the sorted label set when `answers` look like classes, else None (free-form answers).

    Classes: at most 20 different answers, each of them given at least 4 times on average.
    """
    kinds = sorted(set(answers))
    return kinds if len(kinds) <= 20 and len(answers) >= 4 * len(kinds) else None
