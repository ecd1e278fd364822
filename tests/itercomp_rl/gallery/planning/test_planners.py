"""Plans by a language model: kept in the store by planner and prompt, and a fall-back is said beside the image."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from itercomp_rl.config.schema import PlannerConfig
from itercomp_rl.errors import CheckpointError, ConfigError, PlanError, PlannerError
from itercomp_rl.gallery.planning import rule
from itercomp_rl.gallery.planning.endpoint import EndpointChat
from itercomp_rl.gallery.planning.local import LocalChat
from itercomp_rl.gallery.planning.planners import Planners
from itercomp_rl.store.store import Store, open_store
from tests.parts.json_server import Reply, json_server

PROMPT = "a red cup left of a white plate"
ANSWER = "Final split ratio: 1,3\n\nRegional Prompt: a red cup BREAK a white plate"
KEY = "sk-secret-0123456789"


@contextmanager
def endpoint(
    *replies: tuple[int, Any] | float | str | Callable[[dict[str, Any]], tuple[int, Any]],
) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """A json_server that gives the replies in turn, the last for ever; a function makes its reply from the request."""
    waiting = iter(replies)
    last = replies[-1]

    def reply(body: dict[str, Any]) -> Reply:
        found = next(waiting, last)
        return found(body) if callable(found) else found

    with json_server(reply) as served:
        yield served


def said(text: Any, reason: str = "stop", **fields: Any) -> tuple[int, Any]:
    message = {"role": "assistant", "content": text, **fields}
    return 200, {"choices": [{"finish_reason": reason, "message": message}]}


def refused(text: str, **fields: Any) -> tuple[int, Any]:
    return 400, {"error": {"message": text, **fields}}


def settings(url: str, **changes: Any) -> PlannerConfig:
    return PlannerConfig(**({"kind": "openai", "model": "m", "url": url, "timeout_s": 1.0, "max_retries": 0} | changes))


def planners(store: Store, config: PlannerConfig) -> Planners:
    return Planners(store, {"far": config}, torch.device("cpu"))


@pytest.fixture
def store() -> Store:
    return open_store("memory://", create=True)


def test_an_answer_is_asked_for_once_and_kept_in_the_store(store: Store) -> None:
    with endpoint(said(ANSWER)) as (url, asked):
        for _ in range(2):  # the second planner is another process's: only the store knows the answer
            [(plan, note)] = planners(store, settings(url)).regions("far", [PROMPT])
            assert [(cell.phrase, cell.right) for cell in plan.cells] == [("a red cup", 0.25), ("a white plate", 1.0)]
            assert note["fallback"] is None
        assert len(asked) == 1
    assert asked[0]["path"] == "/v1/chat/completions"
    assert [message["role"] for message in asked[0]["messages"]] == ["system", "user"]
    assert asked[0]["messages"][1]["content"] == PROMPT
    assert note["plan"]["cells"][1]["phrase"] == "a white plate"
    [id_] = store.ids("plans")
    assert store.get("plans", id_).attrs["prompt"] == PROMPT


def test_prompts_with_slashes_and_newlines_are_kept_apart(store: Store) -> None:
    with endpoint(said(ANSWER)) as (url, asked):
        far = planners(store, settings(url))
        far.regions("far", ["a/b", "a\nb", "../../etc", "a" * 5000])
        far.regions("far", ["a/b", "a\nb", "../../etc", "a" * 5000])
        assert len(asked) == len(store.ids("plans")) == 4


def test_garbage_falls_back_to_the_rules_aloud_and_is_not_kept(store: Store) -> None:
    with endpoint(said("Sure! Here is a poem.")) as (url, _):
        [(plan, note)] = planners(store, settings(url)).regions("far", [PROMPT])
    assert plan == rule.regions(PROMPT)
    assert "Final split ratio" in note["fallback"]
    assert store.ids("plans") == []


def test_without_a_fall_back_garbage_stops_the_work(store: Store) -> None:
    with endpoint(said("no")) as (url, _), pytest.raises(PlanError):
        planners(store, settings(url, fallback=None)).regions("far", [PROMPT])


@pytest.mark.parametrize("reply", [(500, "broken"), (429, "too many"), 2.5], ids=["error", "throttled", "slow"])
def test_an_endpoint_that_recovers_is_asked_again(reply: Any) -> None:
    with endpoint(reply, said("hello")) as (url, asked):
        chat = EndpointChat(settings(url, max_retries=2), first_wait_s=0.01)
        assert chat.answer("instruction", "prompt") == "hello"
        assert len(asked) == 2


@pytest.mark.parametrize("reply", [(500, "broken"), 2.5, "x" * 30], ids=["down", "slow", "dripping"])
def test_an_endpoint_that_stays_down_is_given_up_and_left_alone(reply: Any, store: Store) -> None:
    with endpoint(reply) as (url, asked):
        with pytest.raises(PlannerError, match="2 tries"):
            EndpointChat(settings(url, max_retries=1), first_wait_s=0.01).answer("instruction", "prompt")
        asked.clear()
        found = planners(store, settings(url)).regions("far", [PROMPT] * 12)
        assert [note["fallback"] is not None for _, note in found] == [True] * 12
        assert len(asked) <= EndpointChat.num_parallel  # those already under way; the rest does not wait


@pytest.mark.parametrize("status", [400, 413, 422])
def test_a_prompt_that_is_refused_falls_back_alone(status: int, store: Store) -> None:
    with endpoint((status, "content filter"), said(ANSWER)) as (url, asked):
        far = planners(store, settings(url, max_retries=3))
        [(_, refused)] = far.regions("far", ["a bad word"])
        [(plan, note)] = far.regions("far", [PROMPT])
    assert f"status {status}: content filter" in refused["fallback"]
    assert note["fallback"] is None and plan.cells[0].phrase == "a red cup"
    assert len(asked) == 2  # the refused prompt is not tried again


@pytest.mark.parametrize("status", [401, 403, 404])
def test_a_refusal_of_every_prompt_leaves_the_endpoint_alone(status: int, store: Store) -> None:
    with endpoint((status, "key?"), said(ANSWER)) as (url, asked):
        far = planners(store, settings(url))
        notes = [far.regions("far", [prompt])[0][1] for prompt in ("a cup", PROMPT)]
    assert all(f"status {status}" in note["fallback"] for note in notes)
    assert len(asked) == 1


def test_nobody_listening_is_a_planner_error() -> None:
    with endpoint(said("x")) as (url, _):
        pass
    with pytest.raises(PlannerError, match="ConnectError"):
        EndpointChat(settings(url)).answer("instruction", "prompt")


@pytest.mark.parametrize("reply", [(200, "no json"), (200, {}), (200, {"choices": []}), said(None), (401, "key?")])  # type: ignore[arg-type]
def test_what_is_not_the_protocol_is_refused_at_once(reply: Any) -> None:
    with endpoint(reply) as (url, asked), pytest.raises(PlannerError):
        EndpointChat(settings(url, max_retries=5), first_wait_s=0.01).answer("instruction", "prompt")
    assert len(asked) == 1


def test_the_key_comes_from_the_environment_and_is_never_told(
    store: Store, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("PLANNER_KEY", KEY)
    with endpoint((401, f"Incorrect API key provided: {KEY}")) as (url, asked), caplog.at_level("DEBUG"):
        [(_, note)] = planners(store, settings(url, key_env="PLANNER_KEY")).regions("far", [PROMPT])
    assert asked[0]["key"] == f"Bearer {KEY}"
    assert "***" in note["fallback"]
    assert KEY not in note["fallback"] + caplog.text


def test_a_key_loses_the_line_break_around_it_and_what_is_no_key_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PLANNER_KEY", f"{KEY}\n")
    with endpoint(said("hello")) as (url, asked):
        assert EndpointChat(settings(url, key_env="PLANNER_KEY")).answer("instruction", "prompt") == "hello"
    assert asked[0]["key"] == f"Bearer {KEY}"
    monkeypatch.setenv("PLANNER_KEY", f"{KEY}\n{KEY}")
    with pytest.raises(ConfigError, match="no HTTP header takes") as refusal:
        EndpointChat(settings(url, key_env="PLANNER_KEY"))
    assert KEY not in str(refusal.value)


def test_a_missing_key_is_told_before_anything_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PLANNER_KEY", raising=False)
    with pytest.raises(ConfigError, match="PLANNER_KEY"):
        EndpointChat(settings("http://localhost:1", key_env="PLANNER_KEY"))


def test_an_unknown_planner_is_refused(store: Store) -> None:
    with pytest.raises(ConfigError, match="near"):
        planners(store, settings("http://localhost:1")).canvases("near", [PROMPT])


def new_model(body: dict[str, Any]) -> tuple[int, Any]:
    """As hosted models that think: two usual fields are refused, one after the other."""
    if "max_tokens" in body:
        hint = "Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens' instead."
        return refused(hint, code="unsupported_parameter", param="max_tokens")
    if body.get("temperature", 1) != 1:
        return refused("Only the default (1) is supported.", code="unsupported_value", param="temperature")
    return said(ANSWER)


def short_context(body: dict[str, Any]) -> tuple[int, Any]:
    if body.get("max_tokens", 0) + body.get("max_completion_tokens", 0) > 1000:
        return refused("'max_tokens' or 'max_completion_tokens' is too large: 2048. The context length is 2048 tokens.")
    return said(ANSWER)


def no_system_role(body: dict[str, Any]) -> tuple[int, Any]:
    return refused("System role not supported") if body["messages"][0]["role"] == "system" else said(ANSWER)


def no_limit_at_all(body: dict[str, Any]) -> tuple[int, Any]:
    if extra := {"max_tokens", "max_completion_tokens", "temperature"} & body.keys():
        return 422, {"detail": [{"loc": ["body", name], "msg": "Extra inputs are not permitted"} for name in extra]}
    return said(ANSWER)


@pytest.mark.parametrize("reply", [new_model, short_context, no_system_role, no_limit_at_all])
def test_a_field_that_an_endpoint_does_not_take_is_swapped_or_left_out_for_good(reply: Any, store: Store) -> None:
    with endpoint(reply) as (url, asked):
        far = planners(store, settings(url))
        [(_, note)] = far.regions("far", [PROMPT])
        num_first = len(asked)
        [(_, other)] = far.regions("far", ["another prompt"])
    assert note["fallback"] is None and other["fallback"] is None
    assert len(asked) == num_first + 1  # the form that was answered is kept
    assert PROMPT in asked[num_first - 1]["messages"][-1]["content"]
    if reply is new_model:
        assert asked[-1]["max_completion_tokens"] == 2048 and "temperature" not in asked[-1]
    if reply is no_system_role:
        assert [message["role"] for message in asked[-1]["messages"]] == ["user"]


def test_an_endpoint_that_refuses_the_first_prompts_for_one_reason_stops_the_run(store: Store) -> None:
    def reply(body: dict[str, Any]) -> tuple[int, Any]:
        return refused(f"The model `m` does not exist; request {time.monotonic_ns()}")

    with endpoint(reply) as (url, asked):
        far = planners(store, settings(url))
        with pytest.raises(ConfigError, match=r"url is .*model 'm'.*status 400.*does not exist.*or its kind to rule"):
            far.regions("far", [f"a red cup and {num} plates" for num in range(2, 30)])
        num = len(asked)
        assert num <= 3 + EndpointChat.num_parallel
        with pytest.raises(ConfigError, match="does not exist"):
            far.regions("far", ["one more"])
        assert len(asked) == num


def test_refusals_of_a_content_filter_or_after_an_answer_are_each_prompts_own(store: Store) -> None:
    with endpoint(refused("filtered", code="content_filter")) as (url, _):
        found = planners(store, settings(url)).regions("far", [f"prompt {num}" for num in range(8)])
    assert all("content_filter" in note["fallback"] for _, note in found)
    with endpoint(said(ANSWER), refused("no")) as (url, _):
        far = planners(store, settings(url))
        far.regions("far", [PROMPT])
        found = far.regions("far", [f"prompt {num}" for num in range(8)])
    assert all("status 400" in note["fallback"] for _, note in found)


@pytest.mark.parametrize("reason", ["length", "max_tokens", "MAX_TOKENS"])
@pytest.mark.parametrize("content", [ANSWER, None])
def test_an_answer_that_was_cut_off_is_neither_drawn_nor_kept(reason: str, content: Any, store: Store) -> None:
    with endpoint(said(content, reason)) as (url, asked):
        found = planners(store, settings(url, max_tokens=77)).regions("far", [PROMPT, "another"])
    assert all("cut off after 77 tokens" in note["fallback"] for _, note in found)
    assert len(asked) == 2  # other prompts may have shorter answers
    assert store.ids("plans") == []


def test_an_answer_in_parts_is_joined_and_a_refusal_in_words_is_the_prompts(store: Store) -> None:
    parts = [
        {"type": "thinking", "thinking": "x"},
        {"type": "text", "text": ANSWER[:20]},
        {"type": "text", "text": ANSWER[20:]},
    ]
    with endpoint(said(parts), said(None, refusal="I cannot plan this."), said(ANSWER)) as (url, _):
        far = planners(store, settings(url))
        notes = [far.regions("far", [prompt])[0][1]["fallback"] for prompt in (PROMPT, "a bad word", "a good word")]
    assert notes[0] is None and "I cannot plan this" in notes[1] and notes[2] is None


@pytest.mark.parametrize(
    "proxy", ["socks5://127.0.0.1:1", "socks://127.0.0.1:1", "ftp://x", "http://127.0.0.1:1", "http://h:port"]
)
def test_a_proxy_that_does_not_serve_the_endpoint_is_in_nobodys_way(
    proxy: str, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ALL_PROXY", proxy)
    monkeypatch.setenv("NO_PROXY", "localhost, 127.0.0.1")
    with endpoint(said(ANSWER)) as (url, _):
        [(_, note)] = planners(store, settings(url)).regions("far", [PROMPT])
    assert note["fallback"] is None


def test_a_proxy_that_serves_the_endpoint_is_asked(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    with endpoint(said(ANSWER)) as (url, asked):
        monkeypatch.setenv("http_proxy", url.removeprefix("http://").removesuffix("/v1"))
        monkeypatch.delenv("no_proxy", raising=False)
        monkeypatch.delenv("NO_PROXY", raising=False)
        [(_, note)] = planners(store, settings("http://models.example/v1")).regions("far", [PROMPT])
    assert note["fallback"] is None
    assert asked[0]["path"] == "http://models.example/v1/chat/completions"


def make_chat(folder: Path, *, template: str | None, ends: Sequence[int] = range(1, 9)) -> Path:
    """A tiny random Llama with a word tokenizer, whose answers end with any of the tokens `ends`."""
    torch.manual_seed(0)
    vocabulary = {word: i for i, word in enumerate(["<unk>", "<eos>", "Final", "split", "ratio", ":", "1", ",", "cup"])}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>", eos_token="<eos>")
    tokenizer.chat_template = template
    config = LlamaConfig(
        vocab_size=len(vocabulary),
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=2048,
        bos_token_id=1,
        eos_token_id=list(ends),
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


TEMPLATE = "{% for message in messages %}{{ message['content'] }} {% endfor %}"


def test_a_local_chat_model_answers_the_same_each_time_and_its_garbage_falls_back(store: Store, tmp_path: Path) -> None:
    config = PlannerConfig(kind="transformers", model=str(make_chat(tmp_path, template=TEMPLATE)), max_tokens=8)
    chat = LocalChat(config, torch.device("cpu"))
    assert chat.answer("Plan.", PROMPT) == chat.answer("Plan.", PROMPT)
    [(plan, note)] = planners(store, config).canvases("far", [PROMPT])
    assert plan == rule.canvas(PROMPT)
    assert note["fallback"]


def test_a_local_answer_that_max_tokens_cut_off_is_not_read(store: Store, tmp_path: Path) -> None:
    model = str(make_chat(tmp_path, template=TEMPLATE, ends=[1]))
    config = PlannerConfig(kind="transformers", model=model, max_tokens=2)
    [(plan, note)] = planners(store, config).canvases("far", [PROMPT])
    assert plan == rule.canvas(PROMPT)
    assert "cut off after 2 tokens" in note["fallback"]


def test_a_chat_without_a_system_role_is_told_all_by_the_user(tmp_path: Path) -> None:
    picky = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system role') }}{% endif %}" + TEMPLATE
    chats = [
        LocalChat(PlannerConfig(kind="transformers", model=str(model), max_tokens=8), torch.device("cpu"))
        for model in (make_chat(tmp_path / "a", template=picky), make_chat(tmp_path / "b", template=TEMPLATE))
    ]
    picky_answer, answer = (chat.answer("Final split", "ratio cup") for chat in chats)
    assert picky_answer == answer  # the same weights read the same words


def test_a_model_that_cannot_chat_or_is_not_there_is_refused(tmp_path: Path) -> None:
    for model in (str(make_chat(tmp_path / "mute", template=None)), str(tmp_path / "nowhere")):
        with pytest.raises(CheckpointError, match="planner"):
            LocalChat(PlannerConfig(kind="transformers", model=model), torch.device("cpu"))
