"""What may be deleted, and when: leases of readers, old weights versions, data nobody published; and a check of it all.

    reader      lease(v) ... load(v) ... work with v ... lease(v+1)
    collector   retire: note the time, delete the marker -> after the grace period: delete the data
A reader that read a marker just before it was deleted has the grace period to finish loading.
"""

import re
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from itercomp_rl.errors import CorruptRecordError
from itercomp_rl.store.layout import (
    ATTEMPT_LIFETIME_S,
    FOLDERS,
    HEADER,
    HEADER_KEY,
    PACKED_HEADER,
    Commit,
    attempt_time,
    checked_name,
    encode_json,
    folder_of,
    group_metadata,
    is_own,
    kind_of_pack,
    own_place,
    record_place,
    seal,
    unseal,
    version_place,
)
from itercomp_rl.store.packs import read_pack
from itercomp_rl.store.store import Store

MIN_VERSIONS = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Lease:
    """A reader's claim on one version: Lease(reader="roller-2", role="policy", version=3, expires_s=1.7e9)."""

    reader: str
    role: str
    version: int
    expires_s: float  # unix seconds


@dataclass(frozen=True, slots=True, kw_only=True)
class Collected:
    """What one collection did: versions no longer visible, as (role, version), and folders whose data are gone."""

    retired: list[tuple[str, int]]
    deleted: list[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """Something `verify` found: Problem(kind="corrupt", key="commits/images/r1.json", reason="... wrong chunk ...")."""

    kind: str  # corrupt: a published record cannot be trusted; orphan: unpublished data; stray: a foreign key
    key: str
    reason: str


def lease(store: Store, claim: Lease) -> None:
    """Keep a version from deletion until the claim expires; replaces the reader's earlier claim. Take it, then load."""
    version_place(claim.role, claim.version)
    store.backend.write(f"leases/{checked_name(claim.reader)}.json", seal("lease", asdict(claim)))


def release(store: Store, reader: str) -> None:
    """Give up a reader's claim; fine if it has none."""
    store.backend.delete(f"leases/{checked_name(reader)}.json")


def leases(store: Store) -> list[Lease]:
    """All claims, expired ones too. Raises: CorruptRecordError, as nothing may be deleted on a guess."""
    claims = []
    for key in store.backend.sizes("leases"):
        data = store.backend.read(key) if is_own(key) else None
        if data is None:
            continue  # foreign, or released since it was listed
        claims.append(_lease_of(key, data))
    return claims


def collect(
    store: Store,
    *,
    grace_s: float,
    now: float,
    keep_versions: int = MIN_VERSIONS,
    keep: Collection[tuple[str, int]] = (),
    finished: Callable[[Sequence[Commit]], Collection[str]] = lambda _: (),
    orphan_age_s: float | None = 4 * ATTEMPT_LIFETIME_S,
) -> Collected:
    """Delete old weights versions, marker first and data `grace_s` later, and data unpublished after `orphan_age_s`.

    Never deleted: leased versions, each role's newest `keep_versions`, those in `keep` as (role, version), and what
    these are based on: what a version is based on goes only after the version's own data, which a lease may hold.
    Safe beside writers, readers and other collectors, and after one that was killed. Foreign files stay. A reader must
    take its lease before it looks for the marker, and load within `grace_s` or under a lease that has not expired.
    Args: now: unix seconds. finished: tells from all versions' commits in which roles nobody will take a lease any
    more: of these the newest go too. orphan_age_s: None leaves orphans; then the cost grows with the versions there
    are, and not with the records, whose folders a search for orphans lists one by one.
    Raises: ValueError if keep_versions < 4 or orphan_age_s could reach a writer still at work.
    """
    if keep_versions < MIN_VERSIONS:
        raise ValueError(
            f"keep_versions is {keep_versions}: must be {MIN_VERSIONS} or more, slow readers need old versions"
        )
    if orphan_age_s is not None and orphan_age_s < 2 * ATTEMPT_LIFETIME_S:
        raise ValueError(
            f"orphan_age_s is {orphan_age_s}: must be {2 * ATTEMPT_LIFETIME_S} or more, writers may still work"
        )
    folders = _folders(store) if orphan_age_s is not None else []  # before the markers: those published since are known
    commits = store.find_all(place for key in store.backend.sizes("versions") if (place := own_place(key)))
    # After the markers: a version whose marker was gone by then has its note here, or no data any more.
    needed = _bases_of_retired(store)
    held = {(claim.role, claim.version) for claim in leases(store) if claim.expires_s > now} | set(keep)
    doomed = _doomed(commits, held | needed, keep_versions, finished(commits))
    for commit in doomed:
        base = _base(commit)
        note = {"retired_s": now} if base is None else {"retired_s": now, "base_version": base[1]}
        store.backend.write(_tombstone(commit.data), seal("note", note))
        store.backend.delete(commit.marker)
    live = {commit.data for commit in commits} - {commit.data for commit in doomed}
    retired, due = _retired(store, live, held, now - grace_s)
    orphans: list[str] = []
    if orphan_age_s is not None:
        old = [key for key in folders if key not in live | retired and _is_old(key, now - orphan_age_s)]
        orphans = _without_marker(store, old, folders)
    for folder in due + orphans:
        store.backend.delete_folder(folder)
    for folder in due:
        store.backend.delete(_tombstone(folder))
    if orphan_age_s is not None:
        for key in store.backend.staged():
            if _is_old(key, now - orphan_age_s):
                store.backend.delete(key)
    return Collected(retired=[version_of(commit) for commit in doomed], deleted=due + orphans)


def verify(store: Store) -> list[Problem]:
    """Read every byte of every record and say what is wrong; an empty list is a sound store without orphans.

    A foreign folder at the store's top is one problem, whatever lies in it.
    Quiet stores only: beside a writer its unpublished data show as orphans, beside a collector records as missing.
    """
    problems = _check_documents(store)
    markers, unread = _markers(store, problems)
    live: set[str | None] = {folder for folder in _folders(store) if folder.startswith(unread)}
    for marker in [*markers, *store.backend.sizes("versions")]:
        place = own_place(marker)
        if place is None:
            continue  # foreign: named below
        try:
            commit = store.find(place)
            if commit is not None:
                live.add(commit.data)
                _check(store, commit)
        except CorruptRecordError as error:
            live |= {
                folder for folder in _folders(store) if folder.startswith(place.data)
            }  # one of them may be its own
            problems.append(Problem(kind="corrupt", key=marker, reason=str(error)))
    noted = {_folder_of_note(key) for key in store.backend.sizes("retired")}
    for folder in _folders(store):
        if folder not in live | noted:
            problems.append(
                Problem(kind="orphan", key=folder, reason="data without a marker: the collector removes it")
            )
    problems += [
        Problem(kind="stray", key=key, reason="not a key this software writes: move it out") for key in _foreign(store)
    ]
    return problems


def _foreign(store: Store) -> list[str]:
    tops = [name for name in store.backend.tops() if name not in FOLDERS and not is_own(name)]
    return tops + [key for folder in FOLDERS for key in store.backend.sizes(folder) if not is_own(key)]


def _markers(store: Store, problems: list[Problem]) -> tuple[list[str], tuple[str, ...]]:
    """Markers by themselves and in packs; and, below which folders the data of packs lie that cannot be read."""
    found = set(store.backend.sizes("commits"))
    unread = []
    for key in store.backend.sizes("packs"):
        if (kind := kind_of_pack(key)) is None:
            continue
        try:
            found |= {record_place(kind, id_).marker for id_ in read_pack(store.backend, kind, key)}
        except CorruptRecordError as error:
            problems.append(Problem(kind="corrupt", key=key, reason=str(error)))
            unread.append(f"segments/{kind}/")
    return sorted(found), tuple(unread)


def _check(store: Store, commit: Commit) -> None:
    if commit.data is None:
        return
    documents = {f"{commit.data}/zarr.json": group_metadata(commit.attrs)}
    documents |= {f"{commit.data}/{name}/zarr.json": info.metadata for name, info in commit.arrays.items()}
    for key, document in documents.items():
        if store.backend.read(key) != encode_json(document):
            raise CorruptRecordError(f"{key} is missing or not as {commit.marker} says: write it again from there")
    for name, info in commit.arrays.items():
        store.read_array(commit, name)
        store.check_objects(f"{commit.data}/{name}", info)


def _check_documents(store: Store) -> list[Problem]:
    """What is wrong with the small documents beside the records."""
    problems = []
    headers = [encode_json(PACKED_HEADER)]
    if not any(map(kind_of_pack, store.backend.sizes("packs"))):
        headers.append(encode_json(HEADER))
    if store.backend.read(HEADER_KEY) not in headers:
        problems.append(Problem(kind="corrupt", key=HEADER_KEY, reason=f"must be {headers[-1].decode()}"))
    for name, decode in (("leases", _lease_of), ("retired", _retired_s)):
        for key in filter(is_own, store.backend.sizes(name)):
            data = store.backend.read(key)
            try:
                if data is not None:
                    decode(key, data)
            except CorruptRecordError as error:
                problems.append(Problem(kind="corrupt", key=key, reason=str(error)))
    return problems


def _lease_of(key: str, data: bytes) -> Lease:
    try:
        return Lease(**unseal("lease", key, data))
    except CorruptRecordError as error:
        raise CorruptRecordError(f"{error}: delete it once its reader is known to be gone") from error


def _retired_s(key: str, data: bytes) -> float:
    return _note_of(key, data)["retired_s"]


def _note_of(key: str, data: bytes) -> dict[str, Any]:
    try:
        return unseal("note", key, data)
    except CorruptRecordError as error:
        raise CorruptRecordError(f"{error}: delete it, its data then are an orphan") from error


def _folders(store: Store) -> list[str]:
    keys = [*store.backend.sizes("segments"), *store.backend.sizes("weights")]
    return sorted({folder for folder in map(folder_of, keys) if folder})


def _is_old(key: str, before_s: float) -> bool:
    began_s = attempt_time(key)
    return began_s is not None and began_s <= before_s


def _without_marker(store: Store, candidates: list[str], folders: list[str]) -> list[str]:
    """Those of the folders that no marker names; a marker is read only where it could name another attempt."""
    weights = [folder for folder in candidates if folder.startswith("weights/")]  # what lives of these was set apart
    attempts = Counter(folder.rsplit("/", 1)[0] for folder in folders)
    segments = [folder for folder in candidates if folder.startswith("segments/")]
    published = set(store.markers()) if segments else set()
    places = {folder: record_place(*folder.split("/")[1:3]) for folder in segments}
    found = [folder for folder in segments if places[folder].marker not in published]
    rivals = [f for f in segments if places[f].marker in published and attempts[f.rsplit("/", 1)[0]] > 1]
    named = {commit.data for commit in store.find_all(dict.fromkeys(places[folder] for folder in rivals))}
    return sorted(weights + found + [folder for folder in rivals if folder not in named])


def version_of(commit: Commit) -> tuple[str, int]:
    """Role and number of the version that a marker of versions/ shows."""
    _, role, name = commit.marker.split("/")
    return role, int(name.removesuffix(".json"))


def _doomed(
    commits: list[Commit], held: set[tuple[str, int]], keep_versions: int, finished: Collection[str]
) -> list[Commit]:
    by_version = {version_of(commit): commit for commit in commits}
    newest: dict[str, list[int]] = {}
    for role, version in sorted(by_version, reverse=True):
        newest.setdefault(role, []).append(version)
    kept = held | {
        (role, version)
        for role, falling in newest.items()
        if role not in finished
        for version in falling[:keep_versions]
    }
    # Of those that go now too: a reader whose lease came a moment late may have one, and look for its base next.
    kept |= {base for commit in commits if (base := _base(commit))}
    return [commit for role_version, commit in sorted(by_version.items()) if role_version not in kept]


def _base(commit: Commit) -> tuple[str, int] | None:
    base = commit.attrs["attrs"].get("base_version")
    return (version_of(commit)[0], base) if isinstance(base, int) else None


def _bases_of_retired(store: Store) -> set[tuple[str, int]]:
    """What versions are based on whose marker is gone and whose data are not, or not all."""
    found: set[tuple[str, int]] = set()
    for key in filter(is_own, store.backend.sizes("retired")):
        data = store.backend.read(key)
        base = None if data is None else _note_of(key, data).get("base_version")
        if isinstance(base, int):
            found.add((key.split("/")[1], base))
    return found


def _retired(
    store: Store, live: set[str | None], held: set[tuple[str, int]], before_s: float
) -> tuple[set[str], list[str]]:
    """Folders whose version was retired, and those of them retired before a time and held by nobody."""
    retired: set[str] = set()
    due: list[str] = []
    for key in store.backend.sizes("retired"):
        match = re.fullmatch(r"retired/(([^/]+)/v(\d{8})-.+)\.json", key)
        data = store.backend.read(key)
        if match is None or data is None or f"weights/{match[1]}" in live:
            continue  # live: a collector was killed between note and marker, and the version is wanted after all
        retired.add(f"weights/{match[1]}")
        if _retired_s(key, data) <= before_s and (match[2], int(match[3])) not in held:
            due.append(f"weights/{match[1]}")
    return retired, due


def _folder_of_note(key: str) -> str:
    return f"weights/{key.removeprefix('retired/').removesuffix('.json')}"


def _tombstone(folder: str | None) -> str:
    assert folder is not None  # weights always have data
    return f"retired/{folder.removeprefix('weights/')}.json"
