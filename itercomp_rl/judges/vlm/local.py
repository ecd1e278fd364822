"""A Qwen-VL checkpoint of the transformers library in this process."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from transformers import (
    AutoConfig,
    AutoModelForImageTextToText,
    AutoTokenizer,
    LogitsProcessor,
    LogitsProcessorList,
    Qwen2VLImageProcessorPil,
)

from itercomp_rl.config.schema import VlmConfig
from itercomp_rl.errors import CheckpointError
from itercomp_rl.evaluation.t2i_compbench.loading import from_checkpoint
from itercomp_rl.judges.vlm.model import Asked, UnansweredError, Usage, Verdict
from itercomp_rl.judges.vlm.probability import Token, p_yes, yes_or_no
from itercomp_rl.judges.vlm.questions import YES_OR_NO

# model_type of checkpoints that take images through Qwen2-VL's image processor, at one special token in the text.
MODEL_TYPES = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl", "qwen3_vl_moe")
ATOM_TOKENS = 1024  # longest list of atoms


def check_local_vlm(checkpoint: str) -> None:
    """Raises: CheckpointError if a folder or hub id is no checkpoint that LocalVlm reads; no weights are loaded."""
    found = from_checkpoint(AutoConfig.from_pretrained, checkpoint)
    if found.model_type not in MODEL_TYPES:
        raise CheckpointError(
            f"judge.vlm.model is {checkpoint!r}, a {found.model_type}: {', '.join(MODEL_TYPES)} are loaded here; serve "
            "any other by vLLM or SGLang, and give its address as judge.vlm.url"
        )


class LocalVlm:
    """Loads once, answers greedily: the same question, the same answer. Satisfies model.Vlm.

    Image processor, tokenizer and image token are put together here and not by the checkpoint's processor class, which
    cannot be made without torchvision: it brings video along.
    """

    def __init__(self, settings: VlmConfig, usage: Usage, device: torch.device) -> None:
        """Raises: CheckpointError if the model cannot be loaded, or its tokenizer knows no chat."""
        assert settings.model, "the rules ask for a model"
        check_local_vlm(settings.model)
        self.usage, self._settings = usage, settings
        # FlashAttention 2 is a package that only GPUs use; torch's own kernels serve everywhere.
        has_flash = device.type == "cuda" and find_spec("flash_attn") is not None
        # Any: the auto classes return one of hundreds.
        model: Any = from_checkpoint(
            AutoModelForImageTextToText.from_pretrained,
            settings.model,
            dtype="auto",
            use_safetensors=True,
            attn_implementation="flash_attention_2" if has_flash else "sdpa",
        )
        self._tokenizer: Any = from_checkpoint(AutoTokenizer.from_pretrained, settings.model)
        self._images: Any = from_checkpoint(Qwen2VLImageProcessorPil.from_pretrained, settings.model)
        if not self._tokenizer.chat_template:
            raise CheckpointError(f"judge.vlm.model is {settings.model!r}, which is no chat model: no chat template")
        self._model = model.to(device).eval().requires_grad_(False)
        self._image_token_id = int(model.config.image_token_id)
        self._image_token = self._tokenizer.convert_ids_to_tokens(self._image_token_id)
        ends = model.generation_config.eos_token_id  # None, one or several
        self._ends = {self._tokenizer.eos_token_id, *(ends if isinstance(ends, list) else [ends])}
        self._answers = {id_: text for text, id_ in self._tokenizer.get_vocab().items() if yes_or_no(text)}

    def ask(self, asked: Sequence[Asked]) -> Iterator[Verdict]:
        """As Vlm says."""
        size = self._settings.parallel
        for start in range(0, len(asked), size):
            yield from self._verdicts(asked[start : start + size])

    def tell(self, instruction: str, prompt: str) -> str:
        """As Vlm says."""
        self.usage.begin_request()
        text = self._chat([{"type": "text", "text": _plain(f"{instruction}\nDescription: {prompt}")}])
        [tokens] = self._generate([text], max(self._settings.max_tokens, ATOM_TOKENS))
        if len(tokens) >= max(self._settings.max_tokens, ATOM_TOKENS):
            raise UnansweredError(f"the answer was cut off after {len(tokens)} tokens")
        return "".join(token.text for token in tokens)

    def _verdicts(self, asked: Sequence[Asked]) -> list[Verdict]:
        for _ in asked:
            self.usage.begin_request()
        images = self._images([Image.fromarray(one.image) for one in asked], return_tensors="pt")
        num_tokens = images["image_grid_thw"].prod(-1) // self._images.merge_size**2
        texts = []
        for one, num in zip(asked, num_tokens.tolist(), strict=True):
            question = _plain(YES_OR_NO.format(question=one.question))
            text = self._chat([{"type": "image"}, {"type": "text", "text": question}])
            texts.append(text.replace(self._image_token, self._image_token * num))
        answers = self._generate(texts, self._settings.max_tokens, **images)
        return [self._verdict(answer) for answer in answers]

    def _verdict(self, answer: Sequence[Token]) -> Verdict:
        p, text = p_yes(answer), "".join(token.text for token in answer)
        if p is not None:
            return Verdict(p_yes=p, how="logprobs", text=text[:120], tokens_out=len(answer))
        why = f"the answer, at most judge.vlm.max_tokens ({self._settings.max_tokens}) long, holds neither yes nor no"
        return Verdict(p_yes=None, how="unreadable", text=f"{why}: {text[:120]!r}", tokens_out=len(answer))

    def _chat(self, content: list[dict[str, str]]) -> str:
        message = [{"role": "user", "content": content}]
        return self._tokenizer.apply_chat_template(message, add_generation_prompt=True, tokenize=False)

    @torch.inference_mode()
    def _generate(self, texts: Sequence[str], max_tokens: int, **images: Tensor) -> list[list[Token]]:
        """The answers to chats as the model reads them, each up to its end."""
        read = self._tokenizer(
            list(texts), padding=True, padding_side="left", add_special_tokens=False, return_tensors="pt"
        )
        ids_BT = read.input_ids
        inputs = {"input_ids": ids_BT, "attention_mask": read.attention_mask, **images}
        if images:
            inputs["mm_token_type_ids"] = (ids_BT == self._image_token_id).int()
        seen = _Watch(ids=tuple(self._answers))
        said_BT = self._model.generate(
            **{name: value.to(self._model.device) for name, value in inputs.items()},
            max_new_tokens=max_tokens,
            do_sample=False,
            logits_processor=LogitsProcessorList([seen]),
            pad_token_id=self._tokenizer.pad_token_id,
        )[:, ids_BT.shape[1] :].cpu()
        self.usage.add_tokens(int(read.attention_mask.sum()), int(said_BT.numel()))
        return [self._tokens(row_T, seen, index) for index, row_T in enumerate(said_BT)]

    def _tokens(self, said_T: Tensor, seen: "_Watch", row: int) -> list[Token]:
        found = []
        for step, id_ in enumerate(said_T.tolist()):
            choices = dict(zip(self._answers.values(), seen.logprobs[step][row].tolist(), strict=True))
            if id_ in self._ends and found:
                break
            found.append(Token(text=self._tokenizer.decode([id_]), choices=choices))
        return found


@dataclass(kw_only=True)
class _Watch(LogitsProcessor):
    """Keeps, for every step, the log-probabilities of a few tokens; all of a vocabulary's would fill the memory."""

    ids: tuple[int, ...]
    logprobs: list[Tensor] = field(default_factory=list)  # per step [B, ids]

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        self.logprobs.append(scores.float().log_softmax(-1)[:, list(self.ids)].cpu())
        return scores


def _plain(text: str) -> str:
    """The text without the marks of special tokens: a prompt must not end the message that it stands in."""
    return text.replace("<|", "< |")
