"""LongRoPE: a row's frequencies follow from the row alone, whatever shares its batch."""

import pytest
import torch
from tiny_families import LONG_ROPE

from conftest import save_pair
from thinkswitch import rounds
from thinkswitch.distil import Example, answer_loss
from thinkswitch.generate import Row, generate
from thinkswitch.sampler import Sampling
from thinkswitch.weights.live_blend import Blend
from thinkswitch.weights.long_rope import find_long_rope
from thinkswitch.weights.materialise import materialise
from thinkswitch.weights.pair import open_pair
from unit.export_helpers import export

ORIGINAL = 32  # tokens
NEW = 16


def open_phi(folder, **rope):
    parameters = {**LONG_ROPE, "original_max_position_embeddings": ORIGINAL, **rope}
    return open_pair(
        *save_pair(folder, "phi3", rope_parameters=parameters, original_max_position_embeddings=ORIGINAL)
    )


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    return open_phi(tmp_path_factory.mktemp("long_rope"))


@pytest.fixture(scope="module")
def only_long(tmp_path_factory):
    """The same weights, but transformers knows no short frequencies."""
    return open_phi(tmp_path_factory.mktemp("only_long"), short_factor=LONG_ROPE["long_factor"])


def model_of(pair):
    return materialise(pair, [], rounds.start(pair).thinking)


def row_of(pair, length: int, t: float = 1.0, tokens: int = NEW) -> Row:
    g = torch.Generator().manual_seed(length)
    ids = torch.randint(5, 250, (length,), generator=g).tolist()
    return Row(tuple(ids), Sampling(max_new_tokens=tokens), recipe=rounds.start(pair).point(t))


def texts(model, pair, rows: list[Row], stops=frozenset()) -> list[str]:
    chunks = generate(model, pair.instruct.tokenizer, rows, set(stops), stream=False)
    return [chunk.text for chunk in sorted(chunks, key=lambda chunk: chunk.row)]


def text_in_transformers(folder, row: Row) -> str:
    """By transformers' own loop and its own rotary table."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    model.generation_config.eos_token_id = None
    prompt = torch.tensor([row.ids])
    out = model.generate(
        input_ids=prompt,
        attention_mask=torch.ones_like(prompt),
        max_new_tokens=row.sampling.max_new_tokens,
        do_sample=False,
    )
    return AutoTokenizer.from_pretrained(folder).decode(out[0, len(row.ids) :])


def test_rows_on_either_side_of_the_original_length_are_those_of_transformers(pair):
    """One batch: its longest row is longer than the original length, others never come so far."""
    rows = [row_of(pair, length) for length in (8, ORIGINAL + 1, ORIGINAL + 1 - NEW, 50)]
    expected = [text_in_transformers(pair.thinking.folder, row) for row in rows]
    assert texts(Blend(pair), pair, rows) == expected
    assert texts(model_of(pair), pair, rows) == expected


def test_a_row_that_will_pass_the_original_length_is_long_from_its_first_token(pair, only_long):
    """Keys of the first tokens were rotated by one set of frequencies and queries later by the other.

    transformers computes its cache anew there, which no batch of ours could do for one row.
    """
    rows = [row_of(pair, length) for length in (ORIGINAL - NEW + 2, 10, ORIGINAL)]
    model = model_of(pair)
    ours = texts(model, pair, rows)
    for i in (0, 2):
        assert ours[i] == text_in_transformers(only_long.thinking.folder, rows[i])
        assert ours[i] != text_in_transformers(pair.thinking.folder, rows[i])  # the check can fail
    assert find_long_rope(model).lengths is None  # other calls choose for themselves


def test_the_text_of_a_row_does_not_depend_on_the_rows_beside_it(pair):
    """A short row had other tokens beside a long one; points and stops differ, so rows leave at all times."""
    rows = [row_of(pair, 6 + 5 * i, t=i / 6, tokens=8 + i) for i in range(7)]
    blend = Blend(pair)
    alone = [texts(blend, pair, [row])[0] for row in rows]
    assert texts(blend, pair, rows) == alone


def test_the_loss_of_a_row_does_not_depend_on_the_rows_beside_it(pair):
    """One of 12 tokens beside one of 45, which is padded to."""
    model = model_of(pair)
    examples = [Example(tuple(range(9, 9 + n)), tuple(range(40, 45))) for n in (7, 40)]
    together = answer_loss(model, examples, "cpu").item()
    assert together == pytest.approx(sum(answer_loss(model, [e], "cpu").item() for e in examples), rel=1e-5)


def test_an_export_is_verified_on_prompts_of_both_kinds(pair, tmp_path):
    done = export(pair, rounds.start(pair), 0.4, tmp_path / "out")
    assert done.error < 1e-5 and done.same_tokens == 1
