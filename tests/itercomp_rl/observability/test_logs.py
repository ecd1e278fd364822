"""Log lines say whose they are and never hold a secret."""

import asyncio
import io
import json
import logging

import pytest

from itercomp_rl.items import DrawOrder, ModelRef, PolicyOrder
from itercomp_rl.observability.logs import (
    JsonLines,
    StrikeOut,
    TextLines,
    log_context,
    order_facts,
    secrets,
    struck_out,
)


def logged(formatter: logging.Formatter, *messages: str) -> list[str]:
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(formatter)
    log = logging.Logger("itercomp_rl.loop.rounds")
    log.addHandler(handler)
    for message in messages:
        log.warning("%s", message)
    return stream.getvalue().splitlines()


def test_a_line_of_json_names_run_process_round_role_and_version() -> None:
    with log_context(role="roller-1", round=2, version=None), log_context(version=7):
        (line,) = logged(JsonLines(run="mine", process="roller-1"), 'a "quoted" line\nof two')
    tree = json.loads(line)
    assert {"run": "mine", "process": "roller-1", "role": "roller-1", "round": 2, "version": 7}.items() <= tree.items()
    assert tree["message"] == 'a "quoted" line\nof two'
    assert (tree["level"], tree["logger"]) == ("WARNING", "itercomp_rl.loop.rounds")
    assert "round" not in json.loads(logged(JsonLines(), "later")[0])


def test_tasks_keep_their_contexts_apart() -> None:
    async def work(round_: int) -> str:
        with log_context(round=round_):
            await asyncio.sleep(0)
            return logged(TextLines(), "x")[0]

    async def both() -> list[str]:
        return await asyncio.gather(work(1), work(2))

    assert [line[-9:] for line in asyncio.run(both())] == ["(round 1)", "(round 2)"]


def test_secrets_of_the_environment_are_struck_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hunter2/secret+value")
    monkeypatch.setenv("HF_TOKEN", "hf_abcdefgh")
    for formatter in (JsonLines(), TextLines()):
        for line in logged(formatter, "PUT failed: key hunter2/secret+value", "token hf_abcdefgh."):
            assert "***" in line
            assert "hunter2" not in line
            assert "hf_" not in line


def test_secrets_are_struck_out_of_lines_that_others_format_and_of_those_that_json_escapes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MY_LLM_KEY", 'with"quotes\\and more')
    monkeypatch.setenv("AZURE_STORAGE_SAS_KEY", "sv=2026&sig=abc")
    line = 'refused: with"quotes\\and more, sv=2026&sig=abc'
    assert json.loads(logged(JsonLines(), line)[0])["message"] == "refused: ***, ***"
    record = logging.LogRecord("itercomp_rl", logging.WARNING, "", 0, "refused: %s", ("sv=2026&sig=abc",), None)
    assert StrikeOut().filter(record)
    assert record.getMessage() == "refused: ***"


def test_short_values_and_plain_variables_are_no_secrets() -> None:
    environment = {"MY_TOKEN": "yes", "PATH": "/usr/local/bin", "A_PASSWORD": "longer-than-8"}
    assert secrets(environment) == ["longer-than-8"]
    assert struck_out("a longer-than-8 b", ["longer-than-8"]) == "a *** b"


def test_an_order_names_its_round_and_version() -> None:
    model = ModelRef(name="policy-0", checkpoint="embedded:base", role="policy", version=4, num_steps=1)
    draw = DrawOrder(kind="images", id="a", round=3, model=model, prompts=(), seeds=())
    assert order_facts(draw) == {"round": 3, "version": 4}
    learn = PolicyOrder(round=5, start_version=None, live_role="live", rewards={}, rankings=())
    assert order_facts(learn) == {"round": 5, "version": None}
    assert order_facts(10) == {"round": None, "version": None}
