"""Question/answer rows of any common shape, and what a careful reader would ask about them."""

import json
import math
from collections import Counter

import numpy as np
import pandas as pd

from helpers.data.sources import DataError, listed

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


def shape_of(columns, asked, question_column, answer_column):
    """What a table with these column names holds. Returns (shape, names): the shape, and the columns to read.

    asked: forces a shape unless it is "auto". Where question_column or answer_column has its default name and the table
    has another usual one (Text and label, say), that is taken; small and capital letters are the same. A name other
    than the default is never passed over for another shape.
    A third name is a text that goes below the question (Alpaca's input, Dolly's and SQuAD's context).
    Raises DataError when no shape fits or a needed column is missing, naming the columns there are.
    """
    columns = list(columns)
    pair = (question_column, answer_column)
    if question_column == answer_column:
        raise DataError(
            f"question_column and answer_column are both {question_column!r}: they must be two columns."
        )
    by_hand = pair != ("question", "answer")
    known = {
        str(name).strip().casefold(): name
        for name in reversed(columns)
        if not by_hand or name not in pair
    }
    usual = [
        next((known[n] for n in names if n in known), None)
        for names in (USUAL_QUESTIONS, USUAL_ANSWERS)
    ]
    if all(usual) and not by_hand:
        pair = tuple(usual)
    elif by_hand:
        default = zip(pair, ("question", "answer"), usual, strict=True)
        pair = tuple(
            other if name == plain and name not in columns and other else name
            for name, plain, other in default
        )
    if pair[1] == "answers" and "context" in columns:  # SQuAD: the question is about a text
        pair = (*pair, "context")
    needs = {
        "messages": ("messages",),
        "conversations": ("conversations",),
        "alpaca": ("instruction", "output")
        if "output" in columns or "response" not in columns
        else ("instruction", "response"),
        # Of a preference pair (DPO) the chosen answer is the one to learn.
        "prompt_completion": (
            "prompt",
            "chosen" if {"chosen", "rejected"} <= set(columns) else "completion",
        ),
        "question_answer": pair,
    }
    if asked == "auto" and (
        by_hand or ("question", "answer") == pair and set(pair) <= set(columns)
    ):
        asked = "question_answer"
    for shape, names in needs.items():
        missing = [name for name in names if name not in columns]
        if asked == shape and missing and shape != "question_answer":
            raise DataError(
                f"data_shape {shape} needs the column {missing[0]!r}, but the columns are: {listed(columns)}."
            )
        if asked in ("auto", shape) and not missing:
            extra = (
                [name for name in ("input", "context") if name in columns][:1]
                if shape == "alpaca"
                else []
            )
            return shape, (*names, *extra)
    taken = {plain for plain, other in zip(("question", "answer"), usual, strict=True) if other}
    missing = " and no column ".join(
        repr(name) for name in pair[:2] if name not in columns and name not in taken
    )
    raise DataError(
        f"There is no column {missing}; the columns are: {listed(columns)}. "
        "Name yours with question_column and answer_column."
    )


def rows(source, shape, columns):
    """The usable rows of a Source, and a report. Returns (DataFrame, DataFrame).

    source: as `sources.load` returns it; shape, columns: as `shape_of` returns them.
    Rows: `id`, `question`, `answer` (text, as it is) in file order, and for chats of several turns `turns`,
    the messages before the answer. Report: one line a reason, with `rows` and the first places.
    Raises DataError when no row is usable or all answers are the same.
    """
    table = pd.DataFrame(
        {name: [_plain(value) for value in source.table[name]] for name in columns}, dtype=object
    )
    several = 0
    if shape in ("question_answer", "alpaca"):
        question, answer = table[columns[0]], table[columns[1]]
        if len(columns) > 2:
            question = [
                f"{a}\n\n{b}" if isinstance(a, str) and isinstance(b, str) and b.strip() else a
                for a, b in zip(question, table[columns[2]], strict=True)
            ]
        answer, several = _first_answers(answer)
        found = pd.DataFrame({"question": question, "answer": answer, "why": ""}, dtype=object)
    else:
        if shape == "prompt_completion":
            pairs = zip(*(table[name] for name in columns), strict=True)
            chats = [_joined(prompt, completion) for prompt, completion in pairs]
        else:
            chats = [_chat(value) for value in table[shape]]
        found = pd.DataFrame(chats, columns=["question", "answer", "turns", "why"], dtype=object)
    why = found.pop("why")
    ids = [_plain(value) for value in source.table["id"]] if "id" in source.table else []
    usable_ids = bool(ids) and all(map(_is_text, ids)) and len(set(ids)) == len(ids)
    found.insert(0, "id", ids if usable_ids else [f"row{i}" for i in range(1, len(table) + 1)])

    empty = {
        name: pd.Series([_empty(value) for value in found[name]]) for name in ("question", "answer")
    }
    text = pd.Series(
        [
            _is_text(q) and _is_text(a)
            for q, a in zip(found["question"], found["answer"], strict=True)
        ]
    )
    reason = pd.Series("", index=found.index)
    reason[~text] = "wrong type"
    reason[empty["answer"]] = "empty answer"
    reason[empty["question"]] = "empty question"
    usable = found[reason == ""]
    if "turns" in found:
        usable = usable.assign(turns=usable["turns"].map(repr))
    reason[usable.index[usable.drop(columns="id").duplicated()]] = "exact duplicate"
    report = [("read", len(found), ""), ("kept", int((reason == "").sum()), "")]
    for name in REASONS:
        positions = reason.index[reason == name].tolist()
        places = []
        for place, i in zip(source.where(positions[:3]), positions, strict=False):
            no_text = [
                _kind(value)
                for value in found.loc[i, ["question", "answer"]]
                if not (_is_text(value) or _empty(value))
            ]
            said = why[i] or ("; ".join(no_text) if name == "wrong type" else "")
            places.append(f"{place} ({said})" if said else place)
        report.append((name, len(positions), ", ".join(places)))
    if several:
        report.append(("several answers, the first taken", several, ""))
    kept = found[reason == ""].reset_index(drop=True)
    if kept.empty:
        reasons = "; ".join(
            f"{count} {name}: {places}" for name, count, places in report[2:] if count
        )
        raise DataError(f"The data has no usable row: {reasons}. Question and answer must be text.")
    if kept["answer"].str.strip().nunique() == 1:
        raise DataError(
            f"Every answer is {kept['answer'][0][:40]!r}: there is nothing to learn; at least two are needed."
        )
    return kept, pd.DataFrame(report, columns=["", "rows", "first places"]).set_index("")


def labels(answers, task="auto"):
    """Return the sorted label set (list of str) when the answers are classes, else None (free-form).

    answers: list of str. task: "classification", "free_form", or "auto": classes are at most 100 different
    answers of at most 60 characters, none a JSON object, given at least 4 times on average, or each at least twice (few rows of
    many classes; free answers hardly ever leave none that stands alone). Raises DataError when only one is left.
    """
    kinds = sorted(set(answers))
    if len({kind.strip() for kind in kinds}) == 1:
        raise DataError(
            f"Every answer that is left is {kinds[0][:40]!r}: there is nothing to learn; take more rows."
        )
    short = (
        len(kinds) <= 100
        and max(map(len, kinds)) <= 60
        and not any(kind.lstrip().startswith("{") for kind in kinds)
    )
    looks = short and (len(answers) >= 4 * len(kinds) or min(Counter(answers).values()) >= 2)
    return kinds if task == "classification" or (task == "auto" and looks) else None


def remarks(rows, label_set):
    """What a careful reader would ask about `rows`, as a list of sentences (empty: nothing to remark)."""
    said = []
    answers = rows.groupby("question", sort=False)["answer"].nunique()
    torn = answers.index[answers > 1]
    if len(torn):
        ids = rows.loc[rows["question"].isin(torn[:3]), "id"].tolist()
        said.append(
            f"{len(torn)} questions have more than one answer, for example rows {', '.join(ids[:6])}."
        )
    if label_set:
        plain = {}
        for label in label_set:
            plain.setdefault(" ".join(label.split()).casefold(), []).append(label)
        said += [
            f"These labels differ only in case or spaces: {same}."
            for same in plain.values()
            if len(same) > 1
        ]
        counts = rows["answer"].value_counts()
        rare = counts[counts < 3].index.tolist()
        if rare:
            said.append(f"Too rare to be in all three parts (fewer than 3 rows): {rare[:5]}.")
        few = counts[(counts >= 3) & (counts < 10)].index.tolist()
        if few:
            said.append(
                f"So few rows that a part may have none of them (fewer than 10): {few[:5]}; see the counts after the split."
            )
    return said


def _plain(value):
    """Numbers without fraction and truth values as text, for they are often labels; anything else as it is."""
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
    if isinstance(value, (dict, list, tuple, np.ndarray)):
        return "an object" if isinstance(value, dict) else "a list"
    return f"{value!r:.30} is no text"


def _first_answers(values):
    """(answers, how many had a choice), where SQuAD's {"text": [...], "answer_start": [...]} becomes its first text."""
    answers, several = [], 0
    for value in values:
        texts = value.get("text") if isinstance(value, dict) else None
        if isinstance(texts, (list, np.ndarray)):
            several += len(set(map(str, texts))) > 1
            value = texts[0] if len(texts) else None
        answers.append(value)
    return answers, several


def _chat(value):
    """(question, answer, turns before the answer, what is wrong or "") of a chat; None for what is missing."""
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            return _no_chat(f"{value[:30]!r} is no list of turns")
    if _empty(value):
        return None, None, None, "no turn"
    if not isinstance(value, (list, np.ndarray)):
        return _no_chat(f"{_kind(value)}, no list of turns")
    turns = []
    for number, turn in enumerate(value, 1):
        if not isinstance(turn, dict):
            return _no_chat(f"turn {number} is no object with a role and a text")
        role, content = turn.get("role", turn.get("from")), turn.get("content", turn.get("value"))
        if not isinstance(role, str) or role not in ROLES:
            return _no_chat(
                f"turn {number} has the role {str(role)[:30]!r}, not system, user or assistant"
            )
        if isinstance(content, (list, np.ndarray)):  # OpenAI's list of parts
            if not all(
                isinstance(part, dict) and isinstance(part.get("text"), str) for part in content
            ):
                return _no_chat(f"turn {number} holds something else than text")
            content = "".join(part["text"] for part in content)
        calls = turn.get("tool_calls")
        called = (
            "tool calls"
            if turn.get("function_call") is not None or (calls is not None and len(calls))
            else ""
        )
        last = number == len(value) and not called
        if not isinstance(content, str) and not (content is None and last):
            return _no_chat(
                f"turn {number} ({role}) has {called or 'no text' if content is None else _kind(content)}"
            )
        turns.append({"role": ROLES[role], "content": content})
    if not turns:
        return None, None, None, "no turn"
    answered = any(turn["role"] == "assistant" for turn in turns)
    while len(turns) > 1 and turns[-1]["role"] == "user" and answered:
        turns.pop()  # asked, but never answered
    why = "" if turns[-1]["content"] is not None else "the last turn has no text"
    if turns[-1]["role"] != "assistant":
        why = why or (
            "no turn of the assistant comes last" if answered else "no turn of the assistant"
        )
        turns.append({"role": "assistant", "content": None})
    asked = [turn["content"] for turn in turns[:-1] if turn["role"] != "system"]
    return "\n".join(asked), turns[-1]["content"], turns[:-1], why


def _no_chat(why):
    return (), (), None, why  # () stands for a value that is no text


def _joined(prompt, completion):
    """One prompt/completion row, each of them text or a list of messages, in the form of `_chat`."""
    if isinstance(prompt, str) or _empty(prompt):
        return prompt, completion, None, ""
    if not isinstance(prompt, (list, np.ndarray)):
        return _no_chat(f"the prompt is {_kind(prompt)}")
    after = (
        [{"role": "assistant", "content": completion}]
        if isinstance(completion, str)
        else completion
    )
    if not isinstance(after, (list, np.ndarray)):
        return _no_chat(
            "the prompt is a list of turns, but the completion is neither that nor text"
        )
    return _chat([*prompt, *after])
