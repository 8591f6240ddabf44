"""Numbers, sizes and colours as people see them: terminal, model cards and page alike."""

BLUE, ORANGE = "#4c8fd6", "#e08a1e"  # instruct, thinking: one colour each everywhere
COLOURS = {"instruct": BLUE, "thinking": ORANGE}


def format_bytes(size: float) -> str:
    """Bytes as a person reads them: three digits and a unit."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if size < 999.5:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.3g} TB"


def format_accuracy(row: dict) -> str:
    return f"{100 * row['accuracy']:.1f} % [{100 * row['low']:.1f}, {100 * row['high']:.1f}]"


def format_seconds(seconds: float) -> str:
    s = max(0, int(seconds))
    return f"{s} s" if s < 100 else f"{s // 60} min {s % 60:02d} s" if s < 6000 else f"{s // 3600} h {s % 3600 // 60:02d} min"
