"""Configs: what is accepted, and that every mistake names its key and the way out."""

import json
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from itercomp_rl.config.load import config_from, config_of_run, load_config, preset, to_tree
from itercomp_rl.config.rules import check as rules
from itercomp_rl.errors import ConfigError
from itercomp_rl.items import ASPECTS
from itercomp_rl.plan import Plan
from itercomp_rl.store.layout import is_name

PRESETS = [path.stem for path in preset("base").parent.glob("*.yaml") if path.stem != "base"]


@pytest.mark.parametrize("name", PRESETS)
def test_every_shipped_config_is_accepted(name: str) -> None:
    config = load_config(name)
    assert config_from(to_tree(config)) == config


@pytest.mark.parametrize(
    ("old", "new"),
    [("policy.sampler=ddpm", "policy.scheduler"), ("actors.max_set_aside=3", "actors.max_skipped_prompts")],
)
def test_a_key_of_an_earlier_version_is_refused_with_its_new_name(old: str, new: str) -> None:
    with pytest.raises(ConfigError, match=f"{old.partition('=')[0]} is called {new} now: rename it"):
        load_config("tiny", [old])


def test_the_config_of_an_earlier_run_opens_with_its_values_under_the_new_names(tmp_path: Path) -> None:
    tree = to_tree(load_config("tiny", ["policy.scheduler=ddpm", "actors.max_skipped_prompts=3"]))
    tree["policy"]["sampler"] = tree["policy"].pop("scheduler")
    tree["actors"]["max_set_aside"] = tree["actors"].pop("max_skipped_prompts")
    del tree["policy"]["engine"]["lr_warmup"]  # a key that came later
    (tmp_path / "config.yaml").write_text(OmegaConf.to_yaml(OmegaConf.create(tree)))
    config = config_of_run(tmp_path / "config.yaml")
    assert (config.policy.scheduler, config.actors.max_skipped_prompts) == ("ddpm", 3)
    assert config == load_config("tiny", ["policy.scheduler=ddpm", "actors.max_skipped_prompts=3"])


def test_base_yaml_states_every_key_and_nothing_else() -> None:
    import yaml

    stated = yaml.safe_load(preset("base").read_text())
    known = to_tree(load_config("quickstart"))
    assert {section: set(keys) for section, keys in stated.items()} == {
        section: set(keys) for section, keys in known.items()
    }


@pytest.mark.parametrize(
    ("override", "reason"),
    [
        ("policy.updatez=3", "did you mean policy.updates"),
        ("polcy.updates=3", "did you mean policy"),
        ("evaluation.probe_every=-1", "evaluation.probe_every is -1: must be 0 or more"),
        ("evaluation.probe_images=7", "evaluation.probe_images is 7: must be even"),
        (
            "evaluation.probe_images=4",
            "evaluation.probe_images is 4: must be even, as every prompt is drawn twice, and 6 or more",
        ),
        ("evaluation.keep=first", "must be one of last, best"),
        ("evaluation.keep=best", "evaluation.keep is 'best': needs probes, and evaluation.probe_every is 0"),
        ("policy.patience=2", "policy.patience is 2: needs probes, and evaluation.probe_every is 0"),
        ("policy.patience=0", "policy.patience is 0: must be 1 or more, or null"),
        ("prompts.validation_file=a.txt", "prompts.validation_file is 'a.txt' with prompts.source 'shapes'"),
        ("policy.updates=-1", "policy.updates is -1"),
        ("policy.updates=many", "policy.updates"),
        ("policy.mid_high=10", "within steps 0..9"),
        ("policy.mid_low=9", "within steps 0..9"),
        ("policy.max_policy_lag=-1", "policy.max_policy_lag is -1"),
        ("policy.engine.zero_stage=4", "policy.engine.zero_stage is 4"),
        ("policy.engine.dtype=fp16", "policy.engine.dtype is 'fp16'"),
        ("policy.engine.lr=0", "policy.engine.lr is 0"),
        ("policy.rollout_batch=3", "multiple of policy.rollout_batch"),
        ("actors.policy_learners.count=3", "must divide"),
        ("actors.samplers.count=0", "actors.samplers.count is 0"),
        ("reward.held_out=0", "accuracy needs pairs unseen"),
        ("reward.held_out=1.5", "reward.held_out is 1.5"),
        ("reward.weights.colour=1", "reward.weights"),
        ("reward.engine.kind=deepspeed", "one DeepSpeed group"),
        ("judge.rule=random", "must be one of official_fixed"),
        ("prompts.source=files", "prompts.train_file"),
        ("prompts.aspects=[]", "prompts.aspects is []: name one or more"),
        ("prompts.aspects=[spatial,attribute,spatial]", "'attribute', 'spatial']: name 'spatial' once"),
        ("prompts.policy_file=more.txt", "prompts.policy_file is 'more.txt' with prompts.source 'shapes'"),
        ("evaluation.grid_prompts=-1", "evaluation.grid_prompts is -1"),
        ("actors.start_timeout_s=-5", "actors.start_timeout_s is -5"),
        ("actors.progress_timeout_s=0", "actors.progress_timeout_s is 0"),
        ("judge.first_round=nobody", "or rank files: a path that ends in .json, .csv or"),
        ("reward.rankings_first=0", "must be all, or a number from 1 to the segments of a round"),
        ("reward.rankings_first=most", "must be all, or a number from 1 to the segments of a round"),
        ("policy.combine=max", "policy.combine"),
        ("policy.aspect_gradients=pcgrad", "must be one of sum, project_by_image"),
        ("policy.gradient_metrics_every=-1", "policy.gradient_metrics_every is -1"),
        ("policy.stay_near_base=-0.1", "policy.stay_near_base is -0.1"),
        ("policy.stay_near_base=.inf", "policy.stay_near_base is inf: must be finite"),
        ("policy.targets={colour: 1.0}", "policy.targets"),
        ("policy.caption_dropout=1.0", "policy.caption_dropout"),
        ("policy.pretraining_images=best", "must be one of all, winners, base"),
        ("policy.engine.lr_schedule=linear", "policy.engine.lr_schedule"),
        ("policy.engine.lr_warmup=-1", "policy.engine.lr_warmup"),
        ("judge.later_rounds=ranks.csv", "must be one of oracle, reward, t2i_compbench"),
        ("evaluation.judge=people", "must be one of oracle, reward, t2i_compbench"),
        ("judge.reward_models.beauty=x", "judge.reward_models"),
        ("judge.t2i_compbench.mode=best", "must be one of official, fixed"),
        ("judge.t2i_compbench.threshold=1", "judge.t2i_compbench.threshold"),
        ("judge.first_round=vlm", "judge.vlm.model is null, and a judge is 'vlm'"),
        ("evaluation.judge=vlm", "judge.vlm.model is null, and a judge is 'vlm'"),
        ("judge.vlm.url=localhost:8000", "judge.vlm.url is 'localhost:8000': must be an address such as http://"),
        ("judge.vlm.url=http://me:hidden@host/v1", "judge.vlm.url holds"),
        ("judge.vlm.key_env=KEY", "judge.vlm.key_env is 'KEY', and judge.vlm.url is null"),
        ("judge.vlm.atoms=guess", "judge.vlm.atoms is 'guess': must be one of rule, model"),
        ("judge.vlm.parallel=0", "judge.vlm.parallel is 0"),
        ("judge.vlm.timeout_s=0", "judge.vlm.timeout_s is 0"),
        ("judge.vlm.max_retries=-1", "judge.vlm.max_retries is -1"),
        ("judge.vlm.max_tokens=0", "judge.vlm.max_tokens is 0"),
        ("judge.vlm.max_requests=0", "judge.vlm.max_requests is 0"),
        ("judge.pair_weights={judge: 0, people: 0}", "one of judge and people must be above 0"),
        ("prompts.aspects=[beauty]", "prompts.aspects"),
        ("gallery.members.base.num_steps=0", "gallery.members.base.num_steps"),
        ("gallery.members.base.modle=x", "did you mean gallery.members.base.model"),
        ("gallery.members.base.system=paint", "gallery.members.base.system is 'paint'"),
        ("gallery.members.base.system=rpg", "gallery.members.base.planner is None"),
        ("gallery.members.base.planner=rule", "has no planner"),
        ("gallery.members.base.base_ratio=1.5", "gallery.members.base.base_ratio is 1.5"),
        ("gallery.members.base.pooled=first", "gallery.members.base.pooled is 'first'"),
        ("gallery.members.base.dtype=int8", "gallery.members.base.dtype is 'int8'"),
        ("gallery.members.base.dtype=fp16", "gallery.members.base.dtype is 'fp16': samplers run on the CPU"),
        ("gallery.dtype=fp16", "gallery.dtype is 'fp16': samplers run on the CPU"),
        ("gallery.members.base.size_px=0", "gallery.members.base.size_px is 0"),
        ("gallery.members.base.join_round=-1", "gallery.members.base.join_round is -1"),
        ("gallery.planners.rule.kind=magic", "gallery.planners.rule.kind is 'magic'"),
        ("gallery.planners.rule.knd=rule", "did you mean gallery.planners.rule.kind"),
        ("gallery.planners.chat.kind=transformers", "gallery.planners.chat.model is None"),
        ("just-a-word", "not of the form key=value"),
        ("run.name=", "run.name is ''"),
        ("run.name=null", "run.name"),
        ("run.name=???", "stands for a missing value"),
        ("run.name=${run.nmae}", "run.name: Interpolation key"),
        ("run={name: 007}", "run.name is 7, which YAML reads as a number: put text in quotes"),
        ("tracking.trackers=[no]", "tracking.trackers.0 is False, which YAML reads as a truth value"),
        ("+policy.updates=3", "not of the form key=value"),
    ],
)
def test_a_mistake_is_refused_with_its_key(override: str, reason: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config("quickstart", [override])
    assert reason in str(caught.value)


NOT_TEXT_IN_YAML = ["2024_10_07", "007", "010", "0x10", "1e3", "12:30", "1.10", "1_000", ".5", "no", "true", "On"]
TYPED = [*NOT_TEXT_IN_YAML, "~", "exp #3", "2024-10-07", "a: b", "[a", "- a", "a=b", " a ", "'a'", '"', "*a", "&a", "%"]


@pytest.mark.parametrize("value", TYPED)
def test_an_override_of_a_text_setting_is_kept_as_it_was_typed_and_written_to_the_runs_config(
    value: str, tmp_path: Path
) -> None:
    keys = ("run.name", "prompts.train_file", "gallery.members.base.negative", "judge.reward_models.spatial")
    config = load_config("quickstart", [f"{key}={value}" for key in keys])
    found = (config.run.name, config.prompts.train_file, config.gallery.members["base"].negative)
    assert (*found, config.judge.reward_models["spatial"]) == (value,) * 4
    OmegaConf.save(OmegaConf.create(to_tree(config)), tmp_path / "config.yaml")
    assert config_of_run(tmp_path / "config.yaml") == config


def test_null_takes_a_text_away_where_there_need_be_none() -> None:
    assert load_config("quickstart", ["prompts.train_file=null", "run[name]=010"]).prompts.train_file is None


@pytest.mark.parametrize("value", NOT_TEXT_IN_YAML)
@pytest.mark.parametrize(
    ("before", "after", "key"),
    [
        ("run:\n  name: ", "", "run.name"),
        ("judge:\n  reward_models:\n    spatial: ", "", "judge.reward_models.spatial"),
        ("tracking: {\n  trackers: [tensorboard, ", "]}", "tracking.trackers.1"),
    ],
)
def test_a_file_that_has_no_quotes_where_text_needs_them_is_refused_with_its_line(
    before: str, after: str, key: str, value: str, tmp_path: Path
) -> None:
    file = tmp_path / "c.yaml"
    file.write_text(f"{before}{value}{after}\n")
    with pytest.raises(ConfigError) as caught:
        load_config(file)
    line = before.count("\n") + 1
    assert f"c.yaml, line {line}: {key} is {value}, which YAML reads as" in str(caught.value)
    assert f'put text in quotes, "{value}"' in str(caught.value)
    with pytest.raises(ConfigError, match="put text in quotes"):
        config_of_run(file)


@pytest.mark.parametrize("name", ["1.5", "007", "no"])
def test_a_name_that_has_no_quotes_where_it_needs_them_is_refused(name: str, tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text(f"gallery: {{members: {{a: {{model: m, num_steps: 3}}, {name}: {{model: m, num_steps: 3}}}}}}")
    with pytest.raises(ConfigError, match=r"a name in gallery\.members is .*put text in quotes"):
        load_config(file)


@pytest.mark.parametrize("value", ["2", "'2'", '"2"'])
def test_what_is_all_or_a_number_needs_no_quotes(value: str, tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text(f"reward: {{rankings_first: {value}}}")
    assert load_config(tmp_path / "c.yaml").reward.rankings_first == "2"


@pytest.mark.parametrize("name", ["mine.yaml", "mine.yml", "mine"])
def test_a_file_that_names_members_replaces_those_of_base_whatever_its_name(name: str, tmp_path: Path) -> None:
    rows = (f"{key}: {{model: 'embedded:{model}', num_steps: 10}}" for key, model in (("a", "base"), ("b", "spatial")))
    (tmp_path / name).write_text(f"gallery: {{members: {{{', '.join(rows)}}}}}")
    assert list(load_config(tmp_path / name).gallery.members) == ["a", "b"]


def gallery_of(folder: Path, *names: str) -> Path:
    """A config file whose gallery has members of these names."""
    members = {name: {"model": "embedded:base", "num_steps": 40 + i} for i, name in enumerate(names)}
    file = folder / "gallery.yaml"
    file.write_text(json.dumps({"gallery": {"members": members}}), encoding="utf-8")  # JSON is YAML
    return file


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("sd1.5", "sd1-5"),
        ("sdxl@20", "sdxl/20"),
        ("other", "base-policy"),
        ("other", "base policy"),
        ("other", "policy.0"),
        ("other", "policy 1"),
    ],
)
def test_two_models_whose_records_would_have_the_same_ids_are_refused_by_both_names(
    first: str, second: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(gallery_of(tmp_path, first, second), ["run.rounds=2"])
    assert f"gallery.members.{second} is {second!r}" in str(caught.value)
    assert {"base": "'base policy'", "poli": "'policy-"}.get(second[:4], repr(first)) in str(caught.value)


@pytest.mark.parametrize("name", ["模型", "modèle", "m²", "m" * 210, "m" * 183, "", " "])
def test_a_member_whose_ids_no_store_takes_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"gallery\.members\..* is '"):
        load_config(gallery_of(tmp_path, "other", name))


def test_all_models_of_a_run_have_ids_of_their_own_that_a_store_takes(tmp_path: Path) -> None:
    names = ("sd1.5", "SD1.5", "sdxl 20", "sdxl--20", "a", "a-00000", "policy.2", "m" * 182)
    plan = Plan(config=load_config(gallery_of(tmp_path, *names), ["run.rounds=2"]))
    models = [*plan.evaluated(), plan.policy(-1)]
    orders = [
        order for model in {model.name: model for model in models}.values() for order in plan.grading_orders([model])
    ]
    drawn = [order.id for segment in range(len(plan.segments())) for order in plan.draw_orders(0, segment)]
    for ids in (drawn, [order.id for order in orders]):
        assert len(ids) == len(set(ids))
        assert all(is_name(id_) for id_ in ids)
    assert plan.draw_orders(0, 0)[0].id == "sd1-5-00000"  # as stores of earlier runs have it


def test_a_gallery_of_one_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "one.yaml"
    file.write_text('gallery: {members: {only: {model: "embedded:base", num_steps: 4}}}')
    with pytest.raises(ConfigError, match="a pair needs two images"):
        load_config(file)


@pytest.mark.parametrize("content", ["- a\n- b\n", "policy: [1, 2\n", "policy: 3\n"])
def test_an_unreadable_file_is_refused(tmp_path: Path, content: str) -> None:
    file = tmp_path / "odd.yaml"
    file.write_text(content)
    with pytest.raises(ConfigError, match=r"odd\.yaml"):
        load_config(file)


def test_a_missing_file_lists_the_shipped_ones() -> None:
    with pytest.raises(ConfigError, match="quickstart"):
        load_config("no-such-config")


def test_a_member_that_draws_by_plan_with_the_policy_is_one_line_and_joins_with_the_policy_of_its_round() -> None:
    member = "{model: policy, system: rpg, planner: rule, num_steps: 4, join_round: 1}"
    plan = Plan(config=load_config("quickstart", [f"gallery.members.rpg={member}"]))
    [model] = plan.founders(1)
    assert (model.checkpoint, model.role, model.version) == (plan.config.policy.model, "policy", 0)
    assert (model.system, model.planner, model.num_steps) == ("rpg", "rule", 4)
    founder = Plan(config=load_config("quickstart", ["gallery.members.base.model=policy"])).founders(0)[0]
    assert (founder.checkpoint, founder.role, founder.version) == (plan.config.policy.model, None, None)


def test_an_endpoint_planner_needs_an_address() -> None:
    far = "gallery.planners.far={kind: openai, model: m, url: 'localhost:8000'}"
    with pytest.raises(ConfigError, match=r"gallery.planners.far.url is 'localhost:8000'"):
        load_config("quickstart", [far])


@pytest.mark.parametrize(
    "url",
    [
        "http://localhost:port/v1",
        "http://localhost:99999/v1",
        "http:///v1",
        "http://a b/v1",
        "http://[::1/v1",
        "https://",
    ],
)
def test_an_address_that_could_not_be_opened_is_refused_with_the_config(url: str) -> None:
    with pytest.raises(ConfigError, match=r"gallery.planners.far.url is .*must be an address such as"):
        load_config("quickstart", [f"gallery.planners.far={{kind: openai, model: m, url: '{url}'}}"])


def test_a_proxy_that_the_endpoint_needs_and_that_cannot_be_used_is_refused_with_the_config(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("ALL_PROXY", "socks://127.0.0.1:1080")
    for name in ("NO_PROXY", "no_proxy", "HTTP_PROXY", "http_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    far = ["gallery.planners.far={kind: openai, model: m, url: 'http://localhost:8000/v1'}"]
    with pytest.raises(ConfigError, match=r"gallery.planners.far.url .*ALL_PROXY is 'socks://127.0.0.1:1080'"):
        load_config("quickstart", far)
    load_config("quickstart")  # nothing needs it
    monkeypatch.setenv("NO_PROXY", "localhost")
    load_config("quickstart", far)


@pytest.mark.parametrize("url", ["https://me:hidden@host/v1", "https://host/v1?api_key=hidden"])
def test_an_endpoint_planner_s_address_holds_no_key(url: str) -> None:
    with pytest.raises(ConfigError, match=r"gallery.planners.far.url holds .* gallery.planners.far.key_env") as refusal:
        load_config("quickstart", [f"gallery.planners.far={{kind: openai, model: m, url: '{url}'}}"])
    assert "hidden" not in str(refusal.value)


@pytest.mark.parametrize("key", ["judge.first_round", "judge.later_rounds", "evaluation.judge"])
def test_the_oracle_is_refused_for_prompts_outside_the_embedded_world(key: str) -> None:
    keys = ("judge.first_round", "judge.later_rounds", "evaluation.judge")
    overrides = [f"{other}={'oracle' if other == key else 'reward'}" for other in keys]
    files = ["prompts.source=files", "prompts.train_file=a.txt", "prompts.test_file=b.txt"]
    with pytest.raises(ConfigError, match=f"{key} is 'oracle' with prompts.source 'files'"):
        load_config("quickstart", [*files, *overrides])
    by_reward = [f"{other}=reward" for other in keys]
    assert load_config("quickstart", [*files, *by_reward, "evaluation.allow_self_grading=true"])


def test_a_judge_is_not_given_an_aspect_that_it_cannot_score(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rules, "ASPECTS", (*ASPECTS, "vivid"))
    overrides = ["prompts.aspects=[attribute,vivid]", "reward.weights.vivid=1", "judge.first_round=ranks/"]
    overrides.append("judge.later_rounds=reward")
    with pytest.raises(ConfigError, match="evaluation.judge is 'oracle': it cannot score 'vivid' of prompts.aspects"):
        load_config("quickstart", overrides)
    load_config("quickstart", [*overrides, "evaluation.judge=reward", "evaluation.allow_self_grading=true"])
