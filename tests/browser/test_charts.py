"""The tools that every chart has: an image, its figures as a table, the full screen."""

import csv
import io

from browser.driver import open_tab, plotted, text
from browser.test_loop_runs import at_run, made_run

DRAWN = "#loop-accuracy .js-plotly-plot .main-svg"
HEIGHTS = """() => ['loss', 'accuracy', 'tokens'].map(
    name => document.querySelector('#loop-' + name + ' .chart').getBoundingClientRect().height)"""
ROLES = ("instruct", "thinking")
OUTER = "elem_id => document.querySelector('#' + elem_id + ' .chart').getBoundingClientRect().height"


def saved(page, elem_id: str, tool: str):
    """What a tool downloads, reached by keys: the button has no need of a mouse."""
    button = page.locator(f"#{elem_id} [data-do={tool}]")
    button.focus()
    with page.expect_download() as download:
        page.keyboard.press("Enter")
    return download.value


def test_a_chart_is_saved_as_image_and_as_table(serve, visit):
    server = serve()
    made_run(server, "=a<b>")
    made_run(server, "shown")
    page = at_run(visit, server, "shown")
    plotted(page, "loop-accuracy")
    page.locator("#loop-overlay input").click()
    page.get_by_role("option", name="=a<b>").click()
    page.wait_for_function("() => document.querySelector('#loop-accuracy .chart').data.length > 4")
    image = saved(page, "loop-accuracy", "image")
    assert image.suggested_filename == "loop-accuracy.png"
    assert image.path().read_bytes().startswith(b"\x89PNG")
    table = saved(page, "loop-accuracy", "table")
    assert table.suggested_filename == "loop-accuracy.csv"
    head, *rows = csv.reader(io.StringIO(table.path().read_text("utf-8")))
    assert head == ["series", "x", "y"]
    scores = [[role, number, right] for role in ROLES for number, right in (("0", "20"), ("1", "60"))]
    assert rows[:4] == scores
    assert {row[0] for row in rows[4:]} == {"instruct, =a<b>", "thinking, =a<b>"}
    losses = list(csv.reader(io.StringIO(saved(page, "loop-loss", "table").path().read_text("utf-8"))))
    assert losses[1:3] == [["round 1", "1", "1"], ["round 1", "2", "0.5"]]
    assert losses[3][0] == "'=a<b>"  # no formula of a spreadsheet


def test_a_heat_map_s_table_has_a_row_per_tensor(tiny, visit):
    page = visit(tiny.url)
    open_tab(page, "Explore")
    page.wait_for_selector("#explore-angles .js-plotly-plot .main-svg")
    table = saved(page, "explore-angles", "table").path().read_text("utf-8")
    head, *rows = csv.reader(io.StringIO(table))
    assert head == ["module", "layer", "number"]
    assert len(rows) == 4 * 11  # layers and modules of the embedded pair
    assert {row[1] for row in rows} == {"0", "1", "2", "3"}
    assert all(0 <= float(row[2]) < 90 for row in rows)


def test_a_chart_fills_the_screen_and_comes_back(serve, visit):
    server = serve()
    made_run(server, "shown")
    page = at_run(visit, server, "shown")
    page.wait_for_selector(DRAWN)
    before = page.evaluate(OUTER, "loop-accuracy")
    button = page.locator("#loop-accuracy [data-do=full]")
    assert button.get_attribute("aria-label") == "Full screen"
    button.focus()
    page.keyboard.press("Enter")
    page.wait_for_function(f"() => ({OUTER})('loop-accuracy') > 600")
    assert page.evaluate("() => document.querySelector('#loop-accuracy .chart')._fullLayout.font.size") == 18
    button.focus()
    page.keyboard.press("Enter")
    page.wait_for_function(f"() => ({OUTER})('loop-accuracy') === {before}")
    assert page.evaluate("() => document.querySelector('#loop-accuracy .chart')._fullLayout.font.size") == 12


def test_empty_charts_are_as_high_as_drawn_ones_and_have_no_tools(serve, visit):
    """84 pixels stood beside 300; without any run the three are left out, and the form comes first."""
    server = serve()
    page = visit(server.url)
    open_tab(page, "Loop")
    page.wait_for_selector("#loop-start")
    assert "Start runs the loop" in text(page, "loop-progress")
    assert not page.locator("#loop-charts").is_visible()
    folder = made_run(server, "begun")
    events = (folder / "events.jsonl").read_text("utf-8").splitlines(keepends=True)
    (folder / "events.jsonl").write_text("".join(events[:2] + events[-1:]), "utf-8")  # no loss yet
    plotted(page, "loop-accuracy")
    page.wait_for_function(f"() => new Set(({HEIGHTS})()).size === 1")
    assert page.evaluate(HEIGHTS) == [300, 300, 300]
    page.hover("#loop-loss")
    assert not page.locator("#loop-loss .chart-tools").is_visible()
    page.hover("#loop-accuracy")
    assert page.locator("#loop-accuracy .chart-tools").is_visible()


def test_m23_titles_and_legends_fit_a_phone(serve, visit):
    """Titles were cut: "Mean tokens (lines) and think rate (dotted, %"."""
    server = serve()
    made_run(server, "shown")
    page = visit(server.url, width=390, height=844)
    open_tab(page, "Loop")
    for name in ("loss", "accuracy", "tokens"):
        plotted(page, f"loop-{name}")
        frame = page.locator(f"#loop-{name} .chart").bounding_box()
        for part in page.locator(f"#loop-{name} :is(.gtitle, .legend)").all():
            box = part.bounding_box()
            assert box["x"] >= frame["x"] - 1
            assert box["x"] + box["width"] <= frame["x"] + frame["width"] + 1, name
