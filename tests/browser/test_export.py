"""The Export tab."""

import re

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from browser.driver import SLIDER, answered, drag, fill, open_tab, until


def test_an_export_loads_in_plain_transformers(tiny, visit):
    page = visit(tiny.url)
    answered(page)
    drag(page, 1.0)
    open_tab(page, "Export")
    until(page, "export-plan", "MB in 46 tensors")
    fill(page, "export-folder", "exports/mine")
    page.wait_for_selector("#export-start:enabled")
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
    code = "#export-code"
    page.wait_for_selector(code)
    assert "from_pretrained" in page.inner_text(code) and str(out) in page.inner_text(code)
    assert page.locator(f"{code} button").count() >= 1  # to copy it


def test_m11_after_success_nothing_promises_what_is_then_refused(tiny, visit):
    """The plan went on saying that it fits, while a second Export failed: it already exists."""
    page = visit(tiny.url)
    answered(page)
    open_tab(page, "Export")
    until(page, "export-plan", "MB in 46 tensors")
    fill(page, "export-folder", "exports/once")
    page.wait_for_selector("#export-start:enabled")
    page.click("#export-start")
    until(page, "export-status", "Exported to .*once")
    until(page, "export-plan", "This folder has the export; to export again, name another one, or replace it")
    page.wait_for_selector("#export-start:disabled")
    page.check("#export-replace input")
    until(page, "export-plan", "MB in 46 tensors")
    page.wait_for_selector("#export-start:enabled")
    page.uncheck("#export-replace input")
    page.wait_for_selector("#export-start:disabled")
    fill(page, "export-folder", "exports/twice")
    until(page, "export-plan", "MB in 46 tensors")
    page.wait_for_selector("#export-start:enabled")
    drag_t(page, 0.9)
    page.click("#export-to-compare")  # the point that was exported, not that of the form
    page.wait_for_function("slider => document.querySelector(slider)?.value === '0.5'", arg=SLIDER)
    until(page, "compare-blend", "t = 0.5")


def drag_t(page, t: float) -> None:
    page.fill("#export-t input[type=number]", str(t))
    page.keyboard.press("Tab")


def test_m12_an_error_of_an_export_is_said_once(tiny, visit):
    """It stood in the plan, in the status line and in a toast."""
    page = visit(tiny.url)
    answered(page)
    open_tab(page, "Export")
    until(page, "export-plan", "MB in 46 tensors")
    (tiny.folder / "full").mkdir(exist_ok=True)
    fill(page, "export-folder", "full")
    until(page, "export-plan", "full already exists")
    page.wait_for_selector("#export-start:disabled")
    page.press("#export-folder textarea, #export-folder input", "Enter")
    page.wait_for_timeout(1500)
    assert page.inner_text("#tab-export").count("already exists") == 1
    assert page.locator(".toast-body").count() == 0


def test_m13_a_format_that_cannot_be_had_is_off_with_the_reason(tiny, visit):
    """An adapter was offered at round 0, where it can never work."""
    page = visit(tiny.url)
    answered(page)
    open_tab(page, "Export")
    until(page, "export-cards", r"Hugging Face folder\s+1.7 MB.*no LoRA update of the instruct checkpoint")
    whole, adapter, *_ = page.locator("#export-cards button").all()
    assert whole.get_attribute("aria-pressed") == "true"
    assert adapter.is_disabled()


def test_the_proposed_name_follows_the_form_and_is_free(tiny, visit):
    page = visit(tiny.url)
    answered(page)
    (tiny.folder / "exports" / "tiny-pair-t0.35").mkdir(parents=True, exist_ok=True)
    open_tab(page, "Export")
    until(page, "export-plan", "MB in 46 tensors")
    drag_t(page, 0.35)
    name = "document.querySelector('#export-folder textarea, #export-folder input').value"
    page.wait_for_function(f"() => {name} === 'exports/tiny-pair-t0.35-2'")
    until(page, "export-plan", "MB in 46 tensors")


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
