"""Loading models: where to, the pad row, gradients after an evaluation, merging, damaged files."""

import gc
import shutil
import weakref
from types import SimpleNamespace

import psutil
import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig

from helpers.model import default_model, loading
from helpers.records import weights

NF4 = BitsAndBytesConfig(
    load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.float32
)


def adapted(tiny, tokenizer):
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_pretrained(tiny, dtype=torch.float32, quantization_config=NF4)
    loading.add_pad_row(model, tokenizer)
    loading.keep_trainable_after_evaluation(model)
    return get_peft_model(
        model, LoraConfig(r=4, target_modules=["q_proj", "down_proj"], task_type="CAUSAL_LM")
    )


def test_adapter_holds_lora_only_and_loads_with_its_pad_row(tiny, tmp_path):
    tokenizer = AutoTokenizer.from_pretrained(tiny)
    tokenizer.add_special_tokens({"pad_token": loading.PAD_TOKEN})
    model = adapted(tiny, tokenizer)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.1)
    model.save_pretrained(tmp_path, save_embedding_layers=False)
    tokenizer.save_pretrained(tmp_path)
    assert all("lora_" in name for name in load_file(tmp_path / "adapter_model.safetensors"))

    again, tokenizer = loading.load_adapter(tmp_path, str(tiny), NF4, torch.float32)
    assert tokenizer.pad_token == loading.PAD_TOKEN
    assert again.get_input_embeddings().weight.shape[0] > tokenizer.pad_token_id
    batch = torch.tensor([[5, 6, tokenizer.pad_token_id]])
    with torch.no_grad():
        expected, got = model.eval()(batch).logits, again.eval()(batch).logits
    assert torch.allclose(expected, got, atol=1e-5)
    assert (got.argmax(-1) != tokenizer.pad_token_id).all()


def test_a_model_that_is_deleted_makes_room_for_the_next(tiny):
    model = AutoModelForCausalLM.from_pretrained(tiny, dtype=torch.float32, quantization_config=NF4)
    parameters = [weakref.ref(parameter) for parameter in model.parameters()]
    gc.disable()
    try:
        del model
        loading.device()
        assert not any(parameter() is not None for parameter in parameters)
    finally:
        gc.enable()


@pytest.mark.skipif(
    not hasattr(psutil.Process, "memory_maps"),
    reason="psutil does not see mapped files on this system",
)
@pytest.mark.parametrize("storage", ["quantized", "dequantized"])
def test_the_file_is_not_held_in_memory_for_what_was_not_quantized(tiny, tmp_path, storage):
    shutil.copytree(tiny, tmp_path / "model")

    def mapped():
        return any(str(tmp_path) in place.path for place in psutil.Process().memory_maps())

    loaded = AutoModelForCausalLM.from_pretrained(
        tmp_path / "model", dtype=torch.float32, quantization_config=NF4
    )
    kept = [name for name, _ in loaded.named_parameters() if "norm" in name or "embed" in name]
    before = {name: loaded.get_parameter(name).clone() for name in kept}
    assert before and mapped()  # as transformers leaves it
    model = loading.dequantized(loaded, storage)
    gc.collect()
    assert not mapped()
    assert all(torch.equal(model.get_parameter(name), before[name]) for name in kept)
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight


def test_gradients_survive_an_evaluation(tiny):
    tokenizer = AutoTokenizer.from_pretrained(tiny)
    tokenizer.add_special_tokens({"pad_token": loading.PAD_TOKEN})
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
    model = get_peft_model(
        base,
        LoraConfig(r=4, target_modules=["q_proj"], task_type="CAUSAL_LM", init_lora_weights=False),
    )
    batch = torch.arange(5, 25)[None]
    with torch.no_grad():
        expected = model.eval()(batch).logits
        assert torch.allclose(expected, model.merge_and_unload()(batch).logits, atol=1e-4)
    assert isinstance(model, PeftModel)


def test_a_folder_that_is_no_whole_model_is_refused(tiny, tmp_path):
    cut = shutil.copytree(tiny, tmp_path / "cut")
    assert loading.find(str(cut)) == str(cut)
    content = (cut / "model.safetensors").read_bytes()
    (cut / "model.safetensors").write_bytes(content[: len(content) // 2])
    with pytest.raises(
        default_model.ModelError,
        match="model.safetensors is cut off or damaged: copy the folder again",
    ):
        loading.find(str(cut))
    (cut / "config.json").unlink()
    with pytest.raises(default_model.ModelError, match="has no config.json"):
        loading.find(str(cut))


def test_the_default_model_is_found_by_its_name(monkeypatch, tmp_path):
    monkeypatch.setattr(default_model, "fetch", lambda: tmp_path)
    assert loading.find(weights.DEFAULT_MODEL) == str(tmp_path)


@pytest.fixture
def gpu(monkeypatch):
    """A function that pretends a GPU with so many bytes, or none."""

    def pretend(size):
        about = SimpleNamespace(total_memory=size)
        monkeypatch.setattr(torch.cuda, "is_available", lambda: size is not None)
        monkeypatch.setattr(torch.cuda, "get_device_properties", lambda *_: about)

    return pretend


def test_a_model_that_the_gpu_cannot_hold_goes_to_the_cpu(gpu, monkeypatch):
    gpu(15.8e9)
    assert loading.device() == loading.device(6e9) == {"": 0}
    assert loading.device(16e9) == {"": "cpu"}
    gpu(42.3e9)
    assert loading.device(16e9) == {"": 0}
    monkeypatch.setenv("LOCAL_RANK", "2")
    assert loading.device(16e9) == {"": 2}
    gpu(None)
    assert loading.device() == {"": "cpu"}
    with pytest.raises(default_model.ModelError, match="takes 16000.0 GB, and this machine has"):
        loading.device(16e12)


@pytest.mark.parametrize("said, expected", [("true", True), ("FALSE", False), (None, False)])
def test_fsdp_is_recognised(monkeypatch, said, expected):
    monkeypatch.delenv("ACCELERATE_USE_FSDP", raising=False)
    if said:
        monkeypatch.setenv("ACCELERATE_USE_FSDP", said)
    assert loading.sharded() is expected


@pytest.mark.parametrize("quantization", ["nf4", "int8"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_written_out_a_quantized_base_computes_the_same(tiny, quantization, dtype):
    """Logits and the adapters' gradients, with NF4 to the last bit."""
    nf4 = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_compute_dtype=dtype,
        bnb_4bit_use_double_quant=True,
    )
    config = {"nf4": nf4, "int8": BitsAndBytesConfig(load_in_8bit=True)}[quantization]
    found = {}
    for storage in ("quantized", "dequantized"):
        model = AutoModelForCausalLM.from_pretrained(tiny, dtype=dtype, quantization_config=config)
        model = loading.dequantized(model, storage)
        loading.keep_trainable_after_evaluation(model)
        torch.manual_seed(0)
        model = get_peft_model(
            model, LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False)
        ).train()
        batch = torch.arange(5, 25)[None]
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
            out = model(input_ids=batch, labels=batch)
        out.loss.backward()
        gradients = torch.cat(
            [p.grad.flatten() for n, p in model.named_parameters() if "lora_" in n]
        )
        found[storage] = out.logits, gradients
        packed = any("bit" in type(module).__name__ for module in model.modules())
        assert packed == (storage == "quantized")
    for one, other in zip(*found.values(), strict=True):
        if quantization == "nf4":
            assert torch.equal(one, other)
        else:
            one, other = one.flatten().float(), other.flatten().float()
            assert torch.cosine_similarity(one, other, dim=0) > 0.999


def test_ready_for_training_it_holds_every_token_and_keeps_no_past(tiny):
    tokenizer = AutoTokenizer.from_pretrained(tiny)
    tokenizer.add_special_tokens({"pad_token": loading.PAD_TOKEN})
    loaded = AutoModelForCausalLM.from_pretrained(
        tiny, dtype=torch.float32, quantization_config=NF4
    )
    model = loading.ready_for_training(loaded, tokenizer, "dequantized")
    assert not any("4bit" in type(module).__name__ for module in model.modules())
    assert model.get_input_embeddings().weight.shape[0] >= len(tokenizer)
    assert model.config.pad_token_id == tokenizer.pad_token_id
    assert model.config.use_cache is False


def test_what_was_never_quantized_stays_as_it_is(tiny):
    model = AutoModelForCausalLM.from_pretrained(tiny)
    assert loading.dequantized(model, "dequantized") is model


def test_targets_are_linear_layers_of_the_model(tiny):
    model = AutoModelForCausalLM.from_pretrained(tiny)
    assert loading.targets(model, "q_proj, down_proj") == ["q_proj", "down_proj"]
    with pytest.raises(ValueError, match=r"lora_targets names \['none'\].*; it has \['down_proj'"):
        loading.targets(model, "q_proj,none")
