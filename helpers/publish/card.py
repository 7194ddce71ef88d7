"""The model card: what a stranger has to know, filled from what was measured."""

from huggingface_hub import ModelCard, ModelCardData

from helpers.publish import hub
from helpers.records import files, manifests

STEP = "04_merge_push"
IN_WORDS = {"as saved": "as saved", "nf4": "in NF4 (4 bits)", "int8": "in int8 (8 bits)"}


def make(run_dir, repo_id, base, check):
    """The card (ModelCard) of a merged model.

    run_dir: Path, with the results of 01 to 03; repo_id: "account/name" or ""; base: what
    `licences.about` says of the base model; check: what merge_check.json holds.
    """
    data, lora, training = (
        manifests.read_manifest(run_dir, name) for name in manifests.NEEDS[STEP]
    )
    counts = files.read_json(run_dir / "01_data" / "summary.json")["rows"]
    settings = lora["parameters"] | training["parameters"]
    head = ModelCardData(
        base_model=base["hub_id"],
        license=base["licence"],
        license_link=base["link"],
        library_name="transformers",
        pipeline_tag="text-generation",
        tags=["lora", "sft", hub.MARK],
    )
    rows = {
        part: f"{number} rows, SHA-256 {data['files'][f'{part}.jsonl']}"
        for part, number in counts.items()
    }
    used = {name: value for name, value in settings.items() if name not in ("run_dir", "resume")}
    blocks = [
        f"# {repo_id.rpartition('/')[2] or base['name'] + '-lora'}",
        base["built_with"],
        f"A LoRA fine-tune of {base['hub_id'] or base['name']}, merged into its "
        f"{check['merged_into'].replace(' ', '-')} weights.",
        _how_to_load(check),
        f"Licence of the base: {base['licence']} {base['link'] or ''}".strip(),
        "System prompt it was trained with:",
        f"> {data['parameters']['system_prompt'] or '(none)'}",
        "## Results",
        f"Exactly right answers to {check['validation_rows']} validation rows, with 95 % bootstrap "
        "intervals. Training was watched on these rows, not fitted to them.",
        _table(("", "right answers", "answers as before the merge"), _results(check)),
        "## Data",
        _table(("", ""), rows.items()),
        "## Settings",
        _table(("", ""), used.items()),
        "## Versions",
        _table(("", ""), training["versions"].items()),
    ]
    return ModelCard(f"---\n{head.to_yaml()}\n---\n" + "\n\n".join(filter(None, blocks)) + "\n")


def _how_to_load(check):
    """The sentences that say in which ways of loading the model keeps its answers, and where not.

    check: as in `make`; `holds`: {way of loading: True or False}.
    """
    good = [IN_WORDS[way] for way, holds in check["holds"].items() if holds]
    bad = [IN_WORDS[way] for way, holds in check["holds"].items() if not holds]
    sentences = []
    if good:
        sentences.append(f"**Keeps its answers when loaded {_listed(good, 'and')}.**")
    if bad:
        sentences.append(f"**Loses answers when loaded {_listed(bad, 'or')}: do not use it so.**")
    rows = check["validation_rows"]
    sentences.append(f"Measured on {rows} validation rows, against the adapter before the merge.")
    if check["serve_as"] == "gguf":
        sentences.append("Chosen to be converted to GGUF, which was not measured itself.")
    return " ".join(sentences)


def _results(check):
    """(name, accuracy, identical answers) for the adapter and every way of loading (texts)."""
    adapter = check["adapter_accuracy"], check["adapter_accuracy_ci95"]
    yield "the adapter, before the merge", _share(*adapter), ""
    merged_into, quantized = check["merged_into"], check["quantized_on_loading"]
    ways = {"as saved": check["candidates"][merged_into], **quantized[merged_into]}
    for way, figures in ways.items():
        accuracy = _share(figures["accuracy"], figures["accuracy_ci95"])
        yield f"loaded {IN_WORDS[way]}", accuracy, f"{figures['identical_answers']:.1%}"


def _share(value, interval):
    return f"{value:.1%} ({interval[0]:.1%} – {interval[1]:.1%})"


def _listed(words, last):
    """Words in a row, with `last` before the last one."""
    *others, final = words
    return f"{', '.join(others)} {last} {final}" if others else final


def _table(head, rows):
    """A Markdown table; rows: of as many cells as `head` has."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)
