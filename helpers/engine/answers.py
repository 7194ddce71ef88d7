"""Scores for answers only.

The output layer turns each position into one score for every token of the vocabulary, and it is the
largest layer of a small model. Only the positions before an answer's tokens enter the loss, a few
in a hundred. TRL scores these alone on a GPU, and on a CPU all of them. So the model's last layer
hands on the states at these positions only, and the labels come shifted, as TRL takes them from
whoever has shifted them already (`shift_labels`).
"""


def keep_answers(model):
    """Let `model` (a PreTrainedModel) return the last states at a batch's `answers` only, in place.

    `answers` are positions (tokens,), as the collator gives them; a call without them is as ever.
    Returns two handles, whose remove() undoes it.
    """
    kept = []

    def take(backbone, arguments, keywords):
        kept.append(keywords.pop("answers", None))
        return arguments, keywords

    def select(backbone, arguments, output):
        answers = kept.pop()
        if answers is not None:
            output.last_hidden_state = output.last_hidden_state[:, answers]
        return output

    before = model.base_model.register_forward_pre_hook(take, with_kwargs=True)
    return before, model.base_model.register_forward_hook(select)
