"""The server: by which names it may be called."""

import app


def test_hosts_are_this_machine_s_names_only():
    local = app.hosts(app.parser().parse_args([]))
    assert set(local) == {"127.0.0.1", "localhost", "[::1]", "::1"}
    wide = app.hosts(app.parser().parse_args(["--host", "0.0.0.0"]))
    assert set(local) < set(wide) and "*" not in wide and not any(name.startswith("*") for name in wide)
    assert "*.gradio.live" in app.hosts(app.parser().parse_args(["--share"]))
