"""A chat model of the transformers library in this process."""

from typing import Any

import torch
from jinja2 import TemplateError
from transformers import AutoModelForCausalLM, AutoTokenizer

from itercomp_rl.config.schema import PlannerConfig
from itercomp_rl.errors import CheckpointError
from itercomp_rl.gallery.planning.answer import cut_off
from itercomp_rl.network.hub import check_reach


class LocalChat:
    """Loads once, answers greedily: the same prompt, the same answer. Satisfies planners.Chat."""

    num_parallel: int = 1

    def __init__(self, settings: PlannerConfig, device: torch.device) -> None:
        """Raises: CheckpointError if the model cannot be loaded or its tokenizer knows no chat."""
        assert settings.model, "the rules ask for a model"
        check_reach(settings.model)
        try:
            # Any: the auto classes return one of hundreds.
            self._tokenizer: Any = AutoTokenizer.from_pretrained(settings.model)
            model: Any = AutoModelForCausalLM.from_pretrained(settings.model, dtype="auto", use_safetensors=True)
        except (OSError, ValueError) as error:
            raise CheckpointError(f"a planner's model is {settings.model!r} and cannot be loaded: {error}") from error
        if not self._tokenizer.chat_template:
            raise CheckpointError(f"a planner's model is {settings.model!r}, which is no chat model: no chat template")
        self._model = model.to(device).eval()
        self._max_tokens = settings.max_tokens
        ends = self._model.generation_config.eos_token_id  # None, one or several
        self._ends = {self._tokenizer.eos_token_id, *(ends if isinstance(ends, list) else [ends])}

    @torch.inference_mode()
    def answer(self, instruction: str, prompt: str) -> str:
        """As planners.Chat says."""
        try:
            asked = self._told({"role": "system", "content": instruction}, {"role": "user", "content": prompt})
        except TemplateError:  # some models' chats have no system role
            asked = self._told({"role": "user", "content": f"{instruction}\n{prompt}"})
        said = self._model.generate(
            **asked, max_new_tokens=self._max_tokens, do_sample=False, pad_token_id=self._tokenizer.eos_token_id
        )
        new_T = said[0, asked["input_ids"].shape[1] :]
        if len(new_T) >= self._max_tokens and int(new_T[-1]) not in self._ends:
            raise cut_off(self._max_tokens)
        return self._tokenizer.decode(new_T, skip_special_tokens=True)

    def _told(self, *messages: dict[str, str]) -> Any:
        """The chat as the model reads it."""
        return self._tokenizer.apply_chat_template(
            list(messages), add_generation_prompt=True, return_tensors="pt", return_dict=True
        ).to(self._model.device)
