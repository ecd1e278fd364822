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
