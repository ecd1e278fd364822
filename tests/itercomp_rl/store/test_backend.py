"""Opening a store, and what it says when a disk, a permission or an object store fails it."""

import ctypes
import errno
import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from itercomp_rl.errors import CorruptRecordError, InvalidNameError, StoreError
from itercomp_rl.store import weights
from itercomp_rl.store.backend import Backend, connect
from itercomp_rl.store.layout import ATTEMPT_LIFETIME_S, attempt_time, encode_commit
from itercomp_rl.store.retention import collect, verify
from itercomp_rl.store.store import Store, open_store
from tests.parts.small_s3 import SmallS3


def _mount(options: str, directory: Path) -> bool:
    command = ["mount", "-t", "tmpfs", "-o", options, "none", str(directory)]
    return subprocess.run(command, check=False, capture_output=True).returncode == 0


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MiB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    try:
        is_mounted = _mount("size=1m", disk)
    except FileNotFoundError:
        is_mounted = False
    if not is_mounted:
        pytest.skip("mounting a tmpfs is not permitted here")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def backends(tmp_path: Path) -> list[Backend]:
    local = str(tmp_path / "store")
    return [connect(url, create=True, durable=durable) for url in (local, "memory://") for durable in (True, False)]


def test_a_created_object_is_never_written_over(tmp_path: Path) -> None:
    for number, backend in enumerate(backends(tmp_path)):
        key = f"a/{number}.json"
        assert backend.create(key, b"first", 1e9)
        assert not backend.create(key, b"second", 1e9)
        assert backend.read(key) == b"first"
        assert backend.staged() == []


def test_a_list_names_whole_steps_of_a_key_in_order(tmp_path: Path) -> None:
    for backend in backends(tmp_path):
        for key in ("a/2", "a/1", "ab/1", "a/b/c"):
            backend.write(key, b"x" * len(key))
        assert backend.sizes("a") == {"a/1": 3, "a/2": 3, "a/b/c": 5}
        assert list(backend.sizes("a")) == ["a/1", "a/2", "a/b/c"]
        backend.delete_folder("a")
        assert (backend.sizes("a"), backend.sizes("ab"), backend.read("a/1")) == ({}, {"ab/1": 4}, None)
        backend.delete_folder("a")
        backend.delete("a/1")


@pytest.mark.parametrize("form", ["{}", "file://{}"])
def test_a_path_and_its_url_name_the_same_store(tmp_path: Path, form: str) -> None:
    root = tmp_path / "a run"
    store = open_store(form.format(str(root).replace(" ", "%20" if "file" in form else " ")), create=True)
    store.put("k", "a", {}, {"x": 1})
    assert open_store(str(root)).get("k", "a").attrs == open_store(store.url).get("k", "a").attrs == {"x": 1}


def test_a_relative_path_gives_a_url_other_directories_can_use(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    url = open_store("run", create=True).url
    monkeypatch.chdir("/")
    assert open_store(url).ids("k") == []


def test_creating_a_store_that_is_there_opens_it(tmp_path: Path) -> None:
    open_store(str(tmp_path), create=True).put("k", "a", {}, {"x": 1})
    assert open_store(str(tmp_path), create=True).ids("k") == ["a"]


@pytest.mark.parametrize("url", ["ftp://host/x", "http://host", "file:x", "file://host/x", "zip:x", "s4://bucket"])
def test_an_unknown_url_is_refused(url: str) -> None:
    with pytest.raises(StoreError, match=r"must be file:///dir, a path, s3://"):
        open_store(url, create=True)


def test_a_store_that_is_not_there_is_refused(tmp_path: Path, s3_url: str) -> None:
    for url in (str(tmp_path / "none"), str(tmp_path), "memory://", s3_url):
        with pytest.raises(StoreError, match="or create one there"):
            open_store(url)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("header", [b'{"schema": 3}', b'{"schema": null}', b'{"schema": "1"}'])
def test_a_store_of_another_schema_is_refused(tmp_path: Path, header: bytes) -> None:
    open_store(str(tmp_path), create=True)
    (tmp_path / "store.json").write_bytes(header)
    for create in (True, False):
        with pytest.raises(StoreError, match=r"this software reads and writes 1 and 2: use the software that made it"):
            open_store(str(tmp_path), create=create)


@pytest.mark.parametrize("header", [b"", b"[]", b"{}", b"\xff"])
def test_a_directory_with_another_store_json_is_refused(tmp_path: Path, header: bytes) -> None:
    (tmp_path / "store.json").write_bytes(header)
    with pytest.raises(StoreError, match="not a store's"):
        open_store(str(tmp_path), create=True)


def test_a_backend_without_create_only_writes_is_refused(careless_s3_url: str) -> None:
    with pytest.raises(StoreError, match=r"two writers of one record could both win; use a local disk, or"):
        open_store(careless_s3_url, create=True)
    with pytest.raises(StoreError, match="no store at"):
        open_store(careless_s3_url)


def test_a_store_copied_to_such_a_backend_is_refused(s3: SmallS3, s3_url: str) -> None:
    open_store(s3_url, create=True).put("k", "a", {}, {"x": 1})
    s3.is_create_only_kept = False  # the same objects, behind another server
    with pytest.raises(StoreError, match=r"two writers of one record could both win; use a local disk, or"):
        open_store(s3_url, create=True)
    assert open_store(s3_url).ids("k") == ["a"]  # to read is no harm


def test_many_who_open_one_store_at_once_all_find_it_sound_and_leave_nothing(store: Store) -> None:
    if store.url == "memory://":
        pytest.skip("nobody else can open one")
    with ThreadPoolExecutor(8) as threads:
        opened = list(threads.map(lambda _: open_store(store.url, create=True), range(16)))
    assert all(each.ids("k") == [] for each in opened)
    assert store.backend.staged() == []


def test_a_path_below_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    for create in (True, False):
        for name in ("file", "file/below"):
            with pytest.raises(StoreError, match=r"at a directory|no store at"):
                open_store(str(tmp_path / name), create=create)


def test_a_write_that_is_not_possible_publishes_nothing(tmp_path: Path) -> None:
    store = open_store(str(tmp_path), create=True)
    (tmp_path / "segments").write_text("a file where a directory is needed")  # holds for root too, as chmod does not
    with pytest.raises(StoreError, match=r"could not write segments/.*point store.url at a directory") as caught:
        store.put("k", "a", {"x": np.zeros(3)}, {})
    assert caught.value.__cause__ is not None
    assert store.ids("k") == []
    (tmp_path / "segments").unlink()
    store.put("k", "a", {"x": np.zeros(3)}, {})


def test_a_read_only_disk_can_be_read_and_says_why_it_is_not_written(small_disk: Path) -> None:
    store = open_store(str(small_disk), create=True)
    store.put("k", "a", {"x": np.arange(3)}, {})
    assert _mount("remount,ro,size=1m", small_disk)
    with pytest.raises(StoreError, match="the file system is read-only: mount it for writing"):
        store.put("k", "b", {"x": np.arange(3)}, {})
    with pytest.raises(StoreError, match="read-only"):
        open_store(str(small_disk / "new"), create=True)
    assert open_store(str(small_disk)).get("k", "a").arrays["x"].tolist() == [0, 1, 2]


@pytest.mark.parametrize("durable", [True, False])
def test_a_full_disk_publishes_nothing_and_the_call_works_once_there_is_space(small_disk: Path, durable: bool) -> None:
    store = open_store(str(small_disk), create=True, durable=durable)
    store.put("k", "small", {"x": np.arange(3)}, {})
    with pytest.raises(StoreError, match="the disk is full: free space there") as caught:
        store.put("k", "large", {"x": np.ones(2**21, np.uint8)}, {})
    assert "No space left" in str(caught.value.__cause__)
    with pytest.raises(StoreError, match="the disk is full"):
        weights.publish(store, "policy", 1, {"w": torch.ones(2**19)}, {})
    assert (store.ids("k"), weights.latest(store, "policy"), verify(store)) == (["small"], None, [])
    assert _mount("remount,size=8m", small_disk)
    store.put("k", "large", {"x": np.ones(2**21, np.uint8)}, {})
    weights.publish(store, "policy", 1, {"w": torch.ones(2**19)}, {})
    assert verify(store) == []


def test_a_disk_that_fills_up_at_the_marker_shows_no_record(small_disk: Path) -> None:
    store = open_store(str(small_disk), create=True)
    filler = small_disk / "filler"

    def fill() -> float:  # called as an attempt begins, and when its data are written
        if store.backend.sizes("segments") and not filler.exists():
            subprocess.run(["dd", "if=/dev/zero", f"of={filler}", "bs=512"], check=False, capture_output=True)
        return 1.7e9

    with pytest.raises(StoreError, match="the disk is full"):
        replace(store, clock=fill).put("k", "a", {"x": np.arange(3)}, {})
    assert store.ids("k") == []
    assert [problem.kind for problem in verify(store)] == ["orphan", "stray"]
    filler.unlink()
    store.put("k", "a", {"x": np.arange(3)}, {})
    assert store.ids("k") == ["a"]


def _link_within_a_folder(source: Path, target: Path) -> None:
    if Path(source).parent != Path(target).parent:
        raise PermissionError(errno.EPERM, "Operation not permitted", str(source))
    _LINK(source, target)


def _no_link(source: Path, target: Path) -> None:
    raise PermissionError(errno.EPERM, "Operation not permitted", str(source))


_LINK = os.link


@pytest.mark.parametrize("durable", [True, False])
@pytest.mark.parametrize("link", [_link_within_a_folder, _no_link])
def test_a_store_needs_no_hard_links_between_folders_and_a_rename_serves_where_there_are_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, link: object, durable: bool
) -> None:
    monkeypatch.setattr(os, "link", link)  # as BeeGFS links, and as exFAT does not
    store = open_store(str(tmp_path), create=True, durable=durable)
    store.put("k", "a", {"x": np.arange(3)}, {})
    weights.publish(store, "policy", 0, {"w": torch.ones(2)}, {})
    assert not store.backend.create("commits/k/a.json", b"second", 1e9)
    with ThreadPoolExecutor(8) as threads:
        won = list(threads.map(lambda n: store.backend.create("commits/k/b.json", b"%d" % n, 1e9), range(16)))
    assert won.count(True) == 1
    assert store.backend.read("commits/k/b.json") == b"%d" % won.index(True)
    store.backend.delete("commits/k/b.json")
    assert (store.ids("k"), store.backend.staged(), verify(store)) == (["a"], [], [])


@pytest.mark.parametrize("durable", [True, False])
def test_a_disk_without_any_create_only_write_is_refused_when_the_store_is_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, durable: bool
) -> None:
    monkeypatch.setattr(os, "link", _no_link)
    monkeypatch.setattr(ctypes, "CDLL", lambda *_, **__: SimpleNamespace())  # a libc without renameat2
    with pytest.raises(StoreError, match=r"neither hard-link .* store\.durable=false too: point store\.url at another"):
        open_store(str(tmp_path), create=True, durable=durable)
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_a_disk_that_cannot_flush_is_refused_with_the_setting_that_asks_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(descriptor: int) -> None:
        raise OSError(errno.EINVAL, "Invalid argument")

    monkeypatch.setattr(os, "fsync", refuse)  # as some network file systems do
    with pytest.raises(StoreError, match=r"cannot flush .*: set store\.durable=false, which"):
        open_store(str(tmp_path), create=True)
    assert open_store(str(tmp_path), create=True, durable=False).ids("k") == []


def test_a_process_killed_before_a_marker_has_its_name_leaves_a_hidden_file_that_is_no_record(tmp_path: Path) -> None:
    code = (
        "import os, sys; from itercomp_rl.store.store import open_store; store = open_store(sys.argv[1], create=True); "
        "os.link = lambda *_: os._exit(9); store.put('k', 'a', {}, {})"
    )
    assert subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False).returncode == 9
    store = open_store(str(tmp_path))
    (left,) = store.backend.staged()
    assert left.startswith("commits/k/.")
    assert (store.ids("k"), store.markers(), verify(store)) == ([], [], [])
    store.put("k", "a", {}, {"x": 1})
    began = attempt_time(left)
    assert began is not None
    collect(store, grace_s=0, now=began + 4 * ATTEMPT_LIFETIME_S)
    assert (store.backend.staged(), store.ids("k")) == ([], ["a"])


def test_no_key_and_no_marker_leads_out_of_the_root(tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(b"outside")
    store = open_store(str(tmp_path / "store"), create=True)
    for key in ("../secret", "a/../../secret", "/etc/passwd", "a//b", "./a"):
        if ".." in key:
            with pytest.raises(ValueError):
                store.backend.read(key)
        with pytest.raises(InvalidNameError):
            store.backend.read_into(key, [memoryview(bytearray(7))])
        with pytest.raises(InvalidNameError):
            store.backend.write_new(key, [b"x"])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["secret", "store"]
    commit = store.put("k", "a", {"x": np.zeros(3)}, {})
    for outside in ("../secret", "segments/k/b/1700000000-000000000000", f"{commit.data}/../../../.."):
        store.backend.write(commit.marker, encode_commit(replace(commit, data=outside)))
        with pytest.raises(CorruptRecordError, match="data that are not its own"):
            store.get("k", "a")
    store.backend.write(commit.marker, encode_commit(replace(commit, arrays={"../x": commit.arrays["x"]})))
    with pytest.raises(CorruptRecordError, match="data that are not its own"):
        store.get("k", "a", ["../x"])
