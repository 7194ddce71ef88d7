"""Scores for answers only: states at the positions asked for, and all of them otherwise."""

import torch
from tiny_models import SERVED
from transformers import AutoModelForCausalLM

from helpers.engine.answers import keep_answers


def test_states_at_the_answers_and_all_others_when_not_asked():
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(SERVED["llama"]).eval()
    ids, answers = torch.tensor([[1, 5, 6, 7, 8]]), torch.tensor([1, 3])
    with torch.no_grad():
        whole = model.base_model(input_ids=ids).last_hidden_state
        keep_answers(model)
        some = model.base_model(input_ids=ids, answers=answers).last_hidden_state
        again = model.base_model(input_ids=ids).last_hidden_state
    assert torch.equal(some, whole[:, answers]) and torch.equal(again, whole)
