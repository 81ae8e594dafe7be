"""docs/scaling.md says what the planner says."""

import json

import pytest

from benchmarks import scaling
from lcv_jax.models.remat import Remat
from lcv_jax.parallel import plan_devices, plan_tasks
from lcv_jax.parallel.mesh import MeshConfig
from lcv_jax.parallel.plan import Asked, estimate


@pytest.fixture(scope="module")
def record():
    return json.loads(scaling.RECORD.read_text())


def test_the_tables_are_those_of_the_record(record):
    text = scaling.DOC.read_text()
    assert scaling.fill(text, scaling.tables(record["plans"], record["compiled"])) == text


def test_a_marker_without_table_is_found():
    with pytest.raises(AssertionError, match="markers and tables differ"):
        scaling.fill("<!-- table: x -->\n<!-- end -->", {"y": ""})


def test_every_task_is_planned_on_every_number_of_devices(record):
    found = {(row["device"], row["task"], row["devices"]) for row in record["plans"]}
    tasks = plan_tasks.TASKS
    assert found == {(d, t, n) for d in scaling.DEVICES for t in tasks for n in scaling.COUNTS}
    assert {*scaling.COMPILED, *scaling.OTHERS} == record["compiled"].keys()


@pytest.mark.parametrize(("task", "devices"), [("t2v-480p", 8), ("train-720p", 64)])
def test_the_planner_still_says_so(record, task, devices):
    (row,) = (
        row for row in record["plans"] if (row["device"], row["task"], row["devices"]) == ("h100-80gb", task, devices)
    )
    asked = Asked(
        scaling.MODEL,
        plan_tasks.named(task),
        MeshConfig(**row["mesh"]),
        plan_devices.named("h100-80gb"),
        row["batch"],
        Remat.named(row["remat"]),
    )
    found = estimate(asked)
    assert found.memory.total == pytest.approx(row["bytes"], rel=0.01), "run python -m benchmarks.scaling again"
    assert found.flops == pytest.approx(row["flops"], rel=0.01), "run python -m benchmarks.scaling again"


def test_compiler_and_arithmetic_agree(record):
    """FLOPs nearly, what is sent and held about, at full size."""
    for name, row in record["compiled"].items():
        if "expected_flops" not in row:
            continue
        found = row["compiled"]
        assert row["expected_flops"] == pytest.approx(found["flops"], rel=0.02), name
        assert 0.7 < row["expected_temporaries"] / found["temporaries"] < 1.6, name
        sent = sum(found["sent"].values())
        assert 2 * sum(row["expected_sent"].values()) == pytest.approx(sent, rel=0.25), name
