"""What llama.cpp would compute otherwise than transformers is refused, with what it is."""

import pytest
from tiny_families import FAMILIES

from thinkswitch import rounds
from thinkswitch.errors import UserError
from thinkswitch.export import gguf_families, gguf_layout
from thinkswitch.weights import families
from unit.export_helpers import make_request
from unit.gguf_helpers import KINDS, LINEAR, LLAMA3, PLAIN, YARN, save_bpe_pair

DYNAMIC = {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 2.0}
LOCAL = ["sliding_attention"] * 6
MISFITS = [  # (kind, further settings, what is said)
    ("qwen3", {"rope_parameters": DYNAMIC}, "does not know the rope type 'dynamic'"),
    ("qwen3", {"rope_parameters": LLAMA3}, "does not know the rope type 'llama3'"),
    ("hunyuan", {"rope_parameters": DYNAMIC}, "only as Hunyuan's with a fixed alpha"),
    ("llama", {"rope_parameters": {**YARN, "attention_factor": 1.0}}, "by another factor"),
    ("llama", {"rope_parameters": {**YARN, "beta_fast": 16.0}}, "takes beta_fast = 32"),
    ("llama", {"rope_parameters": {**YARN, "truncate": False}}, "which this checkpoint does not"),
    ("ministral3", {"rope_parameters": PLAIN}, "does not know the rope type 'default'"),
    ("ministral3", {"rope_parameters": YARN}, "only with mscale_all_dim and llama_4_scaling_beta"),
    ("qwen2", {"head_dim": 48}, "takes the size of its heads for hidden size / heads"),
    ("smollm3", {"no_rope_layers": [1, 1, 0, 1]}, "rotates in all layers but the last of each 4"),
    ("exaone4", {"sliding_window": 16}, "only in models of 64 layers"),
    ("gemma2", {"query_pre_attn_scalar": 40}, "takes query_pre_attn_scalar = 32; it is 40"),
    ("gemma2", {"layer_types": LOCAL}, "a sliding window to all layers but the last of each 2"),
    ("gemma2", {"hidden_activation": "gelu"}, "takes the activation gelu_pytorch_tanh; it is gelu"),
    ("gemma2", {"tie_word_embeddings": False}, "only with a tied head"),
    ("gemma2", {"attn_logit_softcapping": None}, "only with both soft caps"),
    ("gemma3", {"use_bidirectional_attention": True}, "only with causal attention"),
    ("gemma3", {"attn_logit_softcapping": 5.0}, "only without a soft cap of attention"),
    (
        "gemma3",
        {"rope_parameters": {"full_attention": PLAIN, "sliding_attention": LINEAR}},
        "'linear' in layers with a sliding window",
    ),
    ("olmo2", {"tie_word_embeddings": True}, "only with a head of its own"),
    (
        "olmo3",
        {"rope_parameters": {"full_attention": YARN, "sliding_attention": {**PLAIN, "rope_theta": 1e6}}},
        "the plain rope of the others",
    ),
]


def config_of(kind: str, **changes):
    family, settings, tied = KINDS[kind]
    config_class, tiny = FAMILIES[family]
    shape = dict(hidden_size=64, num_attention_heads=2, num_key_value_heads=1, num_hidden_layers=2)
    return config_class(**{**shape, "tie_word_embeddings": tied, **tiny, **settings, **changes})


@pytest.mark.parametrize("kind, changes, said", MISFITS)
def test_another_way_than_llama_cpp_s_is_refused(kind, changes, said):
    gguf_families.family_of(config_of(kind))
    with pytest.raises(UserError, match=f"GGUF cannot hold this .*{said}.*; export a Hugging Face folder"):
        gguf_families.family_of(config_of(kind, **changes))


def test_every_family_of_pairs_is_known_and_has_a_kind_that_is_tried():
    assert gguf_families.FAMILIES.keys() == families.FAMILIES.keys()
    assert {family for family, *_ in KINDS.values()} == gguf_families.FAMILIES.keys()


def test_a_family_that_is_not_known_is_refused_by_name(monkeypatch):
    config = config_of("qwen3")
    monkeypatch.delitem(gguf_families.FAMILIES, "qwen3")
    with pytest.raises(UserError, match="does not know qwen3 models; it knows exaone4, gemma2"):
        gguf_families.family_of(config)


def test_a_bias_that_llama_cpp_has_no_place_for_is_refused(tmp_path):
    """Qwen3's attention_bias gives the output a bias, too; the file was written, and llama.cpp refused it."""
    pair = save_bpe_pair(tmp_path, "qwen3", attention_bias=True)
    point = make_request(pair, rounds.start(pair), 0.4, tmp_path / "out", gguf=("Q8_0",)).point
    with pytest.raises(UserError, match=r"o_proj\.bias has no place in a GGUF file of a qwen3 model"):
        gguf_layout.plan_tensors(point, "Q8_0")


def test_values_of_some_layers_get_more_bits_by_their_number_among_those_with_attention():
    """As llama-quantize counts; LFM2 has attention in some layers only."""
    names = [f"model.layers.{layer}.self_attn.v_proj.weight" for layer in (2, 5, 8, 10, 12, 14)]
    ranks = gguf_layout.value_ranks(names)
    assert ranks == {2: 0, 5: 1, 8: 2, 10: 3, 12: 4, 14: 5}
    kinds = {
        layer: gguf_layout.mixed_type(f"blk.{layer}.attn_v.weight", "Q4_K_M", 16, True, ranks).name
        for layer in ranks
    }
    assert kinds == {2: "Q4_K", 5: "Q4_K", 8: "Q6_K", 10: "Q4_K", 12: "Q4_K", 14: "Q6_K"}
