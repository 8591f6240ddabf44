"""Problems that somebody brings: the formats, what is wrong in a file, a preset that fits it."""

import dataclasses
import gzip
import json
import os

import pyarrow
import pyarrow.parquet
import pytest

from thinkswitch import problem_check, problem_files, problems
from thinkswitch.errors import UserError
from thinkswitch.preset import Preset, load_preset

ROWS = [{"prompt": f"What is {n} + 1?", "answer": str(n + 1), "kind": "integer"} for n in range(6)]
CSV = "prompt,answer,kind\n" + "".join(f"{r['prompt']},{r['answer']},{r['kind']}\n" for r in ROWS)
TEXTS = {
    "a.jsonl": "".join(json.dumps(row) + "\n" for row in ROWS),
    "b.json": json.dumps(ROWS, indent=1),
    "c.json": "".join(json.dumps(row) + "\n" for row in ROWS),
    "d.csv": CSV,
    "e.csv": "\ufeff" + CSV.replace(",", ";").replace("\n", "\r\n"),
    "f.CSV": CSV.replace(",", "\t"),
}
LINES, ARRAY = TEXTS["a.jsonl"], TEXTS["b.json"]
COLUMNS = {name: [row[name] for row in ROWS] for name in ROWS[0]}
FORMS = {  # CASES 3: as people have their files; each holds the same problems
    "a byte order mark": ("a.jsonl", "\ufeff" + LINES),
    "UTF-16, as PowerShell writes": ("a.jsonl", LINES.encode("utf-16")),
    "UTF-16 without a mark": ("a.jsonl", LINES.encode("utf-16-le")),
    "UTF-16, as Excel writes text": ("a.txt", CSV.replace(",", "\t").replace("\n", "\r\n").encode("utf-16")),
    "an array, pretty-printed": ("a.json", json.dumps(ROWS, indent=4)),
    "an array on one line": ("a.json", json.dumps(ROWS)),
    "an array after a mark": ("a.json", "\ufeff\n" + ARRAY),
    "an array that is called lines": ("a.jsonl", ARRAY),
    "an array without a known suffix": ("a.data", ARRAY),
    "objects, pretty-printed one after the other": (
        "a.json",
        "\n".join(json.dumps(r, indent=2) for r in ROWS),
    ),
    "lines between blank ones": ("a.jsonl", "\n\n" + LINES.replace("\n", "\n \n") + "\n"),
    "lines of Windows": ("a.jsonl", LINES.replace("\n", "\r\n")),
    "lines of an old Mac": ("a.jsonl", LINES.replace("\n", "\r")),
    "lines without a last end": ("a.ndjson", LINES.rstrip("\n")),
    "one object that holds the list": ("a.json", json.dumps({"version": 1, "data": ROWS}, indent=1)),
    "one object of columns": ("a.json", json.dumps(COLUMNS)),
    "one object of columns, as pandas writes": (
        "a.json",
        json.dumps({name: {str(i): cell for i, cell in enumerate(c)} for name, c in COLUMNS.items()}),
    ),
    "tabs": ("a.tsv", CSV.replace(",", "\t")),
    "bars": ("a.csv", CSV.replace(",", "|")),
    "blank lines in a table": ("a.csv", CSV.replace("\n", "\n\n")),
    "spaces around the names": ("a.csv", CSV.replace("prompt,answer,kind", "prompt , answer, kind")),
    "Excel's first line": ("a.csv", "sep=;\r\n" + CSV.replace(",", ";")),
    "a table of an old Mac": ("a.csv", CSV.replace("\n", "\r")),
    "gzipped lines": ("a.jsonl.gz", gzip.compress(LINES.encode())),
    "a gzipped table": ("a.csv.gz", gzip.compress(CSV.encode())),
    "gzipped, but not called so": ("a.json", gzip.compress(ARRAY.encode())),
    "called gzipped, but unpacked": ("a.jsonl.gz", LINES),
}
FORMS |= {name: (name, text) for name, text in TEXTS.items()}
SAME = [problems.make_problem(row, "", "{prompt}", "answer", "") for row in ROWS]


def put(path, content: str | bytes):
    path.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8"))
    return path


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_a_file_holds_the_same_problems(tmp_path, form):
    """A mark of UTF-8 made "line 1 is not JSON"; an array, UTF-16 or a zipped file were no data at all."""
    name, content = FORMS[form]
    assert problems.load(str(put(tmp_path / name, content))) == SAME


def test_parquet_is_known_by_its_content(tmp_path):
    path = tmp_path / "p.data"
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(ROWS), path)
    assert problems.load(str(path)) == SAME


def test_a_line_separator_does_not_end_a_row_of_a_table(tmp_path):
    """str.splitlines() ends lines at U+2028 and at form feeds: cells were cut there."""
    path = put(tmp_path / "p.csv", 'prompt,answer\na\u2028b,1\n"c\x0cd\r\ne",2\n')
    assert [p.prompt for p in problems.load(str(path))] == ["a\u2028b", "c\x0cd\r\ne"]


def test_a_text_file_is_a_prompt_a_line(tmp_path):
    path = put(tmp_path / "p.txt", "What is 1, 2; or 3?\n\n  Name a | b.\n")
    assert [p.prompt for p in problems.load(str(path))] == ["What is 1, 2; or 3?", "Name a | b."]


def test_parquet_is_read_with_its_types(tmp_path):
    path = tmp_path / "p.parquet"
    rows = [{**row, "answer": int(row["answer"]), "context": ["One.", "Two."]} for row in ROWS]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    loaded = problems.load(str(path), template="{context}\n{prompt}")
    assert [problem.answer for problem in loaded] == [row["answer"] for row in ROWS]
    assert loaded[0].prompt == "One.\nTwo.\nWhat is 0 + 1?"


def test_a_cell_of_several_lines_counts_them(tmp_path):
    path = tmp_path / "p.csv"
    path.write_text('prompt,answer,kind\n"two\nlines",1,integer\nb,x,integer\n', "utf-8")
    with pytest.raises(UserError, match=r"p\.csv line 4: the answer 'x' is not an integer"):
        problems.load(str(path))


BROKEN = {
    (
        "p.csv",
        b"prompt,answer\na,1,2\n",
    ): "line 2 has 3 cells, the first line has 2; put texts with commas in",
    ("p.csv", b'prompt\n"' + b"x" * 200_000 + b'"\n'): "is not CSV",
    ("p.csv", b"\xff\xfe"): "holds no problems",  # UTF-16, and empty
    ("p.csv", b"prompt\nna\xefve\n"): "line 2 cannot be read as UTF-8 text .*; save the file as UTF-8",
    ("p.csv", b"\xff\xfep"): "line 1 cannot be read as UTF-16 text",
    ("p.csv", b"topic\na\n"): "asks for 'prompt', the row has topic",
    ("p.jsonl", b"\0" * 4096): "nothing but zero bytes, as a power failure leaves it",
    ("p.jsonl.gz", b"\x1f\x8b"): "cannot be read",
    ("p.json", json.dumps({"train": ROWS, "test": ROWS}).encode()): r"holds several lists \(train, test\)",
    ("p.json", b'[\n {"prompt": "a"},\n {"prompt": a}\n]'): "line 3 is not JSON",
    ("p.jsonl", b'{"prompt": a}\n{"prompt": "a"}'): "line 1 is not JSON",
    ("p.json", b"[1]"): "row 1 is a int; a row must be an object",
    ("p.json", b'[{"prompt": '): "line 1 is not JSON",
    ("p.json", b"[" * 100_000): "is not JSON",
    ("p.parquet", b"PAR1 or not"): "cannot be read as Parquet",
    ("p.parquet", b""): "cannot be read as Parquet",
    ("p.jsonl", b""): "holds no problems",
}


@pytest.mark.parametrize("name, content", BROKEN, ids=BROKEN.values())
def test_what_cannot_be_read_is_said_with_its_place(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=BROKEN[name, content]):
        problems.load(str(tmp_path / name))


def test_a_folder_says_which_files_it_holds(tmp_path):
    put(tmp_path / "train-00000.parquet", b"")
    with pytest.raises(UserError, match=r"is a folder; name a file in it, such as train-00000\.parquet"):
        problems.load(str(tmp_path))


def test_what_unpacks_to_too_much_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(problem_files, "MOST_UNPACKED", 100)
    with pytest.raises(UserError, match="unpacks to more than"):
        problems.load(str(put(tmp_path / "p.jsonl.gz", gzip.compress(LINES.encode()))))


# ---- checking


def written(tmp_path, *rows, name="mine.jsonl"):
    path = tmp_path / name
    lines = (row if isinstance(row, str) else json.dumps(row) for row in rows)
    path.write_text("".join(f"{line}\n" for line in lines), "utf-8")
    return path


def test_a_check_counts_and_names_the_first_faults(tmp_path):
    bad = {"prompt": "x", "answer": "y", "kind": "integer"}
    path = written(tmp_path, ROWS[0], "nonsense", *ROWS[1:], bad, ROWS[0], "[1]", {"topic": "?"})
    found = problem_check.check(path, Preset())
    assert (found.rows, found.wrong, found.answered, found.distinct) == (11, 4, 7, 6)
    assert found.kinds == {"integer": 7}
    assert [problem.prompt for problem in found.first] == [row["prompt"] for row in ROWS[:3]]
    lines = [fault.partition("mine.jsonl ")[2].split(":")[0].split(" is")[0] for fault in found.faults]
    assert lines == ["line 2", "line 8", "line 10"]


def test_a_file_that_unpacks_to_too_many_rows_is_refused(tmp_path):
    with pytest.raises(UserError, match="more than 5 rows"):
        problem_check.check(written(tmp_path, *ROWS), Preset(), most_rows=5)


def test_usual_names_of_columns_are_found(tmp_path):
    path = written(tmp_path, {"question": "a", "solution": "1"})
    fitting = problem_check.columns_of(path, Preset())
    assert (fitting.prompt_template, fitting.answer_column) == ("{question}", "solution")
    for template in ("{prompt}", "{problem}"):  # that of the file before
        other = problem_check.columns_of(path, Preset(prompt_template=template))
        assert other.prompt_template == "{question}"
    own = Preset(prompt_template="Solve: {question}", answer_column="solution")
    assert problem_check.columns_of(path, own) == own
    assert problem_check.columns_of(written(tmp_path, *ROWS), Preset()) == Preset()
    assert problem_check.columns_of(written(tmp_path, "nonsense"), Preset()) == Preset()


@pytest.mark.parametrize(
    "role, numbers", [("both", (5, False, 1)), ("training", (6, False, 400)), ("held-out", (4096, True, 6))]
)
def test_a_preset_is_fitted_to_a_file_and_the_loop_takes_it(tmp_path, role, numbers):
    path = written(tmp_path, *ROWS)
    tiny = load_preset("tiny")
    found = problem_check.check(path, tiny)
    fitted = problem_check.use(tiny, str(path), found, role)
    assert (fitted.prompts, fitted.fresh, fitted.held_out) == numbers
    sets = (fitted.train_set == str(path), fitted.held_out_set == str(path))
    assert sets == (role != "held-out", role != "training")
    train, held = problems.train_and_held_out(fitted)
    assert len(held) == numbers[2] and not {p.key for p in train} & {p.key for p in held}


def test_numbers_only_get_smaller(tmp_path):
    small = dataclasses.replace(load_preset("tiny"), prompts=2, rounds=2, held_out=1)
    found = problem_check.check(written(tmp_path, *ROWS), small)
    fitted = problem_check.use(small, "mine", found, "both")
    assert (fitted.prompts, fitted.held_out, fitted.fresh) == (2, 1, True)


def test_held_out_problems_need_answers(tmp_path):
    path = written(tmp_path, *ROWS, {"prompt": "no answer"})
    found = problem_check.check(path, Preset())
    for role in ("both", "held-out"):
        with pytest.raises(UserError, match="1 of 7 problems have no 'answer'"):
            problem_check.use(Preset(), "mine", found, role)
    assert problem_check.use(Preset(), "mine", found, "training").train_set == "mine"
    with pytest.raises(UserError, match="not as 'other'"):
        problem_check.use(Preset(), "mine", found, "other")
    one = problem_check.check(written(tmp_path, ROWS[0]), Preset())
    with pytest.raises(UserError, match="bring two or more"):
        problem_check.use(Preset(), "mine", one, "both")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="named pipes are other things there")
def test_a_pipe_is_not_waited_for(tmp_path):
    """A run waited for its first line without end."""
    os.mkfifo(tmp_path / "p.jsonl")
    with pytest.raises(UserError, match=r"no problems at .*p\.jsonl: it is no file; name a file of problems"):
        list(problem_files.rows(tmp_path / "p.jsonl"))
