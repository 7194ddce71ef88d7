"""Stock trainers of tiny random models, for the engine's tests."""

import copy

import pytest
from datasets import Dataset
from tiny_models import BATCHES, VOCABULARY
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast, set_seed
from trl import SFTConfig, SFTTrainer


@pytest.fixture(scope="session")
def words():
    """A tokenizer whose words are numbers, one a token."""
    vocabulary = {"<pad>": 0, "<bos>": 1, "<eos>": 2} | {str(i): i for i in range(3, VOCABULARY)}
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(WordLevel(vocabulary, unk_token="3")),
        pad_token="<pad>",
        bos_token="<bos>",
        eos_token="<eos>",
    )


@pytest.fixture
def trainer(words, tmp_path):
    """A function: a stock SFTTrainer of a random model with this config, on the rows of BATCHES."""

    def build(config, attention="eager", adapt=None, **settings):
        set_seed(0)
        config = copy.deepcopy(config)
        config._attn_implementation = attention
        model = AutoModelForCausalLM.from_config(config)
        rows = Dataset.from_list([one for batch in BATCHES.values() for one in batch])
        return SFTTrainer(
            model=adapt(model) if adapt else model,
            args=SFTConfig(
                output_dir=str(tmp_path / "out"),
                use_cpu=True,
                bf16=False,
                gradient_checkpointing=False,
                per_device_train_batch_size=4,
                per_device_eval_batch_size=4,
                train_sampling_strategy="group_by_length",
                report_to="none",
                seed=0,
                **settings,
            ),
            train_dataset=rows,
            eval_dataset=rows,
            processing_class=words,
        )

    return build
