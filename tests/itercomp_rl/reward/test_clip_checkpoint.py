"""Published scorers on CLIP give the numbers of their formulas, with a gradient to the image; weights are tiny ones."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import AutoTokenizer, CLIPConfig, CLIPImageProcessorPil, CLIPModel

from itercomp_rl.config.scorer_names import parse_scorer
from itercomp_rl.errors import CheckpointError
from itercomp_rl.evaluation.t2i_compbench.clip import Aesthetic, Clip
from itercomp_rl.reward.checkpoint import export_reward, load_reward, save_reward
from itercomp_rl.reward.clip import ClipScorer
from itercomp_rl.reward.clip_checkpoint import LAION_H, companion, load_clip_reward
from itercomp_rl.reward.ensemble import RewardEnsemble
from itercomp_rl.reward.preference import freeze
from itercomp_rl.reward.published import load_any_reward
from itercomp_rl.reward.source import check_reward_source
from tests.parts.judge_checkpoints import make_aesthetic_head, make_clip, make_hpsv2

PROMPTS = ["a red cat", "the blue dog left of a circle"]
KINDS = ("pickscore", "clipscore", "hpsv2", "aesthetic")


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """A source of every kind: folders of a CLIPModel, and files that lie beside one."""
    root = tmp_path_factory.mktemp("scorers")
    clip = make_clip(root / "clip")
    hps, head = make_hpsv2(make_clip(root / "hps", seed=1), seed=2), make_aesthetic_head(clip / "head.pth", 16)
    return {
        "pickscore": f"pickscore:{clip}",
        "clipscore": f"clipscore:{clip}",
        "hpsv2": f"hpsv2:{hps}",
        "aesthetic": f"aesthetic:{head}",
    }


def pictures(side: int = 32, num: int = 2) -> Tensor:
    return torch.rand(num, 3, side, side, generator=torch.Generator().manual_seed(0))


def scored(source: str, image: Tensor) -> Tensor:
    model = load_any_reward(source)
    return model.score(image, *model.tokenize(PROMPTS))


def unit(vectors: Tensor) -> Tensor:
    return vectors / vectors.norm(dim=-1, keepdim=True)


@torch.no_grad()
def cosines(folder: Path, image: Tensor) -> tuple[Tensor, float]:
    """Cosine of each image and its prompt, and the temperature, as transformers' own model and processors give them."""
    model, words = CLIPModel.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
    pictures = [(255 * one).round().byte().permute(1, 2, 0).numpy() for one in image]
    pixels = CLIPImageProcessorPil.from_pretrained(folder)(pictures, return_tensors="pt").pixel_values
    text = model.get_text_features(**words(PROMPTS, padding=True, return_tensors="pt")).pooler_output
    seen = model.get_image_features(pixel_values=pixels).pooler_output
    return (unit(seen) * unit(text)).sum(-1), float(model.logit_scale.exp())


def test_pickscore_is_the_cosine_times_the_temperature_and_clipscore_two_and_a_half_cosines(
    sources: dict[str, str],
) -> None:
    image = (pictures() * 255).round() / 255  # bytes, as the reference reads them
    cosine, temperature = cosines(Path(parse_scorer(sources["pickscore"]).checkpoint), image)
    torch.testing.assert_close(scored(sources["pickscore"], image), temperature * cosine, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(scored(sources["clipscore"], image), 2.5 * cosine, rtol=1e-4, atol=1e-5)


def test_larger_images_are_scaled_as_the_checkpoints_own_processor_scales_them(sources: dict[str, str]) -> None:
    smooth = F.interpolate(pictures(6), (60, 48), mode="bicubic").clamp(0, 1)
    folder = Path(parse_scorer(sources["pickscore"]).checkpoint)
    images = [(255 * one).round().byte().permute(1, 2, 0).numpy() for one in smooth]
    wanted = CLIPImageProcessorPil.from_pretrained(folder)(images, return_tensors="pt").pixel_values
    ours = load_any_reward(sources["pickscore"]).preprocess(smooth)
    assert ours.shape == wanted.shape
    assert float((ours - wanted).abs().max()) < 0.05, "a few bytes' rounding, of a range of about 4"


@torch.no_grad()
def open_clip_cosines(state: dict[str, Tensor], config: CLIPConfig, pixels: Tensor, ids: Tensor) -> Tensor:
    """open_clip's forward pass in its own layout: joint projections, bare positions, pooled at the end mark."""

    def run(prefix: str, hidden: Tensor, heads: int, mask: Tensor | None) -> Tensor:
        num_layers = len(
            {key for key in state if key.startswith(f"{prefix}transformer.") and key.endswith("ln_1.bias")}
        )
        width = hidden.shape[-1]
        for i in range(num_layers):
            layer = {
                key.split(f"resblocks.{i}.")[1]: tensor
                for key, tensor in state.items()
                if key.startswith(f"{prefix}transformer.resblocks.{i}.")
            }
            normed = F.layer_norm(hidden, (width,), layer["ln_1.weight"], layer["ln_1.bias"]).transpose(0, 1)
            mixed, _ = F.multi_head_attention_forward(
                *(normed, normed, normed, width, heads),
                *(layer["attn.in_proj_weight"], layer["attn.in_proj_bias"], None, None, False, 0.0),
                *(layer["attn.out_proj.weight"], layer["attn.out_proj.bias"]),
                training=False,
                attn_mask=mask,
            )
            hidden = hidden + mixed.transpose(0, 1)
            normed = F.layer_norm(hidden, (width,), layer["ln_2.weight"], layer["ln_2.bias"])
            inner = normed @ layer["mlp.c_fc.weight"].T + layer["mlp.c_fc.bias"]
            inner = inner * torch.sigmoid(1.702 * inner)  # the activation that the config names
            hidden = hidden + inner @ layer["mlp.c_proj.weight"].T + layer["mlp.c_proj.bias"]
        return hidden

    vision, text = config.vision_config, config.text_config
    patches = F.conv2d(pixels, state["visual.conv1.weight"], stride=vision.patch_size).flatten(2).transpose(1, 2)
    start = state["visual.class_embedding"].expand(len(pixels), 1, -1)
    hidden = torch.cat([start, patches], 1) + state["visual.positional_embedding"]
    hidden = F.layer_norm(hidden, hidden.shape[-1:], state["visual.ln_pre.weight"], state["visual.ln_pre.bias"])
    hidden = run("visual.", hidden, vision.num_attention_heads, None)[:, 0]
    hidden = F.layer_norm(hidden, hidden.shape[-1:], state["visual.ln_post.weight"], state["visual.ln_post.bias"])
    seen = hidden @ state["visual.proj"]
    length = ids.shape[1]
    causal = torch.full((length, length), float("-inf")).triu(1)
    hidden = state["token_embedding.weight"][ids] + state["positional_embedding"][:length]
    hidden = run("", hidden, text.num_attention_heads, causal)
    hidden = F.layer_norm(hidden, hidden.shape[-1:], state["ln_final.weight"], state["ln_final.bias"])
    ends = (ids == text.eos_token_id).int().argmax(-1)
    said = hidden[torch.arange(len(ids)), ends] @ state["text_projection"]
    return (unit(seen) * unit(said)).sum(-1)


def test_hpsv2_in_open_clips_layout_is_a_hundred_cosines(sources: dict[str, str]) -> None:
    file = Path(parse_scorer(sources["hpsv2"]).checkpoint)
    state = torch.load(file, weights_only=True)["state_dict"]
    model = load_any_reward(sources["hpsv2"])
    config = CLIPConfig.from_pretrained(file.parent)
    image, ids = pictures(), model.tokenize(PROMPTS).input_ids
    wanted = 100 * open_clip_cosines({k: t.float() for k, t in state.items()}, config, model.preprocess(image), ids)
    torch.testing.assert_close(scored(sources["hpsv2"], image), wanted, rtol=1e-4, atol=1e-3)


def test_the_aesthetic_score_is_the_head_of_the_unit_embedding_whatever_the_prompt(sources: dict[str, str]) -> None:
    head = Path(parse_scorer(sources["aesthetic"]).checkpoint)
    image = (pictures() * 255).round() / 255
    found = scored(sources["aesthetic"], image)
    layers = torch.load(head, weights_only=True)
    with torch.no_grad():
        clip, model = CLIPModel.from_pretrained(head.parent).eval(), load_any_reward(sources["aesthetic"])
        wanted = unit(clip.get_image_features(pixel_values=model.preprocess(image)).pooler_output)
        for i in (0, 2, 4, 6, 7):
            wanted = wanted @ layers[f"layers.{i}.weight"].T + layers[f"layers.{i}.bias"]
    torch.testing.assert_close(found, wanted[:, 0], rtol=1e-4, atol=1e-3)
    benchmark = Aesthetic(Clip(str(head.parent), torch.device("cpu")), str(head))  # it scores one image at a time
    bytes_ = [(255 * one).round().byte().permute(1, 2, 0).numpy() for one in image]
    assert found.tolist() == pytest.approx([benchmark.score(one) for one in bytes_], rel=1e-3)
    assert torch.equal(model.score(image, *model.tokenize(["a cat", "no"])), found)


@pytest.mark.parametrize("kind", KINDS)
def test_the_gradient_at_the_image_is_the_slope_of_the_score(kind: str, sources: dict[str, str]) -> None:
    model = load_any_reward(sources[kind]).double()
    text = model.tokenize(PROMPTS)

    def raw(image: Tensor) -> Tensor:
        return model(model.preprocess(image), *text).sum()

    image = pictures(40).double().requires_grad_(True)  # scaled on the way
    (gradient,) = torch.autograd.grad(raw(image), image)
    step = 1e-4 * gradient / gradient.norm()
    with torch.no_grad():
        slope = float(raw(image + step) - raw(image - step)) / 2e-4
    assert float(gradient.norm()) > 0
    assert slope == pytest.approx(float(gradient.norm()), rel=1e-3)


@pytest.mark.parametrize("kind", KINDS)
def test_a_saved_and_an_exported_scorer_scores_as_it_did(kind: str, sources: dict[str, str], tmp_path: Path) -> None:
    model = load_any_reward(sources[kind])
    image, text = pictures(), model.tokenize(PROMPTS)
    save_reward(model, tmp_path / "saved")
    export_reward(model, tmp_path / "exported")
    for folder in ("saved", "exported"):
        again = load_reward(tmp_path / folder)
        assert again.config == model.config
        assert torch.equal(again.score(image, *again.tokenize(PROMPTS)), model.score(image, *text))


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_frozen_grows_with_the_rate_and_gets_no_gradient(kind: str, sources: dict[str, str]) -> None:
    model = load_any_reward(sources[kind]).train()
    assert isinstance(model, ClipScorer)
    before: set[str] = set()
    for rate in (0.0, 0.5, 1.0):
        frozen = set(freeze(model, rate))
        assert before <= frozen
        assert any(p.requires_grad for p in model.parameters()), "the projections learn at any rate"
        before = frozen
    raw = model(model.preprocess(pictures()), *model.tokenize(PROMPTS))
    raw.sum().backward()
    assert all((p.grad is None) == (name in before) for name, p in model.named_parameters())


def test_frozen_blocks_that_two_scorers_share_run_once_and_change_no_score(sources: dict[str, str]) -> None:
    models = {kind: load_any_reward(sources[kind]).requires_grad_(False) for kind in ("pickscore", "clipscore")}
    ensemble = RewardEnsemble(models)
    assert ensemble.num_shared_blocks == 1, "all that the tiny tower has"
    found = ensemble.score(pictures(), ensemble.tokenize(PROMPTS))
    for kind, score in found.items():
        assert torch.equal(score, scored(sources[kind], pictures()))


def test_several_captions_of_an_image_score_as_each_alone(sources: dict[str, str]) -> None:
    for kind in KINDS:
        model = load_any_reward(sources[kind])
        ids, mask = model.tokenize(PROMPTS)
        image = model.preprocess(pictures())
        both = model(image, ids.expand(2, 2, -1), mask.expand(2, 2, -1))
        alone = torch.stack([model(image, ids[i].expand(2, -1), mask[i].expand(2, -1)) for i in range(2)], 1)
        torch.testing.assert_close(both, alone)


def test_a_checkpoint_that_lacks_weights_is_refused_and_not_filled_at_random(
    sources: dict[str, str], tmp_path: Path
) -> None:
    file = Path(parse_scorer(sources["hpsv2"]).checkpoint)
    shutil.copytree(file.parent, tmp_path / "hps")
    state = torch.load(file, weights_only=True)["state_dict"]
    del state["visual.proj"]
    torch.save({"state_dict": state | {"extra.weight": torch.zeros(1)}}, tmp_path / "hps" / file.name)
    with pytest.raises(CheckpointError, match=r"1 missing .*visual_projection\.weight.* 1 unknown .*extra\.weight"):
        load_any_reward(f"hpsv2:{tmp_path / 'hps' / file.name}")
    small = make_clip(tmp_path / "small")
    vision = CLIPModel.from_pretrained(small).vision_model
    vision.save_pretrained(tmp_path / "vision")
    shutil.copy(tmp_path / "vision" / "model.safetensors", small / "model.safetensors")
    with pytest.raises(CheckpointError, match="lacks weights of CLIPModel"):
        load_any_reward(f"pickscore:{small}")


def test_what_cannot_be_loaded_is_named_with_its_setting_before_a_run(sources: dict[str, str], tmp_path: Path) -> None:
    for kind in KINDS:
        check_reward_source("judge.reward_models.spatial", sources[kind])
    (tmp_path / "empty").mkdir()
    with pytest.raises(CheckpointError, match=r"policy\.frozen_rewards\.x\.source is 'clipscore:.*has no config.json"):
        check_reward_source("policy.frozen_rewards.x.source", f"clipscore:{tmp_path / 'empty'}")
    for missing in ("hpsv2:none.pt", "aesthetic:none.pth", "imagereward:none.pt"):
        with pytest.raises(CheckpointError, match=rf"reward\.trunk is '{missing}',"):
            check_reward_source("reward.trunk", missing)
    torn = make_clip(tmp_path / "torn") / "model.safetensors"
    torn.write_bytes(torn.read_bytes()[:-5])
    with pytest.raises(CheckpointError, match="its header says"):
        check_reward_source("reward.trunk", f"pickscore:{torn.parent}")


def test_a_folder_without_a_tokenizer_takes_that_of_the_clip_it_was_trained_from(tmp_path: Path) -> None:
    folder = make_clip(tmp_path / "clip")
    assert companion(parse_scorer(f"pickscore:{folder}")) == str(folder)
    (folder / "tokenizer.json").unlink()
    assert companion(parse_scorer(f"pickscore:{folder}")) == LAION_H
    assert companion(parse_scorer("pickscore")) == LAION_H == companion(parse_scorer("hpsv2"))
    assert companion(parse_scorer("aesthetic")) == "openai/clip-vit-large-patch14"


def test_weights_are_read_in_fp32_and_do_not_learn_in_place(sources: dict[str, str]) -> None:
    model = load_clip_reward(parse_scorer(sources["hpsv2"]))
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert not model.training
    assert np.isfinite(float(model.reward_std))
