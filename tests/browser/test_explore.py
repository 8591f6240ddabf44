"""The Explore tab: sweeps, and what is taken from them to other tabs."""

import re

from browser.driver import SLIDER, answered, choose, fill, open_tab, plotted, until

LINES = """id => document.querySelector(`#${id} .js-plotly-plot`)._fullData
    .filter(line => line.visible === true).map(line => [line.name, line.line.color, line.x.length])"""
PLACE = """([id, t]) => {
    const plot = document.querySelector(`#${id} .js-plotly-plot`);
    const line = plot._fullData.find(line => line.customdata?.some(key => key?.startsWith(`${t} `)));
    const i = line.customdata.findIndex(key => key.startsWith(`${t} `));
    const {xaxis, yaxis} = plot._fullLayout;
    const box = plot.getBoundingClientRect();
    return [box.x + xaxis._offset + xaxis.l2p(line.x[i]), box.y + yaxis._offset + yaxis.l2p(line.y[i])];
}"""
CHOSEN = "label => document.querySelector('#explore-point input').value.startsWith(label)"
SHAPES = "id => document.querySelector(`#${id} .js-plotly-plot`)._fullLayout.shapes.length"


def swept(page, problems: int = 20, schedule: str = "") -> str:
    """Sweep as the form stands; returns the verdict."""
    if schedule:
        choose(page, "schedule-name", schedule)
        until(page, "schedule-status", "use this schedule" if schedule != "uniform" else "Every tensor")
    fill(page, "explore-problems", problems)
    page.click("#explore-sweep-start")
    name = rf"Round 0 \({schedule}\)" if schedule else "Round 0"
    return until(page, "explore-status", rf"^{name}, {problems} problems: best")


def opened(tiny, visit, **size):
    page = visit(tiny.url, **size)
    answered(page)
    open_tab(page, "Explore")
    until(page, "explore-verdict", "SLERP and LERP")
    if page.is_visible("#explore-sweep-clear"):
        page.click("#explore-sweep-clear")
        page.wait_for_selector("#explore-sweep-clear", state="hidden")
    return page


def test_a_sweep_marks_the_flip_from_its_data(tiny, visit):
    page = opened(tiny, visit)
    verdict = swept(page)
    flip = float(re.search(r"at t = (0\.\d+) \(think rate", verdict)[1])
    assert 0.3 < flip < 0.7
    shapes = "document.querySelector('#explore-accuracy .js-plotly-plot')._fullLayout.shapes"
    page.wait_for_function(f"flip => {shapes}.some(shape => Math.abs(shape.x0 - flip) < 0.01)", arg=flip)
    layers = "() => document.querySelector('#explore-angles .js-plotly-plot')._fullData[0].z.length"
    assert page.evaluate(layers) == 4


def test_the_frontier_has_a_point_per_t_and_its_star_goes_to_compare(tiny, visit):
    page = opened(tiny, visit, height=720)
    swept(page)
    assert plotted(page, "explore-frontier") == 11 + 1  # and the star
    for chart in ("explore-frontier", "explore-accuracy"):  # side by side, above the fold
        box = page.locator(f"#{chart}").bounding_box()
        assert box["y"] + box["height"] <= 720, chart
    label = page.input_value("#explore-point input")
    t = float(re.search(r"Round 0, t = ([\d.]+): .*cheapest within 1 point", label)[1])
    page.click("#explore-to-compare")
    page.wait_for_selector(SLIDER)
    page.wait_for_function("([slider, t]) => document.querySelector(slider).value == t", arg=[SLIDER, t])
    until(page, "compare-blend", rf"t = {t:g}\b")
    open_tab(page, "Explore")
    choose(page, "explore-point", r"t = 0\.3:")
    page.click("#explore-to-export")
    page.wait_for_function("() => document.querySelector('#export-t input')?.value == 0.3")
    folder = "document.querySelector('#export-folder textarea, #export-folder input')"
    page.wait_for_function(f"() => /t0\\.3$/.test({folder}?.value)")


def test_a_click_on_a_point_of_a_chart_chooses_it(tiny, visit):
    """Points could be chosen in a drop-down of eleven lines only, beside the picture that shows them."""
    page = opened(tiny, visit)
    swept(page)
    for chart, t in (("explore-frontier", 0.2), ("explore-accuracy", 0.7)):
        page.wait_for_selector(f"#{chart} .js-plotly-plot .point")
        page.mouse.click(*page.evaluate(PLACE, [chart, t]))
        page.wait_for_function(CHOSEN, arg=f"Round 0, t = {t}:")
    page.click("#explore-to-compare")
    page.wait_for_function("slider => document.querySelector(slider)?.value == 0.7", arg=SLIDER)


def test_m19_two_sweeps_are_told_apart_and_take_their_schedule_along(tiny, visit):
    """Flip and broken zone were those of the last sweep alone, and nothing said so."""
    page = opened(tiny, visit)
    swept(page)
    swept(page, schedule="FFN only")
    found = until(page, "explore-findings", r"Round 0.*Round 0 \(FFN only\)")
    assert "Broken zone" in found
    lines = [line for line in page.evaluate(LINES, "explore-accuracy") if line[0].startswith("Round 0")]
    assert [re.sub(" [┆▒].*", "", line[0]) for line in lines] == ["Round 0", "Round 0 (FFN only)"]
    assert lines[0][1] != lines[1][1]
    flips = found.count("none")  # of flip and zone in two sweeps
    assert page.evaluate(SHAPES, "explore-accuracy") == 4 - flips
    choose(page, "schedule-name", "uniform")
    until(page, "schedule-status", "Every tensor")
    page.click("#explore-to-compare")  # the newest sweep is that of the schedule
    until(page, "compare-schedule", "Schedule: FFN only – reset")
    page.click("#compare-schedule")
    page.wait_for_selector("#compare-schedule", state="hidden")


def test_m18_who_stops_a_sweep_is_not_shown_an_error(endless, visit):
    """The sweep said "0 of 0 answers" at first, and "The sweep was stopped" in red at the end."""
    page = visit(endless.url)
    open_tab(page, "Explore")
    until(page, "explore-verdict", "SLERP and LERP")
    page.evaluate("""() => {
        window.said = [];
        const status = document.querySelector('#explore-status');
        new MutationObserver(() => window.said.push(status.innerText))
            .observe(status, {childList: true, subtree: true, characterData: true});
    }""")
    fill(page, "explore-problems", 2)
    page.click("#explore-sweep-start")
    page.wait_for_selector("#explore-sweep-start:disabled")
    assert not page.is_disabled("#explore-sweep-stop")
    page.click("#explore-sweep-stop")
    until(page, "explore-status", "The sweep was stopped.")
    assert page.locator("#explore-status .error").count() == 0
    page.wait_for_selector("#explore-sweep-start:enabled")
    said = " ".join(page.evaluate("() => window.said"))
    assert "Sweeping" in said and "0 of 0" not in said


def test_heat_maps_stand_in_the_order_of_a_layer_and_no_name_is_cut_off(tiny, visit):
    for width in (1280, 390):
        page = opened(tiny, visit, width=width)
        page.wait_for_selector("#explore-angles .main-svg")
        plot = "document.querySelector('#explore-angles .js-plotly-plot')"
        names = page.evaluate(f"() => {plot}._fullData[0].x")
        assert names[:7] == ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
        cut_off = page.evaluate(f"""() => {{
            const frame = {plot}.getBoundingClientRect();
            return [...{plot}.querySelectorAll('.xtick text, .annotation-text')]
                .filter(text => text.getBoundingClientRect().bottom > frame.bottom + 1
                    || text.getBoundingClientRect().right > frame.right + 1)
                .map(text => text.textContent);
        }}""")
        assert cut_off == []
        assert page.locator("#explore-angles .xgrid, #explore-angles .ygrid").count() == 0
