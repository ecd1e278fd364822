"""Every system through one protocol on tiny checkpoints of their real classes: batches, seeds, sharing, plans."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers.models.attention_processor import Attention
from safetensors.torch import load_file, save_file

from itercomp_rl.config.rules.gallery import SYSTEMS as KNOWN_SYSTEMS
from itercomp_rl.config.schema import GalleryConfig, PlannerConfig
from itercomp_rl.diffusion.family import load_policy
from itercomp_rl.errors import CheckpointError, ConfigError, DivergedError
from itercomp_rl.gallery.any_pipeline import AnyPipeline
from itercomp_rl.gallery.gallery import SYSTEMS, Gallery
from itercomp_rl.items import ModelRef
from itercomp_rl.store import weights
from itercomp_rl.store.store import Store, open_store
from tests.parts.checkpoints import make_flux, make_pixart, make_sd, make_sd3, make_sdxl

PROMPTS = [
    "a red cup left of a blue box",
    "a green ball",
    "",
    "a cat and a dog on the box",
    "the red ball / on\n\na cup",
]
SEEDS = [3, 5, 7, 11, 13]
PLAN_DRAWN = ("rpg", "omost")


@pytest.fixture(scope="module")
def sd(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(make_sd(tmp_path_factory.mktemp("sd")))


@pytest.fixture(scope="module")
def sdxl(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(make_sdxl(tmp_path_factory.mktemp("sdxl")))


@pytest.fixture(scope="module")
def shared() -> Gallery:
    """What most tests draw with: checkpoints are loaded once."""
    return gallery(max_loaded=4)


def gallery(max_loaded: int = 2, store: Store | None = None, **changes: Any) -> Gallery:
    settings = GalleryConfig(
        members={},
        planners={"rule": PlannerConfig(kind="rule")},
        policy_joins=False,
        batch=8,
        segment=8,
        dtype="fp32",
        max_loaded=max_loaded,
        **changes,
    )
    return Gallery(store or open_store("memory://", create=True), settings, torch.device("cpu"))


def ref(checkpoint: str, system: str = "text", **changes: object) -> ModelRef:
    planner = "rule" if system in PLAN_DRAWN else None
    model = ModelRef(name=system, checkpoint=checkpoint, num_steps=3, guidance=3.0, system=system, planner=planner)
    return replace(model, **changes)  # type: ignore[arg-type]


def test_the_rules_know_every_system_that_draws() -> None:
    assert set(KNOWN_SYSTEMS) == set(SYSTEMS)


@pytest.mark.parametrize("scheduler", [None, "dpmpp_2m_karras"])
@pytest.mark.parametrize("system", ["text", *PLAN_DRAWN])
@pytest.mark.parametrize("family", ["sd", "sdxl"])
def test_an_image_depends_on_its_seed_and_prompt_alone(
    family: str, system: str, scheduler: str | None, request: pytest.FixtureRequest, shared: Gallery
) -> None:
    model = ref(request.getfixturevalue(family), system, scheduler=scheduler)
    images = shared.draw(model, PROMPTS, SEEDS).images
    assert images.shape == (5, 16, 16, 3)
    assert images.dtype == np.uint8
    assert np.array_equal(images, shared.draw(model, PROMPTS, SEEDS).images), "the same batch, bit for bit"
    alone = [shared.draw(model, [p], [s]).images.astype(int) for p, s in zip(PROMPTS, SEEDS, strict=True)]
    assert np.abs(images - np.concatenate(alone)).max() <= 1, "another batch, to rounding"
    other = shared.draw(model, PROMPTS[:1] * 2, [3, 4]).images.astype(int)
    assert np.abs(other[0] - other[1]).max() > 1, "another seed is another image"


@pytest.mark.parametrize(
    ("make", "size_px", "scheduler"),
    [
        (make_sd3, None, None),
        (make_flux, 16, None),
        (make_pixart, None, None),
        (make_pixart, None, "DDPMScheduler"),
    ],
)
def test_every_other_family_draws_the_same_image_again_alone_and_in_a_batch(
    make: Callable[[Path], Path], size_px: int | None, scheduler: str | None, tmp_path: Path, shared: Gallery
) -> None:
    model = ref(str(make(tmp_path)), size_px=size_px, scheduler=scheduler)
    images = shared.draw(model, PROMPTS, SEEDS).images
    assert (images.shape, images.dtype) == ((5, 16, 16, 3), np.uint8)
    assert np.array_equal(images, shared.draw(model, PROMPTS, SEEDS).images), "the same batch, bit for bit"
    alone = shared.draw(model, PROMPTS[1:2], SEEDS[1:2]).images.astype(int)
    assert np.abs(images[1:2] - alone).max() <= 1, "another batch, to rounding"
    other = shared.draw(model, PROMPTS[:1] * 2, [3, 4]).images.astype(int)
    assert np.abs(other[0] - other[1]).max() > 1, "another seed is another image"


def test_a_pipeline_of_no_family_takes_what_it_knows_and_refuses_the_rest(tmp_path: Path) -> None:
    checkpoint, drawing = str(make_pixart(tmp_path)), gallery()
    plain, negative = (
        drawing.draw(ref(checkpoint, negative=text), PROMPTS[:1], [1]).images for text in (None, "a cat")
    )
    assert not np.array_equal(plain, negative)
    assert drawing.draw(ref(checkpoint, size_px=32), PROMPTS[:1], [1]).images.shape == (1, 32, 32, 3)
    assert len(drawing.backbones._kept) == 1
    with pytest.raises(ConfigError, match="scheduler is 'ddpm': a PixArtAlphaPipeline takes null or one of"):
        drawing.draw(ref(checkpoint, scheduler="ddpm"), PROMPTS[:1], [1])
    with pytest.raises(CheckpointError, match="a policy must be one of"):
        drawing.draw(ref(checkpoint, "rpg"), PROMPTS[:1], [1])


@pytest.mark.parametrize("family", ["sd", "sdxl"])
def test_one_region_of_the_whole_picture_is_the_plain_pipeline(
    family: str, request: pytest.FixtureRequest, shared: Gallery
) -> None:
    checkpoint = request.getfixturevalue(family)
    prompts = ["a red cup", "a blue box"]  # the rules make one region of each, with the prompt's own words
    plain, planned = (shared.draw(ref(checkpoint, system), prompts, [1, 2]) for system in ("text", "rpg"))
    assert [len(note["plan"]["cells"]) for note in planned.notes] == [1, 1]
    assert np.abs(plain.images.astype(int) - planned.images).max() <= 1


@pytest.mark.parametrize("family", ["sd", "sdxl"])
def test_a_canvas_without_parts_is_the_plain_pipeline(
    family: str, request: pytest.FixtureRequest, shared: Gallery
) -> None:
    checkpoint = request.getfixturevalue(family)
    plain, planned = (shared.draw(ref(checkpoint, system), [""], [1]) for system in ("text", "omost"))
    assert planned.notes[0]["plan"]["parts"] == ()
    assert np.abs(plain.images.astype(int) - planned.images).max() <= 1


@pytest.mark.parametrize("system", PLAN_DRAWN)
def test_a_plan_changes_the_picture_and_lies_beside_it(system: str, sdxl: str, shared: Gallery) -> None:
    plain = shared.draw(ref(sdxl), PROMPTS[:1], [1]).images.astype(int)
    planned = shared.draw(ref(sdxl, system), PROMPTS[:1], [1])
    assert np.abs(plain - planned.images).max() > 1
    assert planned.notes[0]["planner"] == "rule"
    assert planned.notes[0]["fallback"] is None
    assert planned.notes[0]["plan"]["prompt"] == PROMPTS[0]


def test_the_pooled_embedding_is_a_choice_where_the_family_has_one(sd: str, sdxl: str, shared: Gallery) -> None:
    for checkpoint, differs in ((sdxl, True), (sd, False)):
        last, base = (
            shared.draw(ref(checkpoint, "rpg", pooled=pooled), PROMPTS[:1], [1]).images
            for pooled in ("last_region", "base")
        )
        assert (not np.array_equal(last, base)) == differs


def test_a_base_ratio_of_one_leaves_only_the_pooled_embedding_of_a_plan(sdxl: str, shared: Gallery) -> None:
    whole = shared.draw(ref(sdxl, "rpg", base_ratio=1.0, pooled="base"), PROMPTS[:1], [1]).images
    assert np.abs(shared.draw(ref(sdxl), PROMPTS[:1], [1]).images.astype(int) - whole).max() <= 1


def test_systems_of_one_checkpoint_share_one_backbone_that_is_left_as_it_was(sdxl: str) -> None:
    drawing = gallery()
    first = drawing.draw(ref(sdxl), PROMPTS, SEEDS).images
    for system in PLAN_DRAWN:
        drawing.draw(ref(sdxl, system), PROMPTS, SEEDS)
    drawing.draw(ref(sdxl, size_px=32), PROMPTS, SEEDS)
    assert len(drawing.backbones._kept) == 1
    assert np.array_equal(drawing.draw(ref(sdxl), PROMPTS, SEEDS).images, first)


def test_a_failed_drawing_leaves_the_backbone_as_it_was(sdxl: str, monkeypatch: pytest.MonkeyPatch) -> None:
    drawing = gallery()
    first = drawing.draw(ref(sdxl), PROMPTS, SEEDS).images
    with pytest.raises(ConfigError, match="num_steps"):
        drawing.draw(ref(sdxl, "rpg", num_steps=5000), PROMPTS, SEEDS)
    assert np.array_equal(drawing.draw(ref(sdxl), PROMPTS, SEEDS).images, first)


def test_no_more_than_max_loaded_checkpoints_are_in_memory(sd: str, sdxl: str) -> None:
    drawing = gallery(max_loaded=1)
    for checkpoint in (sd, sdxl, sd):
        drawing.draw(ref(checkpoint), PROMPTS[:1], [1])
        assert len(drawing.backbones._kept) == 1


@pytest.mark.parametrize("system", ["text", *PLAN_DRAWN])
def test_the_policy_of_a_run_is_a_backbone_too(system: str, sd: str) -> None:
    store = open_store("memory://", create=True)
    policy = load_policy(sd)
    state = {name: t + 0.02 for name, t in policy.trainable.state_dict().items()}
    weights.publish(store, "policy", 0, state, {})
    drawing = gallery(store=store)
    base = drawing.draw(ref(sd, system), PROMPTS[:1], [1]).images
    learned = drawing.draw(ref(sd, system, role="policy", version=0), PROMPTS[:1], [1]).images
    assert not np.array_equal(base, learned)
    assert len(drawing.backbones._kept) == 2


def test_size_and_negative_prompt_are_each_member_s_own(sd: str, shared: Gallery) -> None:
    assert shared.draw(ref(sd, size_px=32), PROMPTS[:1], [1]).images.shape == (1, 32, 32, 3)
    plain, negative = (shared.draw(ref(sd, negative=text), PROMPTS[:1], [1]).images for text in (None, "a cat"))
    assert not np.array_equal(plain, negative)


@pytest.mark.parametrize("system", PLAN_DRAWN)
def test_a_prompt_of_500_words_is_drawn(system: str, sd: str, shared: Gallery) -> None:
    prompts = ["a red cup and a blue box " * 72, "cup " * 500]
    assert shared.draw(ref(sd, system), prompts, [1, 2]).images.shape == (2, 16, 16, 3)


@pytest.mark.parametrize("system", PLAN_DRAWN)
def test_a_checkpoint_without_cross_attention_cannot_be_drawn_by_plan(system: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="SDXL checkpoint"):
        gallery().draw(ref(str(make_flux(tmp_path)), system, size_px=16), PROMPTS[:1], [1])


def test_an_unknown_system_and_unequal_counts_are_refused(sd: str) -> None:
    with pytest.raises(ConfigError, match="must be one of text"):
        gallery().draw(ref(sd, "paint"), PROMPTS, SEEDS)
    with pytest.raises(ConfigError, match="one seed per prompt"):
        gallery().draw(ref(sd), PROMPTS, SEEDS[:2])


def poisoned(folder: Path) -> str:
    """The checkpoint with one weight of its VAE that is not finite, as fp16 leaves them where it overflows."""
    [file] = (folder / "vae").glob("*.safetensors")
    state = load_file(file)
    state["decoder.conv_out.bias"][0] = float("nan")
    save_file(state, file, metadata={"format": "pt"})
    return str(folder)


@pytest.mark.parametrize(
    ("make", "system", "scheduler"),
    [
        (make_sd, "text", None),
        (make_sd, "text", "dpmpp_2m_karras"),
        (make_sd, "rpg", None),
        (make_sd, "omost", None),
        (make_sd, "lmd", None),
        (make_pixart, "text", None),
    ],
)
def test_an_image_that_is_not_finite_is_no_black_image(
    make: Callable[[Path], Path], system: str, scheduler: str | None, tmp_path: Path
) -> None:
    model = ref(poisoned(make(tmp_path)), system, scheduler=scheduler, planner=None if system == "text" else "rule")
    with pytest.raises(
        DivergedError, match=rf"^{system} \(.*images \[0, 1\].*fp32 in place of fp16.*a red cup left of"
    ):
        gallery().draw(model, PROMPTS[:2], SEEDS[:2])


def test_a_pipeline_of_no_family_is_held_to_the_attention_that_is_asked_for(tmp_path: Path) -> None:
    model = ref(str(make_pixart(tmp_path)))
    with pytest.raises(ConfigError, match=r"gallery\.attention is 'flash': FlashAttention needs an NVIDIA GPU"):
        gallery(attention="flash").draw(model, PROMPTS[:1], [1])
    # torch has a flash kernel for the CPU too, so that the wiring can be run here.
    pipeline = AnyPipeline(model.checkpoint, dtype="fp32", device=torch.device("cpu"))
    plain = pipeline.draw(model, PROMPTS[:1], [1])
    [transformer] = pipeline.denoisers()
    allowed: list[bool] = []
    transformer.register_forward_pre_hook(lambda *_: allowed.append(torch.backends.cuda.math_sdp_enabled()))
    attention = next(layer for layer in transformer.modules() if isinstance(layer, Attention))
    attention.register_forward_pre_hook(lambda *_: allowed.append(torch.backends.cuda.math_sdp_enabled()))
    pipeline.hold_attention("flash")
    held = pipeline.draw(model, PROMPTS[:1], [1])
    assert allowed[1::2] == [False] * model.num_steps, "no kernel but FlashAttention may run inside"
    assert torch.backends.cuda.math_sdp_enabled()
    assert np.abs(plain.astype(int) - held).max() <= 1


def test_a_kernel_that_cannot_serve_is_told_with_the_member(tmp_path: Path) -> None:
    model = ref(str(make_pixart(tmp_path)))
    pipeline = AnyPipeline(model.checkpoint, dtype="fp32", device=torch.device("cpu"))
    for layer in pipeline.denoisers()[0].modules():
        if isinstance(layer, Attention):
            layer.set_processor(_Dropping())  # pyright: ignore[reportArgumentType] any callable will do
    pipeline.hold_attention("flash")
    with pytest.raises(ConfigError, match=r"gallery\.members\.text cannot run it.*PixArtAlphaPipeline.*set it to sdpa"):
        pipeline.draw(model, PROMPTS[:1], [1])


class _Dropping:
    """Attention with dropout, which no flash kernel of the CPU has."""

    def __call__(self, attention: Attention, hidden_states: torch.Tensor, *_: Any, **__: Any) -> torch.Tensor:
        rows = hidden_states[:, None]
        return torch.nn.functional.scaled_dot_product_attention(rows, rows, rows, dropout_p=0.5)[:, 0]


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.filterwarnings("ignore")  # torch's compiler warns about its own parts
def test_a_pipeline_of_no_family_is_compiled_and_draws_the_same(tmp_path: Path) -> None:
    model = ref(str(make_pixart(tmp_path)))
    plain, compiled = (gallery(compile=how) for how in (False, True))
    before = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    found = compiled.draw(model, PROMPTS[:2], SEEDS[:2]).images.astype(int)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] > before
    assert np.abs(found - plain.draw(model, PROMPTS[:2], SEEDS[:2]).images).max() <= 1
