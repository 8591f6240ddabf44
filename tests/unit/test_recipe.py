"""The algebra: SLERP in closed form is SLERP of the weights."""

import math

import numpy as np
import pytest
import torch

from conftest import random_adapter
from thinkswitch import recipe, rounds
from thinkswitch.recipe import Schedule
from thinkswitch.weights.gram import base_gram, dots, extend_gram
from thinkswitch.weights.materialise import combine, stream
from thinkswitch.weights.pair import Pair, open_pair


def mergekit_slerp(t, v0, v1, threshold=0.9995, eps=1e-8):
    """mergekit 0.1.5's formula (slerp.py), in numpy: whole tensor, LERP when nearly collinear."""
    unit = [v / n if (n := np.linalg.norm(v)) > eps else v for v in (v0, v1)]
    dot = np.sum(unit[0] * unit[1])
    if np.abs(dot) > threshold:
        return (1 - t) * v0 + t * v1
    theta = np.arccos(dot)
    return np.sin(theta * (1 - t)) / np.sin(theta) * v0 + np.sin(theta * t) / np.sin(theta) * v1


def gram_of(*vectors):
    return [[float(a @ b) for b in vectors] for a in vectors]


def apply(coefficients, *vectors):
    return sum(c * v for c, v in zip(coefficients, vectors, strict=True))


def two(angle, size=64):
    """Two unit vectors at an angle."""
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(2, size))
    a /= np.linalg.norm(a)
    b -= (b @ a) * a
    return a, math.cos(angle) * a + math.sin(angle) * b / np.linalg.norm(b)


@pytest.mark.parametrize("angle", [0.001, 0.02, 0.1, 1.0, 2.0, 3.0, 3.1])
@pytest.mark.parametrize("t", [0.0, 0.13, 0.5, 0.8, 1.0])
def test_equals_mergekit(angle, t):
    a, b = two(angle)
    b = 3 * b  # norms differ
    assert np.allclose(
        apply(recipe.slerp(gram_of(a, b), recipe.INSTRUCT, recipe.THINKING, t), a, b),
        mergekit_slerp(t, a, b),
        atol=1e-9,
    )


def test_ends_are_exact():
    a, b = two(1.0)
    assert recipe.slerp(gram_of(a, b), recipe.INSTRUCT, recipe.THINKING, 0) == recipe.INSTRUCT
    assert recipe.slerp(gram_of(a, b), recipe.INSTRUCT, recipe.THINKING, 1) == recipe.THINKING


@pytest.mark.parametrize("t", [0.1, 0.37, 0.5])
def test_symmetry(t):
    gram = gram_of(*two(0.7))
    assert recipe.slerp(gram, recipe.INSTRUCT, recipe.THINKING, t) == pytest.approx(
        recipe.slerp(gram, recipe.THINKING, recipe.INSTRUCT, 1 - t)
    )


@pytest.mark.parametrize("t", [0.1, 0.37, 0.5, 0.9])
def test_unit_vectors_stay_on_the_sphere_at_a_share_of_the_angle(t):
    a, b = two(1.2)
    point = apply(recipe.slerp(gram_of(a, b), recipe.INSTRUCT, recipe.THINKING, t), a, b)
    assert np.linalg.norm(point) == pytest.approx(1)
    assert math.acos(point @ a) == pytest.approx(1.2 * t)


def test_collinear_and_opposite_fall_back_to_lerp():
    a, _ = two(1.0)
    assert recipe.slerp(gram_of(a, 2 * a), recipe.INSTRUCT, recipe.THINKING, 0.25) == (0.75, 0.25)
    assert recipe.slerp(gram_of(a, -a), recipe.INSTRUCT, recipe.THINKING, 0.25) == (0.75, 0.25)
    assert recipe.slerp(gram_of(a, 0 * a), recipe.INSTRUCT, recipe.THINKING, 0.25) == (0.75, 0.25)


def test_just_past_the_threshold_it_is_slerp():
    below, above = math.acos(0.99951), math.acos(0.99949)
    assert recipe.slerp(gram_of(*two(below)), recipe.INSTRUCT, recipe.THINKING, 0.25) == (0.75, 0.25)
    assert recipe.slerp(gram_of(*two(above)), recipe.INSTRUCT, recipe.THINKING, 0.25) != (0.75, 0.25)


@pytest.fixture(scope="module", params=["qwen3", "qwen2"])
def pair(request, folders):
    return open_pair(*folders(request.param))


def test_gram_is_of_the_tensors(pair):
    gram = base_gram(pair)
    for name, w_i, w_t in pair.tensors():
        flat = [w.double().flatten() for w in (w_i, w_t)]
        expected = [[float(x @ y) for y in flat] for x in flat]
        assert gram[name] == [pytest.approx(row, rel=1e-9) for row in expected]


@pytest.mark.parametrize(
    "rows,width,step", [(10, 100, 3), (1, 1000, 1), (512, 2560, 100), (100, 9728, 51), (5000, 128, 4096)]
)
@pytest.mark.parametrize("apart", [1.0, 0.05, 1e-3])
def test_dots_of_whole_tensors_in_blocks(rows, width, step, apart):
    """Float32 rows lose less than bf16 shows: angles that matter are right to 1e-4 of themselves."""
    x = torch.randn(rows, width, generator=torch.Generator().manual_seed(0)).bfloat16()
    y = (x.float() + apart * torch.randn(rows, width, generator=torch.Generator().manual_seed(1))).bfloat16()
    xx, xy, yy = dots(zip(x.float().split(step), y.float().split(step), strict=True))
    x, y = x.double().flatten(), y.double().flatten()
    assert (xx, xy, yy) == pytest.approx((float(x @ x), float(x @ y), float(y @ y)), rel=1e-7)

    def angle(xx, xy, yy):
        return math.acos(min(1.0, xy / math.sqrt(xx * yy)))

    assert angle(xx, xy, yy) == pytest.approx(
        angle(float(x @ x), float(x @ y), float(y @ y)), rel=2e-2 if apart < 0.01 else 1e-4
    )


@pytest.mark.parametrize("anchor", ["original", "previous"])
def test_three_rounds_in_closed_form_equal_three_rounds_of_weights(pair, anchor):
    """The run folder's scalars are what streaming all weights through mergekit's SLERP gives."""
    schedule, t = Schedule(attention=0.5, depth=(0.6, 1.0)), 0.8
    state = rounds.start(pair)
    instruct = {n: pair.instruct.tensor(n).double().numpy() for n in pair.names}
    original = thinking = {n: pair.thinking.tensor(n).double().numpy() for n in pair.names}
    depth = recipe.count_layers(pair.names)
    for number in (1, 2, 3):
        adapter = random_adapter(pair, seed=number)
        state = rounds.rebuild(pair, state, adapter, t, anchor, schedule)
        instruct = {
            n: w + (adapter.delta(n).double().numpy() if n in adapter.low_rank else 0)
            for n, w in instruct.items()
        }
        end = original if anchor == "original" else thinking
        thinking = {
            n: mergekit_slerp(
                recipe.scheduled_t(n, t, schedule, depth), instruct[n].ravel(), end[n].ravel()
            ).reshape(instruct[n].shape)
            for n in pair.names
        }
        for name in pair.names:
            for point, expected in ((state.instruct, instruct), (state.thinking, thinking)):
                got = combine(pair, state.adapters, point, name).double().numpy()
                assert np.linalg.norm(got - expected[name]) <= 1e-6 * np.linalg.norm(expected[name]), (
                    number,
                    name,
                )
    assert any(
        recipe.cosine(g, recipe.INSTRUCT, recipe.THINKING) < recipe.LERP_ABOVE for g in state.gram.values()
    )  # both formulas were exercised


def test_extended_gram_is_that_of_the_formed_updates(pair):
    adapters = [random_adapter(pair, seed) for seed in (1, 2)]
    gram = base_gram(pair)
    for n in (1, 2):
        gram = extend_gram(gram, pair, adapters[:n])
    name = next(iter(adapters[0].low_rank))
    basis = [pair.instruct.tensor(name), pair.thinking.tensor(name), *(a.delta(name) for a in adapters)]
    assert np.allclose(
        gram[name], gram_of(*(w.double().flatten().numpy() for w in basis)), rtol=1e-5, atol=1e-6
    )


def test_a_round_is_plain_data_there_and_back(pair, tmp_path):
    state = rounds.start(pair)
    rounds.write(tmp_path, state)
    assert rounds.read(tmp_path, 0) == state


@pytest.mark.parametrize(
    "name, kind",
    [
        ("model.layers.3.self_attn.q_proj.weight", "attention"),
        ("model.layers.3.self_attn.k_proj.bias", "attention"),
        ("model.layers.3.self_attn.q_norm.weight", "norm"),
        ("model.layers.3.mlp.down_proj.weight", "mlp"),
        ("model.layers.3.input_layernorm.weight", "norm"),
        ("model.norm.weight", "norm"),
        ("model.embed_tokens.weight", "embedding"),
        ("lm_head.weight", "embedding"),
    ],
)
def test_module_kinds(name, kind):
    assert recipe.module_kind(name) == kind


def test_schedules_over_depth_and_kind():
    name = "model.layers.{}.mlp.up_proj.weight".format
    last_two_thirds = Schedule(depth=(0, 1, 1))
    assert [recipe.scheduled_t(name(i), 0.8, last_two_thirds, 5) for i in range(5)] == pytest.approx(
        [0, 0.4, 0.8, 0.8, 0.8]
    )
    assert recipe.scheduled_t(name(0), 0.8, Schedule(mlp=0), 5) == 0
    assert recipe.scheduled_t(name(0), 0.8, Schedule(mlp=2), 5) == 1  # cut to 1
    assert (
        recipe.scheduled_t("model.norm.weight", 0.8, last_two_thirds, 5) == 0.8
    )  # outside the layers there is no depth
    assert recipe.scheduled_t(name(0), 0.8, Schedule(depth=(0.5,)), 1) == pytest.approx(0.4)


def test_a_side_without_coefficient_is_not_read(pair):
    class Unreadable:
        def stream(self, name, step):
            raise AssertionError("read")

    half = Pair(pair.instruct, Unreadable())
    for name, tensor in stream(half, [], recipe.uniform_recipe(pair.names, recipe.INSTRUCT)):
        assert torch.equal(tensor, pair.instruct.tensor(name))


def test_moved_is_the_same_point_in_another_basis(pair):
    state = rounds.start(pair)
    for seed in (1, 2):
        state = rounds.rebuild(pair, state, random_adapter(pair, seed), 0.8, "original", Schedule())
    point = state.point(0.4, Schedule(mlp=0.5))
    assert recipe.remap_adapters(point, [0, 1]) == point
    assert recipe.remap_adapters(rounds.start(pair).instruct, []) == rounds.start(pair).instruct
    assert recipe.remap_adapters(rounds.start(pair).thinking, [3, 1]) == recipe.uniform_recipe(
        pair.names, (*recipe.THINKING, 0.0, 0.0, 0.0, 0.0)
    )
    far = recipe.remap_adapters(point, [3, 1])
    first, second = state.adapters
    third = random_adapter(pair, 9)  # another run's
    for name in pair.names:
        i, t, c1, c2 = point[name]
        assert far[name] == (i, t, 0.0, c2, 0.0, c1)
        assert torch.equal(
            combine(pair, [third, second, third, first], far, name),
            combine(pair, [third, second, third, first], {name: (i, t, 0.0, c2, 0.0, c1)}, name),
        )
        got, expected = (
            combine(pair, [third, second, third, first], far, name),
            combine(pair, [first, second], point, name),
        )
        assert torch.allclose(got, expected, rtol=1e-5, atol=1e-6)


def test_moved_keeps_equal_coefficients_one_object(pair):
    """A recipe of a 4 B pair has 400 tensors and few distinct coefficients."""
    far = recipe.remap_adapters(recipe.instruct_point(pair.names, 2), [4, 0])
    assert (
        set(far.values()) == {(1.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0)} and len({id(c) for c in far.values()}) == 1
    )


@pytest.mark.parametrize("t", [0.1, 0.5, 0.8])
def test_slerp_gap_is_the_distance_of_the_real_tensors(pair, t):
    """In float64, tensor by tensor, between points that hold adapters, too."""
    adapter = random_adapter(pair, 1)
    gram = extend_gram(base_gram(pair), pair, [adapter])
    p, q = (1.0, 0.0, 1.0), (0.2, 0.8, -0.5)
    met = set()
    for name, w_i, w_t in pair.tensors():
        update = adapter.delta(name).double().numpy().ravel() if name in adapter.low_rank else 0
        basis = [w_i.double().numpy().ravel(), w_t.double().numpy().ravel(), update]
        a, b = apply(p, *basis), apply(q, *basis)
        lerp = (1 - t) * a + t * b
        expected = np.linalg.norm(mergekit_slerp(t, a, b) - lerp) / np.linalg.norm(lerp)
        assert recipe.slerp_gap(gram[name], p, q, t) == pytest.approx(expected, rel=1e-5, abs=1e-9), name
        assert recipe.degrees(recipe.cosine(gram[name], p, q)) == pytest.approx(
            math.degrees(math.acos(a @ b / np.linalg.norm(a) / np.linalg.norm(b))), abs=1e-3
        ), name
        met.add(expected > recipe.BF16_ROUNDING)
    assert met >= {True}  # somewhere there is something to tell


def test_slerp_gap_is_nothing_at_the_ends_and_for_colinear_tensors():
    a, b = two(1.0)
    for t in (0, 1, 0.0, 1.0):
        assert recipe.slerp_gap(gram_of(a, 3 * b), recipe.INSTRUCT, recipe.THINKING, t) == 0
    for t in (0.2, 0.5):
        assert (
            recipe.slerp_gap(gram_of(a, 2 * a), recipe.INSTRUCT, recipe.THINKING, t)
            == recipe.slerp_gap(gram_of(a, 0 * a), recipe.INSTRUCT, recipe.THINKING, t)
            == 0
        )
        assert (
            recipe.slerp_gap(gram_of(a, -a), recipe.INSTRUCT, recipe.THINKING, t) == 0
        )  # at 0.5 LERP is nothing: no division by it
    # equal norms: both halves are the bisector, of length 1 and cos(angle / 2)
    assert recipe.slerp_gap(gram_of(a, b), recipe.INSTRUCT, recipe.THINKING) == pytest.approx(
        1 / math.cos(0.5) - 1
    )


@pytest.mark.parametrize("cos, angle", [(1.0, 0), (0.5, 60), (0.0, 90), (-1.0, 180), (0.9995, 1.8119)])
def test_degrees(cos, angle):
    assert recipe.degrees(cos) == pytest.approx(angle, abs=1e-4)


def test_an_angle_is_a_number_whatever_rounding_does():
    """Products of the same tensor may round to a cosine of 1 + 2e-16."""
    x = np.random.default_rng(1).normal(size=1000)
    for scale in (0.1, 0.3, 1 / 3, 7.7):
        assert (
            0 <= recipe.degrees(recipe.cosine(gram_of(x, scale * x), recipe.INSTRUCT, recipe.THINKING)) < 1e-5
        )


NAMES = [
    "model.embed_tokens.weight",
    "model.norm.weight",
    "lm_head.weight",
    *(
        f"model.layers.{i}.{m}.weight"
        for i in range(36)
        for m in ("self_attn.q_proj", "self_attn.q_norm", "mlp.up_proj", "input_layernorm")
    ),
]


def test_published_ablations_leave_out_what_they_say():
    """t by t, for the 36 layers of Qwen3-4B; arXiv 2510.10977 leaves the rest at instruct."""
    ts = {
        title: {n: recipe.scheduled_t(n, 0.8, one, 36) for n in NAMES}
        for title, one in recipe.ablations(36).items()
    }
    assert set(ts["uniform"].values()) == {0.8}
    assert ts["FFN only"] == {n: 0.8 if ".mlp." in n else 0 for n in NAMES}
    assert ts["attention only"] == {n: 0.8 if "_proj" in n and ".self_attn." in n else 0 for n in NAMES}
    last = ts["last two thirds"]
    assert {recipe.layer_of(n) for n in NAMES if recipe.layer_of(n) is not None and last[n] == 0.8} == set(
        range(12, 36)
    )
    assert {recipe.layer_of(n) for n in NAMES if recipe.layer_of(n) is not None and last[n] == 0} == set(
        range(12)
    )
    assert last["model.embed_tokens.weight"] == last["lm_head.weight"] == 0


@pytest.mark.parametrize("layers, first", [(1, 0), (2, 1), (3, 1), (4, 1), (28, 9), (48, 16), (80, 27)])
def test_last_two_thirds_at_any_depth_has_no_layer_in_between(layers, first):
    one = recipe.ablations(layers)["last two thirds"]
    assert [
        recipe.scheduled_t(f"model.layers.{i}.mlp.up_proj.weight", 0.8, one, layers) for i in range(layers)
    ] == [0.0] * first + [0.8] * (layers - first)
