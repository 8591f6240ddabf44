"""Draws both checkpoints over rounds, with controls and seeds, from the folders of finished runs.

    for seed in 0 1 2; do for labels in thinking self shuffled; do
        ./start.sh run tiny --out FOLDER/$labels-$seed --set seed=$seed held_out=1000 labels=$labels
    done; done
    python dev/rounds_chart.py FOLDER [--out dev/shots/rounds.png]

Also prints accuracy and the paired test against round 0. Lines are means of the seeds, marks the seeds.
"""

import argparse
import shutil
from pathlib import Path
from statistics import mean

import plotly.graph_objects as go
from playwright.sync_api import sync_playwright

from thinkswitch import rounds, runs
from thinkswitch.evaluate import summarise
from thinkswitch.text import COLOURS, format_accuracy

ROLES = ("instruct", "thinking")
LABELS = {  # by who wrote the answers: name and dash of the line
    "thinking": ("", "solid"),
    "self": (", own answers", "dash"),
    "shuffled": (", answers of other prompts", "dot"),
}
SIZE = {"width": 920, "height": 460}


def accuracy(folder: Path, role: str) -> list[float]:
    """In %, of each round from 0."""
    found = []
    for number in range(runs.rounds_done(folder) + 1):
        scores = rounds.read_scores(folder, number, role)
        found.append(100 * summarise(list(scores.values())).accuracy)
    return found


def print_figures(folder: Path) -> None:
    for role in ROLES:
        at_start = rounds.read_scores(folder, 0, role)
        for number in range(runs.rounds_done(folder) + 1):
            scores = rounds.read_scores(folder, number, role)
            found = rounds.score_figures(role, scores, at_start)
            since = found["since_start"]
            print(
                f"{folder.name:12} {role:8} round {number}  {format_accuracy(found)} of {found['n']}"
                f"  +{since['gained']} -{since['lost']}  p = {since['p']:.1g}"
            )


def draw(folders: dict[str, list[Path]]) -> go.Figure:
    figure = go.Figure()
    for labels, seeds in folders.items():
        name, dash = LABELS[labels]
        for role in ROLES:
            of_seeds = [accuracy(seed, role) for seed in seeds]
            means = [mean(values) for values in zip(*of_seeds, strict=True)]
            line = {"color": COLOURS[role], "dash": dash, "width": 3}
            figure.add_scatter(y=means, mode="lines", name=role + name, line=line)
            for values in of_seeds:
                marker = {"color": COLOURS[role], "size": 6, "opacity": 0.6}
                figure.add_scatter(y=values, mode="markers", marker=marker, showlegend=False)
    figure.update_layout(
        template="plotly_white",
        font={"family": "DejaVu Sans, sans-serif", "size": 14},
        margin={"l": 60, "r": 20, "t": 20, "b": 50},
        xaxis={"title": "round", "dtick": 1},
        yaxis={"title": "held-out accuracy, %", "range": [0, 102]},
        **SIZE,
    )
    return figure


def photograph(figure: go.Figure, out: Path) -> None:
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))))
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page(viewport=SIZE, device_scale_factor=2)
        page.set_content(figure.to_html(include_plotlyjs=True, config={"staticPlot": True}))
        page.wait_for_selector(".legend")
        page.locator(".js-plotly-plot").screenshot(path=out)
        browser.close()


def main() -> None:
    flags = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    flags.add_argument("folder", type=Path)
    flags.add_argument("--out", type=Path, default=Path("dev/shots/rounds.png"))
    args = flags.parse_args()
    folders = {labels: sorted(args.folder.glob(f"{labels}-*/")) for labels in LABELS}
    for seeds in folders.values():
        for seed in seeds:
            print_figures(seed)
    photograph(draw({labels: seeds for labels, seeds in folders.items() if seeds}), args.out)


if __name__ == "__main__":
    main()
