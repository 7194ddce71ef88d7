"""Adapters: in which precision they learn, and that they are saved alone."""

from functools import partial

from peft.tuners.tuners_utils import BaseTunerLayer


def prepare(model):
    """Let the adapters of a PEFT model learn in float32 and be saved without embeddings, in place.

    TRL casts adapters on a quantized base to bfloat16, where a small update rounds to nothing. What
    enters an adapter is not converted to float32: mixed precision would convert it back at once.
    The embeddings were resized for the padding token, but are not trained, and would make each
    checkpoint many times larger. Returns None.
    """
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    for module in model.modules():
        if isinstance(module, BaseTunerLayer):
            module.cast_input_dtype_enabled = False
    model.save_pretrained = partial(model.save_pretrained, save_embedding_layers=False)


def save(trainer, folder, model_id):
    """Save the adapter and the tokenizer of a trainer in `folder` (Path), the same bytes each time.

    model_id: what the adapter's config names as its base, in place of a path of this machine.
    Returns None.
    """
    config = trainer.model.peft_config["default"]
    config.base_model_name_or_path = model_id
    config.target_modules = sorted(config.target_modules)  # a set has no order
    trainer.save_model(str(folder))
    for name in (
        "training_args.bin",
        "README.md",
    ):  # a pickle; an empty card with this machine's path
        (folder / name).unlink(missing_ok=True)
