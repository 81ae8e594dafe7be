"""The FLOPs counter against sums by hand, unrolled programs and XLA's own count where that is right."""

import functools
import re

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import pytest
from jax import lax

from lcv_jax.errors import InputError
from lcv_jax.parallel.hlo import count_flops
from lcv_jax.parallel.hlo_text import parse

pytestmark = pytest.mark.smoke

FLOAT = jnp.float32


def compiled(function, *shapes, dtype=FLOAT):
    return jax.jit(function).lower(*(jax.ShapeDtypeStruct(shape, dtype) for shape in shapes)).compile()


def layers(x, weights):
    """x (32, 64) through weights (n, 64, 64), scanned."""
    return lax.scan(lambda x, w: (jnp.tanh(x @ w), None), x, weights)[0]


def unrolled(x, weights):
    for w in weights:
        x = jnp.tanh(x @ w)
    return x


LAYER = 2 * 32 * 64 * 64
LAYERS = ((32, 64), (5, 64, 64))


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
class TestProducts:
    def test_matmul(self, dtype):
        flops = count_flops(compiled(jnp.matmul, (64, 96), (96, 128), dtype=dtype))
        assert (flops.total, flops.dots, flops.convolutions) == (2 * 64 * 96 * 128, 2 * 64 * 96 * 128, 0)
        assert not flops.uncounted

    def test_batched_einsum(self, dtype):
        scores = functools.partial(jnp.einsum, "bnhd,bkhd->bhnk")
        flops = count_flops(compiled(scores, (2, 32, 4, 16), (2, 48, 4, 16), dtype=dtype))
        assert flops.total == 2 * (2 * 4 * 32 * 48) * 16

    def test_convolution(self, dtype):
        def convolve(image, kernel):
            return lax.conv_general_dilated(image, kernel, (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC"))

        flops = count_flops(compiled(convolve, (2, 10, 12, 8), (3, 3, 8, 24), dtype=dtype))
        assert (flops.total, flops.dots) == (2 * (2 * 8 * 10 * 24) * (3 * 3 * 8), 0)

    def test_scan_counts_every_iteration(self, dtype):
        assert count_flops(compiled(layers, *LAYERS, dtype=dtype)).total == 5 * LAYER
        assert count_flops(compiled(unrolled, *LAYERS, dtype=dtype)).total == 5 * LAYER

    def test_gradient_of_scan(self, dtype):
        def loss(x, weights):
            return layers(x, weights).astype(FLOAT).sum()

        gradient = compiled(jax.grad(loss, argnums=(0, 1)), *LAYERS, dtype=dtype)
        assert count_flops(gradient).total == 3 * 5 * LAYER


def test_a_convolution_counts_what_xla_counts():
    """XLA's analysis is right where nothing loops. Padding, stride, both dilations, groups."""

    def convolve(image, kernel, strides, padding, dilation, kernel_dilation, groups):
        return lax.conv_general_dilated(
            image,
            kernel,
            strides,
            padding,
            dilation,
            kernel_dilation,
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            feature_group_count=groups,
        )

    cases = [
        ((1, 1), "SAME", (1, 1), (1, 1), 1),
        ((2, 1), [(1, 1), (2, 0)], (1, 1), (1, 1), 1),
        ((1, 2), [(2, 1), (1, 2)], (2, 3), (1, 1), 1),
        ((1, 1), "SAME", (1, 1), (2, 1), 2),
    ]
    for case in cases:
        groups = case[-1]
        program = compiled(lambda a, b, case=case: convolve(a, b, *case), (2, 9, 7, 8), (3, 3, 8 // groups, 6))
        assert count_flops(program).total == program.cost_analysis()["flops"], case


def test_nested_scans_multiply():
    def outer(x, weights):
        return lax.scan(lambda x, _: (layers(x, weights), None), x, None, length=3)[0]

    assert count_flops(compiled(outer, *LAYERS)).total == 3 * 5 * LAYER


def test_rematerialised_layers_run_forward_twice():
    def loss(weights, x):
        body = jax.checkpoint(lambda x, w: (jnp.tanh(jnp.tanh(x @ w) @ w), None))
        return lax.scan(body, x, weights)[0].sum()

    flops = count_flops(compiled(jax.grad(loss), LAYERS[1], LAYERS[0]))
    forward = 2 * 5 * LAYER
    assert flops.total == 4 * forward  # forward, forward again, and twice that backward


def test_two_scanned_mlp_layers_equal_the_unrolled_model():
    def mlp(x, up, down):
        return x + jax.nn.silu(x @ up) @ down

    def scanned(x, up, down):
        return lax.scan(lambda x, w: (mlp(x, *w), None), x, (up, down))[0]

    def written_out(x, up, down):
        return mlp(mlp(x, up[0], down[0]), up[1], down[1])

    shapes = ((4, 16, 32), (2, 32, 128), (2, 128, 32))
    counts = [count_flops(compiled(function, *shapes)).total for function in (scanned, written_out)]
    assert counts == [2 * 2 * (2 * 4 * 16 * 32 * 128)] * 2


def test_a_conditional_counts_its_most_expensive_branch():
    program = jax.jit(lambda i, a, b: lax.switch(i, [lambda: a @ b, lambda: a, lambda: a @ b @ b]))
    square = jax.ShapeDtypeStruct((64, 64), FLOAT)
    flops = count_flops(program.lower(jax.ShapeDtypeStruct((), jnp.int32), square, square).compile())
    assert flops.total == 2 * (2 * 64**3)


def test_products_say_where_they_come_from_and_add_up():
    flops = count_flops(compiled(lambda x, w: layers(x, w) @ w[0], *LAYERS))
    assert [product.times for product in sorted(flops.products, key=lambda p: p.times)] == [1, 5]
    assert all("dot_general" in product.source for product in flops.products)
    assert sum(product.total for product in flops.products) == flops.total == 6 * LAYER


def test_a_loop_of_unknown_length_around_products_raises():
    def loop(n, x):
        return lax.while_loop(lambda c: c[0] < n, lambda c: (c[0] + 1, c[1] @ c[1]), (0, x))

    arguments = jax.ShapeDtypeStruct((), jnp.int32), jax.ShapeDtypeStruct((8, 8), FLOAT)
    program = jax.jit(loop).lower(*arguments).compile()
    with pytest.raises(InputError, match=r"loop 'while.*: its trip count is not known"):
        count_flops(program)


def test_a_loop_of_unknown_length_without_products_counts_nothing():
    program = jax.jit(lambda n: lax.while_loop(lambda c: c < n, lambda c: c * 2, 1))
    assert count_flops(program.lower(jax.ShapeDtypeStruct((), jnp.int32)).compile()).total == 0


class TestTripCountFromTheCounter:
    """Backends that do not write the trip count beside the loop."""

    def unannotated(self, function, *shapes):
        text = compiled(function, *shapes).as_text()
        bare = re.sub(r', backend_config=\{[^\n]*"known_trip_count"[^\n]*\}', "", text)
        assert bare != text
        return bare

    def test_scan(self):
        assert count_flops(self.unannotated(layers, *LAYERS)).total == 5 * LAYER

    @hypothesis.settings(max_examples=8, deadline=None)
    @hypothesis.given(start=st.integers(-4, 4), trips=st.integers(2, 9), step=st.sampled_from([-3, -1, 1, 2]))
    def test_written_by_hand(self, start, trips, step):
        for slack in {0, 1 if abs(step) > 1 else 0}:  # a bound that the counter does not hit exactly
            limit = start + trips * step - (slack if step > 0 else -slack)
            less, direction = ("LT", "LE") if step > 0 else ("GT", "GE")
            text = counted_loop(start, limit, step, less)
            assert count_flops(text).total == trips * 2 * 4**3
            inclusive = counted_loop(start, start + trips * step, step, direction)
            assert count_flops(inclusive).total == (trips + 1) * 2 * 4**3

    def test_counter_on_the_right(self):
        text = counted_loop(0, 7, 1, "GT").replace("compare(%i.2, %limit)", "compare(%limit, %i.2)")
        assert count_flops(text).total == 7 * 2 * 4**3

    @pytest.mark.parametrize(
        ("old", "new"),
        [
            ("direction=LT", "direction=NE"),
            ("add(%i.1, %step)", "multiply(%i.1, %step)"),
            ("s32[] constant(0)", "s32[] parameter(1)"),
        ],
    )
    def test_anything_else_raises(self, old, new):
        text = counted_loop(0, 7, 1, "LT")
        assert old in text
        with pytest.raises(InputError, match=r"'loop' .*trip count is not known"):
            count_flops(text.replace(old, new))


def counted_loop(start, limit, step, direction):
    """HLO in the style of a TPU's: layouts with tiles, no trip count, the product a convolution."""
    state = "(s32[]{:T(128)}, bf16[4,4]{1,0:T(8,128)(2,1)S(1)})"
    return f"""HloModule jit_f, is_scheduled=true

%product (a: bf16[4,4]) -> bf16[4,4] {{
  %a = bf16[4,4]{{1,0:T(8,128)(2,1)}} parameter(0)
  ROOT %c = bf16[4,4]{{1,0:T(8,128)(2,1)}} convolution(%a, %a), dim_labels=bf_io->bf
}}

%body (s.1: (s32[], bf16[4,4])) -> (s32[], bf16[4,4]) {{
  %s.1 = {state} parameter(0)
  %step = s32[]{{:T(128)}} constant({step})
  %i.0 = s32[]{{:T(128)}} get-tuple-element(%s.1), index=0
  %i.1 = s32[]{{:T(128)S(6)}} copy(%i.0)
  %next = s32[]{{:T(128)}} add(%i.1, %step)
  %x.1 = bf16[4,4]{{1,0:T(8,128)(2,1)}} get-tuple-element(%s.1), index=1
  %y = bf16[4,4]{{1,0:T(8,128)(2,1)}} fusion(%x.1), kind=kOutput, calls=%product
  ROOT %t.1 = {state} tuple(%next, /*index=1*/%y)
}}

%condition (s.2: (s32[], bf16[4,4])) -> pred[] {{
  %limit = s32[]{{:T(128)}} constant({limit})
  %s.2 = {state} parameter(0)
  %i.2 = s32[]{{:T(128)}} get-tuple-element(%s.2), index=0
  ROOT %lt = pred[]{{:T(512)}} compare(%i.2, %limit), direction={direction}
}}

ENTRY %main (x.0: bf16[4,4]) -> bf16[4,4] {{
  %x.0 = bf16[4,4]{{1,0:T(8,128)(2,1)}} parameter(0)
  %start = s32[] constant({start})
  %t.0 = {state} tuple(%start, %x.0)
  %loop = {state} while(%t.0), condition=%condition, body=%body
  ROOT %out = bf16[4,4]{{1,0:T(8,128)(2,1)}} get-tuple-element(%loop), index=1
}}
"""


def entry(*lines):
    body = "\n".join(f"  {line}" for line in lines)
    return f"HloModule m\n\nENTRY %main (q: bf16[2,32,4,16]) -> f32[] {{\n{body}\n}}\n"


class TestCustomCalls:
    def test_a_library_product_with_dimension_numbers(self):
        text = entry(
            "%a = f32[3,8,16]{2,1,0} parameter(0)",
            "%b = f32[3,16,32]{2,1,0} parameter(1)",
            "ROOT %c = (f32[3,8,32]{2,1,0}, s8[4194304]{0}) custom-call(%a, %b), "
            'custom_call_target="__cublas$gemm", backend_config={"gemm_backend_config":{"alpha_real":1,'
            '"dot_dimension_numbers":{"lhs_contracting_dimensions":["2"],"rhs_contracting_dimensions":["1"],'
            '"lhs_batch_dimensions":["0"],"rhs_batch_dimensions":["0"]},"epilogue":"DEFAULT"}}',
        )
        flops = count_flops(text)
        assert (flops.total, flops.dots, flops.uncounted) == (2 * 3 * 8 * 16 * 32, 2 * 3 * 8 * 16 * 32, {})

    @pytest.mark.parametrize(("target", "products"), [("__cudnn$fmhaSoftmax", 2), ("__cudnn$fmhaSoftmaxBackward", 5)])
    def test_fused_attention(self, target, products):
        text = entry(
            "%q = bf16[2,32,4,16]{3,2,1,0} parameter(0)",
            "%k = bf16[2,48,4,16]{3,2,1,0} parameter(1)",
            "ROOT %o = (bf16[2,4,32,16]{3,1,2,0}, u8[0]{0}) custom-call(%q, %k, %k), "
            f'custom_call_target="{target}", backend_config={{"cudnn_fmha_backend_config":{{"fmha_scale":1,'
            '"intermediate_tensor_shape":{"element_type":"BF16","dimensions":["2","4","32","48"]},'
            '"bmm1_dot_dimension_numbers":{"lhs_contracting_dimensions":["3"]}}}',
        )
        assert count_flops(text).total == products * 2 * (2 * 4 * 32 * 48) * 16

    def test_unknown_work_is_named_not_forgotten(self):
        text = entry(
            "%q = bf16[2,32,4,16]{3,2,1,0} parameter(0)",
            'ROOT %o = bf16[2,32,4,16]{3,2,1,0} custom-call(%q), custom_call_target="mosaic_gpu_v2", '
            'backend_config="opaque"',
        )
        flops = count_flops(text)
        assert (flops.total, flops.uncounted) == (0, {"mosaic_gpu_v2": 1})

    def test_a_product_of_another_kind_raises(self):
        text = entry("ROOT %r = f32[4,4]{1,0} ragged-dot(%a, %b, %c), lhs_contracting_dims={1}")
        with pytest.raises(InputError, match="'r': products of kind 'ragged-dot' are not counted"):
            count_flops(text)


class TestText:
    def test_what_is_no_optimised_hlo_raises(self):
        lowered = jax.jit(jnp.matmul).lower(jnp.ones((2, 2)), jnp.ones((2, 2)))
        with pytest.raises(InputError, match=r"no ENTRY computation .* pass jax.jit\(f\).lower\(...\).compile\(\)"):
            count_flops(lowered)

    def test_a_truncated_line_raises(self):
        with pytest.raises(InputError, match="the text is truncated"):
            count_flops("ENTRY %main () -> f32[] {\n  ROOT %d = f32[2,2]{1,0} dot(%a, %b\n}\n")

    def test_tuples_quotes_and_bounded_sizes_are_read(self):
        module = parse(
            entry(
                '%s = (f32[<=4,2]{1,0}, /*index=1*/pred[]) custom-call(%q), custom_call_target="a)b", '
                'metadata={op_name="jit(f)/while[x=}]/dot"}',
                "ROOT %z = f32[] constant(0)",
            )
        )
        call = module.computations["main"].instructions["s"]
        assert call.shapes == ((4, 2), ())
        assert (call.operands, call.attribute("custom_call_target")) == (("q",), '"a)b"')
        assert call.source == "jit(f)/while[x=}]/dot"
        assert module.computations["main"].root == "z"
