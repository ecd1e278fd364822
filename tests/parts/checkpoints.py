"""Tiny random diffusers checkpoints of every policy family, made on the spot: no network, well under a second each."""

from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    FluxPipeline,
    FluxTransformer2DModel,
    PixArtAlphaPipeline,
    PixArtTransformer2DModel,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    PreTrainedTokenizerFast,
    T5Config,
    T5EncoderModel,
)

WORDS = ("a", "the", "red", "blue", "green", "cup", "ball", "box", "cat", "dog", "left", "right", "of", "and", "on")


def make_sd(folder: Path, *, seed: int = 0, prediction_type: str = "v_prediction") -> Path:
    """A StableDiffusionPipeline: 16 px images, VAE factor 2, UNet that pools the text, trailing DDIM."""
    torch.manual_seed(seed)
    tokenizer = word_tokenizer(length=12)
    pipeline = StableDiffusionPipeline(
        vae=tiny_vae(latent_channels=4),
        text_encoder=CLIPTextModel(clip_text_config(tokenizer, width=32)).eval(),
        tokenizer=tokenizer,
        unet=tiny_unet(
            addition_embed_type="text",
            addition_embed_type_num_heads=4,
        ),
        scheduler=DDIMScheduler(
            beta_schedule="squaredcos_cap_v2",
            prediction_type=prediction_type,
            clip_sample=False,
            timestep_spacing="trailing",
            steps_offset=1,  # the pipeline insists; without effect on trailing spacing
        ),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    return _saved(pipeline, folder)


def make_sdxl(folder: Path, *, seed: int = 0) -> Path:
    """A StableDiffusionXLPipeline: 16 px images, VAE factor 2, two text encoders, leading Euler as in SDXL base."""
    torch.manual_seed(seed)
    tokenizer = word_tokenizer(length=12)
    pipeline = StableDiffusionXLPipeline(
        vae=tiny_vae(latent_channels=4),
        text_encoder=CLIPTextModel(clip_text_config(tokenizer, width=16)).eval(),
        text_encoder_2=CLIPTextModelWithProjection(clip_text_config(tokenizer, width=16)).eval(),
        tokenizer=tokenizer,
        tokenizer_2=tokenizer,
        unet=tiny_unet(
            addition_embed_type="text_time",
            addition_time_embed_dim=8,
            projection_class_embeddings_input_dim=6 * 8 + 16,
            use_linear_projection=True,
        ),
        scheduler=EulerDiscreteScheduler(
            beta_start=0.00085,
            beta_end=0.012,
            beta_schedule="scaled_linear",
            steps_offset=1,
            timestep_spacing="leading",
        ),
    )
    return _saved(pipeline, folder)


def make_sd3(folder: Path, *, seed: int = 0) -> Path:
    """A StableDiffusion3Pipeline: 16 px images, VAE factor 2 with a shift, two CLIPs and T5, flow shift 3."""
    torch.manual_seed(seed)
    tokenizer = word_tokenizer(length=12)
    pipeline = StableDiffusion3Pipeline(
        vae=tiny_vae(latent_channels=4, shift_factor=0.06),
        text_encoder=CLIPTextModelWithProjection(clip_text_config(tokenizer, width=16)).eval(),
        text_encoder_2=CLIPTextModelWithProjection(clip_text_config(tokenizer, width=16)).eval(),
        text_encoder_3=T5EncoderModel(t5_config(tokenizer, width=32)).eval(),
        tokenizer=tokenizer,
        tokenizer_2=tokenizer,
        tokenizer_3=tokenizer,
        transformer=SD3Transformer2DModel(
            sample_size=8,
            patch_size=2,
            in_channels=4,
            out_channels=4,
            num_layers=2,
            attention_head_dim=8,
            num_attention_heads=4,
            joint_attention_dim=32,
            caption_projection_dim=32,
            pooled_projection_dim=32,
            pos_embed_max_size=16,
        ),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
    )
    return _saved(pipeline, folder)


def make_flux(folder: Path, *, seed: int = 0, has_guidance: bool = True) -> Path:
    """A FluxPipeline, VAE factor 2; FLUX states no size of its own: load it at 16 px, its default is 256 here."""
    torch.manual_seed(seed)
    tokenizer = word_tokenizer(length=12)
    pipeline = FluxPipeline(
        vae=tiny_vae(latent_channels=4, shift_factor=0.12, has_quant_conv=False),
        text_encoder=CLIPTextModel(clip_text_config(tokenizer, width=16)).eval(),
        text_encoder_2=T5EncoderModel(t5_config(tokenizer, width=32)).eval(),
        tokenizer=tokenizer,
        tokenizer_2=tokenizer,
        transformer=FluxTransformer2DModel(
            patch_size=1,
            in_channels=16,
            num_layers=1,
            num_single_layers=1,
            attention_head_dim=16,
            num_attention_heads=2,
            joint_attention_dim=32,
            pooled_projection_dim=16,
            guidance_embeds=has_guidance,
            axes_dims_rope=(4, 4, 8),
        ),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True),
    )
    return _saved(pipeline, folder)


def make_pixart(folder: Path, *, seed: int = 0) -> Path:
    """A PixArtAlphaPipeline, of no policy family: 16 px images, VAE factor 2, T5, DDIM."""
    torch.manual_seed(seed)
    tokenizer = word_tokenizer(length=12)
    pipeline = PixArtAlphaPipeline(
        vae=tiny_vae(latent_channels=4),
        text_encoder=T5EncoderModel(t5_config(tokenizer, width=32)).eval(),
        tokenizer=tokenizer,
        transformer=PixArtTransformer2DModel(
            sample_size=8,
            patch_size=2,
            in_channels=4,
            out_channels=8,
            num_layers=2,
            attention_head_dim=8,
            num_attention_heads=3,
            cross_attention_dim=24,
            caption_channels=32,
            attention_bias=True,
            norm_type="ada_norm_single",
            norm_elementwise_affine=False,
            norm_eps=1e-6,
        ).eval(),
        scheduler=DDIMScheduler(),
    )
    return _saved(pipeline, folder)


def word_tokenizer(*, length: int) -> PreTrainedTokenizerFast:
    """One word, one token; pads and truncates to `length` with begin and end marks, as CLIP's does."""
    vocabulary = {word: i for i, word in enumerate(["<pad>", "<unk>", "<bos>", "<eos>", *WORDS])}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.post_processor = processors.TemplateProcessing(
        single="<bos> $A <eos>", special_tokens=[("<bos>", 2), ("<eos>", 3)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token="<pad>",
        unk_token="<unk>",
        bos_token="<bos>",
        eos_token="<eos>",
        model_max_length=length,
    )


def clip_text_config(tokenizer: PreTrainedTokenizerFast, *, width: int) -> CLIPTextConfig:
    return CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=2 * width,
        projection_dim=width,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=tokenizer.model_max_length,
        bos_token_id=2,
        eos_token_id=3,
        pad_token_id=0,
    )


def t5_config(tokenizer: PreTrainedTokenizerFast, *, width: int) -> T5Config:
    return T5Config(
        vocab_size=len(tokenizer), d_model=width, d_kv=8, d_ff=2 * width, num_layers=1, num_heads=4, pad_token_id=0
    )


def tiny_unet(**own: Any) -> UNet2DConditionModel:
    """4 x 8 x 8 latents; `own` is what a family adds."""
    return UNet2DConditionModel(
        sample_size=8,
        in_channels=4,
        out_channels=4,
        block_out_channels=(16, 32),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=32,
        attention_head_dim=8,
        norm_num_groups=8,
        **own,
    )


def tiny_vae(*, latent_channels: int, shift_factor: float | None = None, has_quant_conv: bool = True) -> AutoencoderKL:
    return AutoencoderKL(
        block_out_channels=(8, 16),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=latent_channels,
        layers_per_block=1,
        norm_num_groups=4,
        sample_size=16,
        scaling_factor=0.5,
        shift_factor=shift_factor,
        use_quant_conv=has_quant_conv,
        use_post_quant_conv=has_quant_conv,
    )


def _saved(pipeline: object, folder: Path) -> Path:
    pipeline.save_pretrained(folder)
    return folder
