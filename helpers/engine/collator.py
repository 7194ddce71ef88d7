"""A batch as one sequence: what all its rows begin with once, then the rest of row after row.

What a token means depends only on what stands before it, so the beginning that rows share (the
system prompt, at least) comes to the same in every row, and reading it once is enough. All layers
but attention treat each token by itself and do not notice; attention.py sees to the rest.
"""

import torch


class PackingCollator:
    """A data collator around another one, which pads rows on the right, as TRL's does.

    Its batches hold, for rows that share `beginning` tokens and have at most `length` further ones:

    - `attention_mask` (rows, 1, 1, length): 1 where a row has a token of its own, 0 for padding. It
      comes first, because the Trainer weighs a batch's validation loss by the length of the first;
    - `input_ids` and `position_ids` (1, beginning + rows · length);
    - `answers` (tokens,): the positions from which a trained token is predicted;
    - `shift_labels` (1, tokens): these tokens, and `labels`: the same behind a first -100, for
      whoever counts them.

    The last column of the padded batch is left out, because nothing is predicted from it.
    """

    def __init__(self, collator):
        self.collator = collator

    def __call__(self, rows):
        padded = self.collator(rows)
        ids, wanted = padded["input_ids"][:, :-1], padded["labels"][:, 1:]
        beginning = common_beginning(ids, wanted)
        length = ids.shape[1] - beginning
        place = torch.arange(ids.shape[1])
        row, offset = (wanted[:, beginning:] != -100).nonzero(as_tuple=True)
        answers = beginning + row * length + offset
        packed = torch.cat([ids[0, :beginning], ids[:, beginning:].flatten()])[None]
        targets = wanted[row, beginning + offset]
        labels = torch.cat([targets.new_tensor([-100]), targets])[None]
        return {
            "attention_mask": padded["attention_mask"][:, None, None, beginning:-1],
            "input_ids": packed,
            "position_ids": torch.cat([place[:beginning], place[beginning:].repeat(len(ids))])[
                None
            ],
            "labels": labels,
            "answers": answers,
            "shift_labels": labels[:, 1:],
        }


def common_beginning(ids, wanted):
    """With how many tokens (int) all rows of a batch begin, before any answer is predicted.

    ids, wanted: (rows, positions), the tokens and the token to predict at each, or -100.
    """
    same = (ids == ids[0]).all(dim=0) & (wanted == -100).all(dim=0)
    return int(same.long().cumprod(dim=0).sum())
