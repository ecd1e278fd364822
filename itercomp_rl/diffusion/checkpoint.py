"""Checks of a checkpoint, made from its index and its files' headers before any process loads it.

No torch is imported for a policy's checkpoint, so that a bad configuration fails at once.
"""

import inspect
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from itercomp_rl.diffusion.component_files import Component, Files, components, read_json
from itercomp_rl.errors import CheckpointError, ConfigError, IterCompError
from itercomp_rl.network.hub import fetch_file, repository_files

log = logging.getLogger(__name__)

# Pipeline class of model_index.json -> the components whose weights a policy needs, besides text encoders.
WEIGHTS_NEEDED = {
    "StableDiffusionPipeline": {"unet": "UNet2DConditionModel", "vae": "AutoencoderKL"},
    "StableDiffusionGLIGENPipeline": {"unet": "UNet2DConditionModel", "vae": "AutoencoderKL"},
    "LLMGroundedDiffusionPipeline": {"unet": "UNet2DConditionModel", "vae": "AutoencoderKL"},
    "StableDiffusionXLPipeline": {"unet": "UNet2DConditionModel", "vae": "AutoencoderKL"},
    "StableDiffusion3Pipeline": {"transformer": "SD3Transformer2DModel", "vae": "AutoencoderKL"},
    "FluxPipeline": {"transformer": "FluxTransformer2DModel", "vae": "AutoencoderKL"},
}

# Ends of the names of a text encoder and its tokenizer: those that a pipeline class cannot do without, and the others.
_TEXT_PARTS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "StableDiffusionPipeline": (("",), ()),
    "StableDiffusionGLIGENPipeline": (("",), ()),
    "LLMGroundedDiffusionPipeline": (("",), ()),
    "StableDiffusionXLPipeline": (("_2",), ("",)),
    "StableDiffusion3Pipeline": (("", "_2"), ("_3",)),
    "FluxPipeline": (("", "_2"), ()),
}

_DIFFUSION, _FLOW = ("ddim", "ddpm"), ("euler", "renoise")
SCHEDULERS = {
    "StableDiffusionPipeline": _DIFFUSION,
    "StableDiffusionXLPipeline": _DIFFUSION,
    "StableDiffusion3Pipeline": _FLOW,
    "FluxPipeline": _FLOW,
}

# Drawn with by the gallery, never learned: the added layers would get no gradient.
GALLERY_ONLY = ("StableDiffusionGLIGENPipeline", "LLMGroundedDiffusionPipeline")


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """A checkpoint that was checked: what it is, and what loading it will open.

    Example: Checkpoint(source="models/xl", pipeline="StableDiffusionXLPipeline", parts=(Component(...), ...),
    files=Files(...), variant="fp16")
    """

    source: str
    pipeline: str  # class name
    parts: tuple[Component, ...]  # those that are loaded
    files: Files
    variant: str | None  # for from_pretrained: the only complete set of weights, None for plain files

    def log_variant(self) -> None:
        """Say which weights are loaded, where it is not the plain ones."""
        if self.variant is not None:
            log.info("loading the %s variant of %s, which has no plain weights", self.variant, self.source)

    def tensors(self) -> list[Path]:
        """The .safetensors files that loading will open; none while they are on the hub."""
        return self.files.tensors(self.parts, self.variant)


def check_checkpoint(folder_or_hub_id: str | Path) -> str:
    """The pipeline class of a checkpoint that can be a policy. Raises: CheckpointError as `policy_checkpoint`."""
    return policy_checkpoint(folder_or_hub_id).pipeline


def check_drawing(folder_or_hub_id: str | Path) -> str:
    """The pipeline class of a checkpoint that can draw. Raises: CheckpointError as `drawing_checkpoint`."""
    return drawing_checkpoint(folder_or_hub_id).pipeline


def policy_checkpoint(folder_or_hub_id: str | Path) -> Checkpoint:
    """A diffusers checkpoint that can be a policy; its index is read, or fetched from the hub.

    Every file that loading will open must be there and, in a folder, whole: configurations, tokenizers, the weights or
    all their shards. Other files do not matter.
    Raises: CheckpointError if there is none, its class is not supported, a component is absent or of another class,
    or a file is missing or damaged (pickled weights are never read).
    """
    index = load_index(folder_or_hub_id)
    name = index.get("_class_name")
    if not isinstance(name, str) or name not in WEIGHTS_NEEDED:
        raise CheckpointError(
            f"{folder_or_hub_id} is a {name} checkpoint: a policy must be one of {', '.join(WEIGHTS_NEEDED)}"
        )
    found = components(index)
    for component, class_needed in WEIGHTS_NEEDED[name].items():
        class_found = found[component].class_name if component in found else None
        if class_found != class_needed:
            raise CheckpointError(
                f"{folder_or_hub_id} has a {component} of class {class_found}: {class_needed} is needed"
            )
    needed, others = _TEXT_PARTS[name]
    others = tuple(end for end in others if {f"text_encoder{end}", f"tokenizer{end}"} & found.keys())
    text = [f"{part}{end}" for end in (*needed, *others) for part in ("text_encoder", "tokenizer")]
    for component in ("scheduler", *text):
        if component not in found:
            raise CheckpointError(f"{folder_or_hub_id} has no {component} in its model_index.json: a {name} needs it")
    return _checked(folder_or_hub_id, name, [found[part] for part in (*WEIGHTS_NEEDED[name], "scheduler", *text)])


def drawing_checkpoint(folder_or_hub_id: str | Path) -> Checkpoint:
    """As `policy_checkpoint`, for a checkpoint that only draws: any other pipeline class of diffusers' serves as well.

    Whether it makes pictures from text shows when it is loaded.
    """
    index = load_index(folder_or_hub_id)
    name = index.get("_class_name")
    if not isinstance(name, str):
        raise CheckpointError(f"{folder_or_hub_id} is of class {name}: code of a checkpoint's own is never run")
    if name in WEIGHTS_NEEDED:
        return policy_checkpoint(folder_or_hub_id)
    return _checked(folder_or_hub_id, name, _parts_of_class(folder_or_hub_id, name, index))


def _parts_of_class(folder_or_hub_id: str | Path, name: str, index: Mapping[str, Any]) -> list[Component]:
    """Those components that the pipeline class takes: an index may name others, which are never opened."""
    import diffusers  # here, as it imports torch, and only the class itself knows its components

    pipeline: Any = getattr(diffusers, name, None)
    if not inspect.isclass(pipeline) or not issubclass(pipeline, diffusers.DiffusionPipeline):
        raise CheckpointError(
            f"{folder_or_hub_id} is a {name} checkpoint, and diffusers {diffusers.__version__} has no such pipeline: "
            "install a version that has it, or name another model"
        )
    takes = inspect.signature(pipeline).parameters
    for part, parameter in takes.items():
        is_needed = parameter.default is parameter.empty and part not in pipeline._optional_components
        is_named = parameter.kind is parameter.POSITIONAL_OR_KEYWORD
        if is_needed and is_named and index.get(part) in (None, [None, None]):
            raise CheckpointError(f"{folder_or_hub_id} has no {part} in its model_index.json: a {name} needs it")
    return [component for part, component in components(index).items() if part in takes]


def _checked(folder_or_hub_id: str | Path, name: str, parts: list[Component]) -> Checkpoint:
    folder = Path(folder_or_hub_id)
    files = Files.of(folder) if folder.is_dir() else _files_on_hub(str(folder_or_hub_id))
    variant = files.variant(parts)
    files.check(parts, variant)
    return Checkpoint(source=str(folder_or_hub_id), pipeline=name, parts=tuple(parts), files=files, variant=variant)


@contextmanager
def loading(folder_or_hub_id: str | Path) -> Iterator[None]:
    """Turn what diffusers and transformers raise for files that do not fit them into a CheckpointError."""
    from huggingface_hub.errors import StrictDataclassError  # raised for a wrong type in a configuration

    wrong = (OSError, ValueError, LookupError, AttributeError, TypeError, RuntimeError, ImportError)
    try:
        yield
    except IterCompError:
        raise
    except (*wrong, SafetensorError, StrictDataclassError) as error:
        reason = " ".join(str(error).split()) or "no reason given"
        is_here = Path(folder_or_hub_id).is_dir()
        raise CheckpointError(
            f"{folder_or_hub_id} cannot be loaded ({type(error).__name__}: {reason}): "
            + ("its files do not fit each other" if is_here else "it could not be fetched, or its files do not fit")
            + " or the installed diffusers and transformers; save it with these versions, or name another model"
        ) from error


def check_scheduler(pipeline: str, scheduler: str) -> None:
    """Raises: ConfigError if policy.scheduler is not one of the noise process of this pipeline class."""
    known = SCHEDULERS[pipeline]
    if scheduler not in known:
        raise ConfigError(
            f"policy.scheduler is {scheduler!r} and policy.model a {pipeline}: must be {' or '.join(known)}"
        )


def load_index(folder_or_hub_id: str | Path) -> dict[str, Any]:
    """model_index.json of a folder, or fetched from the hub. Raises: CheckpointError if there is none."""
    folder = Path(folder_or_hub_id)
    if folder.is_file():
        raise CheckpointError(_one_file(folder))
    if folder.is_symlink() and not folder.exists():
        raise CheckpointError(f"{folder} is a link to {folder.readlink()}, which does not exist: mend the link")
    if not folder.is_dir():
        return read_json(fetch_file(str(folder_or_hub_id), "model_index.json"))
    path = folder / "model_index.json"
    if not path.is_file() and not path.is_symlink():
        raise CheckpointError(
            f"{folder} has no model_index.json: give a folder made by a diffusers pipeline's save_pretrained"
        )
    return read_json(path)


def _one_file(path: Path) -> str:
    if path.name == "model_index.json":
        return f"{path} is a checkpoint's index: give the folder that it is in"
    if path.suffix != ".safetensors":
        return f"{path} is a single file: give a folder made by a diffusers pipeline's save_pretrained"
    return (
        f"{path} is a single .safetensors file, and a checkpoint here is a folder of diffusers'. Make one of it, once: "
        f"StableDiffusionXLPipeline.from_single_file({str(path)!r}).save_pretrained(FOLDER), with the pipeline class "
        "that the file was made for, and name FOLDER"
    )


def _files_on_hub(hub_id: str) -> Files:
    """The names that the hub lists, or the ones in its cache where the hub does not answer."""
    names = repository_files(hub_id)
    if names is None:
        names = Files.of(fetch_file(hub_id, "model_index.json").parent).names
    return Files(source=hub_id, folder=None, names=names)
