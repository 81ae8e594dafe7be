"""Reward models of the real classes with tiny random weights, in the published layouts, for tests that have torch."""

import json
import pathlib

import numpy as np

MARKS = {"hpsv3": ["<|Reward|>"], "videoalign": ["<|VQ_reward|>", "<|MQ_reward|>", "<|TA_reward|>"]}
_SPECIAL = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|image_pad|>",
    "<|video_pad|>",
)
WIDTH, ROWS = 64, 300
"""Of the model; of the base's embedding, more than its tokens, as in the published one."""


def write_base(folder: pathlib.Path) -> None:
    """The config and tokenizer of a tiny Qwen2-VL-...-Instruct: 256 bytes and the marks that it has."""
    import tokenizers

    folder.mkdir(parents=True)
    alphabet = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    model = tokenizers.models.BPE({letter: i for i, letter in enumerate(alphabet)}, [])
    tokenizer = tokenizers.Tokenizer(model)
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    tokenizer.add_special_tokens([tokenizers.AddedToken(mark, special=True) for mark in _SPECIAL])
    tokenizer.save(str(folder / "tokenizer.json"))
    kind = {"tokenizer_class": "PreTrainedTokenizerFast", "pad_token": _SPECIAL[0], "eos_token": _SPECIAL[2]}
    (folder / "tokenizer_config.json").write_text(json.dumps(kind))
    config = {
        "architectures": ["Qwen2VLForConditionalGeneration"],
        "model_type": "qwen2_vl",
        "vocab_size": ROWS,
        "hidden_size": WIDTH,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 4096,
        "rms_norm_eps": 1e-6,
        "rope_theta": 1000000.0,
        "rope_scaling": {"type": "mrope", "mrope_section": [2, 3, 3]},
        "tie_word_embeddings": False,
        "vision_start_token_id": 256 + _SPECIAL.index("<|vision_start|>"),
        "vision_end_token_id": 256 + _SPECIAL.index("<|vision_end|>"),
        "image_token_id": 256 + _SPECIAL.index("<|image_pad|>"),
        "video_token_id": 256 + _SPECIAL.index("<|video_pad|>"),
        "vision_config": {
            "model_type": "qwen2_vl",
            "depth": 2,
            "embed_dim": 32,
            "num_heads": 2,
            "hidden_size": WIDTH,
            "mlp_ratio": 2,
            "patch_size": 14,
            "spatial_merge_size": 2,
            "temporal_patch_size": 2,
        },
    }
    (folder / "config.json").write_text(json.dumps(config))


def model(folder: pathlib.Path, marks: int):
    """A random Qwen2VLForConditionalGeneration of a base's folder, its embedding cut to the tokens and `marks` more."""
    import torch
    import transformers

    config = transformers.Qwen2VLConfig.from_pretrained(str(folder))
    assert (
        config.text_config.hidden_size == WIDTH
    )  # where there is no file, it gives the config of 70 billion parameters
    config.text_config.vocab_size = 256 + len(_SPECIAL) + marks
    torch.manual_seed(0)
    made = transformers.Qwen2VLForConditionalGeneration(config).eval()
    with torch.no_grad():  # larger than at the start of training, so that positions and pictures matter
        for parameter in made.parameters():
            parameter.add_(torch.randn_like(parameter) * (0.1 if parameter.ndim == 1 else 0.15))
    return made


def head(kind: str, outputs: int):
    """The reward's head as its authors build it."""
    import torch

    torch.manual_seed(1)
    if kind == "videoalign":
        return torch.nn.Linear(WIDTH, outputs, bias=False)
    layers = (torch.nn.Linear(WIDTH, 1024), torch.nn.ReLU(), torch.nn.Dropout(0.05), torch.nn.Linear(1024, 16))
    return torch.nn.Sequential(*layers, torch.nn.ReLU(), torch.nn.Linear(16, outputs)).eval()


def old_name(name: str) -> str:
    """The name that a parameter of today's class had in the files of the published models."""
    return name.replace("model.language_model.", "model.").replace("model.visual.", "visual.")


def save(path: pathlib.Path, tensors: dict) -> None:
    """Of torch tensors, a safetensors file."""
    import safetensors.torch

    path.parent.mkdir(parents=True, exist_ok=True)
    safetensors.torch.save_file({name: tensor.detach().clone().contiguous() for name, tensor in tensors.items()}, path)


def score(made, made_head, tokenizer, text: str, pixels: np.ndarray, grid: tuple, kind: str, marks: list[str]):
    """The head's outputs at the marks, (marks, outputs), worked out as the authors do: one sample, embeddings of text
    with those of the picture laid over them handed to the language model, all tokens counted through.
    """
    import torch

    pads = f"<|{kind}_pad|>" * (int(np.prod(grid)) // 4)
    asked = f"<|im_start|>user\n<|vision_start|>{pads}<|vision_end|>{text}<|im_end|>\n<|im_start|>assistant\n"
    ids = tokenizer("<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n" + asked, return_tensors="pt")
    ids = ids["input_ids"]
    with torch.no_grad():
        embedded = made.model.language_model.embed_tokens(ids)
        shown = made.model.visual(torch.from_numpy(pixels), grid_thw=torch.tensor([grid])).pooler_output
        places = ids[0] == tokenizer.convert_tokens_to_ids(f"<|{kind}_pad|>")
        embedded[0, places] = shown
        positions = torch.arange(ids.shape[1]).expand(3, 1, -1)
        hidden = made.model.language_model(inputs_embeds=embedded, position_ids=positions).last_hidden_state[0]
        at = [int(torch.nonzero(ids[0] == tokenizer.convert_tokens_to_ids(mark))) for mark in marks]
        return made_head(hidden[at]).numpy()
