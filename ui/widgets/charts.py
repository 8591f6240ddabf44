"""Every chart: figures by Plotly, drawn by a component that keeps its node, so zoom and hover survive updates.

Instruct and thinking have one colour and one marker each everywhere, so they are told apart without colour, too.
"""

import plotly.graph_objects as go

from ui.widgets.theme import INSTRUCT, THINKING

SMOOTH = 20  # steps of a running mean
MOST_POINTS = 800  # of one line; more cannot be seen
ROLE = {"instruct": dict(color=INSTRUCT, symbol="circle"), "thinking": dict(color=THINKING, symbol="diamond")}
ROUNDS = ("#7b8794", "#2f7ed8", "#8e5bd0", "#c2408f", "#d9822b", "#4e9a51", "#a04020", "#008b9a")  # rounds 0, 1, 2 ...
GREY, GRID = "#808893", "rgba(128,136,147,.22)"


def figure(title: str, x: str, y: str, traces: list, height: int, **layout) -> str:
    if not traces:
        return ""  # the chart says what will be there
    fig = go.Figure(traces)
    fig.update_layout(template="none", title=dict(text=title, font_size=14, x=0, xref="container", xanchor="left", pad_l=8, y=0.97, yanchor="top"),
                      height=height, margin=dict(l=52, r=14, t=36, b=70 if len(traces) > 1 else 44), paper_bgcolor="rgba(0,0,0,0)", plot_bgcolor="rgba(0,0,0,0)",
                      font_size=12, uirevision="kept", hovermode="closest", showlegend=len(traces) > 1,
                      legend=dict(orientation="h", x=0, y=-0.2, yanchor="top", font_size=11), xaxis_title_text=x, yaxis_title_text=y)
    fig.update_xaxes(gridcolor=GRID, zerolinecolor=GRID, title_standoff=4)
    fig.update_yaxes(gridcolor=GRID, zerolinecolor=GRID, title_standoff=6)
    fig.update_layout(**layout)
    return fig.to_json()


RIGHT = dict(overlaying="y", side="right", showgrid=False, zeroline=False, tickmode="auto")  # a second scale


def rgba(colour: str, alpha: float) -> str:
    return f"rgba({int(colour[1:3], 16)},{int(colour[3:5], 16)},{int(colour[5:7], 16)},{alpha})"


def thinned(rows: list) -> list:
    step = -(-len(rows) // MOST_POINTS)
    return rows if step <= 1 else [*rows[:-1:step], rows[-1]]


def loss(events: list[dict]) -> str:
    """By step over all rounds; one line a round."""
    traces, before = [], 0
    steps = [e for e in events if e["phase"] == "distil"]
    for number in sorted({e["round"] for e in steps}):
        mine = {e["step"]: e for e in steps if e["round"] == number}  # a resumed run tells some steps again
        steps_taken = [mine[k] for k in sorted(mine)]
        rows, colour = thinned(steps_taken), ROUNDS[number % len(ROUNDS)]
        long = len(steps_taken) > 2 * SMOOTH  # then single steps are noise around a mean
        traces.append(go.Scatter(x=[before + e["step"] for e in rows], y=[e["loss"] for e in rows], name=f"round {number}", mode="lines", opacity=0.3 if long else 1,
                                 showlegend=not long, line=dict(color=colour, width=1.5), hovertemplate="step %{x}: %{y:.3f}"))
        if long:
            means = thinned([(e["step"], sum(m["loss"] for m in steps_taken[i - SMOOTH:i]) / SMOOTH) for i, e in enumerate(steps_taken) if i >= SMOOTH])
            traces.append(go.Scatter(x=[before + step for step, _ in means], y=[mean for _, mean in means], name=f"round {number}", mode="lines",
                                     line=dict(color=colour, width=2.5), hovertemplate=f"mean of {SMOOTH} steps to %{{x}}: %{{y:.3f}}"))
        before += rows[-1]["total"]
    return figure("Loss (nats per answer token)", "step", "", traces, 300, yaxis_rangemode="tozero")


def accuracy(measured: list[dict]) -> str:
    traces = []
    for role, style in ROLE.items() if measured else ():
        rows = [e for e in measured if e["checkpoint"] == role]
        traces += banded([e["round"] for e in rows], rows, role, style)
    return figure("Held-out accuracy by round, 95 % bands", "round", "%", traces, 300, yaxis_range=[0, 102], xaxis_dtick=1)


def tokens(measured: list[dict]) -> str:
    traces = []
    for role, style in ROLE.items() if measured else ():
        rows = [e for e in measured if e["checkpoint"] == role]
        x = [e["round"] for e in rows]
        traces.append(go.Scatter(x=x, y=[e["mean_tokens"] for e in rows], name=f"{role} tokens", mode="lines+markers", marker=style, line_color=style["color"]))
        traces.append(go.Scatter(x=x, y=[100 * e["think_rate"] for e in rows], name="think rate", mode="lines+markers", yaxis="y2",
                                 marker=dict(color=style["color"], symbol=style["symbol"] + "-open"), line=dict(color=style["color"], dash="dot")))
    return figure("Mean tokens (lines) and think rate (dotted, %)", "round", "tokens", traces, 300, xaxis_dtick=1, yaxis_rangemode="tozero",
                  yaxis2=dict(RIGHT, range=[0, 104], dtick=25, title_text="%"), margin_r=52)


def banded(x: list, rows: list[dict], name: str, style: dict, **more) -> list:
    """A line of accuracies in % within its 95 % band."""
    percent = lambda key: [100 * e[key] for e in rows]
    band = go.Scatter(x=[*x, *reversed(x)], y=[*percent("high"), *reversed(percent("low"))], fill="toself", fillcolor=rgba(style["color"], 0.15),
                      line_width=0, hoverinfo="skip", showlegend=False, mode="lines")
    text = [f"{e['correct']}/{e['n']} = {100 * e['accuracy']:.1f} % [{100 * e['low']:.1f}, {100 * e['high']:.1f}]" for e in rows]
    return [band, go.Scatter(x=x, y=percent("accuracy"), name=name, mode="lines+markers", marker=dict(size=8, **style),
                             line_color=style["color"], text=text, hovertemplate="%{text}", **more)]


def probability(ts: list[float], p: list[float], t: float) -> str:
    """Probability of opening a trace over t, for one prompt, and where the slider stands."""
    line = go.Scatter(x=ts, y=p, mode="lines+markers", line=dict(color=THINKING, width=2), marker=dict(size=5, color=THINKING), fill="tozeroy",
                      fillcolor=rgba(THINKING, 0.18), hovertemplate="t = %{x:.2f}: %{y:.3f}")
    return figure("", "", "", [line], 74, margin=dict(l=30, r=30, t=4, b=18), xaxis=dict(range=[-0.012, 1.012], dtick=0.1), yaxis=dict(range=[0, 1.04], dtick=0.5),
                  shapes=[dict(type="line", x0=t, x1=t, y0=0, y1=1, yref="paper", line=dict(color=GREY, width=2, dash="dot"))],
                  annotations=[dict(x=0, y=0.9, xref="paper", yref="paper", text="probability that this prompt opens a trace", showarrow=False, xanchor="left", font_size=11)])


def spectrum(sweeps: dict[str, list[dict]], zone: list[float], flip: float | None) -> tuple[str, str]:
    """(accuracy over t, think rate and tokens over t), sweeps overlaid; flip and broken zone are the last sweep's."""
    marks = []
    if zone:
        marks.append(dict(type="rect", x0=min(zone) - 0.02, x1=max(zone) + 0.02, y0=0, y1=1, yref="paper", fillcolor="rgba(179,38,30,.10)", line_width=0))
    if flip is not None:
        marks.append(dict(type="line", x0=flip, x1=flip, y0=0, y1=1, yref="paper", line=dict(color=GREY, dash="dash")))
    notes = [dict(x=flip, y=1, yref="paper", text=f"flip {flip:.2f}", showarrow=False, xanchor="left", yanchor="top")] if flip is not None else []
    notes += [dict(x=min(zone), y=0, yref="paper", text="broken zone", showarrow=False, xanchor="left", yanchor="bottom", font_color="#c0584f")] if zone else []
    right, think = [], []
    for i, (name, rows) in enumerate(sweeps.items()):
        style, x = dict(color=ROUNDS[i % len(ROUNDS)], symbol=i), [e["t"] for e in rows]
        right += banded(x, rows, name, style)
        think.append(go.Scatter(x=x, y=[100 * e["think_rate"] for e in rows], name=name, mode="lines+markers", marker=style, line_color=style["color"]))
        think.append(go.Scatter(x=x, y=[e["mean_tokens"] for e in rows], name="tokens", showlegend=False, mode="lines", yaxis="y2", line=dict(color=style["color"], dash="dot")))
    return (figure("Accuracy over t, 95 % bands", "t", "%", right, 340, yaxis_range=[0, 102], shapes=marks, annotations=notes),
            figure("Think rate (lines, %) and mean tokens (dotted)", "t", "%", think, 340, yaxis_range=[-3, 103], shapes=marks, margin_r=52,
                   yaxis2=dict(RIGHT, rangemode="tozero", title_text="tokens")))


def heatmap(title: str, columns: list[str], values: list[list[float | None]], unit: str, scale: str, **range_) -> str:
    """Layer (down) by module (across)."""
    height = 160 + 13 * max(8, len(values))
    return figure(title, "", "layer", [go.Heatmap(z=values, x=columns, y=list(range(len(values))), colorscale=scale, xgap=2, ygap=2,
                                                  colorbar=dict(title_text=unit, thickness=12), hovertemplate="layer %{y}, %{x}: %{z:.4g} " + unit + "<extra></extra>", **range_)],
                  height, yaxis_autorange="reversed", yaxis_dtick=max(1, len(values) // 12), xaxis_tickangle=-30, margin_b=96, margin_t=34)
