"""Loading the merged model as somebody does who has nothing of ours."""

import contextlib

from transformers import BitsAndBytesConfig

from helpers.publish import hub
from helpers.records import files


class Visit:
    """Where the merged model is, for a stranger.

    repository: what `from_pretrained` loads (str or Path); options (dict): its keywords;
    quantization: a BitsAndBytesConfig or None, as the model will be served; place (str): in words;
    arrived: names of the files that came unchanged (list of str), once the visit is over, empty
    without a download.
    """

    def __init__(self, repository, options, place, quantization):
        self.repository, self.options, self.place = repository, options, place
        self.quantization, self.arrived = quantization, []


@contextlib.contextmanager
def visit(step, load_from, dtype):
    """A `Visit` to the Hub that 04 pushed to, into an empty cache; or to the folder it saved.

    step: 05's `Step`; load_from: "hub" or "local"; dtype: torch dtype that is computed in. Raises
    ValueError when 04 pushed nothing, and HubError when a file is not what 04 saved.
    """
    merge = step.run_dir / "04_merge_push"
    quantization = None
    if step.earlier("04_merge_push")["serve_as"] == "nf4":
        quantization = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_compute_dtype=dtype,
            bnb_4bit_use_double_quant=True,
        )
    if load_from == "local":
        yield Visit(merge / "merged", {}, "the folder that 04 saved", quantization)
        return
    push = files.read_json(merge / "push.json")
    if not push["commit"]:
        raise ValueError(
            "load_from is 'hub', but 04 did not push: run 04 with push_to 'practice', or use "
            "load_from 'local'."
        )
    cache = hub.empty_cache(step.folder)
    with hub.connection(push["push_to"], step.run_dir, push["repo_id"]) as connected:
        options = {"revision": push["commit"], "cache_dir": cache, "token": connected.token}
        visited = Visit(push["repo_id"], options, connected.name, quantization)
        yield visited
    visited.arrived = hub.check_download(cache, push["repo_id"], push["commit"], push["files"])
