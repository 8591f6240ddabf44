"""Configs of published pairs, recorded because no test may ask the Hub. Sizes without weights.

recorded_configs.json holds, for each preset whose pair was looked up: where its values are from and what of
them is unsure; the tags of its traces; sizes worked out by hand before (GB of one side in NF4, kB of cache a
token, GB of the vision part on the disk); and the config as the Hub has it, without the vision part.
"""

import functools
import json
from pathlib import Path
from types import SimpleNamespace

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PretrainedConfig

from thinkswitch.weights.checkpoint import TensorInfo
from thinkswitch.weights.pair import Pair
from thinkswitch.weights.text_model import text_config

RECORDED = json.loads(Path(__file__).with_suffix(".json").read_text(encoding="utf-8"))


def hub_config(name: str) -> PretrainedConfig:
    """As config.json on the Hub would be read."""
    values = dict(RECORDED[name]["config"])
    return AutoConfig.for_model(values.pop("model_type"), **values)


@functools.cache
def recorded_pair(name: str) -> Pair:
    return pair_of(text_config(hub_config(name)))


def pair_of(config: PretrainedConfig) -> Pair:
    """A pair of the shape alone."""
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    entries = {n: TensorInfo(tuple(p.shape), "BF16", "x") for n, p in model.named_parameters()}
    shape = {"config": model.config, "entries": entries, "name": "shape"}
    return Pair(*(SimpleNamespace(**shape, folder=Path(side)) for side in ("instruct", "thinking")))
