"""Chats: from a question and an answer to messages, and which tokens of them are trained on."""

import html
import json
import re
from collections import Counter
from itertools import pairwise

CHANGED = "the chat template changes the prompt when an answer follows, so the mask would be wrong"
ENDLESS = (
    "the chat template ends an answer with no special token, so the model cannot learn to stop"
)

CONTROL = re.compile(
    r"[\x00-\x08\x0b-\x1f\x7f-\x9f]"
)  # what a terminal would obey instead of showing


def messages(system_prompt, question, turns=None):
    """The prompt as a list of messages; an empty system prompt leaves that message out.

    turns: messages of a longer chat, used instead of `question`; a system turn of its own is kept.
    """
    asked = (
        [dict(turn) for turn in turns]
        if turns is not None
        else [{"role": "user", "content": question}]
    )
    has_system = bool(asked) and asked[0]["role"] == "system"
    return (
        asked
        if has_system or not system_prompt
        else [{"role": "system", "content": system_prompt}, *asked]
    )


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
    """Check what would be trained on in every row; returns {"tokens", "answer_tokens"}: how many of each, lists of int.

    rows: dict of lists `id`, `prompt` and `completion` (message lists), as `datasets` hands over a batch.
    Raises ValueError, which names the row and what is wrong, unless at least one token of the answer and the end of
    the turn are trained, no token before the answer is, the beginning-of-sequence token stands exactly once (or opens
    every turn, as in ChatML), no text is read as a special token, and padding differs from the end of the turn.
    """
    if tokenizer.chat_template is None:
        raise ValueError(
            "The tokenizer has no chat template: choose the model's instruct version, which has one."
        )
    chats = [
        prompt + completion
        for prompt, completion in zip(rows["prompt"], rows["completion"], strict=True)
    ]
    starts = tokenizer.apply_chat_template(
        rows["prompt"], add_generation_prompt=True, tokenize=False
    )
    texts = tokenizer.apply_chat_template(chats, tokenize=False)
    wholes = tokenizer(texts, add_special_tokens=False, return_attention_mask=False)["input_ids"]
    expected, answers = {}, []
    for name, prompt, chat, start, text, ids in zip(
        rows["id"], rows["prompt"], chats, starts, texts, wholes, strict=True
    ):
        roles = tuple(message["role"] for message in chat)
        kind = (roles, len(prompt))
        if kind not in expected:
            expected[kind] = _Expected(tokenizer, *kind)
        wrong, trained = expected[kind].check(start, text, ids)
        if wrong:
            raise ValueError(f"Row {name} cannot be trained on: {wrong}.")
        answers.append(trained)
    return {"tokens": [len(ids) for ids in wholes], "answer_tokens": answers}


class _Expected:
    """What all chats with the same roles must have in common: which special tokens, where the answer begins."""

    def __init__(self, tokenizer, roles, asked):
        """roles: of all messages; asked: how many of them are the prompt."""
        self.tokenizer, self.specials = tokenizer, frozenset(tokenizer.all_special_ids)
        ids, self.end = _neutral(tokenizer, roles)
        self.marks = [token for token in ids if token in self.specials]
        begins = [position for position, token in enumerate(ids) if token == tokenizer.bos_token_id]
        opens_turns = all(after - before > 1 for before, after in pairwise(begins)) and len(
            begins
        ) == ids.count(self.end)
        self.begins = len(begins)
        self.begins_rightly = (
            tokenizer.bos_token_id in (None, self.end) or self.begins == 1 or opens_turns
        )
        # How a prompt ends: the text from its last special token on, and its tokens.
        prompt = [{"role": role, "content": "word"} for role in roles[:asked]]
        text = tokenizer.apply_chat_template(prompt, add_generation_prompt=True, tokenize=False)
        start = self._tokens(text)
        places = [position for position, token in enumerate(start) if token in self.specials]
        self.marks_before, self.opening, self.opening_ids = len(places), "", []
        if places and tokenizer.is_fast:
            self.opening = text[text.rfind(tokenizer.convert_ids_to_tokens(start[places[-1]])) :]
            self.opening_ids = start[places[-1] :]

    def _tokens(self, text):
        return self.tokenizer(text, add_special_tokens=False)["input_ids"]

    def _prompt_length(self, start, text, ids, places):
        """Number of tokens of the prompt (text `start`), or None when the chat's `ids` do not begin with them.

        A tokenizer cuts at special tokens first and reads each piece by itself. So when the special tokens are those
        expected, only what follows the prompt's last one need be compared; tokenising every prompt would take as long again.
        """
        if (
            self.opening
            and len(places) == len(self.marks)
            and text.startswith(start)
            and start.endswith(self.opening)
        ):
            last = places[self.marks_before - 1]
            length = last + len(self.opening_ids)
            if ids[last:length] == self.opening_ids:
                return length
        prompt = self._tokens(start)
        return len(prompt) if ids[: len(prompt)] == prompt else None

    def check(self, start, text, ids):
        """(what is wrong with training on the answer of a chat, or None; how many tokens the answer has).

        start: text of its prompt; text, ids: of the whole.
        """
        places = [position for position, token in enumerate(ids) if token in self.specials]
        length = self._prompt_length(start, text, ids, places)
        if length is None:
            return CHANGED, 0
        trained = ids[length:]
        return self._wrong(ids, trained, places), len(trained)

    def _wrong(self, ids, trained, places):
        if self.end is None:
            return ENDLESS
        if self.end not in trained:
            return "the token that ends the turn is not trained on"
        if trained[0] == self.end:
            return "no token of the answer is trained on"
        if self.tokenizer.pad_token_id == self.end:
            return "the padding token is the end of the turn, and would be masked with it"
        if not self.begins_rightly:
            return f"the chat template puts {self.begins} beginning-of-sequence tokens, not one"
        marks = [ids[position] for position in places]
        if marks != self.marks:
            surplus = Counter(marks)
            surplus.subtract(self.marks)
            for token, count in surplus.items():
                if count:
                    return f"its text holds {self.tokenizer.convert_ids_to_tokens(token)}, which the tokenizer reads as a mark"
        return None


def _neutral(tokenizer, roles):
    """(ids of a chat with these roles and a plain word in every turn, id of the special token that ends it or None)."""
    ids = tokenizer.apply_chat_template(
        [{"role": role, "content": "word"} for role in roles], return_dict=False
    )
    return ids, next(
        (token for token in reversed(ids[-3:]) if token in tokenizer.all_special_ids), None
    )


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


def visible(text):
    """`text` for print(): what a terminal would obey instead of showing becomes U+FFFD; line breaks and tabs stay."""
    return CONTROL.sub("\ufffd", text)


def show_mask(tokenizer, ids, mask):
    """The tokens with the trained ones marked, for `display(..., raw=True)`: HTML (orange) and plain text (brackets)."""
    spans, plain = [], []
    for token, trained in zip(tokenizer.convert_ids_to_tokens(ids), mask, strict=True):
        piece = visible(tokenizer.convert_tokens_to_string([token]))
        text = html.escape(piece).replace("\n", "⏎<br>")
        style = "background:#f5a623;color:#000" if trained else "color:#777"
        spans.append(f'<span style="{style}">{text}</span>')
        plain.append("[" + piece.replace("\n", "⏎") + "]" if trained else piece)
    block = '<div style="font-family:monospace;line-height:1.6">' + "".join(spans) + "</div>"
    return {"text/html": block, "text/plain": "".join(plain)}
