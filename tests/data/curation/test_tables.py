"""Conditions in SQL over tables, which see nothing else."""

import pyarrow as pa
import pytest

from lcv_jax.data.curation.tables import where
from lcv_jax.errors import InputError

TABLE = pa.table({"blur": [3.0, None, 1.0, 9.0], "camera": [["static"], [], None, ["shake", "static"]]})


@pytest.mark.parametrize(
    ("condition", "rows"),
    [
        ("blur > 2", [0, 3]),
        ("blur is null", [1]),
        ("list_contains(camera, 'static') -- and so on", [0, 3]),
        ("true", [0, 1, 2, 3]),
        ("blur > 100", []),
        ("blur = (select max(blur) from clips)", [3]),
    ],
)
def test_rows_for_which_a_condition_holds(condition, rows):
    assert where(TABLE, condition, "--where").equals(TABLE.take(pa.array(rows, pa.int64())))


@pytest.mark.parametrize(
    ("condition", "said"),
    [
        ("blurr > 2", 'Referenced column "blurr" not found'),
        ("blur >", "syntax error"),
        ("true); drop view clips; select (1", "more than one statement"),
        ("exists (select * from read_text('/etc/passwd'))", "disabled"),
        ("exists (select * from '/etc/passwd')", "disabled|does not exist"),
        ("'abc' > 2", "Could not convert"),
    ],
)
def test_what_is_no_condition_is_told_in_a_line(condition, said):
    with pytest.raises(InputError, match=rf"(?s)--where .*({said})") as told:
        where(TABLE, condition, "--where")
    assert "\n" not in str(told.value)
