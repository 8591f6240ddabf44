"""Gram matrices come from one pass over the weights, whatever the number of threads and blocks."""

import pytest
import torch

from conftest import random_adapter
from thinkswitch.weights import gram
from thinkswitch.weights.gram import base_gram, dots, extend_gram, usable_cpus
from thinkswitch.weights.pair import open_pair


@pytest.fixture(scope="module")
def pair(folders):
    return open_pair(*folders("qwen2"))


def test_the_number_of_threads_changes_no_bit(pair, monkeypatch):
    """recipe.json holds these figures, and a resumed run must write the same file on another machine."""
    expected = base_gram(pair)
    for count in (1, 3, 64):
        monkeypatch.setattr(gram, "usable_cpus", lambda count=count: count)
        assert base_gram(pair) == expected


def test_at_least_one_cpu_is_usable():
    assert usable_cpus() >= 1


def test_small_blocks_are_summed_in_float64():
    x = torch.tensor([[2.0**14, 1.0]])
    y = torch.tensor([[2.0**-14, 1.0]])
    assert dots([(x, y)]) == (2.0**28 + 1, 2.0, 2.0**-28 + 1)  # float32 would lose the one


def test_large_blocks_are_close_to_float64():
    x = torch.randn(1024, 1024, generator=torch.Generator().manual_seed(0))
    y = torch.randn(1024, 1024, generator=torch.Generator().manual_seed(1))
    exact = [float((p.double() * q.double()).sum()) for p, q in ((x, x), (x, y), (y, y))]
    xx, xy, yy = dots([(x[:600], y[:600]), (x[600:], y[600:])])
    assert (xx, yy) == pytest.approx((exact[0], exact[2]), rel=1e-7)
    assert xy == pytest.approx(exact[1], abs=1e-7 * exact[0])


def test_an_adapter_extends_every_matrix(pair):
    first, second = (random_adapter(pair, seed) for seed in (1, 2))
    only_first = next(iter(second.low_rank))
    del second.low_rank[only_first]
    grown = extend_gram(extend_gram(base_gram(pair), pair, [first]), pair, [first, second])
    for name, matrix in grown.items():
        weights = [checkpoint.tensor(name).double() for checkpoint in pair.checkpoints]
        updates = [
            a.delta(name).double() if name in a.low_rank else torch.zeros_like(weights[0])
            for a in (first, second)
        ]
        basis = [*weights, *updates]
        norm = float(weights[0].norm())
        for row, x in zip(matrix, basis, strict=True):
            assert row == pytest.approx([float((x * y).sum()) for y in basis], rel=1e-4, abs=1e-4 * norm)
    assert grown[only_first][3] == [0.0] * 4
