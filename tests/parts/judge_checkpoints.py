"""Tiny random checkpoints of the judges' model classes, made on the spot: no network, well under a second each."""

from pathlib import Path

import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import (
    BlipConfig,
    BlipForQuestionAnswering,
    CLIPConfig,
    CLIPImageProcessorPil,
    CLIPModel,
    DepthAnythingConfig,
    DepthAnythingForDepthEstimation,
    Dinov2Config,
    DPTImageProcessorPil,
    Owlv2Config,
    Owlv2ForObjectDetection,
    Owlv2ImageProcessorPil,
    Owlv2Processor,
    PreTrainedTokenizerFast,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2VLImageProcessorPil,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
)

WORDS = ("yes", "no", "a", "the", "red", "blue", "circle", "square", "cat", "dog", "left", "right", "of", "and", "on")


def tokenizer(begin: str, end: str, length: int) -> PreTrainedTokenizerFast:
    """One word, one token, between a begin and an end mark; punctuation apart."""
    vocabulary = {word: i for i, word in enumerate(["<pad>", "<unk>", begin, end, "?", ".", *WORDS])}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    backend.normalizer = normalizers.Lowercase()
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.post_processor = processors.TemplateProcessing(
        single=f"{begin} $A {end}", special_tokens=[(begin, 2), (end, 3)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token="<pad>",
        unk_token="<unk>",
        bos_token=begin,
        eos_token=end,
        model_max_length=length,
    )


def make_vqa(folder: Path, *, seed: int = 0) -> Path:
    """A BlipForQuestionAnswering: 32 px; [DEC] and [ENC] are the two ids after the tokenizer's."""
    torch.manual_seed(seed)
    words = tokenizer("[CLS]", "[SEP]", 35)
    size = _tower() | {"initializer_range": 0.5}  # enough that the image shows in an answer
    text = size | {
        "vocab_size": len(words) + 2,
        "encoder_hidden_size": 16,
        "bos_token_id": len(words),
        "sep_token_id": 3,
        "pad_token_id": 0,
        "max_position_embeddings": 48,
    }
    config = BlipConfig(text_config=text, vision_config=size | {"image_size": 32, "patch_size": 16})
    return _saved(folder, BlipForQuestionAnswering(config), words)


def make_clip(folder: Path, *, seed: int = 0) -> Path:
    """A CLIPModel: 32 px, embeddings of width 16."""
    torch.manual_seed(seed)
    words = tokenizer("<bos>", "<eos>", 16)
    config = CLIPConfig(
        text_config=_text(words) | {"max_position_embeddings": 16},
        vision_config=_tower() | {"image_size": 32, "patch_size": 16},
        projection_dim=16,
    )
    return _saved(folder, CLIPModel(config), words, CLIPImageProcessorPil(size=32, crop_size=32))


def make_detector(folder: Path, *, seed: int = 0) -> Path:
    """An Owlv2ForObjectDetection: 32 px, four boxes."""
    torch.manual_seed(seed)
    words = tokenizer("<bos>", "<eos>", 16)
    config = Owlv2Config(
        text_config=_text(words) | {"max_position_embeddings": 16},
        vision_config=_tower() | {"image_size": 32, "patch_size": 16},
        projection_dim=16,
    )
    images = Owlv2ImageProcessorPil(size={"height": 32, "width": 32})
    return _saved(folder, Owlv2ForObjectDetection(config), Owlv2Processor(images, words))


def make_depth(folder: Path, *, seed: int = 0) -> Path:
    """A DepthAnythingForDepthEstimation: 28 px."""
    torch.manual_seed(seed)
    backbone = Dinov2Config(
        hidden_size=16,
        num_hidden_layers=4,
        num_attention_heads=2,
        image_size=28,
        patch_size=14,
        out_features=["stage1", "stage2", "stage3", "stage4"],
        reshape_hidden_states=False,
    )
    config = DepthAnythingConfig(
        backbone_config=backbone,
        patch_size=14,
        reassemble_hidden_size=16,
        neck_hidden_sizes=[4, 8, 16, 16],
        fusion_hidden_size=8,
        head_hidden_size=8,
    )
    images = DPTImageProcessorPil(size={"height": 28, "width": 28}, ensure_multiple_of=14)
    return _saved(folder, DepthAnythingForDepthEstimation(config), images)


_CHAT_MARKS = (
    *("<|endoftext|>", "<|im_start|>", "<|im_end|>"),
    *("<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>"),
)
_CHAT_TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{% for part in m['content'] %}"
    "{% if part['type'] == 'image' %}<|vision_start|><|image_pad|><|vision_end|>{% else %}{{ part['text'] }}{% endif %}"
    "{% endfor %}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def make_vlm(folder: Path, kind: str = "qwen2_5_vl", *, seed: int = 0) -> Path:
    """A Qwen2.5-VL or (kind="qwen3_vl") Qwen3-VL: images become 4 to 16 patches; its first token is often yes or no."""
    torch.manual_seed(seed)
    words = [*_CHAT_MARKS, "<unk>", "yes", "Yes", "no", "No", "user", "assistant", "?", ".", *WORDS[2:]]
    backend = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    tokens = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        unk_token="<unk>",
        pad_token="<|endoftext|>",
        eos_token="<|im_end|>",
        extra_special_tokens=[_CHAT_MARKS[1], *_CHAT_MARKS[3:]],
    )
    tokens.chat_template = _CHAT_TEMPLATE
    rope = {"rope_type": "default", "mrope_section": [2, 3, 3], "rope_theta": 10000.0}
    text = _tower() | {"hidden_size": 32, "num_key_value_heads": 1, "max_position_embeddings": 512}
    text |= {"vocab_size": len(words), "bos_token_id": 0, "eos_token_id": 2, "pad_token_id": 0, "rope_parameters": rope}
    text |= {"initializer_range": 0.3}  # enough that the image shows in an answer
    vision = {"depth": 1, "hidden_size": 16, "intermediate_size": 32, "num_heads": 2, "out_hidden_size": 32}
    vision |= {"spatial_merge_size": 2, "initializer_range": 0.3}
    marks = {"vision_start_token_id": 3, "vision_end_token_id": 4, "image_token_id": 5, "video_token_id": 6}
    if kind == "qwen2_5_vl":
        side = 14
        vision |= {"patch_size": side, "fullatt_block_indexes": [0], "window_size": 56}
        config = Qwen2_5_VLConfig(text_config=text, vision_config=vision, **marks)
        model = Qwen2_5_VLForConditionalGeneration(config)
    else:
        side = 16
        vision |= {"patch_size": side, "num_position_embeddings": 16, "deepstack_visual_indexes": [0]}
        config = Qwen3VLConfig(text_config=text | {"head_dim": 16}, vision_config=vision, **marks)
        model = Qwen3VLForConditionalGeneration(config)
    size = {"shortest_edge": (2 * side) ** 2, "longest_edge": (4 * side) ** 2}
    return _saved(folder, model, tokens, Qwen2VLImageProcessorPil(patch_size=side, size=size))


def make_hpsv2(folder: Path, *, seed: int = 0) -> Path:
    """A file in open_clip's layout, half precision under state_dict, of the sizes that a CLIPModel's folder states."""
    config, generator = CLIPConfig.from_pretrained(folder), torch.Generator().manual_seed(seed)
    vision, text, width = config.vision_config, config.text_config, config.projection_dim
    patches = (vision.image_size // vision.patch_size) ** 2
    shapes: dict[str, tuple[int, ...]] = {
        "positional_embedding": (text.max_position_embeddings, text.hidden_size),
        "text_projection": (text.hidden_size, width),
        "token_embedding.weight": (text.vocab_size, text.hidden_size),
        "visual.class_embedding": (vision.hidden_size,),
        "visual.positional_embedding": (patches + 1, vision.hidden_size),
        "visual.proj": (vision.hidden_size, width),
        "visual.conv1.weight": (vision.hidden_size, 3, vision.patch_size, vision.patch_size),
    }
    norms = [(name, vision.hidden_size) for name in ("visual.ln_pre", "visual.ln_post")]
    norms.append(("ln_final", text.hidden_size))
    for prefix, tower in (("visual.", vision), ("", text)):
        size, inner = tower.hidden_size, tower.intermediate_size
        for i in range(tower.num_hidden_layers):
            block = f"{prefix}transformer.resblocks.{i}"
            norms += [(f"{block}.ln_1", size), (f"{block}.ln_2", size)]
            shapes |= {f"{block}.attn.in_proj_weight": (3 * size, size), f"{block}.attn.in_proj_bias": (3 * size,)}
            for name, (out, into) in {
                "attn.out_proj": (size, size),
                "mlp.c_fc": (inner, size),
                "mlp.c_proj": (size, inner),
            }.items():
                shapes |= {f"{block}.{name}.weight": (out, into), f"{block}.{name}.bias": (out,)}
    state = {name: torch.randn(shape, generator=generator) * 0.2 for name, shape in shapes.items()}
    for name, size in norms:
        state[f"{name}.weight"] = 1 + 0.1 * torch.randn(size, generator=generator)
        state[f"{name}.bias"] = 0.1 * torch.randn(size, generator=generator)
    state["logit_scale"] = torch.tensor(4.0)
    file = folder / "HPS_v2.1_compressed.pt"
    torch.save({"epoch": 1, "state_dict": {name: tensor.half() for name, tensor in state.items()}}, file)
    return file


def make_aesthetic_head(file: Path, width: int) -> Path:
    """A state dict of LAION's aesthetic head for embeddings of `width`."""
    generator = torch.Generator().manual_seed(0)
    sizes = {0: (32, width), 2: (16, 32), 4: (8, 16), 6: (4, 8), 7: (1, 4)}
    state = {f"layers.{i}.weight": torch.randn(shape, generator=generator) for i, shape in sizes.items()}
    torch.save(state | {f"layers.{i}.bias": torch.zeros(shape[0]) for i, shape in sizes.items()}, file)
    return file


def _tower() -> dict[str, float]:
    return {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}


def _text(words: PreTrainedTokenizerFast) -> dict[str, float]:
    return _tower() | {"vocab_size": len(words), "bos_token_id": 2, "eos_token_id": 3, "pad_token_id": 0}


def _saved(folder: Path, *parts: object) -> Path:
    for part in parts:
        part.save_pretrained(folder)
    return folder
