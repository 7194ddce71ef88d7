"""Chats: from a question and an answer to messages, and which tokens of them are trained on."""

import html


def messages(system_prompt, question):
    """The prompt as a list of messages; an empty system prompt leaves that message out."""
    system = [{"role": "system", "content": system_prompt}] if system_prompt else []
    return system + [{"role": "user", "content": question}]


def trained_tokens(tokenizer, prompt, completion):
    """Tokens of one example and which are trained on. Returns (ids, mask), lists of equal length.

    prompt, completion: message lists. mask[i] is True where token i belongs to the answer.
    Raises ValueError when the chat template renders the prompt differently with the answer behind it.
    """
    start = tokenizer.apply_chat_template(prompt, add_generation_prompt=True, return_dict=False)
    ids = tokenizer.apply_chat_template(prompt + completion, return_dict=False)
    if ids[: len(start)] != start:
        raise ValueError("The chat template changes the prompt when an answer follows: the mask would be wrong.")
    return ids, [position >= len(start) for position in range(len(ids))]


def show_mask(tokenizer, ids, mask):
    """HTML (str) of the tokens, trained ones on orange, masked ones grey; all text is escaped."""
    spans = []
    for token, trained in zip(tokenizer.convert_ids_to_tokens(ids), mask, strict=True):
        text = html.escape(tokenizer.convert_tokens_to_string([token])).replace("\n", "⏎<br>")
        style = "background:#f5a623;color:#000" if trained else "color:#777"
        spans.append(f'<span style="{style}">{text}</span>')
    return '<div style="font-family:monospace;line-height:1.6">' + "".join(spans) + "</div>"
