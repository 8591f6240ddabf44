"""Exports as programs of transformers 4 read them: what version 5 renamed also has its old name."""

SINCE_5 = "TokenizersBackend"  # a tokenizer class that version 4 does not have
BEFORE_5 = "PreTrainedTokenizerFast"
FLAT = ("rope_theta", "partial_rotary_factor")  # keys of version 5's rope_parameters


def add_old_rope(config: dict) -> None:
    """rope_theta and rope_scaling beside rope_parameters. Without a rope_theta version 4 takes 10,000."""
    rope = config.get("rope_parameters")
    if not isinstance(rope, dict):
        return
    local = rope.get("sliding_attention")
    if isinstance(local, dict):  # gemma3: one for each kind of layer
        config.setdefault("rope_local_base_freq", local.get("rope_theta"))
    rope = rope.get("full_attention", rope)
    for key in FLAT:
        if key in rope:
            config.setdefault(key, rope[key])
    kind = rope.get("rope_type", "default")
    others = {key: value for key, value in rope.items() if key not in FLAT}
    if kind == "longrope":  # there it wants these three keys and no other
        config.setdefault("original_max_position_embeddings", rope.get("original_max_position_embeddings"))
        others = {"type": kind, "short_factor": rope["short_factor"], "long_factor": rope["long_factor"]}
    if kind != "default":
        config.setdefault("rope_scaling", others)


def use_old_tokenizer_names(config: dict) -> None:
    """Version 5 reads the old names as well; version 4 stops at a list, or a class, that it does not know."""
    special = config.get("extra_special_tokens")
    if isinstance(special, list):
        del config["extra_special_tokens"]
        config.setdefault("additional_special_tokens", special)
    if config.get("tokenizer_class") == SINCE_5:
        config["tokenizer_class"] = BEFORE_5
