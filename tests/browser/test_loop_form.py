"""The settings of a new run: found by a word, marked where changed, refused in the words of their labels."""

import pytest

from browser.driver import Server, fill, open_tab, unfold, until

MARK = """id => {
    const label = document.querySelector('#' + id + ' [data-testid=block-info]');
    return getComputedStyle(label, '::after').content;
}"""
BOTTOMS = """() => ['rounds', 'prompts', 'held_out', 't'].map(
    name => Math.round(document.querySelector('#knob-' + name + ' input').getBoundingClientRect().bottom))"""


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    started = Server(tmp_path_factory.mktemp("form"))
    yield started
    started.close()
    assert "Traceback" not in started.log, started.log


@pytest.fixture
def page(server, visit):
    page = visit(server.url)
    open_tab(page, "Loop")
    page.wait_for_selector("#loop-start")
    return page


def change(page, name: str, value) -> None:
    fill(page, f"knob-{name}", value)
    page.locator(f"#knob-{name} input").press("Tab")


def test_a_setting_has_label_unit_help_default_and_a_mark_where_changed(page):
    assert "Held out (problems)" in page.inner_text("#knob-held_out")
    assert "0 = new instruct, 1 = anchor. Default 0.8." in page.inner_text("#knob-t")
    assert page.evaluate(MARK, "knob-t") == "none"
    change(page, "t", 0.5)
    until(page, "loop-find", "^1 changed$")
    assert "changed" in page.evaluate(MARK, "knob-t")
    assert page.evaluate(MARK, "knob-rounds") == "none"
    change(page, "t", 0.8)
    until(page, "loop-find", "^$")
    assert page.evaluate(MARK, "knob-t") == "none"
    assert len(set(page.evaluate(BOTTOMS))) == 1  # helps of one and two lines pushed the fields out of line


def test_a_setting_is_found_by_a_word_wherever_it_is(page):
    search = page.locator("#loop-find input")
    search.press_sequentially("repetition")
    page.wait_for_selector("#knob-think_repetition_penalty")  # the fold opens by itself
    until(page, "loop-find", "2 found")
    for hidden in ("#knob-rounds", "#knob-seed", "#knobs-distillation"):
        assert not page.locator(hidden).is_visible()
    search.fill("")
    page.wait_for_selector("#knob-rounds")
    page.wait_for_selector("#knob-seed")
    search.press_sequentially("nothing like it")
    until(page, "loop-find", "0 found")


@pytest.mark.parametrize(
    "name, value, says",
    [
        ("held_out", 99_999, r"“Held out” \(held_out\) asks for 99999 problems.*lower “Held out”"),
        ("rounds", 1.5, "rounds must be a whole number, it is 1.5"),
    ],
    ids=["m16", "m17"],
)
def test_a_wrong_setting_is_refused_at_once_beside_start(server, page, name, value, says):
    """held_out = 99999 was refused by the child process six seconds later; rounds = 1.5 was silently 1."""
    change(page, name, value)
    page.click("#loop-start")
    until(page, "loop-refusal", says)
    assert server.runs == []
    assert "Start runs the loop" in page.inner_text("#loop-progress")  # the line of the run stays as it is


def test_a_demo_s_form_names_no_paths(serve, visit):
    server = serve("--demo")
    page = visit(server.url)
    open_tab(page, "Loop")
    unfold(page, "loop-knobs")
    page.wait_for_selector("#knob-seed")
    page.locator("#loop-find input").press_sequentially("checkpoint")
    until(page, "loop-find", r"\d+ found")
    assert page.locator("#knob-instruct, #knob-train_set").count() == 0
