"""The memory check: its counts are those of the real models, and what cannot fit is refused with what would help."""

import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
import torch
from safetensors.torch import load_file, save_file

from itercomp_rl.config.load import load_config
from itercomp_rl.config.schema import Config, EngineConfig
from itercomp_rl.diffusion.denoise import image_generators
from itercomp_rl.diffusion.family import load_policy
from itercomp_rl.diffusion.lora import Lora, add_lora
from itercomp_rl.errors import ConfigError
from itercomp_rl.files.checkpoint_path import checkpoint_path
from itercomp_rl.forecast.machine import ram_bytes
from itercomp_rl.forecast.memory import GIB, PROCESS_BYTES, ProcessNeed, Turns, check_memory, process_need
from itercomp_rl.forecast.model_sizes import KNOWN, kept_bytes, num_params, sizes
from itercomp_rl.forecast.role_memory import Need, encoded_prompt_bytes, need, reward_sizes, training_bytes
from itercomp_rl.reward.checkpoint import load_reward
from itercomp_rl.reward.published import load_any_reward
from tests.itercomp_rl.gallery.planning.test_planners import make_chat
from tests.parts.checkpoints import make_flux, make_pixart, make_sd, make_sd3, make_sdxl
from tests.parts.judge_checkpoints import make_clip, make_vlm, make_vqa

MAKERS = [make_sd, make_sdxl, make_sd3, make_flux]


@pytest.mark.parametrize("make", MAKERS)
def test_counts_are_those_of_the_loaded_model(make: Callable[..., Path], tmp_path: Path) -> None:
    folder = make(tmp_path / "model")
    found = sizes(str(folder), 16)
    policy = load_policy(folder, resolution_px=16)
    assert found.network_params == num_params(policy.trainable)
    assert found.vae_params == num_params(policy.vae)
    texts = {"text_encoder", "text_encoder_2", "text_encoder_3"} & set(policy.pipeline.components)
    assert found.text_params == sum(num_params(getattr(policy.pipeline, name)) for name in texts)
    add_lora(policy, Lora(rank=3, alpha=1.0, targets=policy.family.lora_targets))
    assert 3 * found.lora_params == sum(p.numel() for p in policy.trainable.parameters() if p.requires_grad)


@pytest.mark.parametrize("make", MAKERS)
def test_kept_bytes_are_those_that_a_real_forward_pass_keeps(make: Callable[..., Path], tmp_path: Path) -> None:
    folder = make(tmp_path / "model")
    policy = load_policy(folder, resolution_px=16)
    policy.trainable.requires_grad_(True)
    cond = policy.encode(["a red cup"])
    latents, schedule = policy.start_latents(image_generators([0])), policy.schedule(2)
    real = kept_bytes(
        policy.trainable,
        lambda: policy.family.call(policy.trainable, latents, schedule.timesteps_at(0, latents), cond),
    )
    # The tiny tokenizers give other numbers of text tokens than the real ones, whose counts the estimate uses.
    assert sizes(str(folder), 16).network_bytes == pytest.approx(real, rel=1.0)
    image = kept_bytes(policy.vae, lambda: policy.decode(latents.requires_grad_()))
    assert sizes(str(folder), 16).vae_bytes == pytest.approx(image, rel=0.05)


def test_recomputation_keeps_less_and_half_precision_about_half(tmp_path: Path) -> None:
    folder = str(make_sdxl(tmp_path / "model"))
    whole = sizes(folder, 64)
    assert sizes(folder, 64, recomputes=True).network_bytes < 0.7 * whole.network_bytes
    assert sizes(folder, 64, torch.bfloat16).network_bytes < 0.7 * whole.network_bytes
    assert sizes(folder, 128).vae_bytes == pytest.approx(4 * whole.vae_bytes, rel=0.2)


def test_adapter_targets_are_checked_before_weights_are_loaded(tmp_path: Path) -> None:
    folder = str(make_sd(tmp_path / "model"))
    assert sizes(folder, 16, targets=("to_q",)).lora_params < sizes(folder, 16).lora_params
    with pytest.raises(ConfigError, match=r"policy\.lora\.targets names 'to_z'"):
        sizes(folder, 16, targets=("to_q", "to_z"))


def test_a_reward_model_is_counted_as_it_is_loaded() -> None:
    trunk = checkpoint_path("embedded:trunk")
    found = reward_sizes(trunk, 0.5)
    assert found.params == num_params(load_reward(Path(trunk)))
    assert 0 < found.trained < found.params
    assert reward_sizes(trunk, 0.9).trained < found.trained
    assert found.image_bytes > 0


def test_fixed_scorers_count_where_they_are_loaded_and_none_behind_an_address(tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "clip")
    model = load_any_reward(f"pickscore:{clip}")
    found = reward_sizes(f"pickscore:{clip}", 0.5)
    assert found.params == num_params(model)
    assert 0 < found.trained < found.params
    plain = load_config("tiny")
    term = load_config("tiny", [f"policy.frozen_rewards.pick.source=pickscore:{clip}"])
    learner, more = (need(config, "policy_learner-0", on_gpu=False).parts for config in (plain, term))
    assert more["reward models"] - learner["reward models"] == 4 * found.params
    assert more["activations"] - learner["activations"] == plain.policy.rollout_batch * found.image_bytes
    judged = load_config("tiny", [f"evaluation.metrics.pick=pickscore:{clip}", "evaluation.metrics.far=http://h/s"])
    judge, more = (need(config, "judge-0", on_gpu=False).parts for config in (plain, judged))
    assert more["reward models"] - judge["reward models"] == 4 * found.params


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "billions"),
    [
        ("stable-diffusion-v1-5/stable-diffusion-v1-5", 0.859520964),
        ("stabilityai/stable-diffusion-xl-base-1.0", 2.567463684),
        ("stabilityai/stable-diffusion-3.5-medium", 2.243171520),
        ("black-forest-labs/FLUX.1-dev", 11.901408320),
    ],
)
def test_known_models_have_the_published_number_of_parameters(model: str, billions: float) -> None:
    assert sizes(model, 256).network_params == round(billions * 1e9)
    assert model in KNOWN


def alone(config: Config, **gpus: float) -> dict[str, tuple[list[str], float]]:
    return {role: ([f"{role}-0"], gpus.get(role, 0.0)) for role in ("policy_learner", "roller", "sampler", "judge")}


def test_what_cannot_fit_is_refused_with_the_settings_that_would_help() -> None:
    config = load_config("quickstart", ["actors.gpu_gib=0.5", "policy.engine.zero_stage=1"])
    with pytest.raises(ConfigError) as caught:
        check_memory(config, alone(config, policy_learner=1.0))
    message = str(caught.value)
    assert "policy_learner needs" in message
    for setting in ("engine.dtype=bf16", "gradient_checkpointing=true", "rollout_batch=4", "zero_stage=2", "lora.rank"):
        assert setting in message, setting
    fits = load_config("quickstart", ["actors.gpu_gib=4"])
    assert "policy_learner on 1 GPU" in check_memory(fits, alone(fits, policy_learner=1.0))


def test_a_share_of_a_gpu_is_that_share_of_its_memory() -> None:
    config = load_config("quickstart", ["actors.gpu_gib=1.2"])
    check_memory(config, alone(config, roller=1.0))
    with pytest.raises(ConfigError, match=r"GPU share of 0\.6"):
        check_memory(config, alone(config, roller=0.5))


def test_more_than_this_machine_has_is_refused() -> None:
    config = load_config("quickstart")
    many = {f"process-{i}": (["policy_learner-0"], 0.0) for i in range(100_000)}
    with pytest.raises(ConfigError, match="of RAM are needed and this machine has"):
        check_memory(config, many)


def test_a_container_s_limit_counts_where_it_is_less(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("itercomp_rl.forecast.machine.CGROUP", tmp_path)
    machine, config = ram_bytes(), load_config("quickstart")
    assert machine == psutil.virtual_memory().total
    (tmp_path / "memory").mkdir()
    for name, unlimited in (("memory.max", "max\n"), ("memory/memory.limit_in_bytes", "9223372036854771712\n")):
        (tmp_path / name).write_text(unlimited)
        assert ram_bytes() == machine
        (tmp_path / name).write_text(f"{GIB // 4}\n")
        assert ram_bytes() == GIB // 4
        with pytest.raises(ConfigError, match=r"of RAM are needed and this machine has 0\.2"):
            check_memory(config, alone(config))
        (tmp_path / name).unlink()


def test_a_planner_in_the_sampler_counts_with_what_its_files_hold(tmp_path: Path) -> None:
    chat = make_chat(tmp_path / "chat", template=None)
    planner = f"gallery.planners.near={{kind: transformers, model: {chat}}}"
    member = "gallery.members.new={model: 'embedded:base', num_steps: 2, system: rpg, planner: near}"
    parts = need(load_config("quickstart", [planner, member]), "sampler-0", on_gpu=False).parts
    assert parts["planners"] == (chat / "model.safetensors").stat().st_size
    unused = need(load_config("quickstart", [planner]), "sampler-0", on_gpu=False)
    assert unused.parts["planners"] == 0


def _as_fp16(folder: Path) -> None:
    for file in list(folder.rglob("*.safetensors")):
        tensors = {name: tensor.half() for name, tensor in load_file(file).items()}
        save_file(tensors, file.with_name(f"{file.stem}.fp16.safetensors"), metadata={"format": "pt"})


@pytest.mark.parametrize("make", [make_sdxl, make_pixart])
def test_a_model_counts_by_the_weights_that_are_loaded_whatever_precision_they_are_kept_in(
    make: Callable[..., Path], tmp_path: Path
) -> None:
    def models(folder: Path, dtype: str) -> int:
        member = f"gallery.members.new={{model: {folder}, num_steps: 2, dtype: {dtype}}}"
        parts = need(load_config("quickstart", [member, "gallery.max_loaded=9"]), "sampler-0", on_gpu=False).parts
        return parts["models (at most 9)"]

    plain = make(tmp_path / "plain")
    both = Path(shutil.copytree(plain, tmp_path / "both"))
    _as_fp16(both)
    alone = Path(shutil.copytree(both, tmp_path / "alone"))
    for file in alone.rglob("*.safetensors"):
        if ".fp16." not in file.name:
            file.unlink()
    assert models(plain, "fp32") == models(both, "fp32") == models(alone, "fp32")
    assert models(plain, "bf16") == models(both, "bf16") == models(alone, "bf16") < models(plain, "fp32")


def test_the_models_of_t2i_compbench_count_where_it_judges(tmp_path: Path) -> None:
    vqa, clip = make_vqa(tmp_path / "vqa"), make_clip(tmp_path / "clip")
    models = [f"judge.t2i_compbench.vqa={vqa}", f"judge.t2i_compbench.clip={clip}"]
    part = "T2I-CompBench's models"
    config = load_config("quickstart", [*models, "judge.first_round=t2i_compbench"])
    both = sum((folder / "model.safetensors").stat().st_size for folder in (vqa, clip))
    assert need(config, "judge-0", on_gpu=False).parts[part] == both
    assert need(load_config("quickstart", models), "judge-0", on_gpu=False).parts[part] == 0


def test_a_vision_language_model_counts_where_judges_load_it(tmp_path: Path) -> None:
    folder = make_vlm(tmp_path)
    model, part = f"judge.vlm.model={folder}", "vision-language model"

    def judges(*overrides: str) -> int:
        return need(load_config("quickstart", [model, *overrides]), "judge-0", on_gpu=False).parts[part]

    size = (folder / "model.safetensors").stat().st_size
    assert judges("judge.first_round=vlm") == judges("judge.later_rounds=vlm") == judges("evaluation.judge=vlm") == size
    assert judges("judge.later_rounds=vlm", "run.rounds=1") == judges() == 0
    assert judges("judge.first_round=vlm", "judge.vlm.url=http://localhost:8000/v1") == 0


ALL_TURNS = Turns(draw_or_learn=True, reward_or_policy=True)


def place(*needs: tuple[str, int], turns: Turns = ALL_TURNS) -> float:
    """GiB of a process on a GPU beside what it takes without roles."""
    roles = tuple(Need(role=role, parts={"x": size * GIB}) for role, size in needs)
    empty = ProcessNeed(label="a", gpus=1, needs=())
    return (ProcessNeed(label="a", gpus=1, needs=roles, turns=turns).total - empty.total) / GIB


def test_learners_in_one_process_take_turns() -> None:
    assert place(("policy_learner-0", 5), ("reward_learner-a", 2), ("reward_learner-b", 2), ("roller-0", 1)) == 6
    assert place(("policy_learner-0", 3), ("reward_learner-a", 2), ("reward_learner-b", 2), ("roller-0", 1)) == 5
    both = Turns(draw_or_learn=True, reward_or_policy=False)
    assert place(("policy_learner-0", 3), ("reward_learner-a", 2), ("roller-0", 1), turns=both) == 6


def test_samplers_and_judges_take_turns_with_the_learners_of_their_process_and_with_nobody_else() -> None:
    roles = (("sampler-0", 7), ("judge-0", 2), ("policy_learner-0", 5))
    assert place(*roles) == 9
    assert place(*roles, ("reward_learner-a", 20)) == 20
    assert place(*roles, turns=Turns(draw_or_learn=False, reward_or_policy=True)) == 14
    assert place(("sampler-0", 7), ("judge-0", 2), ("roller-0", 5)) == 14


def test_what_a_config_lets_overlap_does_not_take_turns() -> None:
    def turns(*overrides: str) -> tuple[bool, bool]:
        found = Turns.of(load_config("quickstart", list(overrides)))
        return found.draw_or_learn, found.reward_or_policy

    assert turns() == (True, True)
    assert turns("evaluation.probe_every=5") == (False, True)
    assert turns("reward.rankings_first=1") == (False, True)
    assert turns("policy.reward_updates_first=10") == (True, False)
    joining = "gallery.members.attribute.join_round=1"
    assert turns(joining) == (False, True)  # drawn ahead while the first round learns
    assert turns(joining, "gallery.rounds_ahead=0") == turns(joining, "run.rounds=1") == (True, True)


def test_a_roller_beside_a_learner_needs_no_network_and_one_elsewhere_needs_no_vae() -> None:
    config = load_config("quickstart", ["policy.engine.kind=plain", "policy.engine.zero_stage=0"])
    both = ("policy_learner-0", "roller-0")
    assert config.actors.layout == "shared"
    assert need(config, "roller-0", on_gpu=True, beside=both).total == 0
    alone = need(config, "roller-0", on_gpu=True, beside=("sampler-0", "roller-0")).parts
    assert alone["network"] == need(config, "policy_learner-0", on_gpu=True).parts["network"]
    assert "VAE" not in alone
    zero3 = load_config("quickstart", ["policy.engine.kind=deepspeed", "policy.engine.zero_stage=3"])
    assert need(zero3, "roller-0", on_gpu=True, beside=both).parts["network"] == alone["network"]


def test_ram_is_the_process_images_read_ahead_and_the_weights_that_pass_through_it() -> None:
    settings = ["policy.engine.kind=plain", "policy.engine.zero_stage=0", "store.image_memory_mib=100"]
    settings += ["actors.policy_learners.count=1"]
    fp32, bf16 = (load_config("quickstart", [*settings, f"policy.engine.dtype={dtype}"]) for dtype in ("fp32", "bf16"))
    found = sizes(checkpoint_path(fp32.policy.model), fp32.policy.size_px)
    weights, text, vae = found.network_params, found.text_params, found.vae_params
    roles = ["policy_learner-0"]
    base = PROCESS_BYTES["cpu"] + 100 * 2**20
    # Published: a copy and a flat array of it, in fp32. Loaded on its way to a GPU: everything in the engine's dtype.
    assert process_need(fp32, "a", roles, 0.0).ram == base + 8 * weights
    assert process_need(fp32, "a", roles, 1.0).ram == base + max(8 * weights, 4 * (weights + text + vae))
    assert process_need(bf16, "a", roles, 1.0).ram == base + max(8 * weights, 2 * (weights + text) + 4 * vae)
    assert process_need(bf16, "a", ["roller-0"], 1.0).ram == PROCESS_BYTES["cpu"] + 2 * (weights + text)
    assert process_need(fp32, "a", ["roller-0"], 0.0).ram == PROCESS_BYTES["cpu"] + 4 * weights
    assert "images read ahead 0.10" in check_memory(fp32, {"a": (roles, 0.0)})


def test_files_of_encoded_prompts_are_counted_once_and_for_no_process() -> None:
    config = load_config("quickstart", ["policy.pretraining_weight=0", "prompts.policy=64"])
    found = sizes(checkpoint_path(config.policy.model), config.policy.size_px)
    assert encoded_prompt_bytes(config) == 64 * found.prompt_numbers * 4
    assert "encoded prompts" not in need(config, "roller-0", on_gpu=False).parts


def test_gallery_images_of_the_pre_training_loss_count_with_the_rollout_that_they_learn_beside() -> None:
    def activations(*overrides: str) -> int:
        config = load_config("quickstart", ["policy.batch=8", "policy.rollout_batch=2", *overrides])
        return need(config, "policy_learner-0", on_gpu=True).parts["activations"]

    config = load_config("quickstart")
    image = sizes(checkpoint_path(config.policy.model), config.policy.size_px).network_bytes
    without = activations("policy.pretraining_weight=0")
    assert activations("policy.pretraining_batch=12") - without == 3 * image  # 12 images over 4 rollouts
    assert activations("policy.pretraining_batch=1") - without == image


def test_a_copy_of_the_base_counts_where_all_weights_are_held_near_it_and_an_adapter_needs_none() -> None:
    def parts(*overrides: str) -> Mapping[str, int]:
        return need(load_config("quickstart", list(overrides)), "policy_learner-0", on_gpu=True).parts

    near = "policy.stay_near_base=0.1"
    assert parts()["base"] == 0
    assert parts(near)["base"] == parts()["network"]
    assert parts(near, "policy.engine.dtype=bf16")["base"] == parts()["network"] // 2
    assert parts(near, "policy.engine.zero_stage=3")["base"] == parts()["network"]  # whole in every rank
    assert parts(near, "policy.lora.rank=4")["base"] == 0
    assert parts(near, "policy.pretraining_weight=0")["activations"] == parts()["activations"]  # the same images


def test_training_state_is_counted_by_stage_and_optimizer() -> None:
    # Bytes a weight: gradient 4, moments 8, average 4; bf16 halves the gradient and adds masters of 4, ZeRO shares out,
    # 8 bits shrink the moments to 2. At a step of the plain engine a bf16 gradient of 2 becomes one of 4, tensor by
    # tensor: 2 more; several ranks fill one flat fp32 tensor of 4 while their gradients are there.
    def of(engine: EngineConfig, ranks: int, *, on_gpu: bool = True, activations: int = 0) -> list[int]:
        return [*training_bytes(engine, 100, ranks, on_gpu=on_gpu, activations=activations).values()]

    engine = replace(load_config("quickstart").policy.engine, kind="plain", zero_stage=0, ema=0.9)
    assert of(engine, 1) == [400, 800, 400, 0]
    assert of(engine, 2) == [400, 800, 400, 400]
    bf16 = replace(engine, dtype="bf16")
    assert of(bf16, 1) == [200, 1200, 400, 200]
    assert of(bf16, 2) == [200, 1200, 400, 400]
    assert of(bf16, 2, activations=150) == [200, 1200, 400, 250]
    assert of(bf16, 2, activations=500) == [200, 1200, 400, 0]
    assert of(replace(bf16, optimizer="adamw_8bit"), 1)[1] == 600
    # DeepSpeed: sums in fp32 at stage 0; from stage 1 on a bucket (here all 100 weights) of 2, and of each rank's half
    # of the weights an fp32 gradient at the step and, but for the fused AdamW of a GPU, two temporaries.
    zero0 = replace(bf16, kind="deepspeed", zero_stage=0, ema=0.0)
    assert of(zero0, 2) == [600, 1200, 0, 0]
    assert of(replace(zero0, zero_stage=1), 2) == [200 + 200, 600, 0, 200]
    assert of(replace(zero0, zero_stage=2), 2) == of(replace(zero0, zero_stage=3), 2) == [100 + 200, 600, 0, 200]
    assert of(replace(zero0, zero_stage=2), 2, on_gpu=False) == [100 + 200, 600, 0, 200 + 400]
    big = training_bytes(replace(zero0, zero_stage=2), 10**10, 4, on_gpu=True)
    assert big["gradients"] == 2 * 10**10 // 4 + 2 * 5 * 10**8
