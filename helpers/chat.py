"""Chats: from a question and an answer to messages, and which tokens of them are trained on."""

import html
from functools import lru_cache


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
        raise ValueError("the chat template changes the prompt when an answer follows, so the mask would be wrong")
    return ids, [position >= len(start) for position in range(len(ids))]


def end_of_turn(tokenizer):
    """Id of the special token with which the chat template ends an answer (ChatML's <|im_end|>, Llama 3's <|eot_id|>).

    Raises ValueError when it ends an answer with no special token: such a model could not learn to stop.
    """
    ids = _neutral(tokenizer, ("user", "assistant"))
    special = [token for token in ids[-3:] if token in tokenizer.all_special_ids]
    if not special:
        raise ValueError("the chat template ends an answer with no special token, so the model cannot learn to stop")
    return special[-1]


def check(tokenizer, prompt, completion):
    """Number of tokens (int) of one example, after checking what would be trained on.

    Raises ValueError, with what is wrong, unless at least one token and the end of the turn are trained, the
    beginning-of-sequence token stands exactly once (or opens every turn, as in ChatML), no text of the row
    is read as a special token, and padding differs from the end of the turn.
    """
    ids, mask = trained_tokens(tokenizer, prompt, completion)
    trained = [token for token, counts in zip(ids, mask, strict=True) if counts]
    end, begin = end_of_turn(tokenizer), tokenizer.bos_token_id
    if len([token for token in trained if token != end]) == 0:
        raise ValueError("no token of the answer is trained on")
    if end not in trained:
        raise ValueError("the token that ends the turn is not trained on")
    if tokenizer.pad_token_id == end:
        raise ValueError("the padding token is the end of the turn, and would be masked with it")
    plain = _neutral(tokenizer, tuple(message["role"] for message in prompt + completion))
    if begin is not None and begin != end and plain.count(begin) != 1 and plain.count(begin) < len(prompt + completion):
        raise ValueError(f"the chat template puts {plain.count(begin)} beginning-of-sequence tokens, not one")
    for token in tokenizer.all_special_ids:
        if ids.count(token) != plain.count(token):
            raise ValueError(f"its text holds {tokenizer.convert_ids_to_tokens(token)}, which the tokenizer reads as a mark")
    return len(ids)


def check_row(tokenizer, row):
    """`check` for a dict with id, prompt and completion; returns {"tokens": int}, names the row in its ValueError."""
    try:
        return {"tokens": check(tokenizer, row["prompt"], row["completion"])}
    except ValueError as error:
        raise ValueError(f"Row {row['id']} cannot be trained on: {error}.") from None


@lru_cache(maxsize=256)
def _neutral(tokenizer, roles):
    """Ids of a chat with these roles and a plain word in every turn."""
    return tokenizer.apply_chat_template([{"role": role, "content": "word"} for role in roles], return_dict=False)


def show_mask(tokenizer, ids, mask):
    """The tokens with the trained ones marked, for `display(..., raw=True)`: HTML (orange) and plain text (brackets)."""
    spans, plain = [], []
    for token, trained in zip(tokenizer.convert_ids_to_tokens(ids), mask, strict=True):
        piece = tokenizer.convert_tokens_to_string([token])
        text = html.escape(piece).replace("\n", "⏎<br>")
        style = "background:#f5a623;color:#000" if trained else "color:#777"
        spans.append(f'<span style="{style}">{text}</span>')
        plain.append("[" + piece.replace("\n", "⏎") + "]" if trained else piece)
    block = '<div style="font-family:monospace;line-height:1.6">' + "".join(spans) + "</div>"
    return {"text/html": block, "text/plain": "".join(plain)}
