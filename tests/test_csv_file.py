import csv
import io
import random

import pytest

from imgnet_mini.errors import WriteError
from imgnet_mini.utils.csv_file import read_table, write_table

FORMULAS = (
    "=cmd()",
    "+1",
    "-1",
    "@x",
    "\tx",
    "\rx",
    "\nx",
    "\uff1dx",
    "\uff0bx",
    "\uff0dx",
    "\uff20",
)


def cells(path):
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.reader(file))


@pytest.mark.parametrize("text", FORMULAS)
@pytest.mark.parametrize("before", ["", "'", "''"])
def test_no_cell_is_a_formula_and_each_reads_back_unchanged(tmp_path, text, before):
    path = tmp_path / "t.csv"
    write_table(path, [before + text], [[before + text, "plain"]])
    assert cells(path) == [[f"'{before}{text}"], [f"'{before}{text}", "plain"]]
    assert list(read_table(path)) == [[before + text], [before + text, "plain"]]


def test_ordinary_tables_equal_those_of_csv_writer(tmp_path):
    rows = [["a", 1, 0.1, None], ['quote "x"', -2, 1e-7, "a,b"], ["two\nlines", 0, "é", " x' "]]
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([["one", "two", "3", "4"], *rows])
    write_table(tmp_path / "t.csv", ["one", "two", "3", "4"], rows)
    assert (tmp_path / "t.csv").read_bytes().decode() == text.getvalue()


def test_any_text_reads_back_unchanged(tmp_path):
    generator = random.Random(0)
    rows = [
        ["".join(generator.choices("'=-@\t\r\n\",;x é\udcff", k=generator.randrange(6))), "x"]
        for _ in range(2000)
    ]
    write_table(tmp_path / "t.csv", ["a", "b"], rows)
    assert list(read_table(tmp_path / "t.csv")) == [["a", "b"], *rows]


def test_a_file_that_is_not_csv_is_refused(tmp_path):
    (tmp_path / "t.csv").write_text("x" * (csv.field_size_limit() + 1))
    with pytest.raises(ValueError, match="field larger than field limit"):
        list(read_table(tmp_path / "t.csv"))


def test_a_write_error_names_the_file(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(WriteError, match=r"t\.csv"):
        write_table(tmp_path / "file" / "t.csv", ["a"], [])
