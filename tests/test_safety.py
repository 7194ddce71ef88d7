"""What data may not do to a reader's browser or terminal, and what is never loaded."""

import re

import pandas as pd
import pytest
from IPython.core.interactiveshell import InteractiveShell

from helpers import artefacts, chat

PLANTED = '<script>alert(1)</script>\x1b]0;title\x07\x1b[31mred'


def test_a_question_in_a_table_is_text():
    shown, _ = InteractiveShell().display_formatter.format(pd.DataFrame({"question": [PLANTED]}))
    assert "<script" not in shown["text/html"] and "&lt;script" in shown["text/html"]


def test_marked_tokens_are_text(tiny):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny)
    ids = tokenizer(PLANTED)["input_ids"]
    shown = chat.show_mask(tokenizer, ids, [0] * len(ids))
    assert "<script" not in shown["text/html"]
    assert "\x1b]" not in shown["text/plain"] and "\x07" not in shown["text/plain"]


@pytest.mark.parametrize("where", ["helpers", "notebooks"])
def test_no_code_or_pickle_from_a_model_repository(where):
    for path in (artefacts.REPOSITORY / where).glob("*.*"):
        if path.suffix in (".py", ".ipynb"):
            text = path.read_text(encoding="utf-8")
            assert not re.search(r"trust_remote_code\s*=\s*True|pickle\.load|torch\.load\(|allow_pickle\s*=\s*True|weights_only\s*=\s*False", text), path
