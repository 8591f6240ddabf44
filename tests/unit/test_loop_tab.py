"""The Loop tab: what it says of a run."""

from ui.tabs import loop


def test_a_run_that_never_began_says_why(root):
    (root / "x").mkdir(parents=True)
    (root / "x" / "run.json").touch()
    (root / "x" / "log.txt").write_text("run folder: x\nerror: <b>rounds</b> must lie between 1 and 100\n\n")
    told = loop.progress_html(root / "x", "refused", [])
    assert "x did not start: &lt;b&gt;rounds&lt;/b&gt; must lie" in told and "error:" not in told
