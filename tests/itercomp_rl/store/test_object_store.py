"""What an object store does that a disk does not: it throttles, loses answers, pages lists, and wants credentials."""

import re

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from itercomp_rl.errors import StoreError
from itercomp_rl.store import weights
from itercomp_rl.store.address import secret_part
from itercomp_rl.store.layout import record_place
from itercomp_rl.store.retention import verify
from itercomp_rl.store.store import open_store
from tests.parts.small_s3 import SmallS3


def images(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (3, 8, 6, 3), dtype=np.uint8)


def test_a_throttled_store_is_asked_again_until_it_answers(s3: SmallS3, s3_url: str) -> None:
    store = open_store(s3_url, create=True)
    for id_ in ("a", "b"):
        s3.throttled = 3
        store.put("images", id_, {"images": images(1)}, {"round": 1})
        s3.throttled = 2
        np.testing.assert_array_equal(store.get("images", id_).arrays["images"], images(1))
        s3.throttled = 1
        assert store.has("images", id_)
    s3.throttled = 3
    assert (store.ids("images"), s3.throttled) == (["a", "b"], 0)
    assert verify(store) == []


@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(throttled=st.integers(0, 2), unheard=st.integers(0, 3), number=st.integers(0, 10**9))
def test_a_record_whose_answers_were_lost_is_there_once_and_ours(
    s3: SmallS3, s3_url: str, throttled: int, unheard: int, number: int
) -> None:
    store = open_store(s3_url, create=True)
    s3.throttled, s3.unheard = throttled, unheard
    _, is_ours = store.publish(record_place("images", f"r{number}-{s3.requests.total()}"), {"images": images(2)}, {})
    assert is_ours  # its marker was created by this call, though the second try of the request found one there
    assert verify(store) == []


def test_a_lost_answer_to_the_marker_does_not_make_a_second_learner(s3: SmallS3, s3_url: str) -> None:
    store = open_store(s3_url, create=True)
    tensors = {"w": torch.arange(4.0)}
    s3.unheard = 4
    ref = weights.publish(store, "policy", 1, tensors, {})
    assert weights.publish(store, "policy", 1, tensors, {}) == ref
    assert weights.open_version(store, "policy", 1).load()["w"].tolist() == [0, 1, 2, 3]


def test_lists_longer_than_a_page_are_whole(s3: SmallS3, s3_url: str) -> None:
    store = open_store(s3_url, create=True)
    s3.page = 3
    for number in range(10):
        store.put("pairs", f"p{number:03d}", {}, {"n": number})
    assert store.ids("pairs") == [f"p{number:03d}" for number in range(10)]
    assert [commit.attrs["n"] for commit in store.commits("pairs")] == list(range(10))


def test_a_reader_with_a_cursor_lists_only_what_is_new(s3: SmallS3, s3_url: str) -> None:
    store = open_store(s3_url, create=True)
    s3.page = 5
    for number in range(40):
        store.put("pairs", f"p{number:03d}", {}, {})
    before = s3.requests["GET"]
    assert store.ids("pairs", after="p036") == ["p037", "p038", "p039"]
    assert s3.requests["GET"] - before == 2  # these and the packs, of which there are none; all would be eight pages


def test_reading_a_record_asks_for_its_marker_and_its_chunks_alone(s3: SmallS3, s3_url: str) -> None:
    store = open_store(s3_url, create=True)
    store.put("images", "a", {"images": images(1), "seeds": np.arange(3)}, {})
    s3.requests.clear()
    store.get("images", "a")
    assert s3.requests == {"GET": 3}


def test_an_object_store_without_conditional_writes_is_named(careless_s3_url: str) -> None:
    with pytest.raises(StoreError, match="honours If-None-Match on PUT"):
        open_store(careless_s3_url, create=True)


@pytest.mark.parametrize(
    "url",
    [
        "s3://AKIAEXAMPLE:hunter2secret@bucket/run",
        "s3://hunter2secret@bucket/run",
        "https://bucket.s3.amazonaws.com/run?X-Amz-Signature=hunter2secret",
        "az://container/run?sig=hunter2secret",
        "gs://bucket/run#hunter2secret",
    ],
)
def test_a_url_with_a_secret_is_refused_without_repeating_it(url: str) -> None:
    with pytest.raises(StoreError, match="credentials by the environment") as caught:
        open_store(url, create=True)
    assert "hunter2secret" not in str(caught.value)
    assert "hunter2secret" not in (secret_part(url) or "")


@pytest.mark.parametrize("url", ["s3://bucket/run", "/data/a@b?c", "file:///data/run", "memory://", "gs://b/c/d"])
def test_a_plain_place_holds_no_secret(url: str) -> None:
    assert secret_part(url) is None


def test_credentials_of_the_environment_reach_neither_messages_nor_the_store(
    moto_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hunter2secret")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIAHUNTER")
    store = open_store(moto_url, create=True)
    commit = store.put("images", "a", {"images": images(1)}, {"round": 1})
    said = [repr(store), repr(commit), store.url]
    with pytest.raises(StoreError) as caught:
        open_store("s3://no-such-bucket-anywhere/run", create=True)
    said.append(str(caught.value))
    said += [str(store.backend.read(key)) for top in ("commits", "segments") for key in store.backend.sizes(top)]
    for text in said:
        assert not re.search("hunter2secret|AKIAHUNTER", text)
