"""What folders and endpoints lack is said before a run starts, with counts, or stops it with file and row."""

import logging
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from itercomp_rl.config.load import load_config
from itercomp_rl.errors import ConfigError
from itercomp_rl.gallery.external.preflight import check_external
from itercomp_rl.plan import Plan
from tests.parts.image_server import by_world, file_of, said_image
from tests.parts.json_server import Reply, json_server

SMALL = ("prompts.gallery=12", "gallery.segment=6", "evaluation.images_per_aspect=2", "prompts.aspects=[attribute]")


def with_folder(folder: Path, *overrides: str) -> Plan:
    member = f"gallery.members.closed={{system: folder, model: '{folder}'}}"
    return Plan(config=load_config("tiny", [*SMALL, member, *overrides]))


def fill(folder: Path, names: list[str], side: int = 8) -> None:
    folder.mkdir(exist_ok=True)
    for name in names:
        Image.new("RGB", (side, side)).save(folder / f"{name}.png")


def test_a_folder_with_half_of_the_prompts_is_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    plan = with_folder(tmp_path)
    fill(tmp_path, [prompt.id for prompt in plan.gallery_prompts[:6]] + ["a green dog", "a green dog_2"])
    with caplog.at_level(logging.WARNING):
        check_external(plan)
    said = " ".join(caplog.messages)
    lacking = plan.gallery_prompts[6].text
    assert f"gallery.members.closed: the folder lacks 6 of 12 gallery images, such as one of {lacking!r}" in said
    num = sum(len(order.prompts) for order in plan.evaluation_orders(plan.member("closed")))
    assert f"lacks {num} of {num} held-out images" in said
    assert "2 images are of no prompt that this run asks for, such as" in said


def test_a_folder_of_other_prompts_alone_stops_the_run(tmp_path: Path) -> None:
    plan = with_folder(tmp_path)
    fill(tmp_path, ["a green dog"])
    with pytest.raises(ConfigError, match=r"members\.closed\.model is .*: none of its images .*a green dog\.png"):
        check_external(plan)


def test_an_image_that_cannot_be_used_is_named_before_anything_starts(tmp_path: Path) -> None:
    plan = with_folder(tmp_path)
    ids = [prompt.id for prompt in plan.gallery_prompts]
    fill(tmp_path, ids)
    fill(tmp_path, ids[5:6], side=16)
    with pytest.raises(ConfigError, match=rf"{ids[5]}\.png.* has 16 pixels a side, and the first has 8: set gallery"):
        check_external(plan)
    check_external(with_folder(tmp_path, "gallery.members.closed.size_px=8"))
    fill(tmp_path, ids[5:6])
    fill(tmp_path, ["0 of no prompt"], side=16)
    check_external(plan)  # an image that the run does not take may have any size
    (tmp_path / f"{ids[7]}.png").write_bytes(b"")
    with pytest.raises(ConfigError, match=rf"{ids[7]}\.png.* is no whole PNG"):
        check_external(with_folder(tmp_path, "gallery.members.closed.size_px=8"))


def test_folders_that_share_no_prompt_make_no_pair(tmp_path: Path) -> None:
    overrides = [
        *(f"gallery.members.{name}.join_round=1" for name in ("base", "attribute", "spatial")),
        f"gallery.members.one={{system: folder, model: '{tmp_path / 'one'}'}}",
        f"gallery.members.two={{system: folder, model: '{tmp_path / 'two'}'}}",
    ]
    plan = Plan(config=load_config("tiny", [*SMALL, *overrides]))
    ids = [prompt.id for prompt in plan.gallery_prompts]
    fill(tmp_path / "one", ids[:6])
    fill(tmp_path / "two", ids[6:])
    with pytest.raises(ConfigError, match="share no gallery prompt of which two have an image"):
        check_external(plan)
    fill(tmp_path / "two", ids[:1])
    check_external(plan)


def with_endpoint(url: str, *overrides: str) -> Plan:
    members = [
        "gallery.members.served={system: endpoint, endpoint: hall, model: big, size_px: 32}",
        f"gallery.endpoints.hall={{url: '{url}', max_retries: 0}}",
    ]
    return Plan(config=load_config("tiny", [*SMALL, *members, *overrides]))


def test_an_endpoint_is_asked_for_one_image_and_for_another_where_a_filter_refuses_it(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with json_server(by_world) as (url, asked), caplog.at_level(logging.INFO):
        plan = with_endpoint(url)
        check_external(plan)
    assert [body["prompt"] for body in asked] == [plan.gallery_prompts[0].text]
    num = sum(len(order.prompts) for order in plan.evaluation_orders(plan.member("served")))
    assert f"it is asked for 12 gallery and {num} held-out images" in " ".join(caplog.messages)
    refused = plan.gallery_prompts[0].text
    with json_server(lambda body: (400, "no") if body["prompt"] == refused else by_world(body)) as (url, asked):
        check_external(with_endpoint(url))
    assert len(asked) == 2


@pytest.mark.parametrize(
    ("reply", "why"),
    [
        (
            (400, {"error": "no such size"}),
            r"drew no image of 3 gallery prompts, .* it refused with status 400.*no such size",
        ),
        ((401, {"error": "who are you"}), r"gallery\.endpoints\.hall\.url is .*status 401"),
        ((503, ""), r"drew no image of 1 gallery prompts, .* it gave no image in 1 tries, the last: status 503"),
        (said_image(file_of(np.zeros((8, 16, 3), np.uint8))), r"size_px is 32, and an image of its endpoint is 16x8"),
    ],
)
def test_an_endpoint_that_draws_nothing_stops_the_run(reply: Reply, why: str) -> None:
    with json_server(lambda body: reply) as (url, _), pytest.raises(ConfigError, match=why):
        check_external(with_endpoint(url))


@pytest.mark.parametrize(
    ("overrides", "why"),
    [
        (["gallery.members.x={system: folder, model: a, num_steps: 3}"], "x.num_steps is 3: system 'folder' draws"),
        (["gallery.members.x={system: folder, model: a, guidance: 3}"], "x.guidance is 3.0: system 'folder' draws"),
        (["gallery.members.x={system: folder, model: a, dtype: bf16}"], "x.dtype is 'bf16': system 'folder' draws"),
        (["gallery.members.x={system: folder, model: policy}"], "x.model is 'policy': this run's policy is drawn here"),
        (["gallery.members.x={system: folder, model: a, endpoint: e}"], "x.endpoint is 'e': is for system endpoint"),
        (
            ["gallery.members.x={system: folder, model: a, planner: rule}"],
            "x.planner is 'rule': system 'folder' has no",
        ),
        (["gallery.members.x={system: endpoint, model: a, size_px: 8}"], "x.endpoint is None: must be of gallery"),
        (["gallery.members.x={model: a}"], "x.num_steps is 0: must be 1 or more"),
        (["gallery.endpoints.e={url: 'ftp://x'}"], "gallery.endpoints.e.url is 'ftp://x': must be an address"),
        (["gallery.endpoints.e={url: 'http://u:p@x/v1'}"], "gallery.endpoints.e.url holds"),
        (["gallery.endpoints.e={url: 'http://x/v1', parallel: 0}"], "gallery.endpoints.e.parallel is 0"),
        (["gallery.endpoints.e={adress: 'http://x/v1'}"], "unknown key gallery.endpoints.e.adress"),
        (
            ["gallery.endpoints.e={url: 'http://x/v1'}", "gallery.members.x={system: endpoint, model: a, endpoint: e}"],
            "x.size_px is None: the endpoint must be told",
        ),
    ],
)
def test_settings_that_nothing_would_read_or_that_are_missing_are_refused(overrides: list[str], why: str) -> None:
    with pytest.raises(ConfigError, match=why):
        load_config("tiny", overrides)


def test_no_founder_made_elsewhere_lends_the_pictures_that_measure_forgetting(tmp_path: Path) -> None:
    (tmp_path / "p.txt").write_text("".join(f"a {i} cup\n" for i in range(40)))
    (tmp_path / "t.txt").write_text("".join(f"a {i} box\n" for i in range(40)))
    overrides = [
        *("prompts.source=files", f"prompts.train_file={tmp_path}/p.txt", f"prompts.test_file={tmp_path}/t.txt"),
        *("judge.first_round=vlm", "judge.later_rounds=reward", "evaluation.judge=vlm", "judge.vlm.model=m"),
        *("evaluation.allow_self_grading=true", "prompts.gallery=12", "prompts.policy=12"),
        f"gallery.members.closed={{system: folder, model: '{tmp_path}', size_px: 8}}",
    ]
    plan = Plan(config=load_config("tiny", overrides))
    [order] = plan.measure_orders(plan.policy(-1))
    assert order.images
    assert not any("closed" in ref.segment for ref in order.images)
    alone = [f"gallery.members.{name}.join_round=1" for name in ("base", "attribute", "spatial")]
    second = f"gallery.members.other={{system: folder, model: '{tmp_path}', size_px: 8}}"
    with pytest.raises(ConfigError, match=r"evaluation\.denoising_images is 12: the pictures are drawn by founders"):
        load_config("tiny", [*overrides, *alone, second])
    load_config("tiny", [*overrides, *alone, second, "evaluation.denoising_images=0"])
