"""The problems of dev/train_steps_pair.py, whose figures docs/method.md has."""

import steps_problems


def value_of(prompt: str) -> int:
    return eval(prompt.removeprefix("What is ").removesuffix("?"))


def assert_right(line: str) -> int:
    """'4 + 3 + 1 = 8' -> 8"""
    left, right = line.split(" = ")
    assert eval(left) == int(right)
    return int(right)


def test_a_chain_is_right_in_each_step():
    for made in steps_problems.take("train", 300, seed=3, single=0):
        assert made.is_chain and value_of(made.prompt) == int(made.answer)
        *_, last = [assert_right(line) for line in made.trace.splitlines()]
        assert last == int(made.answer)
        assert made.after_trace == f"{made.trace}\n\\boxed{{{made.answer}}}"


def test_a_single_step_is_worked_out_digit_by_digit():
    """Ones, then tens: both right, and together the answer."""
    for made in steps_problems.take("train", 2000, seed=3, single=1):
        ones, tens = map(assert_right, made.trace.splitlines())
        assert 10 * tens + ones % 10 == int(made.answer) == value_of(made.prompt)


def test_what_is_trained_on_and_what_is_held_out():
    train, held_out = steps_problems.train(), steps_problems.held_out()
    assert (len(train), len(held_out)) == (3941, 1000)
    assert not any(made.is_chain for made in train)
    assert all(made.is_chain for made in held_out)
    before = {made.prompt for made in steps_problems.take("pretrain", 3000, seed=5, single=0.3)}
    for made in (*train, *held_out):
        assert made.prompt not in before
