"""An exported reward model, loaded by plain transformers, gives the raw rewards that it gave here."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoTokenizer, BlipTextModel, BlipVisionModel

from itercomp_rl.errors import CheckpointError
from itercomp_rl.reward.checkpoint import export_reward, load_reward
from tests.itercomp_rl.reward.test_checkpoint import score_of, tiny_model

PROMPTS = ["a red circle", "blue square"]


def test_plain_transformers_gives_the_same_reward(tmp_path: Path) -> None:
    model = tiny_model()
    export_reward(model, tmp_path / "out")
    image = model.preprocess(torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0)))
    with torch.no_grad():
        ours = model(image, *model.tokenize(PROMPTS))
        vision = BlipVisionModel.from_pretrained(tmp_path / "out" / "vision").eval()
        text = BlipTextModel.from_pretrained(tmp_path / "out" / "text", add_pooling_layer=False).eval()
        tokens = AutoTokenizer.from_pretrained(tmp_path / "out")(
            PROMPTS, padding="max_length", truncation=True, max_length=6, return_tensors="pt"
        )
        feature = text(
            tokens.input_ids,
            attention_mask=tokens.attention_mask,
            encoder_hidden_states=vision(image).last_hidden_state,
            is_decoder=False,
        ).last_hidden_state[:, 0]
        head = load_file(tmp_path / "out" / "head.safetensors")
        for name in sorted({name.rsplit(".", 1)[0] for name in head if name.startswith("mlp.")}):
            feature = torch.nn.functional.linear(feature, head[f"{name}.weight"], head[f"{name}.bias"])
    torch.testing.assert_close(feature[:, 0], ours, rtol=1e-4, atol=1e-5)
    assert float(head["reward_mean"]) == float(model.reward_mean)


def test_an_export_comes_back_bit_for_bit_and_is_not_overwritten(tmp_path: Path) -> None:
    model = tiny_model()
    export_reward(model, tmp_path / "out")
    assert torch.equal(score_of(load_reward(tmp_path / "out")), score_of(model))
    assert not list((tmp_path / "out").rglob("*.bin"))
    with pytest.raises(CheckpointError, match="written once"):
        export_reward(model, tmp_path / "out")


def test_an_export_that_lacks_a_part_is_refused(tmp_path: Path) -> None:
    export_reward(tiny_model(), tmp_path / "out")
    (tmp_path / "out" / "text" / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"model\.safetensors does not exist"):
        load_reward(tmp_path / "out")
