"""The merge's certificate: right merges pass, wrong ones are caught, and which weight is said."""

import pytest
import torch
from huggingface_hub import constants
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM, BitsAndBytesConfig, set_seed

from helpers.publish import merge_check

TEXTS = [[1, *range(10 + n, 18 + n)] for n in range(6)]  # tokens
QUANTIZED = {
    "nf4": BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True
    ),
    "int8": BitsAndBytesConfig(load_in_8bit=True),
}


@torch.no_grad()
def logits(model, texts=TEXTS, batch_size=4):
    """Batches of logits (positions, vocabulary) at the last three positions of each text."""
    model.eval()
    for start in range(0, len(texts), batch_size):
        found = model(torch.tensor(texts[start : start + batch_size])).logits[:, -3:]
        yield found.flatten(0, 1).float()


def load(folder):
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)


@pytest.fixture(scope="module", params=[False, True], ids=["alpha / r", "alpha / root r"])
def trained(tiny, tmp_path_factory, request):
    """(adapter folder with numbers in it, logits of the adapter on its base)."""
    folder = tmp_path_factory.mktemp("adapter")
    base = load(tiny)
    set_seed(1)
    config = LoraConfig(
        r=4,
        lora_alpha=8,
        target_modules=["q_proj", "down_proj"],
        task_type="CAUSAL_LM",
        use_rslora=request.param,
    )
    model = get_peft_model(base, config)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_" in name:
                weight.normal_(std=0.1)
    model.save_pretrained(folder)
    return folder, merge_check.record(logits(model), folder / "logits")


def merged(base, adapter, spoil=None):
    """The base with the adapter merged by PEFT; spoil: function of (name, layer) before that."""
    model = PeftModel.from_pretrained(base, adapter)
    for name, layer in model.named_modules():
        if spoil and hasattr(layer, "lora_A") and len(layer.scaling):
            spoil(name, layer)
    return model.merge_and_unload()


def update_error(model, folder, tiny, adapter, **options):
    model.save_pretrained(folder, max_shard_size="2MB")
    return merge_check.update_error(folder, tiny, adapter, **options)


def test_on_an_unquantized_base_merged_and_adapter_agree(tiny, trained, tmp_path):
    adapter, reference = trained
    model = merged(load(tiny), adapter)
    near = merge_check.distance(reference, logits(model, batch_size=3))
    assert near["logit_max"] < 1e-4 and near["kl_max"] < 1e-6 and near["same_first_choice"] == 1
    assert update_error(model, tmp_path / "float32", tiny, adapter)[0] < 1e-4
    assert update_error(model.to(torch.bfloat16), tmp_path / "bfloat16", tiny, adapter)[0] < 0.02


def test_a_base_in_the_cache_is_found_by_its_name(tiny, trained, tmp_path, monkeypatch):
    commit = "0" * 40
    repository = tmp_path / "cache" / "models--ann--m"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(commit)
    (repository / "snapshots").mkdir()
    (repository / "snapshots" / commit).symlink_to(tiny)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    model = merged(load(tiny), trained[0])
    assert update_error(model, tmp_path / "merged", "ann/m", trained[0])[0] < 1e-4


@pytest.mark.parametrize("texts", [TEXTS[:3], [*TEXTS, TEXTS[0]]], ids=["fewer", "more"])
def test_logits_of_other_texts_are_refused(tiny, trained, texts):
    with pytest.raises(ValueError, match="of other texts"):
        merge_check.distance(trained[1], logits(load(tiny), texts))


def spoil_scaling(name, layer):
    layer.scaling["default"] *= 2


def spoil_one(name, layer):
    if "layers.1.self_attn.q_proj" in name:
        layer.scaling["default"] = 0


def of_another_seed(folder):
    base = load(folder)
    set_seed(2)
    for weight in base.parameters():
        weight.data.normal_(std=0.02)
    return base


@pytest.mark.parametrize(
    "make, spoil, where",
    [
        (load, spoil_scaling, ""),
        (load, spoil_one, "layers.1.self_attn.q_proj"),
        (of_another_seed, None, ""),
    ],
    ids=["scaling doubled", "a module missing", "base of another seed"],
)
def test_wrong_merges_are_caught(tiny, trained, make, spoil, where, tmp_path):
    adapter, reference = trained
    model = merged(make(tiny), adapter, spoil)
    error, weight = update_error(model, tmp_path, tiny, adapter)
    assert error > 0.5 and where in weight
    assert merge_check.distance(reference, logits(model))["logit_max"] > 1e-3


def test_an_update_that_is_missing_or_applied_twice_is_an_error_of_one(tiny, trained, tmp_path):
    assert update_error(load(tiny), tmp_path / "none", tiny, trained[0])[0] == pytest.approx(1)
    twice = merged(load(tiny), trained[0], spoil_scaling)
    assert update_error(twice, tmp_path / "twice", tiny, trained[0])[0] == pytest.approx(1, 1e-3)


@pytest.mark.parametrize("rounded", ["nf4", "int8"])
def test_a_merge_into_dequantized_weights_is_checked_against_them(tiny, trained, rounded, tmp_path):
    base = AutoModelForCausalLM.from_pretrained(
        tiny, dtype="auto", quantization_config=QUANTIZED[rounded], device_map={"": "cpu"}
    )
    model = merged(base.dequantize(), trained[0])
    assert update_error(model, tmp_path, tiny, trained[0], rounded=rounded)[0] < 1e-3
    assert merge_check.update_error(tmp_path, tiny, trained[0])[0] > 5e-3


def test_a_weight_that_is_missing_or_of_another_shape_is_an_infinite_error(tiny, trained, tmp_path):
    model = merged(load(tiny), trained[0])
    with torch.no_grad():
        norm = model.model.norm
        norm.weight = torch.nn.Parameter(norm.weight[:-1])
    error, name = update_error(model, tmp_path, tiny, trained[0])
    assert error == float("inf") and name == "model.norm.weight"
    min(tmp_path.glob("*.safetensors")).unlink()
    assert merge_check.update_error(tmp_path, tiny, trained[0])[0] == float("inf")


def test_distance_is_what_its_definition_says(tmp_path):
    set_seed(0)
    p, q = torch.randn(7, 11), torch.randn(7, 11)
    got = merge_check.distance(merge_check.record([p[:4], p[4:]], tmp_path / "p"), [q[:2], q[2:]])
    log_p, log_q = p.log_softmax(-1), q.log_softmax(-1)
    kl = torch.nn.functional.kl_div(log_q, log_p, reduction="none", log_target=True).sum(-1)
    same = (p.argmax(-1) == q.argmax(-1)).float().mean()
    assert got == {
        "logit_max": pytest.approx(float((p - q).abs().max())),
        "logit_mean": pytest.approx(float((p - q).abs().mean()), rel=1e-4),
        "kl_mean": pytest.approx(float(kl.mean()), rel=1e-4),
        "kl_max": pytest.approx(float(kl.max()), rel=1e-4),
        "same_first_choice": pytest.approx(float(same)),
    }


def test_what_is_recorded_is_read_from_the_disk_as_it_was(tmp_path):
    batches = [torch.randn(3, 5), torch.randn(1, 5)]
    reference = merge_check.record(iter(batches), tmp_path / "logits")
    assert (tmp_path / "logits").stat().st_size == 4 * 20
    assert torch.equal(torch.tensor(reference), torch.cat(batches))


def test_a_small_update_survives_rounding_only_in_full_precision():
    set_seed(0)
    weight, update = torch.randn(256, 256), 0.01 * torch.randn(256, 256)
    moved, left = merge_check.quantized_again(weight, update)
    assert 0.01 < moved < 0.1 and left == pytest.approx(1, abs=0.2)
    moved, left = merge_check.quantized_again(merge_check.dequantized(weight), update)
    assert moved < 1e-3 and left < 0.1


def test_a_weight_and_its_update_are_what_peft_adds(tiny, trained):
    weight, update = merge_check.weight_and_update(tiny, trained[0])
    name = "model.layers.0.mlp.down_proj.weight"
    assert torch.equal(weight, load(tiny).get_parameter(name))
    whole = merged(load(tiny), trained[0]).get_parameter(name)
    assert torch.allclose(weight + update, whole, atol=1e-6)
