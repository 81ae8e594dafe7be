"""Tiny random models of the real Qwen2.5-VL, LLaVA-OneVision and Qwen2 classes, in folders as they are published, for
tests that have torch."""

import json
import pathlib

import tiny_qwen

_TEMPLATE = (
    "{% for turn in messages %}<|im_start|>{{ turn['role'] }}\n"
    "{% if turn['content'] is string %}{{ turn['content'] }}{% else %}{% for part in turn['content'] %}"
    "{% if part['type'] == 'image' %}PICTURE{% else %}{{ part['text'] }}{% endif %}{% endfor %}{% endif %}"
    "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
_END = 256 + 2  # <|im_end|>


def write_qwen(folder: pathlib.Path) -> None:
    """A Qwen2.5-VL of 64 channels: looks through windows, and has all that an Instruct has but the size."""
    import torch
    import transformers

    published = _base(folder, "<|vision_start|><|image_pad|><|vision_end|>")
    text = {name: published[name] for name in published if name not in ("vision_config", "model_type")}
    sight = {
        "depth": 2,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_heads": 2,
        "out_hidden_size": tiny_qwen.WIDTH,
        "patch_size": 14,
        "spatial_merge_size": 2,
        "temporal_patch_size": 2,
        "window_size": 56,
        "fullatt_block_indexes": [1],
    }
    tokens = {name: value for name, value in published.items() if name.endswith("_token_id")}
    torch.manual_seed(0)
    config = transformers.Qwen2_5_VLConfig(vision_config=sight, text_config=text, **tokens)
    _save(transformers.Qwen2_5_VLForConditionalGeneration(config), folder)
    seeing = {"image_processor_type": "Qwen2VLImageProcessor", "min_pixels": 4 * 28**2, "max_pixels": 16 * 28**2}
    kind = {"processor_class": "Qwen2_5_VLProcessor", "patch_size": 14, "merge_size": 2, "temporal_patch_size": 2}
    (folder / "preprocessor_config.json").write_text(json.dumps(seeing | kind))


def write_llava(folder: pathlib.Path) -> None:
    """A LLaVA-OneVision: SigLIP of 28 pixels, each picture once."""
    import torch
    import transformers

    published = _base(folder, "<image>", extra="<image>")
    text = {name: published[name] for name in published if name not in ("vision_config", "model_type", "rope_scaling")}
    sight = {
        "model_type": "siglip_vision_model",
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": 28,
        "patch_size": 14,
        "vision_use_head": False,
    }
    torch.manual_seed(0)
    config = transformers.LlavaOnevisionConfig(
        vision_config=sight,
        text_config=transformers.Qwen2Config(**text),
        image_token_index=_image_token(folder),
        image_grid_pinpoints=[[28, 28], [28, 56]],
        vision_feature_layer=-1,
    )
    _save(transformers.LlavaOnevisionForConditionalGeneration(config), folder)
    seeing = {"image_processor_type": "LlavaOnevisionImageProcessor", "size": {"height": 28, "width": 28}}
    seeing["image_grid_pinpoints"] = [[28, 28], [28, 56]]
    (folder / "preprocessor_config.json").write_text(json.dumps(seeing))
    how = {"num_image_tokens": 4, "vision_feature_select_strategy": "full", "image_token": "<image>"}
    kind = {"processor_class": "LlavaOnevisionProcessor"}
    (folder / "processor_config.json").write_text(json.dumps(kind | how))


def write_writer(folder: pathlib.Path) -> None:
    """A Qwen2 that sees nothing."""
    import torch
    import transformers

    published = _base(folder, "")
    text = {name: published[name] for name in published if name not in ("vision_config", "model_type", "rope_scaling")}
    torch.manual_seed(0)
    _save(transformers.Qwen2ForCausalLM(transformers.Qwen2Config(**text)), folder)


def _base(folder: pathlib.Path, picture: str, extra: str | None = None) -> dict:
    tiny_qwen.write_base(folder)
    path = folder / "tokenizer_config.json"
    told = json.loads(path.read_text()) | {"chat_template": _TEMPLATE.replace("PICTURE", picture)}
    path.write_text(json.dumps(told))
    if extra is not None:
        import tokenizers

        tokenizer = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
        tokenizer.add_special_tokens([tokenizers.AddedToken(extra, special=True)])
        tokenizer.save(str(folder / "tokenizer.json"))
    return json.loads((folder / "config.json").read_text())


def _image_token(folder: pathlib.Path) -> int:
    import tokenizers

    return tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json")).token_to_id("<image>")


def _save(model, folder: pathlib.Path) -> None:
    import torch

    with torch.no_grad():  # larger than at the start of training, so that pictures matter
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * (0.1 if parameter.ndim == 1 else 0.15))
    model.generation_config.eos_token_id = _END
    model.generation_config.pad_token_id = 256
    model.save_pretrained(str(folder))
