"""The Export tab."""

import re

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from browser.driver import answered, drag, fill, open_tab, until


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
