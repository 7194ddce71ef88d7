"""The Llama 3 path without its weights: a model with its vocabulary stops where a turn ends."""

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from helpers.evaluate import asking
from helpers.model import loading


def parrot(folder):
    """(model, tokenizer) of `folder`, set to say "yes", <|eot_id|>, "yes", … after a header."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_special_tokens({"pad_token": loading.PAD_TOKEN})
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    loading.add_pad_row(model, tokenizer)
    blank, yes, end = (
        tokenizer.convert_tokens_to_ids(token) for token in ("ĊĊ", "yes", "<|eot_id|>")
    )
    with torch.no_grad():
        for layer in model.model.layers:  # nothing but the last token counts
            layer.self_attn.o_proj.weight.zero_()
            layer.mlp.down_proj.weight.zero_()
        model.lm_head.weight.zero_()
        known = model.get_input_embeddings().weight
        for before, after in ((blank, yes), (yes, end), (end, yes)):
            model.lm_head.weight[after] += known[before] / known[before].norm()
    return model, tokenizer


def test_generation_stops_at_the_end_of_the_turn(llama3_tiny):
    model, tokenizer = parrot(llama3_tiny)
    prompts = [
        [{"role": "user", "content": text}]
        for text in ("Is seven odd?", "And eight, which is a longer question?")
    ]
    for said in asking.answer(model, tokenizer, prompts, 8, 2):
        assert said["text"] == "yes" and said["stopped"]

    ids = tokenizer.apply_chat_template(
        prompts[0], add_generation_prompt=True, return_tensors="pt", return_dict=True
    )

    def written():
        whole = model.generate(**ids, max_new_tokens=8, do_sample=False)
        return tokenizer.convert_ids_to_tokens(whole[0, ids["input_ids"].shape[1] :])

    assert written() == ["yes", "<|eot_id|>"]  # as generation_config.json has it
    # <|end_of_text|> alone, as base models have it: never said in a chat.
    model.generation_config.eos_token_id = 128001
    assert len(written()) == 8
    for said in asking.answer(model, tokenizer, prompts, 8, 2):
        assert said["text"] == "yes" and said["stopped"]
