"""Question/answer files of any common shape: reading them, and saying in one sentence what is wrong with one."""

import codecs
import csv
import difflib
import json
import re
from pathlib import Path

import fsspec
import pandas as pd

FORMATS = {".csv": "csv", ".tsv": "csv", ".json": "json", ".jsonl": "jsonl", ".ndjson": "jsonl", ".parquet": "parquet"}
COMPRESSIONS = (".gz", ".bz2", ".xz", ".zip", ".zst")
SHAPES = ("question_answer", "prompt_completion", "alpaca", "messages", "conversations")
USUAL_QUESTIONS = ("question", "text", "query", "input", "sentence", "document", "message")
USUAL_ANSWERS = ("answer", "label", "response", "output", "category", "target")
ROLES = {
    "user": "user", "assistant": "assistant", "system": "system",  # OpenAI
    "developer": "system", "human": "user", "gpt": "assistant", "chatgpt": "assistant",  # later OpenAI, ShareGPT
}
WRONG = ()  # stands for a value that is no text
REASONS = ("empty question", "empty answer", "wrong type", "exact duplicate")


class DataError(ValueError):
    """The data cannot be used; the message is one sentence that says why and what to do."""


class Source:
    """What was read: `table` (DataFrame, as it stands in the files) and where each of its rows came from."""

    def __init__(self, parts):
        self.files = [(path, len(table)) for path, table in parts]
        self.table = pd.concat([table for _, table in parts], ignore_index=True)
        if self.table.empty:
            raise DataError(f"{parts[0][0].name} holds no row.")

    def where(self, positions):
        """Names (list of str) of the rows at `positions`: the line where each starts, or its number, and its file."""
        named, first = [], 0
        for path, count in self.files:
            inside = [position - first for position in positions if first <= position < first + count]
            named += [f"{path.name} {place}" if len(self.files) > 1 else place for place in _places(path, inside)]
            first += count
        return named


def load(data_path):
    """Read a file, a folder of files, or a Hub dataset ("owner/name"). Returns a Source.

    Files: CSV, TSV, JSON, JSON lines, Parquet, plain or compressed, told apart by their ending; UTF-8.
    Of a Hub dataset the split `train` is read. Raises DataError.
    """
    path = Path(data_path).expanduser()
    if path.is_dir():
        files = sorted(p for p in path.rglob("*") if p.is_file() and not p.name.startswith(".") and _format(p))
        if not files:
            raise DataError(f"data_path {path.name}: no file in this folder ends in one of {', '.join(FORMATS)}.")
        parts = [(file, _read(file)) for file in files]
        for file, table in parts[1:]:
            if set(table.columns) != set(parts[0][1].columns):
                raise DataError(
                    f"data_path {path.name}: {file.name} has the columns {_listed(table.columns)}, but {files[0].name} "
                    f"has {_listed(parts[0][1].columns)}: a folder is read as one table, so they must be the same."
                )
        return Source(parts)
    if path.is_file():
        if not _format(path):
            excel = " Save the sheet as CSV (UTF-8)." if path.suffix.lower() in (".xlsx", ".xls", ".ods") else ""
            raise DataError(f"data_path {path.name}: the ending should be one of {', '.join(FORMATS)} (or compressed).{excel}")
        return Source([(path, _read(path))])
    if re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*", str(data_path)) and not _format(path):
        return Source([(path, _read_hub(str(data_path)))])
    beside = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
    near = difflib.get_close_matches(path.name, beside, n=1)
    raise DataError(f"data_path {data_path}: there is no such file or folder." + (f" Did you mean {near[0]}?" if near else ""))


def shape_of(columns, asked, question_column, answer_column):
    """What a table with these column names holds. Returns (shape, names): one of SHAPES, and the columns to read.

    asked: forces a shape unless it is "auto". When question_column and answer_column have their default names and
    the table has other usual ones (text and label, say), those are taken.
    Raises DataError when no shape fits or a needed column is missing, naming the columns there are.
    """
    columns = list(columns)
    pair = (question_column, answer_column)
    if question_column == answer_column:
        raise DataError(f"question_column and answer_column are both {question_column!r}: they must be two columns.")
    if pair == ("question", "answer"):
        found = [next((name for name in usual if name in columns), None) for usual in (USUAL_QUESTIONS, USUAL_ANSWERS)]
        if all(found):
            pair = tuple(found)
    needs = {
        "messages": ("messages",),
        "conversations": ("conversations",),
        "alpaca": ("instruction", "output"),
        "prompt_completion": ("prompt", "completion"),
        "question_answer": pair,
    }
    if set(pair) <= set(columns) and asked == "auto" and pair == (question_column, answer_column):
        return "question_answer", pair  # named by hand, or by the names we ask for
    for shape, names in needs.items():
        missing = [name for name in names if name not in columns]
        if asked == shape and missing and shape != "question_answer":
            raise DataError(f"data_shape {shape} needs the column {missing[0]!r}, but the columns are: {_listed(columns)}.")
        if asked in ("auto", shape) and not missing:
            return shape, (*names, "input") if shape == "alpaca" and "input" in columns else names
    hint = ""
    if len(columns) == 1 and any(mark in str(columns[0]) for mark in ";\t|"):
        hint = " The columns seem to be separated by something else than the ending says."
    missing = question_column if question_column not in columns else answer_column
    raise DataError(
        f"There is no column {missing!r}; the columns are: {_listed(columns)}.{hint} "
        "Name yours with question_column and answer_column."
    )


def rows(source, shape, columns):
    """The usable rows of a Source, and a report. Returns (DataFrame, DataFrame).

    shape, columns: as `shape_of` returns them.

    rows: `id`, `question`, `answer` (text, as it is) in file order, and for chats of several turns `turns`,
    the messages before the answer. Report: one line a reason, with `rows` and the first places.
    Raises DataError when no row is usable or all answers are the same.
    """
    table = source.table
    if shape == "question_answer":
        found = pd.DataFrame({"question": table[columns[0]], "answer": table[columns[1]]}, dtype=object)
    elif shape == "alpaca":
        extra = table["input"] if "input" in columns else [""] * len(table)
        joined = [
            f"{a}\n\n{b}" if isinstance(a, str) and isinstance(b, str) and b.strip() else a
            for a, b in zip(table["instruction"], extra, strict=True)
        ]
        found = pd.DataFrame({"question": joined, "answer": table["output"]}, dtype=object)
    elif shape == "prompt_completion":
        chats = [_joined(prompt, completion) for prompt, completion in zip(table["prompt"], table["completion"], strict=True)]
        found = pd.DataFrame(chats, columns=["question", "answer", "turns"], dtype=object)
    else:
        found = pd.DataFrame([_chat(value) for value in table[shape]], columns=["question", "answer", "turns"], dtype=object)
    # Whole numbers are often labels (0, 1); anything else that is not text cannot be trained on.
    for name in ("question", "answer"):
        found[name] = [str(v) if isinstance(v, int) and not isinstance(v, bool) else v for v in found[name].tolist()]
    ids = table["id"].astype(str) if "id" in table and table["id"].is_unique else [f"row{i}" for i in range(1, len(table) + 1)]
    found.insert(0, "id", ids)

    empty = {name: pd.Series([_empty(value) for value in found[name]]) for name in ("question", "answer")}
    text = pd.Series([isinstance(q, str) and isinstance(a, str) for q, a in zip(found["question"], found["answer"], strict=True)])
    reason = pd.Series("", index=found.index)
    reason[~text] = "wrong type"
    reason[empty["answer"]] = "empty answer"
    reason[empty["question"]] = "empty question"
    usable = found[reason == ""]
    reason[usable.index[usable.duplicated(["question", "answer"])]] = "exact duplicate"
    report = [("read", len(found), ""), ("kept", int((reason == "").sum()), "")]
    for name in REASONS:
        positions = reason.index[reason == name].tolist()
        report.append((name, len(positions), ", ".join(source.where(positions[:3]))))
    kept = found[reason == ""].reset_index(drop=True)
    if kept.empty:
        raise DataError("The data has no usable row: " + ", ".join(f"{n} {r}" for r, n, _ in report[2:] if n) + ". Both must be text.")
    if kept["answer"].nunique() == 1:
        raise DataError(f"Every answer is {kept['answer'][0][:40]!r}: there is nothing to learn; at least two are needed.")
    return kept, pd.DataFrame(report, columns=["", "rows", "first places"]).set_index("")


def labels(answers, task="auto"):
    """Return the sorted label set (list of str) when the answers are classes, else None (free-form).

    answers: list of str. task: "classification", "free_form", or "auto": classes are at most 100 different
    answers of at most 60 characters, each given at least 4 times on average.
    """
    kinds = sorted(set(answers))
    looks = len(kinds) <= 100 and len(answers) >= 4 * len(kinds) and max(map(len, kinds)) <= 60
    return kinds if task == "classification" or (task == "auto" and looks) else None


def remarks(rows, label_set):
    """What a careful reader would ask about `rows`, as a list of sentences (empty: nothing to remark)."""
    said = []
    answers = rows.groupby("question", sort=False)["answer"].nunique()
    torn = answers.index[answers > 1]
    if len(torn):
        ids = rows.loc[rows["question"].isin(torn[:3]), "id"].tolist()
        said.append(f"{len(torn)} questions have more than one answer, for example rows {', '.join(ids[:6])}.")
    if label_set:
        plain = {}
        for label in label_set:
            plain.setdefault(" ".join(label.split()).casefold(), []).append(label)
        said += [f"These labels differ only in case or spaces: {same}." for same in plain.values() if len(same) > 1]
        counts = rows["answer"].value_counts()
        rare = counts[counts < 3].index.tolist()
        if rare:
            said.append(f"Too rare to be in all three parts (fewer than 3 rows): {rare[:5]}.")
    return said


def _listed(columns):
    return ", ".join(map(str, columns)) or "none"


def _format(path):
    suffixes = [s.lower() for s in path.suffixes]
    if suffixes and suffixes[-1] in COMPRESSIONS:
        suffixes.pop()
    return FORMATS.get(suffixes[-1]) if suffixes else None


def _text(path):
    """The file as a text stream (context manager), decompressed by its ending."""
    return fsspec.open(str(path), "rt", encoding="utf-8-sig", compression="infer", newline="")


def _read(path):
    kind = _format(path)
    if path.stat().st_size == 0:
        raise DataError(f"{path.name} is empty.")
    try:
        if kind == "csv":
            separator = "\t" if ".tsv" in path.suffixes else ","
            with _text(path) as stream:
                header = next(csv.reader(stream, delimiter=separator), [])
            twice = [name for name in header if name and header.count(name) > 1]
            if twice:
                raise DataError(f"{path.name}: the column {twice[0]!r} stands more than once in the header: rename one.")
            table = pd.read_csv(path, dtype=str, keep_default_na=False, sep=separator, encoding="utf-8-sig")
            if not isinstance(table.index, pd.RangeIndex):
                raise DataError(f"{path.name}: the rows have more fields than the header: quote texts that hold a comma.")
            return table
        if kind == "parquet":
            return pd.read_parquet(path)
        return _read_lines(path) if kind == "jsonl" else _read_json(path)
    except UnicodeDecodeError:
        raise DataError(_not_utf8(path)) from None
    except DataError:
        raise
    except (ValueError, OSError, EOFError, RuntimeError) as error:
        reason = " ".join(str(error).replace(f"{path.parent}/", "").split())[:160] or type(error).__name__
        reason = reason.removeprefix("Error tokenizing data. C error: ")
        fields = re.match(r"Expected (\d+) fields in line (\d+), saw (\d+)", reason)
        if fields:
            expected, line, saw = fields.groups()
            raise DataError(
                f"{path.name}, line {line}, has {saw} fields, but the header has {expected}: quote texts that hold a comma."
            ) from None
        if reason.startswith("EOF inside string"):
            raise DataError(f"{path.name}: a quotation mark is opened in row {int(reason.split()[-1])} and never closed.") from None
        raise DataError(f"{path.name} cannot be read as {kind}: {reason}") from None


def _read_lines(path, chunk=50_000):
    chunks, records = [], []
    with _text(path) as stream:
        for number, line in enumerate(stream, 1):
            if not line.strip():
                continue
            try:
                record = json.loads(line)
            except ValueError as error:
                hint = " (One object over several lines? Then the ending should be .json.)" if number == 1 else ""
                raise DataError(f"{path.name}, line {number}, is not JSON: {error}.{hint}") from None
            if not isinstance(record, dict):
                raise DataError(f"{path.name}, line {number}, should be an object {{...}}, but is {line.strip()[:40]}.")
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
            if error.msg == "Extra data":  # JSON lines under the name .json, as many datasets have them
                return _read_lines(path)
            raise
    if isinstance(value, dict) and sum(isinstance(inner, list) for inner in value.values()) == 1:
        value = next(inner for inner in value.values() if isinstance(inner, list))  # {"data": [...], "version": ...}
    by_column = isinstance(value, dict) and value and all(isinstance(inner, (list, dict)) for inner in value.values())
    if not by_column and not (isinstance(value, list) and all(isinstance(record, dict) for record in value)):
        raise DataError(f"{path.name} should be a list of objects [{{...}}, ...], one a row.")
    return pd.DataFrame(value, dtype=object).reset_index(drop=True)


def _read_hub(name):
    from datasets import ClassLabel, load_dataset

    try:
        dataset = load_dataset(name, split="train")
    except (OSError, ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:160]
        raise DataError(f"data_path {name} is no file here and could not be had from the Hub as a dataset ({reason}).") from None
    table = dataset.to_pandas()
    for column, feature in dataset.features.items():
        if isinstance(feature, ClassLabel):
            table[column] = feature.int2str(table[column])
    return table


def _not_utf8(path):
    """The sentence for a file that is not UTF-8: which line, and what it looks like."""
    with fsspec.open(str(path), "rb", compression="infer") as stream:
        for number, line in enumerate(stream, 1):
            if number == 1 and line[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE):
                return f"{path.name} is UTF-16, not UTF-8: save it as UTF-8 and run again."
            try:
                line.decode("utf-8")
            except UnicodeDecodeError as error:
                shown = line[max(0, error.start - 12) : error.start + 12].decode("cp1252", "replace").strip()
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
            reader = csv.reader(stream, delimiter="\t" if ".tsv" in path.suffixes else ",")
            next(reader)
            before, number = reader.line_num, 0
            for record in reader:
                if record:  # pandas, too, passes over empty lines
                    if number in wanted:
                        starts[number] = before + 1
                    number += 1
                before = reader.line_num
                if number > max(wanted):
                    break
        else:
            numbers = (number for number, line in enumerate(stream, 1) if line.strip())
            starts = {position: number for position, number in enumerate(numbers) if position in wanted}
    return [f"line {starts[position]}" for position in positions]


def _empty(value):
    """True for blank text and for what pandas puts where nothing was."""
    if isinstance(value, str):
        return not value.strip()
    return value is None or value is pd.NA or (isinstance(value, float) and value != value)


def _chat(value):
    """(question, answer, turns before the answer) of a chat; None for what is missing, WRONG for what is no chat."""
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except ValueError:
            return WRONG, WRONG, None
    try:
        turns = []
        for turn in value:
            role, content = turn.get("role", turn.get("from")), turn.get("content", turn.get("value"))
            if isinstance(content, list) and all(part.get("type") == "text" for part in content):
                content = "".join(part["text"] for part in content)  # OpenAI's list of parts
            turns.append({"role": ROLES[role], "content": content})
    except (TypeError, AttributeError, KeyError):
        return WRONG, WRONG, None
    if not turns:
        return None, None, None
    if not all(isinstance(turn["content"], str) for turn in turns[:-1]) or not isinstance(turns[-1]["content"], (str, type(None))):
        return WRONG, WRONG, None
    while len(turns) > 1 and turns[-1]["role"] == "user" and any(turn["role"] == "assistant" for turn in turns):
        turns.pop()  # asked, but never answered
    if turns[-1]["role"] != "assistant":
        turns.append({"role": "assistant", "content": None})
    asked = [turn["content"] for turn in turns[:-1] if turn["role"] != "system"]
    return "\n".join(asked), turns[-1]["content"], turns[:-1]


def _joined(prompt, completion):
    """One prompt/completion row, each of them text or a list of messages, in the form of `_chat`."""
    if isinstance(prompt, str) or _empty(prompt):
        return prompt, completion, None
    try:
        after = [{"role": "assistant", "content": completion}] if isinstance(completion, str) else list(completion)
        return _chat(list(prompt) + after)
    except TypeError:
        return WRONG, WRONG, None
