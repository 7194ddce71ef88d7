"""The packing collator: what a batch holds, checked by hand."""

import torch
from tiny_models import BATCHES
from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

from helpers.engine.collator import PackingCollator, common_beginning

PADDING = DataCollatorForLanguageModeling(pad_token_id=0)


def beginning_of(rows):
    padded = PADDING(rows)
    return common_beginning(padded["input_ids"][:, :-1], padded["labels"][:, 1:])


def test_what_rows_have_in_common():
    assert {name: beginning_of(rows) for name, rows in BATCHES.items()} == {
        "a beginning in common": 3,
        "nothing in common": 0,
        "the same prompt": 2,
        "the same row twice": 2,
        "one row": 2,
        "very unlike lengths": 1,
        "several turns": 1,
    }


def test_a_batch_by_hand():
    batch = PackingCollator(PADDING)(BATCHES["a beginning in common"])
    assert next(iter(batch)) == "attention_mask"  # the Trainer counts rows by the first tensor
    assert batch["attention_mask"].shape == (3, 1, 1, 5)
    assert batch["attention_mask"][:, 0, 0].tolist() == [
        [1, 1, 1, 1, 0],
        [1, 1, 1, 1, 1],
        [1, 1, 0, 0, 0],
    ]
    rows = [[7, 8, 9, 2, 0], [17, 18, 19, 20, 10], [4, 2, 0, 0, 0]]
    assert batch["input_ids"].tolist() == [[1, 5, 6, *rows[0], *rows[1], *rows[2]]]
    assert batch["position_ids"].tolist() == [[0, 1, 2, *[3, 4, 5, 6, 7] * 3]]
    assert batch["shift_labels"].tolist() == [[9, 2, 10, 2, 2]]
    assert batch["answers"].tolist() == [4, 5, 11, 12, 13]
    assert batch["labels"].tolist() == [[-100, 9, 2, 10, 2, 2]]


def test_as_many_tokens_are_trained_on_as_before():
    for rows in BATCHES.values():
        packed, padded = PackingCollator(PADDING)(rows), PADDING(rows)
        assert (packed["labels"][:, 1:] != -100).sum() == (padded["labels"][:, 1:] != -100).sum()
        assert torch.equal(
            packed["shift_labels"][0], padded["labels"][:, 1:][padded["labels"][:, 1:] != -100]
        )
