"""The server: by which names it may be called."""

import gradio as gr
import pytest

import app


def test_hosts_are_this_machine_s_names_only():
    local = app.hosts(app.parser().parse_args([]))
    assert set(local) == {"127.0.0.1", "localhost", "[::1]", "::1"}
    wide = app.hosts(app.parser().parse_args(["--host", "0.0.0.0"]))
    assert set(local) < set(wide) and "*" not in wide and not any(name.startswith("*") for name in wide)
    assert "*.gradio.live" in app.hosts(app.parser().parse_args(["--share"]))


@pytest.mark.parametrize(
    "flags, says",
    [
        (["--host", "0.0.0.0"], "add --auth"),
        (["--share"], "add --auth"),
        (["--host", "0.0.0.0", "--auth", "me:"], "USER:PASSWORD"),
        (["--preset", "nothing"], "no preset 'nothing'"),
    ],
)
def test_what_is_not_safe_is_refused_before_anything_listens(monkeypatch, capsys, flags, says):
    monkeypatch.setattr(gr.Blocks, "launch", lambda *args, **kwargs: pytest.fail("it listens"))
    assert app.main(flags) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1 and says in error
