"""Unit tests of helpers/: seconds, no training."""

import json

import numpy as np
import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig

from helpers import artefacts, chat, data, evaluation, models, params

GOOD = {
    "run_dir": "", "seed": 1, "quantization": "nf4", "lora_r": 16, "lora_alpha": 32,
    "lora_dropout": 0.0, "lora_targets": "q_proj",
}


@pytest.mark.parametrize(
    "name, value",
    [("lora_r", -4), ("lora_r", "many"), ("lora_r", True), ("quantization", "nf5"), ("lora_dropout", 1.0),
     ("lora_dropout", float("nan")), ("lora_targets", ""), ("seed", -1)],
)
def test_a_wrong_value_is_refused_by_name(name, value):
    with pytest.raises(params.ParameterError, match=name):
        params.check("02_quantize_and_lora", {**GOOD, name: value})


def test_numbers_written_as_text_become_numbers():
    assert params.check("02_quantize_and_lora", {**GOOD, "lora_dropout": "5e-2"})["lora_dropout"] == 0.05


def write(path, text, encoding="utf-8"):
    path.write_bytes(text.encode(encoding))
    return path


def test_reading_keeps_text_and_reports_what_it_drops(tmp_path):
    path = write(tmp_path / "a.csv", 'q,a\n" NA  x",yes\n,no\nsame,yes\nsame,yes\nNone,null\n')
    rows, report = data.read(path, "q", "a")
    assert rows["question"].tolist() == [" NA  x", "same", "None"] and rows["answer"].tolist()[2] == "null"
    assert report == {"not text": 0, "empty question or answer": 1, "exact duplicate": 1}


@pytest.mark.parametrize(
    "name, content, encoding, said",
    [("a.csv", "q,b\nx,y\n", "utf-8", "has: q, b"), ("a.csv", "q,a\né,y\n", "latin-1", "not UTF-8"),
     ("a.csv", "q,a\n,y\n", "utf-8", "no usable row"), ("a.txt", "x", "utf-8", "ending"),
     ("a.json", "{", "utf-8", "cannot be read"), ("a.csv", "", "utf-8", "cannot be read")],
)
def test_unusable_files_get_one_sentence(tmp_path, name, content, encoding, said):
    with pytest.raises(data.DataError, match=said):
        data.read(write(tmp_path / name, content, encoding), "q", "a")


def test_labels_are_recognised():
    assert data.labels(["a", "b"] * 10) == ["a", "b"]
    assert data.labels([str(i) for i in range(20)]) is None


def test_mask_covers_answer_and_end_of_turn_only(tiny):
    tokenizer = AutoTokenizer.from_pretrained(tiny)
    prompt, completion = chat.messages("sys", "What <b>?"), [{"role": "assistant", "content": "yes"}]
    ids, mask = chat.trained_tokens(tokenizer, prompt, completion)
    assert tokenizer.decode([i for i, m in zip(ids, mask, strict=True) if m]) == "yes<|im_end|>\n"
    assert "<b>" not in chat.show_mask(tokenizer, ids, mask)


def test_bootstrap_agrees_with_the_binomial():
    right = np.arange(400) < 300
    low, high = evaluation.bootstrap_interval(right, 4000, 0)
    half = 1.96 * (0.75 * 0.25 / 400) ** 0.5
    assert abs(low - (0.75 - half)) < 0.01 and abs(high - (0.75 + half)) < 0.01


def test_verdict_needs_a_difference():
    right = np.arange(100) % 2 == 0
    assert evaluation.verdict(right, right, 1000, 0)["verdict"] == "not shown"
    assert evaluation.verdict(np.ones(100), right, 1000, 0)["verdict"] == "better"
    assert evaluation.verdict(right, np.ones(100), 1000, 0)["verdict"] == "worse"


NF4 = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.float32)


def adapted(tiny, tokenizer):
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_pretrained(tiny, dtype=torch.float32, quantization_config=NF4)
    models.add_pad_row(model, tokenizer)
    models.keep_trainable_after_evaluation(model)
    return get_peft_model(model, LoraConfig(r=4, target_modules=["q_proj", "down_proj"], task_type="CAUSAL_LM"))


def test_adapter_holds_lora_only_and_loads_with_its_pad_row(tiny, tmp_path):
    tokenizer = AutoTokenizer.from_pretrained(tiny)
    tokenizer.add_special_tokens({"pad_token": models.PAD_TOKEN})
    model = adapted(tiny, tokenizer)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.1)
    model.save_pretrained(tmp_path, save_embedding_layers=False)
    tokenizer.save_pretrained(tmp_path)
    assert all("lora_" in name for name in load_file(tmp_path / "adapter_model.safetensors"))

    again, tokenizer = models.load_adapter(tmp_path, str(tiny), NF4, torch.float32)
    assert tokenizer.pad_token == models.PAD_TOKEN
    assert again.get_input_embeddings().weight.shape[0] > tokenizer.pad_token_id
    batch = torch.tensor([[5, 6, tokenizer.pad_token_id]])
    with torch.no_grad():
        expected, got = model.eval()(batch).logits, again.eval()(batch).logits
    assert torch.allclose(expected, got, atol=1e-5)
    assert (got.argmax(-1) != tokenizer.pad_token_id).all()


def test_gradients_survive_an_evaluation(tiny):
    tokenizer = AutoTokenizer.from_pretrained(tiny)
    tokenizer.add_special_tokens({"pad_token": models.PAD_TOKEN})
    model, batch = adapted(tiny, tokenizer), torch.arange(5, 25)[None]

    def gradients():
        model.train().zero_grad()
        model(input_ids=batch, labels=batch).loss.backward()
        return [p.grad.clone() for n, p in model.named_parameters() if "lora_B" in n]

    before = gradients()
    with torch.no_grad():
        model.eval()(batch)
    assert all(torch.equal(a, b) for a, b in zip(before, gradients(), strict=True))


def test_merged_equals_adapter_on_an_unquantized_base(tiny):
    torch.manual_seed(0)
    base = AutoModelForCausalLM.from_pretrained(tiny, dtype=torch.float32)
    model = get_peft_model(base, LoraConfig(r=4, target_modules=["q_proj"], task_type="CAUSAL_LM", init_lora_weights=False))
    batch = torch.arange(5, 25)[None]
    with torch.no_grad():
        expected = model.eval()(batch).logits
        assert torch.allclose(expected, model.merge_and_unload()(batch).logits, atol=1e-4)
    assert isinstance(model, PeftModel)


def test_manifest_finds_altered_files(tmp_path):
    values = {
        "run_dir": str(tmp_path), "seed": 1, "data_path": "../data/inbox.csv", "question_column": "question",
        "answer_column": "answer", "system_prompt": "", "model_id": "m", "max_length": 64,
        "validation_fraction": 0.1, "test_fraction": 0.3, "max_rows": 0,
    }
    step = artefacts.Step("01_data", values)
    (step.folder / "train.jsonl").write_text("{}\n")
    step.finish()
    assert artefacts.is_current("01_data", tmp_path, step.parameters)
    assert not artefacts.is_current("01_data", tmp_path, {**step.parameters, "max_rows": 5})
    with pytest.raises(artefacts.ArtefactError, match="seed"):
        artefacts.Step("02_quantize_and_lora", {**GOOD, "run_dir": str(tmp_path), "seed": 2})
    (step.folder / "train.jsonl").write_text("changed")
    with pytest.raises(artefacts.ArtefactError, match="01_data/train.jsonl"):
        artefacts.Step("02_quantize_and_lora", {**GOOD, "run_dir": str(tmp_path)})
    assert "token" not in json.dumps(artefacts.read_manifest(tmp_path, "01_data"))
