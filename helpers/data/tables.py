"""Question/answer rows of any common shape, and what a careful reader would ask about them."""

import json
import math
import shutil
from collections import Counter
from typing import NamedTuple

import numpy as np
import pandas as pd
from datasets import Dataset, load_from_disk

from helpers.data.sources import DataError, listed

DEFAULT_NAMES = ("question", "answer")
USUAL_QUESTIONS = (
    "question",
    "text",
    "query",
    "input",
    "prompt",
    "sentence",
    "document",
    "message",
    "review",
    "email",
)
# A label's name says more than its number, so it goes first.
USUAL_ANSWERS = (
    "answer",
    "label_text",
    "label_name",
    "label",
    "response",
    "output",
    "category",
    "target",
    "sentiment",
    "class",
    "intent",
    "answers",
)
ROLES = {
    "user": "user",
    "assistant": "assistant",
    "system": "system",  # OpenAI
    "developer": "system",
    "human": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",  # later OpenAI, ShareGPT
}
REASONS = ("empty question", "empty answer", "wrong type", "exact duplicate")
NO_TEXT = ()  # stands for a value that is neither text nor empty

MOST_LABELS = 100  # more different answers are no classes
LONGEST_LABEL = 60  # characters
RARE = 3  # rows of a label: fewer cannot be in all three parts
FEW = 10  # rows of a label: with fewer, a part may have none


class Example(NamedTuple):
    """One row as it will be asked and answered; None for what is missing.

    turns: the messages before the answer in a longer chat, else None; problem: what is wrong with
    the row, in words, or "".
    """

    question: object
    answer: object
    turns: list | None = None
    problem: str = ""


class _NotAChat(ValueError):
    """A value is no chat; the message says why, in half a sentence."""


def shape_of(columns, asked, question_column, answer_column):
    """What a table with these column names holds. Returns (shape, names of the columns to read).

    asked: forces a shape unless it is "auto". Where question_column or answer_column has its
    default name and the table has another usual one instead (Text and label, say), that is taken;
    small and capital letters are the same. A name other than the default is never passed over for
    another shape. A third name is a text that goes below the question (Alpaca's input, Dolly's and
    SQuAD's context). Raises DataError when no shape fits or a needed column is missing, naming the
    columns there are.
    """
    columns = list(columns)
    named = (question_column, answer_column)
    if question_column == answer_column:
        raise DataError(
            f"question_column and answer_column are both {question_column!r}: they must be two "
            "columns."
        )
    pair = _question_and_answer(columns, named)
    if asked == "auto" and (named != DEFAULT_NAMES or set(DEFAULT_NAMES) <= set(columns)):
        asked = "question_answer"
    for shape, needed in _columns_by_shape(columns, pair).items():
        if asked not in ("auto", shape):
            continue
        missing = [name for name in needed if name not in columns]
        if not missing:
            return shape, needed
        if asked == shape and shape != "question_answer":
            raise DataError(
                f"data_shape {shape} needs the column {missing[0]!r}, but the columns are: "
                f"{listed(columns)}."
            )
    missing = " and no column ".join(repr(name) for name in pair if name not in columns)
    raise DataError(
        f"There is no column {missing}; the columns are: {listed(columns)}. "
        "Name yours with question_column and answer_column."
    )


def _question_and_answer(columns, named):
    """The names of both columns: as `named` or, for a default that is not there, a usual one."""
    others = {}
    for column in columns:
        if column not in named:
            others.setdefault(str(column).strip().casefold(), column)
    pair = []
    for name, default, usual_names in zip(
        named, DEFAULT_NAMES, (USUAL_QUESTIONS, USUAL_ANSWERS), strict=True
    ):
        usual = [others[other] for other in usual_names if other in others]
        replaced = name == default and name not in columns and usual
        pair.append(usual[0] if replaced else name)
    return tuple(pair)


def _columns_by_shape(columns, pair):
    """The columns that each shape needs, in the order in which shapes are looked for: a dict."""
    alpaca_answer = "output"
    if "response" in columns and "output" not in columns:
        alpaca_answer = "response"
    alpaca = ("instruction", alpaca_answer)
    text_below = [name for name in ("input", "context") if name in columns]
    # Of a preference pair (DPO) the chosen answer is the one to learn.
    is_preference = {"chosen", "rejected"} <= set(columns)
    # SQuAD: the question is about a text.
    is_squad = pair[1] == "answers" and "context" in columns
    return {
        "messages": ("messages",),
        "conversations": ("conversations",),
        "alpaca": (*alpaca, *text_below[:1]),
        "prompt_completion": ("prompt", "chosen" if is_preference else "completion"),
        "question_answer": (*pair, "context") if is_squad else pair,
    }


def rows(source, shape, columns):
    """The usable rows of a Source, and a report. Returns (DataFrame, DataFrame).

    source: as `sources.load` returns it; shape, columns: as `shape_of` returns them.
    Rows: `id`, `question`, `answer` (text, as it is) in file order, and for chats of several turns
    `turns`, the messages before the answer. Report: one line a reason, with `rows` and the first
    places. Raises DataError when no row is usable or all answers are the same.
    """
    examples, several = _examples(source.table, shape, columns)
    problems = examples.pop("problem")
    examples.insert(0, "id", _ids(source.table))
    reasons = _reasons(examples)
    dropped = [_dropped(source, examples, problems, reasons, reason) for reason in REASONS]
    kept = examples[reasons == ""].reset_index(drop=True)
    if kept.empty:
        counts = [f"{count} {reason}: {places}" for reason, count, places in dropped if count]
        raise DataError(
            f"The data has no usable row: {'; '.join(counts)}. Question and answer must be text."
        )
    if kept["answer"].str.strip().nunique() == 1:
        raise DataError(
            f"Every answer is {kept['answer'][0][:40]!r}: there is nothing to learn; at least two "
            "are needed."
        )
    report = [("read", len(examples), ""), ("kept", len(kept), ""), *dropped]
    if several:
        report.append(("several answers, the first taken", several, ""))
    return kept, pd.DataFrame(report, columns=["", "rows", "first places"]).set_index("")


def _examples(table, shape, columns):
    """What stands in the rows of `table`, usable or not, and how many had several answers (int).

    The first is a DataFrame with the fields of Example; without `turns` where no row has any.
    """
    table = pd.DataFrame(
        {name: [_plain(value) for value in table[name]] for name in columns}, dtype=object
    )
    if shape in ("question_answer", "alpaca"):
        examples, several = _questions_and_answers(table, columns)
        return _frame(examples).drop(columns="turns"), several
    if shape == "prompt_completion":
        pairs = zip(*(table[name] for name in columns), strict=True)
        return _frame([_joined(prompt, completion) for prompt, completion in pairs]), 0
    return _frame([_chat(value) for value in table[shape]]), 0


def _frame(examples):
    return pd.DataFrame(examples, columns=Example._fields, dtype=object)


def _questions_and_answers(table, columns):
    """Examples of columns with a question, an answer and perhaps a text that goes below the first.

    Returns (list of Example, how many rows had several answers).
    """
    examples, several = [], 0
    for question, answer, *below in zip(*(table[name] for name in columns), strict=True):
        text = below[0] if below else ""
        if isinstance(question, str) and isinstance(text, str) and text.strip():
            question = f"{question}\n\n{text}"
        choices = _choices(answer)
        if choices is not None:
            several += len(set(map(str, choices))) > 1
            answer = choices[0] if len(choices) else None
        examples.append(Example(question, answer))
    return examples, several


def _choices(answer):
    """The texts of SQuAD's {"text": [...], "answer_start": [...]}, or None for any other answer."""
    texts = answer.get("text") if isinstance(answer, dict) else None
    return texts if isinstance(texts, (list, np.ndarray)) else None


def _ids(table):
    """A name (str) for every row of `table`: its column `id` where that names each, or row1, …"""
    if "id" in table:
        ids = [_plain(value) for value in table["id"]]
        if all(map(_is_text, ids)) and len(set(ids)) == len(ids):
            return ids
    return [f"row{number}" for number in range(1, len(table) + 1)]


def _reasons(examples):
    """Why a row cannot be used, one of REASONS, or "" (Series of str, index of `examples`).

    examples: DataFrame with `id`, `question`, `answer` and perhaps `turns`.
    """
    both = examples[["question", "answer"]]
    empty, text = both.map(_empty), both.map(_is_text).all(axis="columns")
    reasons = pd.Series("", index=examples.index)
    reasons[~text] = "wrong type"
    reasons[empty["answer"]] = "empty answer"
    reasons[empty["question"]] = "empty question"
    usable = examples[reasons == ""].drop(columns="id")
    if "turns" in usable:
        usable = usable.assign(turns=usable["turns"].map(repr))  # lists cannot be compared at once
    reasons[usable.index[usable.duplicated()]] = "exact duplicate"
    return reasons


def _dropped(source, examples, problems, reasons, reason):
    """A line of the report: (`reason`, rows that it dropped, where the first three stand)."""
    positions = reasons.index[reasons == reason].tolist()
    places = []
    for place, position in zip(source.where(positions[:3]), positions[:3], strict=True):
        detail = problems[position]
        if not detail and reason == "wrong type":
            values = examples.loc[position, ["question", "answer"]]
            kinds = [_kind(value) for value in values if not (_is_text(value) or _empty(value))]
            detail = "; ".join(kinds)
        places.append(f"{place} ({detail})" if detail else place)
    return reason, len(positions), ", ".join(places)


def labels(answers, task="auto"):
    """The sorted label set (list of str) when the answers are classes, else None (free-form).

    answers: list of str. task: "classification", "free_form", or "auto": classes are at most
    MOST_LABELS different answers of at most LONGEST_LABEL characters, none a JSON object, given at
    least 4 times on average, or each at least twice (few rows of many classes; free answers hardly
    ever leave none that stands alone). Raises DataError when only one is left.
    """
    counts = Counter(answers)
    kinds = sorted(counts)
    if len({kind.strip() for kind in kinds}) == 1:
        raise DataError(
            f"Every answer that is left is {kinds[0][:40]!r}: there is nothing to learn; take more "
            "rows."
        )
    if task == "classification":
        return kinds
    short = len(kinds) <= MOST_LABELS and max(map(len, kinds)) <= LONGEST_LABEL
    objects = any(kind.lstrip().startswith("{") for kind in kinds)
    often = len(answers) >= 4 * len(kinds) or min(counts.values()) >= 2
    return kinds if task == "auto" and short and often and not objects else None


def about(answers, label_set):
    """What kind of answers these are (str); answers: Series of str, label_set: as from `labels`."""
    counts = answers.value_counts().sort_index()
    if label_set:
        return (
            f"labels: {len(counts)} different answers, each given at least {counts.min()} times: "
            f"{counts.head(20).to_dict()}"
        )
    return (
        f"free-form: {len(counts)} different answers in {len(answers)} rows, the longest of "
        f"{counts.index.str.len().max()} characters"
    )


def remarks(rows, label_set, system_prompt=None):
    """What a careful reader would ask about `rows`, as a list of sentences, perhaps empty.

    rows: DataFrame with `id`, `question` and `answer`; label_set: as `labels` returns it;
    system_prompt: the task (str), which should name the labels, or None to leave that out.
    """
    sentences = []
    different_answers = rows.groupby("question", sort=False)["answer"].nunique()
    torn = different_answers.index[different_answers > 1]
    if len(torn):
        ids = rows.loc[rows["question"].isin(torn[:3]), "id"].tolist()
        sentences.append(
            f"{len(torn)} questions have more than one answer, for example rows "
            f"{', '.join(ids[:6])}."
        )
    if label_set:
        sentences += _label_remarks(rows["answer"], label_set)
    if label_set and system_prompt is not None:
        task = system_prompt.casefold()
        unnamed = [label for label in label_set if label.casefold() not in task]
        if unnamed:
            sentences.append(
                f"The system prompt does not name {len(unnamed)} of {len(label_set)} labels, so an "
                f"untuned model has to guess them: {unnamed[:5]}."
            )
    return sentences


def too_long_rows(rows, max_length, too_long):
    """Ids (list of str) of the rows with more than `max_length` tokens.

    rows: DataFrame with `id` and `tokens`; too_long: "leave_out" or "refuse". Raises DataError when
    such rows are to be refused, or when no other is left.
    """
    over = rows.loc[rows["tokens"] > max_length, "id"].tolist()
    if over and (too_long == "refuse" or len(over) == len(rows)):
        raise DataError(
            f"{len(over)} rows are longer than max_length {max_length}, first {over[:5]}: "
            "raise it or shorten them."
        )
    return over


def on_disk(rows, folder):
    """`rows` (DataFrame) as a `datasets.Dataset` whose rows, and those that `map` makes, are files.

    So memory does not grow with them. folder: Path, emptied first.
    """
    shutil.rmtree(folder, ignore_errors=True)
    dataset = Dataset.from_pandas(rows, preserve_index=False)
    folder = folder / dataset._fingerprint  # a new one: on Windows old files may be in use still
    dataset.save_to_disk(folder)
    return load_from_disk(folder)


def _label_remarks(answers, label_set):
    """What a careful reader would ask about the labels, as a list of sentences."""
    sentences, spellings = [], {}
    for label in label_set:
        spellings.setdefault(" ".join(label.split()).casefold(), []).append(label)
    for same in spellings.values():
        if len(same) > 1:
            sentences.append(f"These labels differ only in case or spaces: {same}.")
    counts = answers.value_counts()
    rare = counts[counts < RARE].index.tolist()
    if rare:
        sentences.append(f"Too rare to be in all three parts (fewer than {RARE} rows): {rare[:5]}.")
    few = counts[(counts >= RARE) & (counts < FEW)].index.tolist()
    if few:
        sentences.append(
            f"So few rows that a part may have none of them (fewer than {FEW}): {few[:5]}; see the "
            "counts after the split."
        )
    return sentences


def _plain(value):
    """Whole numbers and truth values as text, for they are often labels; the rest as it is."""
    if isinstance(value, (bool, np.bool_)):
        return str(value).lower()
    if isinstance(value, (int, np.integer)) or (isinstance(value, float) and value.is_integer()):
        return str(int(value))
    return value


def _is_text(value):
    """True for text that can be written; half of a surrogate pair, as from a cut emoji, cannot."""
    if not isinstance(value, str):
        return False
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def _empty(value):
    """True for blank text and for what pandas puts where nothing was."""
    if isinstance(value, str):
        return not value.strip()
    return value is None or value is pd.NA or (isinstance(value, float) and math.isnan(value))


def _kind(value):
    """What a value is that is no text, in words."""
    if isinstance(value, str):
        return "half of an emoji"
    if isinstance(value, dict):
        return "an object"
    if isinstance(value, (list, tuple, np.ndarray)):
        return "a list"
    return f"{value!r:.30} is no text"


def _chat(value):
    """The Example in a list of turns, or in its JSON text."""
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            return Example(NO_TEXT, NO_TEXT, problem=f"{value[:30]!r} is no list of turns")
    try:
        turns = _turns(value)
    except _NotAChat as problem:
        return Example(NO_TEXT, NO_TEXT, problem=str(problem))
    if not turns:
        return Example(None, None, problem="no turn")
    return _last_answer(turns)


def _turns(value):
    """The turns of a chat as messages (list of dict) with our names of roles. Raises _NotAChat."""
    if _empty(value):
        return []
    if not isinstance(value, (list, np.ndarray)):
        raise _NotAChat(f"{_kind(value)}, no list of turns")
    return [_turn(turn, number, number == len(value)) for number, turn in enumerate(value, 1)]


def _turn(turn, number, is_last):
    """One turn as a message; its content is text or, of the last one, perhaps None."""
    if not isinstance(turn, dict):
        raise _NotAChat(f"turn {number} is no object with a role and a text")
    role = turn.get("role", turn.get("from"))
    if not isinstance(role, str) or role not in ROLES:
        raise _NotAChat(
            f"turn {number} has the role {str(role)[:30]!r}, not system, user or assistant"
        )
    content = turn.get("content", turn.get("value"))
    if isinstance(content, (list, np.ndarray)):  # OpenAI's list of parts
        content = _text_of_parts(content, number)
    if isinstance(content, str):
        return {"role": ROLES[role], "content": content}
    calls = turn.get("tool_calls")
    has_calls = turn.get("function_call") is not None or (calls is not None and len(calls) > 0)
    if content is None and is_last and not has_calls:
        return {"role": ROLES[role], "content": None}
    if content is not None:
        raise _NotAChat(f"turn {number} ({role}) has {_kind(content)}")
    raise _NotAChat(f"turn {number} ({role}) has {'tool calls' if has_calls else 'no text'}")


def _text_of_parts(parts, number):
    """The text of a turn that holds a list of parts, each {"text": …}. Raises _NotAChat."""
    for part in parts:
        if not isinstance(part, dict) or not isinstance(part.get("text"), str):
            raise _NotAChat(f"turn {number} holds something else than text")
    return "".join(part["text"] for part in parts)


def _last_answer(turns):
    """The Example whose answer is the last turn of the assistant in `turns` (not empty)."""
    answered = any(turn["role"] == "assistant" for turn in turns)
    while answered and turns[-1]["role"] == "user":
        turns = turns[:-1]  # asked, but never answered
    problem = "" if turns[-1]["content"] is not None else "the last turn has no text"
    if turns[-1]["role"] == "assistant":
        *before, last = turns
        answer = last["content"]
    else:
        before, answer = turns, None
        if not problem and answered:
            problem = "no turn of the assistant comes last"
        elif not problem:
            problem = "no turn of the assistant"
    said = [turn["content"] or "" for turn in before if turn["role"] != "system"]
    return Example("\n".join(said), answer, before, problem)


def _joined(prompt, completion):
    """The Example in a prompt and a completion, each of them text or a list of messages."""
    if isinstance(prompt, str) or _empty(prompt):
        return Example(prompt, completion)
    if not isinstance(prompt, (list, np.ndarray)):
        return Example(NO_TEXT, NO_TEXT, problem=f"the prompt is {_kind(prompt)}")
    if isinstance(completion, str):
        completion = [{"role": "assistant", "content": completion}]
    if not isinstance(completion, (list, np.ndarray)):
        return Example(
            NO_TEXT,
            NO_TEXT,
            problem="the prompt is a list of turns, but the completion is neither that nor text",
        )
    return _chat([*prompt, *completion])
