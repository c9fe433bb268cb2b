"""What the report makes of texts."""

import pytest

from lib.report.format import cell, without_folders


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("KitError: /home/ada b/kit/runs/x/history.csv: is not", "KitError: history.csv: is not"),
        (r"C:\Users\Ada B\kit\a.tif: cannot be read", "a.tif: cannot be read"),
        ("[Errno 2] No such file: '/home/ada/b.csv'", "[Errno 2] No such file: 'b.csv'"),
        ("see https://arxiv.org/abs/1707.03237", "see https://arxiv.org/abs/1707.03237"),
        ("in runs/x/cases.csv, and/or 0.3 / 0.5", "in runs/x/cases.csv, and/or 0.3 / 0.5"),
    ],
)
def test_paths_become_names(text, expected):
    """A report is handed out: folders tell whose home it was."""
    assert without_folders(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("TCGA_DU_6405", "TCGA_DU_6405"),
        ("_P01_", r"\_P01\_"),
        ("__init__ and _", r"\_\_init\_\_ and \_"),
        ("a*b | <i>", r"a\*b \| &lt;i>"),
    ],
)
def test_what_a_run_is_called_is_no_markup(text, expected):
    assert cell(text) == expected
