"""The tiny models: a word-level tokenizer, a CLIP text encoder, a VAE, a UNet, their pipeline and a BLIP trunk."""

import json
from pathlib import Path

import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from tokenizers import Tokenizer, normalizers, pre_tokenizers, processors
from tokenizers.models import WordLevel
from transformers import CLIPTextConfig, CLIPTextModel, PreTrainedTokenizerFast

from itercomp_rl.shapes.render import SIZE
from itercomp_rl.shapes.scenes import vocabulary

MAX_TOKENS = 16  # the longest prompt has 11 words, plus the two marks
TEXT_WIDTH = 96


def make_tokenizer() -> PreTrainedTokenizerFast:
    """One word, one token; unknown words become [UNK]."""
    words = ["[PAD]", "[UNK]", "[CLS]", "[EOS]", *vocabulary()]
    tokenizer = Tokenizer(WordLevel({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [EOS]", special_tokens=[("[CLS]", 2), ("[EOS]", 3)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        model_max_length=MAX_TOKENS,
        pad_token="[PAD]",
        unk_token="[UNK]",
        bos_token="[CLS]",
        cls_token="[CLS]",
        eos_token="[EOS]",
    )


def make_text_encoder(tokenizer: PreTrainedTokenizerFast) -> CLIPTextModel:
    """Two layers, 96 wide."""
    ids = tokenizer.get_vocab()
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=TEXT_WIDTH,
            intermediate_size=2 * TEXT_WIDTH,
            projection_dim=TEXT_WIDTH,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=MAX_TOKENS,
            pad_token_id=ids["[PAD]"],
            bos_token_id=ids["[CLS]"],
            eos_token_id=ids["[EOS]"],
        )
    )


def make_vae() -> AutoencoderKL:
    """32 x 32 pixels to 8 x 8 x 8 latents."""
    # diffusers writes tuple[str] and tuple[int] where it means tuples of any length.
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 3,  # pyright: ignore[reportArgumentType]
        up_block_types=("UpDecoderBlock2D",) * 3,  # pyright: ignore[reportArgumentType]
        block_out_channels=(32, 48, 64),  # pyright: ignore[reportArgumentType]
        layers_per_block=1,
        latent_channels=8,
        norm_num_groups=8,
        sample_size=SIZE,
        mid_block_add_attention=False,
    )


def make_unet() -> UNet2DConditionModel:
    """Cross-attention to the words at 4 x 4, the pooled prompt added to the time embedding."""
    return UNet2DConditionModel(
        sample_size=SIZE // 4,
        in_channels=8,
        out_channels=8,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        block_out_channels=(64, 96),
        layers_per_block=2,
        norm_num_groups=16,
        attention_head_dim=6,
        cross_attention_dim=TEXT_WIDTH,
        addition_embed_type="text",
        addition_embed_type_num_heads=4,
    )


def make_scheduler() -> DDIMScheduler:
    """Cosine noise, v-prediction, timesteps from the noisy end."""
    return DDIMScheduler(
        beta_schedule="squaredcos_cap_v2",
        prediction_type="v_prediction",
        timestep_spacing="trailing",
        clip_sample=False,
        set_alpha_to_one=True,
        steps_offset=1,  # as a StableDiffusionPipeline wants it
    )


def save_pipeline(
    folder: Path,
    tokenizer: PreTrainedTokenizerFast,
    text_encoder: CLIPTextModel,
    vae: AutoencoderKL,
    unet: UNet2DConditionModel,
) -> None:
    """A plain `StableDiffusionPipeline` folder in half precision; the modules given stay as they are."""
    # diffusers names one tokenizer class, an enum for the schedulers, and no None for the parts it calls optional.
    pipeline = StableDiffusionPipeline(
        vae=vae,
        text_encoder=text_encoder,
        tokenizer=tokenizer,  # pyright: ignore[reportArgumentType]
        unet=unet,
        scheduler=make_scheduler(),  # pyright: ignore[reportArgumentType]
        safety_checker=None,  # pyright: ignore[reportArgumentType]
        feature_extractor=None,  # pyright: ignore[reportArgumentType]
        requires_safety_checker=False,
    )
    pipeline.to(dtype=torch.float16)
    pipeline.save_pretrained(folder)
    for file in folder.glob("*/config.json"):  # diffusers notes where on this disk a part was loaded from
        config = json.loads(file.read_text(encoding="utf-8"))
        config.pop("_name_or_path", None)
        file.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    pipeline.to(dtype=torch.float32)
