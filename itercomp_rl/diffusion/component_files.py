"""Which files of a checkpoint `from_pretrained` will open: the check, the loaders and the estimate of memory ask here.

No torch is imported, so that a bad configuration fails at once.

    unet/config.json                                          a network's sizes; schedulers and tokenizers have others
    unet/diffusion_pytorch_model.safetensors                  a model of diffusers; transformers': model.safetensors
    unet/diffusion_pytorch_model.safetensors.index.json       or its shards, by this index
    unet/diffusion_pytorch_model.fp16.safetensors             or a variant, which must be asked for by name
"""

import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from itercomp_rl.errors import CheckpointError
from itercomp_rl.files.tensors import check_readable, check_whole

_DIFFUSERS, _TRANSFORMERS = "diffusion_pytorch_model", "model"
_STEMS = {"diffusers": (_DIFFUSERS,), "transformers": (_TRANSFORMERS,)}
_VARIANT = re.compile(
    rf"(?:{_DIFFUSERS}|{_TRANSFORMERS})\.(?:(?P<one>[\w-]+?)\.safetensors|safetensors\.index\.(?P<many>[\w-]+)\.json)"
)
# The files that may hold a tokenizer's vocabulary, any one group of them. A class that finds none of its own makes an
# empty vocabulary and says nothing; a class that is not in this table may need files of other names, or none.
_FAST, _BPE = ("tokenizer.json",), ("vocab.json", "merges.txt")
_VOCABULARIES = {
    "CLIPTokenizer": (_FAST, _BPE),
    "GPT2Tokenizer": (_FAST, _BPE),
    "Qwen2Tokenizer": (_FAST, _BPE),
    "T5Tokenizer": (_FAST, ("spiece.model",)),
    "GemmaTokenizer": (_FAST, ("tokenizer.model",)),
    "LlamaTokenizer": (_FAST, ("tokenizer.model",)),
    "XLMRobertaTokenizer": (_FAST, ("sentencepiece.bpe.model",)),
    "BertTokenizer": (_FAST, ("vocab.txt",)),
    "PreTrainedTokenizer": (_FAST,),
    "TokenizersBackend": (_FAST,),
}
# Read by every tokenizer where they are there.
_TOKENS = ("special_tokens_map.json", "added_tokens.json")


@dataclass(frozen=True, slots=True, kw_only=True)
class Component:
    """An entry of model_index.json: Component(name="unet", library="diffusers", class_name="UNet2DConditionModel")."""

    name: str
    library: str
    class_name: str

    @property
    def is_tokenizer(self) -> bool:
        """Whether text becomes tokens by it."""
        return "Tokenizer" in self.class_name or self.class_name == "TokenizersBackend"

    @property
    def is_processor(self) -> bool:
        """Whether it prepares images or joint inputs for a network."""
        return self.class_name.endswith(("Processor", "ProcessorFast", "FeatureExtractor"))

    @property
    def has_weights(self) -> bool:
        """Whether it is a network: the class names of all other components say what they are."""
        return not (self.is_tokenizer or self.is_processor or "Scheduler" in self.class_name)

    @property
    def documents(self) -> tuple[tuple[str, ...], ...]:
        """The files besides weights that it is made from: any one of these groups."""
        if self.is_tokenizer:
            groups = _VOCABULARIES.get(self.class_name.removesuffix("Fast"), ((),))
            return tuple(("tokenizer_config.json", *group) for group in groups)
        if self.is_processor:
            # Those of other libraries have files of their own.
            ours = self.library == "transformers"
            return (("preprocessor_config.json",), ("processor_config.json",)) if ours else ((),)
        return (("config.json",),) if self.has_weights else (("scheduler_config.json",),)


def components(index: Mapping[str, Any]) -> dict[str, Component]:
    """The components that a model_index.json names, by their names; those it states as absent are left out."""
    return {
        name: Component(name=name, library=value[0], class_name=value[1])
        for name, value in index.items()
        if isinstance(value, list) and len(value) == 2 and all(isinstance(part, str) for part in value)
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class Files:
    """What a checkpoint holds: `names` such as "unet/config.json", and the folder they are in, None for the hub."""

    source: str
    folder: Path | None
    names: frozenset[str]

    @staticmethod
    def of(folder: Path) -> "Files":
        """The names in a folder and in the folders right in it, links without a target too. Raises: CheckpointError."""
        try:
            names = {path.name for path in folder.iterdir()}
            for part in [name for name in names if (folder / name).is_dir()]:
                names |= {f"{part}/{name}" for name in os.listdir(folder / part)}  # noqa: PTH208  # names alone
        except OSError as error:
            raise CheckpointError(f"{folder} cannot be listed: {error}") from error
        return Files(source=str(folder), folder=folder, names=frozenset(names))

    def within(self, component: Component) -> str:
        """What the component's names begin with: its folder, or nothing, as diffusers then looks in the root."""
        prefix = f"{component.name}/"
        return prefix if any(name.startswith(prefix) for name in self.names) else ""

    def weights(self, component: Component, variant: str | None) -> str | None:
        """The file by which a component's weights are opened: a .safetensors, or the index of its shards."""
        mark, prefix = f".{variant}" if variant else "", self.within(component)
        for stem in _STEMS.get(component.library, (_DIFFUSERS, _TRANSFORMERS)):
            one, many = f"{prefix}{stem}{mark}.safetensors", f"{prefix}{stem}.safetensors.index{mark}.json"
            # Where both are there, diffusers opens the index and transformers the single file.
            for name in (many, one) if stem == _DIFFUSERS else (one, many):
                if name in self.names:
                    return name
        return None

    def weights_in_use(self, component: Component, variant: str | None) -> str | None:
        """As `weights`, where a whole pipeline is loaded by `variant`: a component without it is loaded plain."""
        return self.weights(component, variant if variant and self._has_variant(component, variant) else None)

    def _has_variant(self, component: Component, variant: str) -> bool:
        """diffusers' own rule: any file, weights or not, whose name goes on with the variant after its first dot."""
        prefix = f"{component.name}/"
        names = (name.removeprefix(prefix) for name in self.names if name.startswith(prefix))
        return any("." in name and name.split(".")[1].startswith(variant) for name in names)

    def variant(self, parts: Sequence[Component]) -> str | None:
        """What `from_pretrained` must be given as `variant` to load the parts: None where their plain files serve.

        Raises: CheckpointError if several would do, as one of them would be a guess.
        """
        models = [part for part in parts if part.has_weights]
        marks = {match[1] or match[2] for name in self.names if (match := _VARIANT.fullmatch(name.rpartition("/")[2]))}
        marks = {re.sub(r"-\d{5}-of-\d{5}$", "", mark) for mark in marks}
        num_found = {
            mark: sum(self.weights_in_use(part, mark) is not None for part in models) for mark in (None, *sorted(marks))
        }
        complete = [mark for mark, num in num_found.items() if num == len(models)]
        if len(complete) > 1 and complete[0] is not None:
            raise CheckpointError(
                f"{self.source} has no plain weights and several variants of them ({', '.join(map(str, complete))}): "
                "keep the files of one variant, or rename them to the plain names"
            )
        return max(num_found, key=lambda mark: num_found[mark])  # where none is complete, `check` says what it lacks

    def check(self, parts: Sequence[Component], variant: str | None) -> None:
        """Raises: CheckpointError naming the first file that loading the parts would miss, or find damaged."""
        for part in parts:
            self._check_documents(part)
            if part.has_weights:
                self._check_weights(part, variant)
        if variant is not None and self.folder is not None:
            self._check_dots(parts)

    def _check_documents(self, part: Component) -> None:
        prefix = self.within(part)
        for group in part.documents:
            if all(prefix + name in self.names for name in group):
                tokens = [name for name in _TOKENS if part.is_tokenizer and prefix + name in self.names]
                for name in (*group, *tokens):
                    self._check_document(prefix + name)
                return
        lacking = [[name for name in group if prefix + name not in self.names] for group in part.documents]
        said = " or ".join(" and ".join(names) for names in lacking)
        raise CheckpointError(
            f"{self._place(part)} has no {said}: its {part.class_name} cannot be loaded; fetch what is missing, or "
            "save the pipeline again"
        )

    def _check_document(self, name: str) -> None:
        if self.folder is None:
            return
        if name.endswith(".json"):
            read_json(self.folder / name)
        else:
            check_readable(self.folder / name)

    def _check_weights(self, part: Component, variant: str | None) -> None:
        opened = self.weights_in_use(part, variant)
        if opened is None:
            have = sorted(name for name in self.names if name.startswith(f"{part.name}/") and _is_weights(name))
            mark = f".{variant}" if variant else ""
            stems = _STEMS.get(part.library, (_DIFFUSERS, _TRANSFORMERS))
            wanted = " or ".join(f"{stem}{mark}.safetensors" for stem in stems)
            raise CheckpointError(
                f"{self._place(part)} has no .safetensors weights that can be loaded ({wanted}, or an index of its "
                f"shards; there: {', '.join(have) or 'none'}): save the pipeline with safe_serialization=True, or "
                "fetch the same variant of all components"
            )
        if self.folder is not None:
            for path in _opened(self.folder / opened):
                check_whole(path)

    def _check_dots(self, parts: Sequence[Component]) -> None:
        # diffusers looks for a variant by splitting every name at its dots, and raises IndexError where there is none.
        for part in parts:
            for name in sorted(name for name in self.names if name.startswith(f"{part.name}/")):
                if "." not in name:
                    raise CheckpointError(
                        f"{self.source} has weights of a variant alone, and diffusers cannot load one beside a file or "
                        f"folder without a dot in its name: move {name} out of the checkpoint"
                    )

    def _place(self, part: Component) -> str:
        return f"{self.source}/{part.name}"

    def tensors(self, parts: Sequence[Component], variant: str | None) -> list[Path]:
        """The .safetensors files that loading the parts will open, [] while they are on the hub."""
        names = [self.weights_in_use(part, variant) for part in parts if part.has_weights]
        return [path for name in names if name and self.folder for path in _opened(self.folder / name)]


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file of a checkpoint. Raises: CheckpointError."""
    check_readable(path)
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:  # what is no JSON, and what is no UTF-8
        raise CheckpointError(f"{path} is not valid JSON: {error}; fetch it or save the checkpoint again") from error
    if not isinstance(found, dict):
        raise CheckpointError(f"{path} holds a {type(found).__name__}: must be a JSON object")
    return found


def transformers_weights(folder: Path) -> list[Path]:
    """The .safetensors files that a model of transformers is loaded from, [] where there are none."""
    model = Component(name="", library="transformers", class_name="Model")
    names = frozenset(path.name for path in folder.iterdir()) if folder.is_dir() else frozenset()
    return Files(source=str(folder), folder=folder, names=names).tensors([model], None)


def _is_weights(name: str) -> bool:
    return name.endswith((".safetensors", ".bin", ".index.json", ".ckpt", ".msgpack"))


def _opened(path: Path) -> list[Path]:
    """The file itself, or the shards that an index names. Raises: CheckpointError if the index is damaged."""
    if path.suffix != ".json":
        return [path]
    shards = read_json(path).get("weight_map")
    if not isinstance(shards, dict) or not shards or not all(isinstance(name, str) for name in shards.values()):
        raise CheckpointError(f"{path} has no weight_map from tensors to files: fetch it or save the checkpoint again")
    return [path.parent / name for name in sorted(set(shards.values()))]
