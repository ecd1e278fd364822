"""The configs of the real models: loaded, cross-checked, planned and fitted into memory, with nothing downloaded."""

from collections import Counter

import pytest
from click.testing import CliRunner

from cluster.checks import check_splits
from cluster.main import main
from cluster.placement import workers
from itercomp_rl.config.load import load_config
from itercomp_rl.config.schema import Config
from itercomp_rl.diffusion.family import FAMILIES
from itercomp_rl.forecast.memory import check_memory
from itercomp_rl.forecast.model_sizes import KNOWN, architecture
from itercomp_rl.plan import Plan

REAL = {
    "itercomp_sdxl": 4,
    "sdxl_64gpu": 64,
    "sdxl_lora_1gpu": 1,
    "sd15": 2,
    "sd35_medium": 4,
    "flux_lora": 4,
}  # name -> GPUs


@pytest.fixture(params=REAL)
def config(request: pytest.FixtureRequest) -> Config:
    """One of them, as it is shipped."""
    return load_config(request.param)


def test_it_fits_the_gpus_that_it_asks_for(config: Config) -> None:
    specs = workers(config)
    shares = sorted((spec.gpus for spec in specs), reverse=True)
    # Shares of a GPU are packed onto whole ones, largest first.
    free: list[float] = []
    for share in shares:
        place = next((i for i, room in enumerate(free) if room >= share - 1e-9), None)
        if place is None:
            free.append(1.0)
            place = len(free) - 1
        free[place] -= share
    assert len(free) <= REAL[config.run.name.replace("-", "_").replace("sdxl_lora", "sdxl_lora_1gpu")]
    table = check_memory(config, {spec.label: ([role.name for role in spec.roles], spec.gpus) for spec in specs})
    kinds = Counter(role.kind for spec in specs for role in spec.roles)
    for kind, num in kinds.items():
        assert table.count(f" {kind}-") >= num


ON_ONE_GPU = [
    *("actors.layout=shared", "actors.processes=1", "actors.rollers.count=1", "actors.policy_learners.count=1"),
    *(f"actors.{role}.gpus=1" for role in ("judges", "rollers", "reward_learners")),
]


@pytest.mark.parametrize(
    ("name", "overrides", "gib"),
    [
        ("flux_lora", [], 48),
        ("itercomp_sdxl", ["policy.engine.kind=plain", "policy.engine.zero_stage=0"], 80),
    ],
)
def test_an_adapter_of_flux_and_all_weights_of_sdxl_fit_one_gpu_with_a_tenth_to_spare(
    name: str, overrides: list[str], gib: int
) -> None:
    config = load_config(name, [*ON_ONE_GPU, *overrides, f"actors.gpu_gib={0.9 * (gib - 1)}"])
    [spec] = workers(config)
    assert spec.gpus == 1
    check_memory(config, {spec.label: ([role.name for role in spec.roles], spec.gpus)})


def test_the_plan_command_says_what_it_will_do(config: Config) -> None:
    name = next(name for name in REAL if name.startswith(config.run.name.replace("-", "_")))
    found = CliRunner().invoke(main, ["plan", name])
    assert found.exit_code == 0, found.output
    assert f"│ 0     │ {config.prompts.gallery * len(config.gallery.members)} " in found.output
    assert "GiB     process / role and what it holds" in found.output


def test_its_work_can_be_planned(config: Config) -> None:
    plan = Plan(config=config)
    assert len(plan.gallery_prompts) == config.prompts.gallery
    orders = [order for segment in range(len(plan.segments())) for order in plan.draw_orders(0, segment)]
    assert sum(len(order.prompts) for order in orders) == config.prompts.gallery * len(config.gallery.members)
    rollout = plan.rollout_order(0, 0, ("live", 0))
    assert len(rollout.mid_steps) == config.policy.points_per_rollout
    assert plan.evaluation_orders(plan.policy(-1))
    check_splits(plan)


def test_its_models_are_known_and_its_sampler_is_the_familys(config: Config) -> None:
    for model in (config.policy.model, *(member.model for member in config.gallery.members.values())):
        assert model in KNOWN
    pipeline = architecture(config.policy.model).pipeline
    assert pipeline in FAMILIES
    is_flow = pipeline in ("StableDiffusion3Pipeline", "FluxPipeline")
    assert config.policy.scheduler in (("euler", "renoise") if is_flow else ("ddim", "ddpm"))


def test_the_papers_settings_are_the_papers() -> None:
    policy = load_config("itercomp_sdxl").policy
    assert (policy.num_steps, policy.mid_low, policy.mid_high) == (40, 30, 39)
    assert (policy.batch, policy.updates, policy.loss_scale, policy.target) == (64, 200, 1e-3, 2.0)
    assert (policy.engine.lr, policy.engine.weight_decay, policy.engine.grad_clip) == (1e-5, 1e-2, 1.0)
    assert (policy.size_px, policy.scheduler, policy.rollout_guidance) == (512, "ddpm", None)
    assert (policy.grad_steps, policy.points_per_rollout, policy.pretraining_weight) == (1, 1, 0.0)
    assert policy.engine.ema > 0
    assert policy.lora.rank == 0
    assert sum(spec.gpus for spec in workers(load_config("itercomp_sdxl"))) == pytest.approx(4)
