"""Chats: from a question and an answer to messages, and which tokens of them are trained on."""

import html
import json
import re
from collections import Counter
from itertools import pairwise

from datasets import Dataset, Features, Value

PROMPT_CHANGES = (
    "the chat template changes the prompt when an answer follows, so the mask would be wrong"
)
NEVER_ENDS = (
    "the chat template ends an answer with no special token, so the model cannot learn to stop"
)

# As Llama 3's instruct models are asked, written out anew: theirs lies in a gated repository. A
# test compares it with Meta's own ChatFormat.
LLAMA3_TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}<|start_header_id|>{{ m['role'] }}<|end_header_id|>\n\n"
    "{{ m['content'] | trim }}<|eot_id|>{% endfor %}"
    "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)
LLAMA3_BEGINNING = "<|begin_of_text|>"

# What a terminal would obey instead of showing.
CONTROL_CHARACTERS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def messages(system_prompt, question, turns=None):
    """The prompt as a list of messages (dicts with `role` and `content`).

    An empty system prompt leaves that message out. turns: messages of a longer chat, used instead
    of `question`; a system turn of its own is kept.
    """
    if turns is None:
        prompt = [{"role": "user", "content": question}]
    else:
        prompt = [dict(turn) for turn in turns]
    has_system_turn = bool(prompt) and prompt[0]["role"] == "system"
    if has_system_turn or not system_prompt:
        return prompt
    return [{"role": "system", "content": system_prompt}, *prompt]


def trained_tokens(tokenizer, prompt, completion):
    """Tokens of one example and which are trained on. Returns (ids, mask), lists of equal length.

    prompt, completion: message lists. mask[i] is True where token i belongs to the answer.
    Raises ValueError when the chat template renders the prompt differently with the answer behind
    it.
    """
    start = tokenizer.apply_chat_template(prompt, add_generation_prompt=True, return_dict=False)
    ids = tokenizer.apply_chat_template(prompt + completion, return_dict=False)
    if ids[: len(start)] != start:
        raise ValueError(PROMPT_CHANGES)
    return ids, [position >= len(start) for position in range(len(ids))]


def end_of_turn(tokenizer):
    """Id of the special token that ends an answer (ChatML's <|im_end|>, Llama 3's <|eot_id|>).

    Raises ValueError when the chat template ends an answer with no special token: such a model
    could not learn to stop.
    """
    _, end = _plain_chat(tokenizer, ("user", "assistant"))
    if end is None:
        raise ValueError(NEVER_ENDS)
    return end


def check_rows(tokenizer, rows):
    """Check what would be trained on in every row, and count it.

    rows: dict of lists `id`, `prompt` and `completion` (message lists), as `datasets` hands over a
    batch. Returns {"tokens", "answer_tokens"}: how many of each a row has, lists of int.

    Raises ValueError, which names the row and what is wrong, unless at least one token of the
    answer and the end of the turn are trained, no token before the answer is, the
    beginning-of-sequence token stands exactly once (or opens every turn, as in ChatML), no text is
    read as a special token, and padding differs from the end of the turn.
    """
    if tokenizer.chat_template is None:
        raise ValueError(
            "The tokenizer has no chat template: choose the model's instruct version, which has "
            "one."
        )
    prompts = rows["prompt"]
    chats = [
        prompt + completion for prompt, completion in zip(prompts, rows["completion"], strict=True)
    ]
    prompt_texts = tokenizer.apply_chat_template(
        prompts, add_generation_prompt=True, tokenize=False
    )
    chat_texts = tokenizer.apply_chat_template(chats, tokenize=False)
    chat_ids = tokenizer(chat_texts, add_special_tokens=False, return_attention_mask=False)[
        "input_ids"
    ]
    frames, answer_lengths = {}, []
    for name, prompt, chat, prompt_text, chat_text, ids in zip(
        rows["id"], prompts, chats, prompt_texts, chat_texts, chat_ids, strict=True
    ):
        roles = tuple(message["role"] for message in chat)
        kind = (roles, len(prompt))
        if kind not in frames:
            frames[kind] = _Frame(tokenizer, roles, len(prompt))
        prompt_length = frames[kind].prompt_length(prompt_text, chat_text, ids)
        problem = frames[kind].problem(ids, prompt_length)
        if problem:
            raise ValueError(f"Row {name} cannot be trained on: {problem}.")
        answer_lengths.append(len(ids) - prompt_length)
    return {"tokens": [len(ids) for ids in chat_ids], "answer_tokens": answer_lengths}


class _Frame:
    """What the chat template puts around the words of all chats with the same roles."""

    def __init__(self, tokenizer, roles, prompt_turns):
        """roles: of all messages (tuple of str); prompt_turns: how many of them are the prompt."""
        self.tokenizer = tokenizer
        self.special_ids = frozenset(tokenizer.all_special_ids)
        ids, self.end = _plain_chat(tokenizer, roles)
        self.specials = [token for token in ids if token in self.special_ids]
        self.beginnings = ids.count(tokenizer.bos_token_id)
        self.begins_rightly = _begins_rightly(tokenizer.bos_token_id, ids, self.end)
        self._read_end_of_prompt(roles[:prompt_turns])

    def _read_end_of_prompt(self, roles):
        """How a prompt with these roles ends: its last special token and what follows it.

        Sets `prompt_specials`, the number of special tokens in the prompt, and `prompt_end` and
        `prompt_end_ids`, its text and its ids from the last of them on; both empty where there is
        none, or where the tokenizer is slow and may cut a text elsewhere.
        """
        text = self.tokenizer.apply_chat_template(
            _plain_messages(roles), add_generation_prompt=True, tokenize=False
        )
        ids = self._ids(text)
        places = self._special_places(ids)
        self.prompt_specials = len(places)
        self.prompt_end, self.prompt_end_ids = "", []
        if places and self.tokenizer.is_fast:
            last = self.tokenizer.convert_ids_to_tokens(ids[places[-1]])
            self.prompt_end = text[text.rfind(last) :]
            self.prompt_end_ids = ids[places[-1] :]

    def _ids(self, text):
        return self.tokenizer(text, add_special_tokens=False)["input_ids"]

    def _special_places(self, ids):
        """Positions (list of int) of the special tokens among `ids`."""
        return [position for position, token in enumerate(ids) if token in self.special_ids]

    def prompt_length(self, prompt_text, chat_text, ids):
        """Number of tokens of the prompt, or None when the chat's `ids` do not begin with them.

        A tokenizer cuts at special tokens first and reads each piece by itself. So when the special
        tokens are those expected, only what follows the prompt's last one need be compared;
        tokenising every prompt would take as long again.
        """
        places = self._special_places(ids)
        ends_as_expected = (
            self.prompt_end
            and len(places) == len(self.specials)
            and chat_text.startswith(prompt_text)
            and prompt_text.endswith(self.prompt_end)
        )
        if ends_as_expected:
            last = places[self.prompt_specials - 1]
            length = last + len(self.prompt_end_ids)
            if ids[last:length] == self.prompt_end_ids:
                return length
        prompt = self._ids(prompt_text)
        return len(prompt) if ids[: len(prompt)] == prompt else None

    def problem(self, ids, prompt_length):
        """What is wrong with training on the answer of a chat, as half a sentence, or None.

        ids: of the whole chat; prompt_length: as the method of this name returns it.
        """
        if prompt_length is None:
            return PROMPT_CHANGES
        if self.end is None:
            return NEVER_ENDS
        answer = ids[prompt_length:]
        if self.end not in answer:
            return "the token that ends the turn is not trained on"
        if answer[0] == self.end:
            return "no token of the answer is trained on"
        if self.tokenizer.pad_token_id == self.end:
            return "the padding token is the end of the turn, and would be masked with it"
        if not self.begins_rightly:
            return f"the chat template puts {self.beginnings} beginning-of-sequence tokens, not one"
        specials = [token for token in ids if token in self.special_ids]
        if specials != self.specials:
            return self._surplus(specials)
        return None

    def _surplus(self, specials):
        """The sentence on the first special token that stands more or less often than expected."""
        difference = Counter(specials)
        difference.subtract(self.specials)
        for token, count in difference.items():
            if count:
                name = self.tokenizer.convert_ids_to_tokens(token)
                return f"its text holds {name}, which the tokenizer reads as a mark"
        return None


def _begins_rightly(bos, ids, end):
    """True when the beginning-of-sequence token `bos` opens a chat's `ids` once, or every turn."""
    if bos in (None, end):
        return True
    places = [position for position, token in enumerate(ids) if token == bos]
    never_twice_in_a_row = all(later - earlier > 1 for earlier, later in pairwise(places))
    opens_every_turn = never_twice_in_a_row and len(places) == ids.count(end)
    return len(places) == 1 or opens_every_turn


def _plain_messages(roles):
    return [{"role": role, "content": "word"} for role in roles]


def _plain_chat(tokenizer, roles):
    """A chat with these roles and a plain word in every turn.

    Returns (its ids, id of the special token that ends it or None).
    """
    ids = tokenizer.apply_chat_template(_plain_messages(roles), return_dict=False)
    for token in reversed(ids[-3:]):  # a line break may follow the mark
        if token in tokenizer.all_special_ids:
            return ids, token
    return ids, None


def read_rows(path):
    """The rows of a JSON-lines file that 01 wrote, as a `datasets.Dataset`.

    Text stays text; `load_dataset("json")` would take answers that look like dates for timestamps.
    """
    text = Value("string")
    turns = [{"role": text, "content": text}]
    with open(path, encoding="utf-8") as stream:
        rows = [json.loads(line) for line in stream]
    columns = {name: turns if name in ("prompt", "completion") else text for name in rows[0]}
    return Dataset.from_list(rows, features=Features(columns))


def visible(text):
    """`text` for print(): what a terminal would obey becomes U+FFFD; line breaks and tabs stay."""
    return CONTROL_CHARACTERS.sub("\ufffd", text)


def side_by_side(texts):
    """Texts in columns, for `display(..., raw=True)`.

    texts: {heading: text}. Returns HTML and plain text, where they stand one below the other, in a
    dict by media type.
    """
    columns, plain = [], []
    for heading, text in texts.items():
        shown = visible(text).rstrip("\n")
        columns.append(
            '<td style="vertical-align:top;text-align:left;width:50%">'
            f"<b>{html.escape(heading)}</b>"
            f'<pre style="white-space:pre-wrap">{html.escape(shown)}</pre></td>'
        )
        plain.append(f"{heading}:\n{shown}")
    table = f"<table><tr>{''.join(columns)}</tr></table>"
    return {"text/html": table, "text/plain": "\n\n".join(plain)}


def show_mask(tokenizer, ids, mask):
    """The tokens with the trained ones marked, for `display(..., raw=True)`.

    ids, mask: as `trained_tokens` returns them. Returns HTML (trained tokens are orange) and plain
    text (in brackets), in a dict by media type.
    """
    spans, plain = [], []
    for token, trained in zip(tokenizer.convert_ids_to_tokens(ids), mask, strict=True):
        piece = visible(tokenizer.convert_tokens_to_string([token]))
        text = html.escape(piece).replace("\n", "⏎<br>")
        style = "background:#f5a623;color:#000" if trained else "color:#777"
        spans.append(f'<span style="{style}">{text}</span>')
        plain.append("[" + piece.replace("\n", "⏎") + "]" if trained else piece)
    block = '<div style="font-family:monospace;line-height:1.6">' + "".join(spans) + "</div>"
    return {"text/html": block, "text/plain": "".join(plain)}
