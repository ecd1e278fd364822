"""Prompts as the network takes them: each is encoded once on a node, then the text encoders are freed."""

import hashlib
import json
import logging
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from importlib.metadata import version
from pathlib import Path

import torch

from itercomp_rl.diffusion.checkpoint import policy_checkpoint
from itercomp_rl.diffusion.family import FAMILIES, load_policy
from itercomp_rl.diffusion.policy import Conditioning, Policy
from itercomp_rl.diffusion.prompt_files import NUM_IN_A_FILE, PromptFiles
from itercomp_rl.files.node_folder import node_folder
from itercomp_rl.files.whole import write_whole
from itercomp_rl.network.hub import fetch_file

log = logging.getLogger(__name__)


ENCODING = 1  # raised whenever a family encodes a prompt otherwise than before, so that earlier files are left alone


class EncodedPrompts:
    """Conditioning by prompt: SDXL's takes 0.3 MiB a prompt in bf16, FLUX's 4 MiB.

    With a folder it is kept in files there, which all processes of the node map and later runs find again; without one,
    or where the folder cannot be used, in the memory of this process.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self._kept: dict[str, Conditioning] = {}
        self._folder = folder  # None once it cannot be used
        self._files: PromptFiles | None = None

    def missing(self, prompts: Sequence[str]) -> list[str]:
        """Those not encoded yet, each once."""
        return [prompt for prompt in dict.fromkeys(prompts) if not self._has(prompt)]

    @contextmanager
    def to_encode(
        self, source: str | Path, prompts: Sequence[str], *, dtype: str, device: torch.device, resolution_px: int | None
    ) -> Iterator[list[str]]:
        """Yield which prompts this process has to encode with the checkpoint's encoders, and `add` within.

        Where files are shared no other process encodes meanwhile; what one is encoding is waited for.
        """
        with ExitStack() as lock:
            if self.missing(prompts) and self._folder is not None:
                try:
                    if self._files is None:
                        key = encoder_key(source, self._folder, dtype=dtype, device=device, resolution_px=resolution_px)
                        self._files = PromptFiles(self._folder, key)
                    self._files.look()
                    if self.missing(prompts):
                        lock.enter_context(self._files.locked())
                        self._files.look()  # another process may have encoded them while this one waited
                except OSError as error:
                    self._give_up(error)
            yield self.missing(prompts)

    def add(self, policy: Policy, prompts: Sequence[str]) -> None:
        """Encode what is missing. Raises: ConfigError if something is, and the policy has no text encoders.

        One prompt at a time, as its bits depend on what else is in a batch, and must not depend on what was kept.
        """
        new = self.missing(prompts)
        for start in range(0, len(new), NUM_IN_A_FILE):
            part = new[start : start + NUM_IN_A_FILE]
            try:
                if self._files is not None and self._folder is not None:
                    self._files.write(part, (policy.encode([prompt]).to("cpu") for prompt in part))
                    continue
            except OSError as error:
                self._give_up(error)
            self._kept.update({prompt: policy.encode([prompt]).to("cpu") for prompt in part})
        log.info("encoded %d prompts", len(new))

    def of(self, prompts: Sequence[str], device: torch.device) -> Conditioning:
        """Conditioning of prompts that were added, in this order, on the device."""
        return Conditioning.cat([self._one(prompt) for prompt in prompts]).to(device)

    def _has(self, prompt: str) -> bool:
        return prompt in self._kept or (self._files is not None and prompt in self._files)

    def _one(self, prompt: str) -> Conditioning:
        if prompt in self._kept or self._files is None:
            return self._kept[prompt]
        return self._files.read(prompt)

    def _give_up(self, error: OSError) -> None:
        """Keep in memory what cannot be written; what is in files already stays readable."""
        log.warning(
            "encoded prompts are kept in the memory of each process: %s cannot be used (%s); free space there, or let "
            "TMPDIR name another disk",
            self._folder,
            error,
        )
        self._folder = None


def open_encoded_prompts() -> EncodedPrompts:
    """Encoded prompts in the folder that the processes of this user share on this node."""
    try:
        return EncodedPrompts(node_folder() / "prompts")
    except OSError as error:
        log.warning("encoded prompts are kept in the memory of each process: %s", error)
        return EncodedPrompts()


def encoder_key(
    source: str | Path, folder: Path, *, dtype: str, device: torch.device, resolution_px: int | None
) -> str:
    """A hash of all that an encoded prompt depends on: encoders and tokenizers, their precision, device and software.

    Encoders are known by the content of their files, or on the hub by the revision that is cached. folder: where the
    hashes of large files are kept, so that a file is read once.
    """
    checkpoint = policy_checkpoint(source)
    if Path(source).is_dir():
        parts = {part.name for part in checkpoint.parts} & set(FAMILIES[checkpoint.pipeline][1].text_components)
        files = sorted(path for name in parts for path in (Path(source) / name).rglob("*") if path.is_file())
        content = {str(path.relative_to(source)): _sha256(path, folder / "hashes") for path in files}
    else:
        content = {str(source): fetch_file(str(source), "model_index.json").parent.name}  # a commit, in the hub's cache
    on_gpu = device.type == "cuda"
    facts = {
        "format": ENCODING,
        "content": content,
        "pipeline": checkpoint.pipeline,
        "variant": checkpoint.variant,
        "dtype": dtype,
        "resolution_px": resolution_px,
        "device": torch.cuda.get_device_name(device) if on_gpu else f"cpu, {torch.get_num_threads()} threads",
        "software": {name: version(name) for name in ("torch", "transformers", "diffusers")},
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:32]


def _sha256(path: Path, notes: Path) -> str:
    """A file's hash, read from a note on this very state of the file where there is one."""
    status = path.stat()
    state = [str(path.resolve()), status.st_size, status.st_mtime_ns, status.st_ino]
    note = notes / hashlib.sha256(json.dumps(state).encode()).hexdigest()
    try:
        return note.read_text(encoding="utf-8")
    except FileNotFoundError:
        with path.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
        notes.mkdir(parents=True, exist_ok=True)
        write_whole(note, found)
        return found


def load_with_encoded_prompts(
    folder_or_hub_id: str | Path,
    prompts: Sequence[str],
    encoded: EncodedPrompts,
    *,
    dtype: str,
    device: torch.device,
    resolution_px: int | None,
    with_vae: bool = True,
) -> Policy:
    """A policy without text encoders, with every prompt in `encoded`, and the empty one that guidance needs.

    The text encoders are on the device before the network is: its memory never holds both. Where nothing is missing
    they are not even read. Raises: as `load_policy`.
    """
    wanted = [*prompts, ""]
    with encoded.to_encode(
        folder_or_hub_id, wanted, dtype=dtype, device=device, resolution_px=resolution_px
    ) as missing:
        policy = load_policy(
            folder_or_hub_id,
            dtype=dtype,
            resolution_px=resolution_px,
            with_text_encoders=bool(missing),
            with_vae=with_vae,
        )
        if missing:
            policy.text_encoders_to(device)
            encoded.add(policy, missing)
            policy.drop_text_encoders()
    policy.empty_prompt = encoded.of([""], device)
    return policy.to(device)
