"""What data may not do to a reader's browser or terminal, and what is never loaded."""

import re

import pandas as pd
import pytest
from IPython.core.interactiveshell import InteractiveShell
from transformers import AutoTokenizer

from helpers.data import chats
from helpers.records import folders

PLANTED = "<script>alert(1)</script>\x1b]0;title\x07\x1b[31mred"
FOREIGN_CODE = re.compile(
    r"trust_remote_code\s*=\s*True|pickle\.load|torch\.load\(|allow_pickle\s*=\s*True"
    r"|weights_only\s*=\s*False"
)


def test_a_question_in_a_table_is_text():
    shown, _ = InteractiveShell().display_formatter.format(pd.DataFrame({"question": [PLANTED]}))
    assert "<script" not in shown["text/html"] and "&lt;script" in shown["text/html"]


def test_marked_tokens_are_text(tiny):
    tokenizer = AutoTokenizer.from_pretrained(tiny)
    ids = tokenizer(PLANTED)["input_ids"]
    shown = chats.show_mask(tokenizer, ids, [0] * len(ids))
    assert "<script" not in shown["text/html"]
    assert "\x1b]" not in shown["text/plain"] and "\x07" not in shown["text/plain"]


@pytest.mark.parametrize("where", ["helpers", "course", "notebooks"])
def test_no_code_or_pickle_from_a_model_repository(where):
    sources = [
        path
        for path in (folders.REPOSITORY / where).rglob("*")
        if path.suffix in (".py", ".ipynb") and ".ipynb_checkpoints" not in path.parts
    ]
    assert sources
    for path in sources:
        assert not FOREIGN_CODE.search(path.read_text(encoding="utf-8")), path
