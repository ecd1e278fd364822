"""What this machine has and lacks for a run, and how to get it. Looks, and changes nothing that stays."""

import os
import shutil
import socket
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata, util
from pathlib import Path
from typing import Literal

from packaging.requirements import Requirement

from cluster.ray_folder import LONGEST_PARENT, private_folder
from itercomp_rl.errors import IterCompError
from itercomp_rl.forecast.machine import free_ram_bytes, ram_bytes

State = Literal["ok", "look", "missing"]  # fine | works, with something to know | a run cannot do without it
GIB = 2**30


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """Finding(part="disk", state="look", found="2 GiB free in runs", way_out="free some, or set run.dir")."""

    part: str
    state: State
    found: str
    way_out: str = ""


def examine(run_dir: Path, store_url: str | None) -> Iterator[Finding]:
    """Every finding, in the order a reader wants them; some take a second."""
    yield from _python()
    yield from _packages()
    yield from _optional()
    yield from _devices()
    yield from _attention()
    yield from _compiler()
    yield from _ray()
    yield from _home()
    yield from _temporary()
    yield from _store(run_dir, store_url)
    yield from _disk(run_dir)
    yield from _network()
    yield from _models()


def _python() -> Iterator[Finding]:
    fits = (3, 11) <= sys.version_info[:2] <= (3, 13)
    way_out = "" if fits else "make install PYTHON=python3.12 (3.11, 3.12 or 3.13)"
    found = f"{sys.version.split()[0]} at {sys.executable}"
    yield Finding(part="python", state="ok" if fits else "missing", found=found, way_out=way_out)


def _packages() -> Iterator[Finding]:
    """Everything that the project requires, at a version it allows."""
    wrong, versions = [], []
    for text in metadata.requires("itercomp-rl") or []:
        requirement = Requirement(text)
        if requirement.marker and not requirement.marker.evaluate({"extra": ""}):
            continue
        try:
            version = metadata.version(requirement.name)
        except metadata.PackageNotFoundError:
            wrong.append(f"{requirement.name} is not installed")
            continue
        versions.append(f"{requirement.name} {version}")
        if not requirement.specifier.contains(version, prereleases=True):
            wrong.append(f"{requirement.name} {version} is not {requirement.specifier}")
    if wrong:
        yield Finding(part="packages", state="missing", found="; ".join(wrong), way_out="pip install -e .")
    else:
        yield Finding(part="packages", state="ok", found=", ".join(versions))


def _optional() -> Iterator[Finding]:
    wanted = {"wandb": "tracking", "mlflow": "tracking", "trackio": "tracking", "bitsandbytes": "8-bit optimisers"}
    there = [name for name in wanted if util.find_spec(name)]
    absent = [f"{name} ({why})" for name, why in wanted.items() if name not in there]
    found = f"installed: {', '.join(there) or 'none'}; not: {', '.join(absent) or 'none'}"
    way_out = "pip install NAME, only where a config asks for it" if absent else ""
    yield Finding(part="optional packages", state="ok", found=found, way_out=way_out)


def _devices() -> Iterator[Finding]:
    import torch

    total, available = ram_bytes(), free_ram_bytes()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    found = f"{cores} cores, {total / GIB:.1f} GiB memory, {available / GIB:.1f} GiB available"
    small = available < 4 * GIB
    way_out = "the quickstart peaks at about 4 GiB: close something" if small else ""
    yield Finding(part="cpu", state="look" if small else "ok", found=found, way_out=way_out)
    if torch.cuda.is_available():
        cards = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]
        found = ", ".join(f"{card.name} ({card.total_memory / GIB:.0f} GiB)" for card in cards)
        yield Finding(part="gpu", state="ok", found=f"{found}; CUDA {torch.version.cuda}")
    elif shutil.which("nvidia-smi"):
        found = f"nvidia-smi is there, but torch {torch.__version__} finds no GPU"
        way_out = "install the CUDA build of torch (pytorch.org), or look at CUDA_VISIBLE_DEVICES and the driver"
        yield Finding(part="gpu", state="look", found=found, way_out=way_out)
    else:
        way_out = "the embedded world needs none; SDXL and larger do"
        yield Finding(part="gpu", state="look", found="none", way_out=way_out)


def _attention() -> Iterator[Finding]:
    import torch

    there = ["torch SDPA"]
    there += [name for name in ("flash_attn", "xformers") if util.find_spec(name)]
    if torch.cuda.is_available() and torch.backends.cuda.flash_sdp_enabled():
        there.append("flash kernels within SDPA")
    yield Finding(part="attention", state="ok", found=", ".join(there), way_out="")


def _compiler() -> Iterator[Finding]:
    compiler = shutil.which("c++") or shutil.which("g++") or shutil.which("clang++")
    found = compiler or "no C++ compiler"
    way_out = "" if compiler else "apt-get install g++: DeepSpeed compiles a small extension once"
    yield Finding(part="compiler", state="ok" if compiler else "look", found=found, way_out=way_out)


def _ray() -> Iterator[Finding]:
    address = os.environ.get("RAY_ADDRESS")
    place = "runs start a private Ray" + (
        f", not that of RAY_ADDRESS ({address}) but with --address" if address else ""
    )
    yield Finding(part="ray", state="ok", found=f"{metadata.version('ray')}; {place}")
    mode = os.environ.get("RAY_AUTH_MODE", "not set")
    file = Path(os.environ.get("RAY_AUTH_TOKEN_PATH", os.path.expanduser("~/.ray/auth_token")))  # noqa: PTH111
    has_token = "RAY_AUTH_TOKEN" in os.environ or file.exists()
    found = f"RAY_AUTH_MODE {mode}, {'a token is there' if has_token else 'no token'}"
    if has_token and mode == "not set":
        yield Finding(
            part="ray authentication",
            state="look",
            found=found,
            way_out="`ray job submit` needs RAY_AUTH_MODE=token in its environment",
        )
    else:
        way_out = "" if has_token else "`ray get-auth-token --generate` makes one; a private Ray needs none"
        yield Finding(part="ray authentication", state="ok", found=found, way_out=way_out)


def _home() -> Iterator[Finding]:
    """A run of shipped models needs no home folder; libraries keep downloads and compiled code there."""
    home = Path(os.path.expanduser("~"))  # noqa: PTH111 - Path.home() raises where there is none
    if home.is_dir() and os.access(home, os.W_OK):
        yield Finding(part="home folder", state="ok", found=str(home))
        return
    yield Finding(
        part="home folder",
        state="look",
        found=f"{home} {'cannot be written' if home.is_dir() else 'does not exist'}",
        way_out="set HOME to a folder that this user may write, or HF_HOME for downloads, TORCH_EXTENSIONS_DIR and "
        "TRITON_CACHE_DIR for compiled code",
    )


def _temporary() -> Iterator[Finding]:
    """Whether a private Ray can have its sockets below TMPDIR, and where they go if not."""
    asked = os.environ.get("TMPDIR") or "not set"
    try:
        folder = private_folder()
    except IterCompError as error:
        way_out = "set TMPDIR to a short path that this user may write"
        yield Finding(part="temporary folder", state="missing", found=str(error), way_out=way_out)
        return
    folder.rmdir()
    is_below = asked == "not set" or folder.parent == Path(asked).absolute()
    yield Finding(
        part="temporary folder",
        state="ok" if is_below else "look",
        found=f"TMPDIR {asked}; Ray's files go to {folder.parent}",
        way_out="" if is_below else f"to have them below TMPDIR, one of at most {LONGEST_PARENT} bytes is needed",
    )


def _store(run_dir: Path, url: str | None) -> Iterator[Finding]:
    from itercomp_rl.store.backend import connect

    folder = None
    if url is None:
        above = next(path for path in (run_dir, *run_dir.parents) if path.exists())
        try:
            folder = Path(tempfile.mkdtemp(prefix=".doctor-", dir=above))
        except OSError as error:
            way_out = "set run.dir to a folder that this user may write"
            yield Finding(part="store", state="missing", found=f"{above}: {error.strerror}", way_out=way_out)
            return
    try:
        backend = connect(url or str(folder), create=True, durable=False)
        backend.check_create_only(time.time())
        found = f"{folder.parent if folder else backend.url} takes create-only writes"
        yield Finding(part="store", state="ok", found=f"{found}; file://, s3://, gs://, az:// are built in")
    except IterCompError as error:
        yield Finding(part="store", state="missing", found=str(error), way_out="store.url=... names another place")
    finally:
        if folder:
            shutil.rmtree(folder, ignore_errors=True)


def _disk(run_dir: Path) -> Iterator[Finding]:
    above = next(path for path in (run_dir, *run_dir.parents) if path.exists())
    places = {
        "runs": (above, 4 * GIB, "set run.dir, or free some"),
        "temporary": (
            Path(tempfile.gettempdir()),
            2 * GIB,
            "Ray's logs and sockets lie there: set TMPDIR, or free some",
        ),
        "shared memory": (Path("/dev/shm"), GIB, "Ray's objects lie there: docker run --shm-size=4g"),
    }
    for name, (path, least, way_out) in places.items():
        if path.exists():
            free = shutil.disk_usage(path).free
            enough = free >= least
            found = f"{free / GIB:.1f} GiB free in {path}"
            yield Finding(
                part=f"disk: {name}",
                state="ok" if enough else "look",
                found=found,
                way_out="" if enough else f"{least / GIB:.0f} GiB is the least for comfort: {way_out}",
            )


def _network() -> Iterator[Finding]:
    try:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
    except OSError as error:
        way_out = "processes of a run talk over TCP: allow sockets in this sandbox"
        yield Finding(part="network", state="missing", found=f"no port can be bound: {error}", way_out=way_out)
        return
    taken = [f"{port} ({what})" for port, what in RAY_PORTS.items() if _answers(port)]
    found = f"in use: {', '.join(taken)}" if taken else f"free: {', '.join(map(str, RAY_PORTS))}"
    way_out = "a Ray cluster runs here; runs do not join it unless --address names it" if taken else ""
    yield Finding(part="network ports", state="look" if taken else "ok", found=found, way_out=way_out)


RAY_PORTS = {6379: "Ray's head", 8265: "its dashboard and jobs", 10001: "its client server"}


def _answers(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(0.3)
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _models() -> Iterator[Finding]:
    from itercomp_rl.diffusion.checkpoint import check_checkpoint
    from itercomp_rl.files.checkpoint_path import checkpoint_path

    try:
        check_checkpoint(checkpoint_path("embedded:base"))
        yield Finding(part="shipped models", state="ok", found="the embedded world's are there")
    except IterCompError as error:
        way_out = "install the project anew: the wheel or checkout is incomplete"
        yield Finding(part="shipped models", state="missing", found=str(error), way_out=way_out)
