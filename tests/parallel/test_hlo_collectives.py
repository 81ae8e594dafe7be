"""The reader of collectives against programs whose traffic is known by hand, on 8 virtual devices and as text."""

import pytest

import devices
from lcv_jax.errors import InputError
from lcv_jax.parallel.hlo_collectives import read_collectives, sent_by_kind

F, D = ["fsdp"], ["data"]

# [kind, operand bytes, bytes sent, times, axes]. Unless said otherwise a device holds float32 (2, 64), 512 bytes.
BY_HAND = {
    "all-gather": [["all-gather", 512, 3 * 512, 1, F]],
    "all-reduce": [["all-reduce", 512, 2 * 512 * 3 / 4, 1, F]],
    "all-reduce of both axes": [["all-reduce", 256, 2 * 256 * 7 / 8, 1, ["data", "fsdp"]]],
    "reduce-scatter": [["reduce-scatter", 2048, 2048 * 3 / 4, 1, F]],
    "all-to-all": [["all-to-all", 512, 512 * 3 / 4, 1, F]],
    "collective-permute": [["collective-permute", 512, 512, 1, F]],
    "a ring of three steps": [["collective-permute", 512, 512, 3, F]],
    "two of a tuple": [["all-reduce", 4 * 64 * 4 + 64 * 4, 1280, 1, D]],
    "nothing": [],
    # Six layers of 32 x 32 float32: 1024 bytes a shard. Forward and backward gather; gradients are scattered over fsdp
    # and then added over data.
    "layers": [
        ["all-gather", 1024, 3 * 1024, 6, F],
        ["all-gather", 1024, 3 * 1024, 6, F],
        ["reduce-scatter", 4096, 4096 * 3 / 4, 6, F],
        ["all-reduce", 1024, 1024, 6, D],
    ],
    "bytes of a narrow type": [["all-gather", 128, 3 * 128, 1, F]],
}


@pytest.fixture(scope="module")
def found():
    # As XLA optimises by default: what is sent depends on it.
    return devices.report("tests/parallel/collective_programs.py", JAX_DISABLE_MOST_OPTIMIZATIONS="0")


@pytest.mark.smoke
@pytest.mark.parametrize("program", BY_HAND)
def test_programs_on_eight_devices_send_what_they_must(found, program):
    assert found[program] == BY_HAND[program]


def test_every_program_is_known_by_hand(found):
    assert found.keys() == BY_HAND.keys()


def entry(*lines, head=", num_partitions=8"):
    body = "\n".join(f"  {line}" for line in lines)
    add = "%add (a: f32[], b: f32[]) -> f32[] {\n  ROOT %a = f32[] parameter(0)\n}\n"
    return f"HloModule m{head}\n\n{add}\nENTRY %main (x: f32[8,4]) -> f32[8,4] {{\n{body}\n}}\n"


X = "%x = f32[8,4]{1,0} parameter(0)"


def reduced(groups):
    return entry(X, f"ROOT %r = f32[8,4]{{1,0}} all-reduce(%x), replica_groups={groups}, to_apply=%add")


@pytest.mark.parametrize(
    ("groups", "expected"),
    [
        ("{{0,1},{2,3},{4,5},{6,7}}", ((0, 1), (2, 3), (4, 5), (6, 7))),
        ("{}", ((0, 1, 2, 3, 4, 5, 6, 7),)),
        ("[2,4]<=[8]", ((0, 1, 2, 3), (4, 5, 6, 7))),
        ("[4,2]<=[2,4]T(1,0)", ((0, 4), (1, 5), (2, 6), (3, 7))),
        ("mesh['a'=2,'b'=4] {'b'}", ((0, 1, 2, 3), (4, 5, 6, 7))),
        ("mesh['a'=2,'b'=4] {'a'}", ((0, 4), (1, 5), (2, 6), (3, 7))),
        ("mesh['a'=2,'b'=4] {'a','b'}", ((0, 1, 2, 3, 4, 5, 6, 7),)),
        ("mesh['a'=8] {'a':(2)2}", ((0, 2), (1, 3), (4, 6), (5, 7))),
        ("mesh['a'=8] {'a':(1)4}", ((0, 2, 4, 6), (1, 3, 5, 7))),
    ],
)
def test_groups_are_read_however_they_are_written(groups, expected):
    (collective,) = read_collectives(reduced(groups))
    assert collective.groups == expected
    count = len(expected[0])
    assert collective.sent == 2 * 128 * (count - 1) / count


def test_groups_written_otherwise_raise():
    with pytest.raises(InputError, match=r"'r': its replica_groups are written in a way that is not known, .*rings"):
        read_collectives(reduced("rings(2)"))


def test_started_collectives_count_once_and_groups_of_one_not_at_all():
    text = entry(
        X,
        "%s = (f32[8,4]{1,0}, f32[32,4]{1,0}) all-gather-start(%x), replica_groups=[2,4]<=[8], dimensions={0}",
        "%d = f32[32,4]{1,0} all-gather-done(%s)",
        "%one = f32[8,4]{1,0} all-reduce(%x), replica_groups=[8,1]<=[8], to_apply=%add",
        "%p = (f32[8,4]{1,0}, f32[8,4]{1,0}, u32[]) collective-permute-start(%x), source_target_pairs={{0,1},{1,0}}",
        "ROOT %q = f32[8,4]{1,0} collective-permute-done(%p)",
    )
    assert sent_by_kind(read_collectives(text)) == {"all-gather": 3 * 128, "collective-permute": 128}


def test_an_all_reduce_that_is_kept_whole_stays_one():
    text = entry(
        X,
        "%r = f32[8,4]{1,0} all-reduce(%x), replica_groups=[1,8]<=[8], to_apply=%add",
        "%zero = s32[] constant(0)",
        "%cut = f32[1,4]{1,0} dynamic-slice(%r, %zero, %zero), dynamic_slice_sizes={1,4}",
        "ROOT %y = f32[8,4]{1,0} add(%r, %r)",
    )
    assert [c.kind for c in read_collectives(text)] == ["all-reduce"]
    assert [c.kind for c in read_collectives(text.replace("add(%r, %r)", "add(%x, %x)"))] == ["reduce-scatter"]


def test_an_all_reduce_of_several_arrays_is_read_array_by_array():
    text = entry(
        X,
        "%r = (f32[8,4]{1,0}, f32[8,4]{1,0}) all-reduce-start(%x, %x), replica_groups=[1,8]<=[8], to_apply=%add",
        "%d = (f32[8,4]{1,0}, f32[8,4]{1,0}) all-reduce-done(%r)",
        "%zero = s32[] constant(0)",
        "%first = f32[8,4]{1,0} get-tuple-element(%d), index=0",
        "%second = f32[8,4]{1,0} get-tuple-element(%d), index=1",
        "%cut = f32[1,4]{1,0} dynamic-slice(%second, %zero, %zero), dynamic_slice_sizes={1,4}",
        "ROOT %y = f32[8,4]{1,0} add(%first, %first)",
    )
    sent = {c.kind: c.sent for c in read_collectives(text)}
    assert sent == {"all-reduce": 2 * 128 * 7 / 8, "reduce-scatter": 128 * 7 / 8}


def test_a_loop_of_unknown_length_around_a_collective_raises():
    text = """HloModule m, num_partitions=2

%body (s: (f32[4])) -> (f32[4]) {
  %s = (f32[4]{0}) parameter(0)
  %e = f32[4]{0} get-tuple-element(%s), index=0
  %p = f32[4]{0} collective-permute(%e), source_target_pairs={{0,1}}
  ROOT %t = (f32[4]{0}) tuple(%p)
}

%condition (s.1: (f32[4])) -> pred[] {
  %s.1 = (f32[4]{0}) parameter(0)
  ROOT %c = pred[] constant(true)
}

ENTRY %main (x: f32[4]) -> (f32[4]) {
  %x = f32[4]{0} parameter(0)
  %t.0 = (f32[4]{0}) tuple(%x)
  ROOT %w = (f32[4]{0}) while(%t.0), condition=%condition, body=%body
}
"""
    with pytest.raises(InputError, match=r"loop 'w'.*so its collectives cannot be counted"):
        read_collectives(text)
