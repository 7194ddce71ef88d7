"""The Llama 3 path without its weights: a random model with its vocabulary and config keys learns, is merged, and stops."""

import json
import os
import subprocess
import sys

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from helpers import asking, models


def test_the_five_notebooks_on_a_llama3_vocabulary(llama3_tiny, tmp_path):
    rows = [f"is {'seven' if i % 2 else 'eight'} odd? case {i},{'yes' if i % 2 else 'no'}" for i in range(24)]
    (tmp_path / "mine.csv").write_text("\n".join(["question,answer", *rows]) + "\n")
    settings = {
        "data_path": "mine.csv", "model_id": llama3_tiny, "max_length": 64, "epochs": 1, "near_duplicate": 1,
        "few_shot": 0, "bootstrap_samples": 100, "system_prompt": "Answer yes or no.",
    }
    given = [text for name, value in settings.items() for text in ("-p", name, str(value))]
    command = [sys.executable, "-m", "helpers.run", "--run-dir", str(tmp_path / "run"), *given]
    alone = {**os.environ, "OMP_NUM_THREADS": "1"}  # so small a model gains nothing from threads
    done = subprocess.run(command, check=False, capture_output=True, text=True, cwd=tmp_path, env=alone)
    assert done.returncode == 0, done.stderr[-3000:]

    merged = tmp_path / "run" / "04_merge_push" / "merged"
    config = json.loads((merged / "config.json").read_text())
    assert config["vocab_size"] == 128264 and config["num_key_value_heads"] == 2 and not config["tie_word_embeddings"]
    assert config["rope_parameters"]["rope_type"] == "llama3" and config["rope_parameters"]["factor"] == 8.0
    generation = json.loads((merged / "generation_config.json").read_text())
    assert generation["eos_token_id"] == [128001, 128008, 128009] and generation["pad_token_id"] == 128256
    tokenizer = AutoTokenizer.from_pretrained(merged)
    assert (tokenizer.pad_token, tokenizer.pad_token_id, tokenizer.eos_token_id) == (models.PAD_TOKEN, 128256, 128009)
    metrics = json.loads((tmp_path / "run" / "05_evaluate" / "metrics.json").read_text())
    assert {"base_zero_shot", "adapter", "merged"} <= set(metrics["systems"]) and metrics["test_rows"] > 0


def parrot(folder):
    """The model of `folder`, set to say "yes", <|eot_id|>, "yes", … after a header, and its tokenizer."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_special_tokens({"pad_token": models.PAD_TOKEN})
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    models.add_pad_row(model, tokenizer)
    blank, yes, end = (tokenizer.convert_tokens_to_ids(token) for token in ("ĊĊ", "yes", "<|eot_id|>"))
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
    prompts = [[{"role": "user", "content": text}] for text in ("Is seven odd?", "And eight, which is a longer question?")]
    for said in asking.answer(model, tokenizer, prompts, 8, 2):
        assert said["text"] == "yes" and said["stopped"]

    ids = tokenizer.apply_chat_template(prompts[0], add_generation_prompt=True, return_tensors="pt", return_dict=True)
    new = lambda **given: model.generate(**ids, max_new_tokens=8, do_sample=False, **given)[0, ids["input_ids"].shape[1] :]
    assert tokenizer.convert_ids_to_tokens(new()) == ["yes", "<|eot_id|>"]  # as generation_config.json has it
    model.generation_config.eos_token_id = 128001  # <|end_of_text|> alone, as base models have it: never said in a chat
    assert len(new()) == 8
    assert all(said["stopped"] and said["text"] == "yes" for said in asking.answer(model, tokenizer, prompts, 8, 2))
