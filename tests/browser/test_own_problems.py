"""A file of problems on the Loop tab."""

import json
import urllib.error
import urllib.request

from browser.driver import fill, open_tab, unfold, until

BOUNDARY = "----thinkswitch"


def post_file(server, content: bytes, **headers: str) -> int:
    body = (
        f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="files"; filename="a.jsonl"\r\n'
        "Content-Type: application/octet-stream\r\n\r\n"
    ).encode() + content
    body += f"\r\n--{BOUNDARY}--\r\n".encode()
    kind = {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}"}
    request = urllib.request.Request(f"{server.url}gradio_api/upload", body, {**kind, **headers})
    try:
        with urllib.request.urlopen(request) as answer:
            return answer.status
    except urllib.error.HTTPError as error:
        return error.code


def rows(count: int) -> str:
    return "question,result\n" + "".join(f"What is {n} + 1?,{n + 1}\n" for n in range(count))


def test_own_problems_become_the_task_of_the_next_run(serve, visit, tmp_path):
    server = serve(GRADIO_TEMP_DIR=str(tmp_path / "uploads"))
    mine = tmp_path / "my sums.csv"
    mine.write_text(rows(12), "utf-8")
    page = visit(server.url)
    open_tab(page, "Loop")
    page.set_input_files("#loop-own-file input[type=file]", mine)
    until(page, "loop-own-report", "'answer'; held-out problems need answers")  # the column is called result
    unfold(page, "loop-knobs")
    page.wait_for_selector("#knob-answer_column")
    fill(page, "knob-answer_column", "result")
    page.set_input_files("#loop-own-file input[type=file]", mine)
    said = until(page, "loop-own-report", "Set for the next run")
    assert "my-sums.csv: 12 rows (12 text), 12 with answers" in said
    assert "What is 2 + 1? → 3" in said and "What is 3 + 1?" not in said  # the first three
    assert "Prompt template: {question}" in said
    held, prompts = (page.input_value(f"#knob-{name} input") for name in ("held_out", "prompts"))
    assert (held, prompts) == ("3", "9")
    for name in ("train_set", "held_out_set"):
        assert page.input_value(f"#knob-{name} textarea, #knob-{name} input").endswith("my-sums.csv")
    assert (server.folder / "problems/my-sums.csv").read_text("utf-8") == rows(12)
    uploads = [path for path in (tmp_path / "uploads").rglob("*") if path.is_file()]
    assert [
        path for path in uploads if path.stat().st_size
    ] == []  # deleted after reading; Gradio's are empty


def test_what_is_wrong_in_a_file_is_said_by_line(tiny, visit, tmp_path):
    bad = tmp_path / "bad.jsonl"
    lines = [json.dumps({"prompt": str(n), "answer": "1", "kind": "integer"}) for n in range(4)]
    lines[2] = '{"prompt": "<img src=x onerror=window.hacked=1>", "answer": "x", "kind": "integer"}'
    bad.write_text("\n".join([*lines, "nonsense <b>", ""]), "utf-8")
    page = visit(tiny.url)
    open_tab(page, "Loop")
    if not page.locator("#loop-own-file").is_visible():
        unfold(page, "loop-new")
    page.set_input_files("#loop-own-file input[type=file]", bad)
    said = until(page, "loop-own-report", "not used")
    assert "2 of 5 rows are wrong" in said and "bad.jsonl line 3: the answer 'x' is not an integer" in said
    assert "bad.jsonl line 5 is not JSON" in said and "/gradio/" not in said
    assert page.evaluate("() => window.hacked") is None
    assert not (tiny.folder / "problems").exists()


def test_uploads_have_a_limit_and_come_from_our_own_page(tiny):
    """30 MB were accepted from any site: a multipart POST needs no preflight."""
    assert post_file(tiny, b"x" * 1000) == 200
    assert post_file(tiny, b"x" * 1000, Origin=tiny.url.rstrip("/")) == 200
    for origin in ("http://evil.example", "null"):
        assert post_file(tiny, b"x" * 1000, Origin=origin) == 403
    assert post_file(tiny, b"x" * 34_000_000) >= 400


def test_a_demo_takes_no_files(serve, visit):
    server = serve("--demo")
    assert post_file(server, b"x") == 403
    page = visit(server.url)
    open_tab(page, "Loop")
    page.wait_for_selector("#loop-start")
    assert page.locator("#loop-own-file").count() == 0
