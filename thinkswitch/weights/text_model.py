"""The text model inside a checkpoint that also sees images: an ordinary checkpoint of a known family.

What it writes without an image is the text model's alone (tests compare the logits). Its vision is left out,
so an export of such a pair reads text only.
"""

from dataclasses import replace

from transformers import AutoConfig, PretrainedConfig
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from thinkswitch.weights.families import WITH_VISION
from thinkswitch.weights.safetensors_reader import TensorInfo

# How the tensors of a text model begin in the file, and what stands there in an ordinary checkpoint.
TEXT_PREFIXES = {"model.language_model.": "model.", "language_model.": ""}
VISION_PREFIXES = (
    "model.visual.",  # qwen3_vl
    "vision_tower.",  # mistral3, with and without the `model.` of some versions
    "multi_modal_projector.",
    "model.vision_tower.",
    "model.multi_modal_projector.",
)


def text_config(config: PretrainedConfig) -> PretrainedConfig:
    """The config of the text model; of a model without vision, its own."""
    if config.model_type not in WITH_VISION:
        return config
    values = config.get_text_config().to_dict()
    family = values.pop("model_type")
    if family == "qwen3_vl_text":  # Qwen3: without images the positions of all three axes are the same
        family = "qwen3"
        rope = values["rope_parameters"]
        values["rope_parameters"] = {key: rope[key] for key in rope if not key.startswith("mrope_")}
    values["tie_word_embeddings"] = config.tie_word_embeddings  # the text's own may say otherwise
    values["dtype"] = values["dtype"] or config.dtype
    text = AutoConfig.for_model(family, **values)
    text.architectures = [MODEL_FOR_CAUSAL_LM_MAPPING_NAMES[family]]
    return text


def split_vision(
    entries: dict[str, TensorInfo],
) -> tuple[dict[str, TensorInfo], dict[str, TensorInfo]]:
    """The tensors of the text model by their names in an ordinary checkpoint, and those of the vision."""
    if not any(name.startswith(tuple(TEXT_PREFIXES)) for name in entries):
        return entries, {}
    vision = {name: info for name, info in entries.items() if name.startswith(VISION_PREFIXES)}
    text = {}
    for name, info in entries.items():
        if name not in vision:
            text[ordinary_name(name)] = replace(info, stored_as=name)
    return text, vision


def ordinary_name(stored: str) -> str:
    for prefix, ordinary in TEXT_PREFIXES.items():
        if stored.startswith(prefix):
            return ordinary + stored.removeprefix(prefix)
    return stored
