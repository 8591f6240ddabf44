"""Numbers, sizes, times and colours as people read them: the same in the terminal, model cards and page."""

import io
import os
import sys

COLOURS = {"instruct": "#4c8fd6", "thinking": "#e08a1e"}  # told apart by colour-blind readers, too
UNITS = ("bytes", "kB", "MB", "GB", "TB")


def format_bytes(size: float) -> str:
    """A number of bytes with three digits and a decimal unit: 1536 is '1.54 kB'."""
    power = unit_power(size)
    return f"{size / 1000**power:.3g} {UNITS[power]}"


def format_bytes_of(done: float, total: float) -> str:
    """How much of a size is here, in the unit of the whole: '120 of 270 MB', '1.5 of 16.1 GB'."""
    power = unit_power(total)
    done, total = done / 1000**power, total / 1000**power
    decimals = sum(total < limit for limit in (9.995, 99.95)) if power else 0  # three digits
    return f"{done:.{decimals}f} of {total:.{decimals}f} {UNITS[power]}"


def unit_power(size: float) -> int:
    """Which of UNITS a size is said in."""
    # 999.5 would be rounded to 1e+03
    return next((power for power in range(len(UNITS) - 1) if size / 1000**power < 999.5), len(UNITS) - 1)


def format_seconds(seconds: float) -> str:
    """A duration in whole units, rounded down: '99 s', '1 min 40 s', '1 h 40 min'. At least '0 s'."""
    whole = max(0, int(seconds))
    if whole < 100:
        return f"{whole} s"
    minutes = whole // 60
    if minutes < 100:
        return f"{minutes} min {whole % 60:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"


def format_accuracy(row: dict) -> str:
    """Accuracy and its 95 % interval in per cent; `row` holds accuracy, low and high as shares."""
    accuracy, low, high = (100 * row[key] for key in ("accuracy", "low", "high"))
    return f"{accuracy:.1f} % [{low:.1f}, {high:.1f}]"


def print_utf8() -> None:
    """Make standard output UTF-8 where it goes to a file or a pipe, and never fail for a letter.

    On Windows these have the code page of the country, which lacks most letters: `print` ended the program.
    """
    for stream in (sys.stdout, sys.stderr):
        if not isinstance(stream, io.TextIOWrapper):  # a test's, or none at all under pythonw
            continue
        chosen = stream.isatty() or "PYTHONIOENCODING" in os.environ
        encoding = stream.encoding if chosen else "utf-8"
        stream.reconfigure(encoding=encoding, errors="backslashreplace")
