"""Chats: from a question and an answer to messages, and which tokens of them are trained on."""

import html
import json
import re
from collections import Counter
from itertools import pairwise

CHANGED = "the chat template changes the prompt when an answer follows, so the mask would be wrong"
ENDLESS = "the chat template ends an answer with no special token, so the model cannot learn to stop"

CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")  # what a terminal would obey instead of showing


def messages(system_prompt, question, turns=None):
    """The prompt as a list of messages; an empty system prompt leaves that message out.

    turns: messages of a longer chat, used instead of `question`; a system turn of its own is kept.
    """
    asked = [dict(turn) for turn in turns] if turns is not None else [{"role": "user", "content": question}]
    has_system = bool(asked) and asked[0]["role"] == "system"
    return asked if has_system or not system_prompt else [{"role": "system", "content": system_prompt}, *asked]


def trained_tokens(tokenizer, prompt, completion):
    """Tokens of one example and which are trained on. Returns (ids, mask), lists of equal length.

    prompt, completion: message lists. mask[i] is True where token i belongs to the answer.
    Raises ValueError when the chat template renders the prompt differently with the answer behind it.
    """
    start = tokenizer.apply_chat_template(prompt, add_generation_prompt=True, return_dict=False)
    ids = tokenizer.apply_chat_template(prompt + completion, return_dict=False)
    if ids[: len(start)] != start:
        raise ValueError(CHANGED)
    return ids, [position >= len(start) for position in range(len(ids))]


def end_of_turn(tokenizer):
    """Id of the special token with which the chat template ends an answer (ChatML's <|im_end|>, Llama 3's <|eot_id|>).

    Raises ValueError when it ends an answer with no special token: such a model could not learn to stop.
    """
    _, end = _neutral(tokenizer, ("user", "assistant"))
    if end is None:
        raise ValueError(ENDLESS)
    return end


def check_rows(tokenizer, rows):
    """Check what would be trained on in every row; returns {"tokens": lengths}, list of int.

    rows: dict of lists `id`, `prompt` and `completion` (message lists), as `datasets` hands over a batch.
    Raises ValueError, which names the row and what is wrong, unless at least one token of the answer and the end of
    the turn are trained, no token before the answer is, the beginning-of-sequence token stands exactly once (or opens
    every turn, as in ChatML), no text is read as a special token, and padding differs from the end of the turn.
    """
    if tokenizer.chat_template is None:
        raise ValueError("The tokenizer has no chat template: choose the model's instruct version, which has one.")
    chats = [prompt + completion for prompt, completion in zip(rows["prompt"], rows["completion"], strict=True)]
    starts = tokenizer.apply_chat_template(rows["prompt"], add_generation_prompt=True, return_dict=False)
    wholes = tokenizer.apply_chat_template(chats, return_dict=False)
    patterns = [tuple(message["role"] for message in chat) for chat in chats]
    neutral = {roles: _neutral(tokenizer, roles) for roles in set(patterns)}
    specials = frozenset(tokenizer.all_special_ids)
    for name, roles, start, ids in zip(rows["id"], patterns, starts, wholes, strict=True):
        wrong = _wrong(tokenizer, specials, *neutral[roles], start, ids)
        if wrong:
            raise ValueError(f"Row {name} cannot be trained on: {wrong}.")
    return {"tokens": [len(ids) for ids in wholes]}


def _wrong(tokenizer, specials, expected, end, start, ids):
    """What is wrong with training on `ids[len(start):]`, or None; expected, end: `_neutral` of a chat with these roles."""
    if ids[: len(start)] != start:
        return CHANGED
    trained = ids[len(start) :]
    if end is None:
        return ENDLESS
    if end not in trained:
        return "the token that ends the turn is not trained on"
    if trained.index(end) == 0:
        return "no token of the answer is trained on"
    if tokenizer.pad_token_id == end:
        return "the padding token is the end of the turn, and would be masked with it"
    begins = [position for position, token in enumerate(expected) if token == tokenizer.bos_token_id]
    apart = all(after - before > 1 for before, after in pairwise(begins))
    opens_turns = apart and len(begins) == expected.count(end)
    if tokenizer.bos_token_id not in (None, end) and len(begins) != 1 and not opens_turns:
        return f"the chat template puts {len(begins)} beginning-of-sequence tokens, not one"
    surplus = Counter(token for token in ids if token in specials)
    surplus.subtract(token for token in expected if token in specials)
    for token, count in surplus.items():
        if count:
            return f"its text holds {tokenizer.convert_ids_to_tokens(token)}, which the tokenizer reads as a mark"
    return None


def _neutral(tokenizer, roles):
    """(ids of a chat with these roles and a plain word in every turn, id of the special token that ends it or None)."""
    ids = tokenizer.apply_chat_template([{"role": role, "content": "word"} for role in roles], return_dict=False)
    return ids, next((token for token in reversed(ids[-3:]) if token in tokenizer.all_special_ids), None)


def read_rows(path):
    """The rows of a JSON-lines file that 01 wrote, as a `datasets.Dataset`.

    Text stays text; `load_dataset("json")` would take answers that look like dates for timestamps.
    """
    from datasets import Dataset, Features, Value

    text = Value("string")
    turns = [{"role": text, "content": text}]
    with open(path, encoding="utf-8") as stream:
        rows = [json.loads(line) for line in stream]
    columns = {name: turns if name in ("prompt", "completion") else text for name in rows[0]}
    return Dataset.from_list(rows, features=Features(columns))


def show_mask(tokenizer, ids, mask):
    """The tokens with the trained ones marked, for `display(..., raw=True)`: HTML (orange) and plain text (brackets)."""
    spans, plain = [], []
    for token, trained in zip(tokenizer.convert_ids_to_tokens(ids), mask, strict=True):
        piece = CONTROL.sub("\ufffd", tokenizer.convert_tokens_to_string([token]))
        text = html.escape(piece).replace("\n", "⏎<br>")
        style = "background:#f5a623;color:#000" if trained else "color:#777"
        spans.append(f'<span style="{style}">{text}</span>')
        plain.append("[" + piece.replace("\n", "⏎") + "]" if trained else piece)
    block = '<div style="font-family:monospace;line-height:1.6">' + "".join(spans) + "</div>"
    return {"text/html": block, "text/plain": "".join(plain)}
