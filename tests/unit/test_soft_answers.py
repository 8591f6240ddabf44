"""Training on the teacher's distribution over the answer, instead of on its words."""

import dataclasses

import pytest
import torch

from thinkswitch import rounds
from thinkswitch.errors import UserError
from thinkswitch.samples import soften
from thinkswitch.weights.materialise import materialise
from thinkswitch.weights.pair import open_pair
from unit.test_distil import OUT_OF_MEMORY, PRESET, Crowded, some_examples, train


@pytest.fixture(scope="module")
def pair(folders):
    return open_pair(*folders("qwen3"))


def test_soft_answers_pull_towards_the_teacher(pair, tmp_path):
    """Context distillation: the divergence from the teacher's distribution given its trace falls."""
    teacher = materialise(pair, [], rounds.start(pair).thinking)
    examples = some_examples()
    contexts = [(*e.prompt, 9, 8, 7) for e in examples]
    soft = soften(teacher, examples, contexts, k=8)
    for e in soft:
        assert e.soft_p.shape == e.soft_ids.shape == (len(e.answer), 8)
        assert torch.allclose(e.soft_p.sum(-1), torch.ones(len(e.answer)))
    with torch.inference_mode():  # the first answer token's distribution, the plain way
        logits = teacher(input_ids=torch.tensor([contexts[3]])).logits[0, -1]
    likeliest = logits.topk(8)
    assert soft[3].soft_ids[0].tolist() == likeliest.indices.tolist()
    assert soft[3].soft_p[0].tolist() == pytest.approx(likeliest.values.softmax(-1).tolist(), rel=1e-4)
    steps = train(pair, tmp_path, dataclasses.replace(PRESET, epochs=60), soft[:4])
    assert 0 < steps[-1].loss < 0.5 * steps[0].loss


def test_a_trace_too_long_for_the_teacher_is_refused_in_words(pair):
    """Out of memory here ended the run in a traceback: the teacher reads trace and answer at once."""
    teacher = materialise(pair, [], rounds.start(pair).thinking)
    Crowded(teacher, 0, OUT_OF_MEMORY[0])  # the second pass runs out
    examples = some_examples()[:2]
    with pytest.raises(UserError, match=r"a trace and answer of \d+ tokens do not fit.*lower think_tokens"):
        soften(teacher, examples, [e.prompt for e in examples], k=8)
