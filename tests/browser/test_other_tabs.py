"""Models, Explore and Export."""

import re

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from browser.driver import answered, drag, fill, open_tab, until
from conftest import TINY


def test_models_says_what_differs_and_what_the_pair_is(tiny, visit):
    page = visit(tiny.url)
    until(page, "models-status", "tiny is ready")  # or that would come later, over what is awaited below
    open_tab(page, "Models")
    page.click("#models-check")
    report = until(page, "models-report", "835,840")
    assert "compatible" in report and "qwen3, 4 layers, hidden 128" in report and "free" in report
    fill(page, "models-thinking", "nowhere/at/all")
    page.click("#models-check")
    until(page, "models-report", "neither an existing folder nor a Hub id")
    page.click("#models-load")  # a load that fails says so and keeps the pair it had
    until(page, "models-status", "neither an existing folder")
    fill(page, "models-thinking", TINY / "thinking")
    page.click("#models-load")
    until(page, "models-status", "tiny is ready")


def test_a_sweep_marks_the_flip_from_its_data(tiny, visit):
    page = visit(tiny.url)
    open_tab(page, "Explore")
    until(page, "explore-verdict", "SLERP and LERP")
    fill(page, "explore-problems", 20)
    page.click("#explore-sweep-start")
    verdict = until(page, "explore-status", r"20 problems.*at t = 0\.\d+ \(think rate")
    flip = float(re.search(r"at t = (0\.\d+) \(think rate", verdict)[1])
    assert 0.3 < flip < 0.7
    shapes = "document.querySelector('#explore-accuracy .js-plotly-plot')._fullLayout.shapes"
    page.wait_for_function(f"flip => {shapes}.some(shape => Math.abs(shape.x0 - flip) < 0.01)", arg=flip)
    layers = "() => document.querySelector('#explore-angles .js-plotly-plot')._fullData[0].z.length"
    assert page.evaluate(layers) == 4


def test_an_export_loads_in_plain_transformers(tiny, visit):
    page = visit(tiny.url)
    answered(page)
    drag(page, 1.0)
    open_tab(page, "Export")
    until(page, "export-plan", "MB in 46 tensors")
    fill(page, "export-folder", "exports/mine")
    page.click("#export-start")
    said = until(page, "export-status", "Exported.*by more than")
    assert float(re.search(r"by more than ([\d.e+-]+)", said)[1]) < 0.03
    out = tiny.folder / "exports" / "mine"
    model, info = AutoModelForCausalLM.from_pretrained(
        out, output_loading_info=True, local_files_only=True, dtype=torch.float32
    )
    assert not info["missing_keys"] and not info["unexpected_keys"] and not info["mismatched_keys"]
    tokenizer = AutoTokenizer.from_pretrained(out, local_files_only=True)
    question = [{"role": "user", "content": "What is 2 + 3 + 4?"}]
    ids = tokenizer.apply_chat_template(question, add_generation_prompt=True, return_tensors="pt")[
        "input_ids"
    ]
    assert "\\boxed{9}" in tokenizer.decode(model.generate(ids, max_new_tokens=60, do_sample=False)[0])
    page.click("#export-start")  # never over what exists
    until(page, "export-status", "exists|already")


def test_a_name_typed_while_the_export_tab_opens_stays(tiny, visit):
    """The proposed name came from the server a moment later and replaced it: the export went elsewhere."""
    page = visit(tiny.url)
    answered(page)
    open_tab(page, "Export")
    name = "#export-folder textarea, #export-folder input"
    page.wait_for_function("name => document.querySelector(name).value", arg=name)
    assert "tiny-pair-t0.5" in page.input_value(name)
    for t in (0.2, 0.9):
        open_tab(page, "Compare")
        drag(page, t)
        open_tab(page, "Export")
        fill(page, "export-folder", f"mine-{t}")
        page.wait_for_function(
            "t => document.querySelector('#export-t input').value == t",
            arg=page.input_value("#compare-t input"),
        )
        page.wait_for_timeout(500)
        assert page.input_value(name) == f"mine-{t}"
        fill(page, "export-folder", "")
    # the name came between the click into the field and the first key, and stood before what was typed
    page.evaluate("""() => {
        const fetchNow = window.fetch;
        window.fetch = async (...call) => {
            await new Promise(done => setTimeout(done, 1500));
            return fetchNow(...call);
        };
    }""")
    open_tab(page, "Compare")
    open_tab(page, "Export")
    page.focus(name)
    assert page.input_value(name) == ""
    page.wait_for_timeout(4000)
    page.keyboard.type("mine")
    assert page.input_value(name) == "mine"


def test_the_tab_that_is_opened_last_is_alive(tiny, visit):
    """Gradio drops an event while an earlier one of its kind is pending: Explore's timer never started."""
    page = visit(tiny.url)
    answered(page)
    page.evaluate("""async () => {
        const tab = name => [...document.querySelectorAll('#tabs button[role=tab]')]
            .find(button => button.innerText.trim() === name);
        for (const name of ['Models', 'Loop', 'Export', 'Loop', 'Explore']) {
            tab(name).click();
            await new Promise(done => setTimeout(done, 15));
        }
    }""")
    page.wait_for_selector("#explore-angles .main-svg", timeout=30_000)
