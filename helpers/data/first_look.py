"""Asking a model that has not been trained yet: where it can be loaded just for that."""

import math

import torch
from transformers import AutoConfig

from helpers.model import memory
from helpers.records import resources

LARGEST_ON_CPU = 3e9  # parameters; above, a few sentences take a CPU minutes


def place(model_folder):
    """`device_map` for asking this base a few questions, or None where it is too large for that.

    model_folder: as from `loading.find`. The base goes to a GPU that holds it and a fifth more, or
    to a CPU when it has at most LARGEST_ON_CPU parameters and the memory holds it.
    """
    config = AutoConfig.from_pretrained(model_folder)
    linear, others = memory.shapes(config)
    parameters = sum(math.prod(shape) for shape in [*linear.values(), *others.values()])
    size = parameters * (config.dtype or torch.float32).itemsize
    if torch.cuda.is_available() and 1.2 * size < torch.cuda.get_device_properties(0).total_memory:
        return {"": 0}
    if parameters <= LARGEST_ON_CPU and size < resources.main_memory()[0]:
        return {"": "cpu"}
    return None
