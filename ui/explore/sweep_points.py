"""The points of finished sweeps, to be chosen from."""

from thinkswitch.errors import UserError
from ui.explore import sweep_report
from ui.sweeps import Sweep


def choices(sweeps: list[Sweep]) -> list[tuple[str, str]]:
    """(label, value) of every point, the newest sweep first, in each the cheapest near the best first."""
    found = []
    for sweep in reversed(sweeps):
        star = sweep_report.curve(sweep).cheapest
        assert star is not None
        found.append((label(sweep, star, "cheapest within 1 point"), sweep.key(star["t"])))
        others = [row for row in sweep.table if row is not star]
        found += [(label(sweep, row), sweep.key(row["t"])) for row in others]
    return found


def label(sweep: Sweep, row: dict, remark: str = "") -> str:
    remark = f" ({remark})" if remark else ""
    return f"{sweep.name}, {sweep_report.point_in_words(row)}{remark}"


def find(sweeps: dict[str, Sweep], value: str | None) -> tuple[Sweep, float]:
    """The sweep and the t of a value of `choices`, which comes from outside."""
    t, _, name = (value or "").partition(" ")
    sweep = sweeps.get(name)
    known = [row["t"] for row in sweep.table if repr(row["t"]) == t] if sweep else []
    if sweep is None or not known:
        raise UserError("this sweep was cleared meanwhile; choose another point")
    return sweep, known[0]
