"""The umT5 encoder's architecture, read from the published config.json."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from lcv_jax import published

# What the published file must say, because it is what this encoder computes.
_FIXED = {
    "model_type": "umt5",
    "feed_forward_proj": "gated-gelu",
    "dense_act_fn": "gelu_new",
    "is_gated_act": True,
}
_FIXED_IF_GIVEN = {"is_decoder": False}
# Fields of a transformers config that do not change the encoder's outputs; some versions write all of them.
# fmt: off
_IGNORED = (
    "architectures", "bad_words_ids", "begin_suppress_tokens",
    "bos_token_id", "chunk_size_feed_forward", "classifier_dropout", "cross_attention_hidden_size",
    "decoder_start_token_id", "diversity_penalty", "do_sample", "dropout_rate", "dtype", "early_stopping",
    "encoder_no_repeat_ngram_size", "eos_token_id", "exponential_decay_length_penalty", "finetuning_task",
    "forced_bos_token_id", "forced_eos_token_id", "id2label", "initializer_factor", "is_encoder_decoder",
    "label2id", "length_penalty", "max_length", "min_length", "no_repeat_ngram_size", "num_beam_groups",
    "num_beams", "num_decoder_layers", "num_return_sequences", "output_attentions",
    "output_hidden_states", "output_past", "output_scores", "pad_token_id", "prefix", "problem_type",
    "pruned_heads", "remove_invalid_values", "repetition_penalty", "return_dict",
    "return_dict_in_generate", "scalable_attention", "sep_token_id", "suppress_tokens",
    "task_specific_params", "temperature", "tf_legacy_loss", "tie_encoder_decoder", "tie_word_embeddings",
    "tokenizer_class", "top_k", "top_p", "torch_dtype", "torchscript", "transformers_version",
    "typical_p", "use_bfloat16", "use_cache",
)
# fmt: on


@dataclasses.dataclass(frozen=True)
class UMT5Config:
    """Names are those of the published config.json; the defaults are umT5-XXL.

    d_kv: channels of a head; num_heads * d_kv may differ from d_model. relative_attention_num_buckets: half
    of them for keys before the query, half for keys after it. relative_attention_max_distance: tokens from
    which on all distances share a bucket. where: what errors name.
    """

    vocab_size: int = 256384
    d_model: int = 4096
    d_kv: int = 64
    d_ff: int = 10240
    num_layers: int = 24
    num_heads: int = 64
    relative_attention_num_buckets: int = 32
    relative_attention_max_distance: int = 128
    layer_norm_epsilon: float = 1e-6
    where: dataclasses.InitVar[str] = "umT5 config"

    def __post_init__(self, where: str):
        for field in dataclasses.fields(self):
            published.positive(where, field.name, getattr(self, field.name), field.type)
        buckets, distance = self.relative_attention_num_buckets, self.relative_attention_max_distance
        published.expect(buckets % 4 == 0, where, "relative_attention_num_buckets", buckets, "a multiple of 4")
        expected = f"more than a quarter of the {buckets} buckets"
        published.expect(distance > buckets // 4, where, "relative_attention_max_distance", distance, expected)

    @classmethod
    def from_json(cls, data: Mapping[str, Any], where: str = "umT5 config") -> "UMT5Config":
        """The config of a published config.json; raises InputError on unknown, missing or wrong fields.

        where: the file, for the errors.
        """
        fixed = _FIXED | _FIXED_IF_GIVEN
        given = published.fields(where, data, cls, fixed=fixed, optional=_FIXED_IF_GIVEN, ignored=_IGNORED)
        return cls(**given, where=where)

    def to_json(self) -> dict[str, Any]:
        """The inverse of `from_json`, without the ignored fields."""
        return _FIXED | dataclasses.asdict(self)
