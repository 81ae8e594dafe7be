"""A record comes back bit for bit, and nothing else is taken for one."""

import struct

import hypothesis
import hypothesis.extra.numpy as hnp
import numpy as np
import pytest
from hypothesis import strategies as st

from lcv_jax.data.records import DTYPES, Record, RecordError, decode, encode
from lcv_jax.errors import InputError

SHAPES = hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4)
BITS = {"bfloat16": np.uint16, "float16": np.uint16, "float32": np.uint32}


@st.composite
def arrays(draw):
    """Any bits at all: NaN, infinities and negative zeros come back as they are."""
    name = draw(st.sampled_from(sorted(DTYPES)))
    return draw(hnp.arrays(BITS[name], draw(SHAPES))).view(DTYPES[name])


RECORDS = st.builds(
    Record,
    st.text(max_size=8),
    st.dictionaries(st.text(max_size=4), st.text(max_size=12), max_size=3),
    st.dictionaries(st.text(max_size=6), arrays(), max_size=3),
)


@hypothesis.given(RECORDS)
@hypothesis.settings(max_examples=60, deadline=None)
def test_a_record_comes_back(record):
    back = decode(encode(record))
    assert back == record
    assert dict(back.captions) == dict(record.captions)
    assert list(back.arrays) == list(record.arrays)
    for name, array in record.arrays.items():
        assert back.arrays[name].dtype == array.dtype
        assert back.arrays[name].shape == array.shape


SOME = encode(Record("a", {"en": "b"}, {"x": np.arange(6, dtype=np.float32).reshape(2, 3)}))


@hypothesis.given(st.integers(0, len(SOME) - 1))
@hypothesis.settings(max_examples=40, deadline=None)
def test_a_record_cut_short_is_refused(length):
    with pytest.raises(RecordError):
        decode(SOME[:length])


def headed(text: str, body: bytes = b"") -> bytes:
    return struct.pack("<4sBI", b"LCVR", 1, len(text.encode())) + text.encode() + body


@pytest.mark.parametrize(
    ("data", "match"),
    [
        (b"", "a record of 0 bytes: expected at least 9"),
        (b"X" + SOME[1:], "begins with b'XCVR': expected b'LCVR'"),
        (SOME[:4] + b"\x02" + SOME[5:], "version 2: expected 1; write the cache again"),
        (SOME + b"\0", "1 bytes behind the last array"),
        (headed("{"), "header is damaged: expected JSON"),
        (headed("[]"), "header is damaged: expected JSON"),
        (headed('{"key":"a","captions":{},"arrays":[],"more":1}'), "expected JSON with key, captions and arrays"),
        (headed('{"key":1,"captions":{},"arrays":[]}'), "expected a key, captions by name"),
        (headed('{"key":"a","captions":{"en":1},"arrays":[]}'), "expected a key, captions by name"),
        (headed('{"key":"a","captions":{},"arrays":[{"name":"x"}]}'), "expected name, dtype and shape"),
        (
            headed('{"key":"a","captions":{},"arrays":[{"name":"x","dtype":"object","shape":[1]}]}', b"0" * 8),
            "dtype 'object'",
        ),
        (
            headed('{"key":"a","captions":{},"arrays":[{"name":"x","dtype":"float32","shape":[-1]}]}'),
            r"shape \[-1\]",
        ),
        (
            headed('{"key":"a","captions":{},"arrays":[{"name":"x","dtype":"float32","shape":[true]}]}'),
            r"shape \[True\]",
        ),
    ],
)
def test_what_is_no_record_is_refused(data, match):
    with pytest.raises(RecordError, match=match):
        decode(data)


def test_other_dtypes_are_refused():
    with pytest.raises(InputError, match="record 'a', 'x': dtype int64, expected one of bfloat16, float16, float32"):
        encode(Record("a", {}, {"x": np.zeros(2, np.int64)}))
