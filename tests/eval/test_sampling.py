"""What the pipeline is asked for: prompts, seeds and conditions of held-out records."""

import numpy as np
import pytest

from lcv_jax.data import toy
from lcv_jax.eval.sampling import Sampling, batches
from lcv_jax.flow.schedule import Kind

SAMPLING = Sampling((32, 48), 9, 5, steps=3, guidance=2.0, max_text_tokens=16, seed=4, enhance_hf=False)


class Blind:
    """A pipeline whose samples are the first seeds of their rows; keeps what it was asked for."""

    def __init__(self):
        self.asked = []

    def run(self, request):
        self.asked.append(request)
        return np.array(request.options.seeds(len(request.prompts)))

    def decode_video(self, seeds):
        return np.broadcast_to(seeds.reshape(-1, 1, 1, 1, 1) / 127.5 - 1, (len(seeds), 9, 32, 48, 3))


def test_requests_are_the_records():
    source = SAMPLING.source(3, (1, 2))
    assert [toy.split_of(source.facts(i)) for i in range(3)] == ["held_out"] * 3
    record = source[1]
    for task, frames in (("t2v", 0), ("i2v", 1), ("vc", 5)):
        asked = SAMPLING.request(task, record, "zh", 9)
        assert asked.prompts == (record["caption_zh"],)
        assert (asked.options.seed, asked.options.run_steps, asked.options.run_guidance) == (9, 3, 2.0)
        assert (asked.options.size, asked.options.num_frames, asked.options.output) == ((32, 48), 9, "latents")
        shown = np.empty((1, 0, 32, 48, 3), np.uint8) if asked.condition is None else asked.condition.frames
        np.testing.assert_array_equal(shown[0], record["video"][:frames])
        assert asked.kind is Kind.BASE
    assert SAMPLING.source(3, (1,), frames=1)[0]["video"].shape == (1, 32, 48, 3)


@pytest.mark.parametrize("batch", [1, 2, 8])
def test_samples_do_not_depend_on_batches_and_the_last_is_filled_up(batch):
    pipe, sampling = Blind(), Sampling(**{**vars(SAMPLING), "batch": batch})
    source = sampling.source(3, (1,))
    pairs = list(sampling.clips(pipe, source, "vc", "en"))
    assert [record["key"] for record, _ in pairs] == [source[i]["key"] for i in range(3)]
    assert [int(clip[0, 0, 0, 0]) for _, clip in pairs] == [4, 5, 6]
    assert {len(asked.prompts) for asked in pipe.asked} == {min(batch, 3)}
    given = np.concatenate([asked.condition.frames for asked in pipe.asked])[:3]
    np.testing.assert_array_equal(given, [source[i]["video"][:5] for i in range(3)])


def test_batches_by_hand():
    assert batches(5, 2) == [range(2), range(2, 4), range(4, 5)]
