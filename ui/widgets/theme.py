"""How the page looks and speaks: colours, style, small HTML parts, toasts. Every text that is not ours is escaped."""

from html import escape
from pathlib import Path

import gradio as gr
import plotly

from thinkswitch.errors import UserError
from thinkswitch.text import COLOURS

INSTRUCT, THINKING = COLOURS["instruct"], COLOURS["thinking"]
PLOTLY = Path(plotly.__file__).parent / "package_data" / "plotly.min.js"
SYSTEM = ["system-ui", "-apple-system", "Segoe UI", "Roboto", "sans-serif"]  # no font is fetched, and none is waited for
MONO = ["ui-monospace", "Consolas", "DejaVu Sans Mono", "monospace"]
CSS = """
.gradio-container { max-width: 1240px !important; width: 100%% !important; margin: 0 auto !important; }
.gradio-container .main.fillable { width: 100%% !important; }
:root { --instruct: %s; --thinking: %s; }
#masthead { display: flex; align-items: baseline; gap: 14px; flex-wrap: wrap; padding: 2px 2px 0; }
#masthead h1 { font-size: 20px; margin: 0; letter-spacing: -.01em; }
#masthead p { margin: 0; color: var(--body-text-color-subdued); font-size: 13.5px; }
.say { font-size: 13.5px; line-height: 1.5; color: var(--body-text-color); }
.say .quiet, .quiet { color: var(--body-text-color-subdued); }
.say .bad { color: #b3261e; } .dark .say .bad { color: #ff9d94; }
.say b.instruct, .say b.thinking { border-bottom: 2px solid; } .say b.instruct { border-color: var(--instruct); } .say b.thinking { border-color: var(--thinking); }
.say table { border-collapse: collapse; margin: 6px 0; } .say td, .say th { padding: 2px 14px 2px 0; text-align: left; vertical-align: top; }
.say code, .card pre, .sample pre { font-family: var(--font-mono); font-size: 12.5px; overflow-wrap: anywhere; }
.say .bar { height: 6px; border-radius: 3px; background: var(--border-color-primary); overflow: hidden; margin: 6px 0 2px; max-width: 520px; }
.say .bar i { display: block; height: 100%%; background: var(--color-accent); transition: width .3s; }
.card { border: 1px solid var(--border-color-primary); border-top: 4px solid var(--edge); border-radius: 8px; padding: 10px 14px 8px;
  background: var(--block-background-fill); display: flex; flex-direction: column; min-height: 190px; height: 100%%; box-sizing: border-box; }
.card header { display: flex; justify-content: space-between; gap: 8px; font-weight: 600; font-size: 14px; }
.card header .mark { font-size: 15px; }
.card details { margin: 8px 0 2px; } .card summary { cursor: pointer; font-size: 12.5px; color: var(--body-text-color-subdued); }
.card details pre { margin: 6px 0 0; padding: 8px 10px; max-height: 260px; overflow: auto; white-space: pre-wrap; border-radius: 6px;
  background: var(--background-fill-secondary); color: var(--body-text-color-subdued); }
.card .answer { margin: 8px 0; font-size: 17px; line-height: 1.45; white-space: pre-wrap; overflow-wrap: anywhere; max-height: 420px; overflow-y: auto; flex: 1; }
.card .answer:empty::before { content: attr(data-empty); color: var(--body-text-color-subdued); font-size: 13.5px; }
.card footer { font-size: 12.5px; color: var(--body-text-color-subdued); font-variant-numeric: tabular-nums; }
.sample pre { white-space: pre-wrap; margin: 4px 0 10px; padding: 8px 10px; border-radius: 6px; background: var(--background-fill-secondary); max-height: 300px; overflow: auto; }
.sample .masked { color: var(--body-text-color-subdued); } .sample .learnt { background: color-mix(in srgb, var(--thinking) 35%%, transparent); border-radius: 3px; }
.sample span.token { outline: 1px dotted var(--border-color-primary); }
.html-container { padding: 0 !important; }
#compare-t input[type=range] { height: 26px; --range-progress: none; }
#compare-t input[type=range]::-webkit-slider-runnable-track { height: 10px; border-radius: 5px; background: linear-gradient(to right, var(--instruct), var(--thinking)); }
#compare-t input[type=range]::-moz-range-track { height: 10px; border-radius: 5px; background: linear-gradient(to right, var(--instruct), var(--thinking)); }
#compare-t input[type=range]::-webkit-slider-thumb { height: 24px; width: 24px; margin-top: -7px; }
#compare-examples button, #compare-examples .gallery-item { font-size: 12.5px; }
h3 { font-size: 15px !important; margin: 10px 0 0 !important; }
.chart { width: 100%%; contain: inline-size; overflow: hidden; }  /* or a plot drawn while its tab was hidden would hold it wide */
.chart:not(.js-plotly-plot) { height: 84px !important; border: 1px dashed var(--border-color-primary); border-radius: 8px; display: grid; place-items: center; }
.chart:not(.js-plotly-plot)::before { content: attr(data-empty); color: var(--body-text-color-subdued); font-size: 13px; }
.log pre { max-height: 220px; overflow: auto; white-space: pre-wrap; font-family: var(--font-mono); font-size: 12px; margin: 0; }
button:disabled { cursor: not-allowed; } [data-testid="status-tracker"].hide { display: none !important; }
button:disabled::after { font-weight: 400; font-size: 12px; margin-left: .5em; }
#compare-stop:disabled::after, #explore-sweep-stop:disabled::after { content: "idle"; } #export-stop:disabled::after { content: "no export is running"; }
#loop-stop:disabled::after { content: "this run is not running"; } #loop-resume:disabled::after { content: "for a run that was stopped or broken off"; }
@media (max-width: 700px) { .gradio-container .main.fillable { padding: 10px !important; width: 100%% !important; max-width: 100vw !important; min-width: 0 !important; }
  .gradio-container .wrap, .gradio-container .contain, #tabs { min-width: 0; max-width: 100%%; } #tabs :is(.tab-container, .tab-wrapper) button { padding: 6px 7px; font-size: 13.5px; }
  .card { min-height: 120px; } #masthead p { display: none; } button:disabled::after { display: none; } }
@media (prefers-reduced-motion: reduce) { * { transition: none !important; animation-duration: .01s !important; } }
""" % (INSTRUCT, THINKING)
# Esc stops; arrow keys on a slider count as letting it go (Gradio tells of `release` for the mouse only); Plotly comes when first needed.
HEAD = """<script>
document.addEventListener('keydown', e => { if (e.key === 'Escape') { const b = document.querySelector('#compare-stop'); if (b && !b.disabled && b.offsetParent) b.click(); } });
document.addEventListener('keyup', e => { const r = e.target;
  if (r.matches && r.matches('input[type=range]') && /^(Arrow|Home|End|Page)/.test(e.key)) r.dispatchEvent(new PointerEvent('pointerup', {bubbles: true})); });
window.plotlyReady = () => window.plotlyLoading ||= new Promise((done, failed) => { const s = document.createElement('script');
  s.src = 'plotly.min.js'; s.onload = () => done(window.Plotly); s.onerror = failed; document.head.appendChild(s); });
</script>"""


def theme() -> gr.themes.Base:
    plain = dict(block_title_background_fill="none", block_label_background_fill="none", block_title_padding="0", block_title_text_size="*text_sm",
                 block_title_text_weight="500", block_title_text_color="*body_text_color_subdued", layout_gap="10px", block_padding="8px 10px",
                 block_border_width="1px", input_shadow="none", input_border_width="1px", input_border_color="*neutral_300", input_padding="7px 9px",
                 checkbox_border_color="*neutral_400", body_text_color_subdued="*neutral_500")
    both = {**plain, **{f"{k}_dark": plain[k] for k in ("block_title_background_fill", "block_label_background_fill", "block_title_text_color")},
            "body_text_color_subdued_dark": "*neutral_400", "input_border_color_dark": "*neutral_600"}
    return gr.themes.Soft(primary_hue="blue", secondary_hue="orange", neutral_hue="slate", font=SYSTEM, font_mono=MONO, text_size="md",
                          radius_size="md", spacing_size="sm").set(**both)


def message_box(elem_id: str, value: str = "", kind: str = "say") -> gr.HTML:
    """A place for short HTML of ours. The template is constant: Gradio would read {{...}} and ${...} in a value as code."""
    return gr.HTML(value, elem_id=elem_id, html_template=f'<div class="words {kind}" aria-live="polite"></div>', apply_default_css=False, js_on_load="""
const draw = () => { element.querySelector('.words').innerHTML = props.value || ''; }; watch('value', draw); draw();""")


def answer_card(elem_id: str, value: dict, edge: str) -> gr.HTML:
    """One answer: {title, trace, thinking, answer, foot, mark, empty}. Text goes in as text, never as HTML; the trace is open while
    it is written and folds when it ends, unless the reader has said otherwise."""
    return gr.HTML(value, elem_id=elem_id, apply_default_css=False, html_template=f"""
<article class="card" style="--edge: {edge}"><header><span class="title"></span><span class="mark"></span></header>
<details hidden><summary></summary><pre></pre></details><div class="answer" aria-live="polite"></div><footer></footer></article>""", js_on_load="""
const at = s => element.querySelector(s);
const put = (s, text) => { const node = at(s).firstChild;  // a long text grows; writing all of it anew costs a layout of all of it
  if (node && text.startsWith(node.data)) node.appendData(text.slice(node.data.length)); else at(s).textContent = text; };
let thinking = false;
const draw = () => { const v = props.value || {}; const box = at('details'), pre = at('pre');
  const down = pre.scrollTop + pre.clientHeight >= pre.scrollHeight - 24;
  put('.title', v.title || ''); put('.mark', v.mark || '');
  at('.mark').setAttribute('aria-label', v.mark === '✓' ? 'right' : v.mark === '✗' ? 'wrong' : '');
  put('.answer', v.answer || ''); at('.answer').dataset.empty = v.thinking ? 'thinking …' : (v.empty || '');
  put('footer', v.foot || ''); put('summary', v.trace_title || 'trace');
  box.hidden = !v.trace; put('pre', v.trace || ''); if (v.edge) at('article').style.setProperty('--edge', v.edge);
  if (!!v.thinking !== thinking) { thinking = !!v.thinking; box.open = thinking; }
  if (thinking && down) pre.scrollTop = pre.scrollHeight; };
watch('value', draw); draw();""")


def blend_edge(t: float) -> str:
    """The blend's colour: as far between the two as t is."""
    return f"color-mix(in oklab, {INSTRUCT} {100 * (1 - t):.0f}%, {THINKING})"


def bar(done: float, total: float) -> str:
    return f'<div class="bar" role="progressbar"><i style="width:{100 * min(1, done / total) if total else 0:.1f}%"></i></div>'


def bad(message: str) -> str:
    return f'<span class="bad">{escape(message)}</span>'


def toast(error: UserError) -> str:
    """Shows the sentence as a toast; returns it for the status line, where it stays."""
    gr.Warning(escape(str(error)))
    return bad(str(error))
