import json
import os
from collections import OrderedDict
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from itercomp_rl.errors import CheckpointError, ConfigError
from itercomp_rl.reward.checkpoint import (
    IMAGEREWARD_MEAN,
    IMAGEREWARD_STD,
    load_official,
    load_official_tokenizer,
    load_reward,
    official_names,
    save_reward,
)
from itercomp_rl.reward.model import RewardConfig, RewardModel

WORDS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "a", "red", "blue", "circle", "square")


def word_tokenizer() -> PreTrainedTokenizerFast:
    ids = {word: i for i, word in enumerate(WORDS)}
    tokenizer = Tokenizer(models.WordLevel(ids, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()  # pyright: ignore[reportAttributeAccessIssue]
    tokenizer.post_processor = processors.TemplateProcessing(  # pyright: ignore[reportAttributeAccessIssue]
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]"
    )


def tiny_config(vocab_size: int = len(WORDS) + 2) -> RewardConfig:
    tower = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    return RewardConfig(
        image_size=8,
        vision={**tower, "patch_size": 4},
        text={**tower, "vocab_size": vocab_size, "max_position_embeddings": 8},
        max_text_tokens=6,
        mlp_widths=(8, 8, 8, 4),
        mlp_init="unit_gain",
    )


def tiny_model(seed: int = 0) -> RewardModel:
    model = RewardModel(tiny_config(), word_tokenizer(), seed=seed).eval()
    model.calibrate(torch.tensor([-1.0, 2.0]))
    return model


def official_state(model: RewardModel) -> dict[str, Tensor]:
    """The model's weights under official names, with what the official model carries and nothing reads."""
    state = {theirs: model.state_dict()[ours] for theirs, ours in official_names(model.config).items()}
    state["blip.text_encoder.embeddings.position_ids"] = torch.arange(8).unsqueeze(0)
    for tower in ("vision", "text"):
        state |= {f"blip.{tower}_proj.weight": torch.zeros(4, 16), f"blip.{tower}_proj.bias": torch.zeros(4)}
    return state


def score_of(model: RewardModel) -> Tensor:
    image = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    ids, mask = torch.tensor([[2, 4, 5, 7, 3, 0]] * 2), torch.tensor([[1, 1, 1, 1, 1, 0]] * 2)
    return model.score(image, ids, mask)


def test_a_saved_model_comes_back_the_same(tmp_path: Path) -> None:
    model = tiny_model()
    save_reward(model, tmp_path / "deep" / "spatial")
    loaded = load_reward(tmp_path / "deep" / "spatial")
    assert loaded.config == model.config
    assert torch.equal(score_of(loaded), score_of(model))
    assert all(torch.equal(a, b) for a, b in zip(loaded.tokenize(["a red"]), model.tokenize(["a red"]), strict=True))
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["spatial"]
    loaded.to(torch.float64)  # nothing is left on the meta device


def test_a_loaded_model_can_learn(tmp_path: Path) -> None:
    save_reward(tiny_model(), tmp_path / "m")
    model = load_reward(tmp_path / "m")
    before = score_of(model).detach()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    score_of(model).sum().backward()
    optimizer.step()
    assert not torch.equal(score_of(model), before)


def test_bfloat16_weights_are_kept_bit_for_bit(tmp_path: Path) -> None:
    model = tiny_model().to(torch.bfloat16)
    save_reward(model, tmp_path / "m")
    state, loaded = model.state_dict(), load_reward(tmp_path / "m").state_dict()
    assert state.keys() == loaded.keys()
    assert all(loaded[name].dtype == torch.bfloat16 and torch.equal(loaded[name], state[name]) for name in state)


def test_a_model_without_tokenizer_is_saved_as_such(tmp_path: Path) -> None:
    save_reward(RewardModel(tiny_config()), tmp_path / "m")
    loaded = load_reward(tmp_path / "m")
    assert loaded.tokenizer is None
    with pytest.raises(ConfigError, match="no tokenizer"):
        loaded.tokenize(["a red circle"])


def test_a_checkpoint_is_never_overwritten(tmp_path: Path) -> None:
    save_reward(tiny_model(0), tmp_path / "m")
    with pytest.raises(CheckpointError, match="written once"):
        save_reward(tiny_model(1), tmp_path / "m")
    assert torch.equal(score_of(load_reward(tmp_path / "m")), score_of(tiny_model(0)))


def test_captions_are_padded_and_cut_to_the_length_of_the_config() -> None:
    tokens = tiny_model().tokenize(["a red circle", "a red circle a blue square a"])
    assert tokens.input_ids.tolist() == [[2, 4, 5, 7, 3, 0], [2, 4, 5, 7, 4, 3]]
    assert tokens.attention_mask.tolist() == [[1, 1, 1, 1, 1, 0], [1, 1, 1, 1, 1, 1]]


def test_a_tokenizer_that_cannot_serve_is_refused() -> None:
    padless = word_tokenizer()
    padless.pad_token = None
    with pytest.raises(ConfigError, match="padding token"):
        RewardModel(tiny_config(), padless)
    with pytest.raises(ConfigError, match="9 tokens, text vocab_size is 8"):
        RewardModel(tiny_config(vocab_size=8), word_tokenizer())


def damage(folder: Path, name: str, how: str) -> None:
    path = folder / name
    if how == "gone":
        path.unlink()
    elif how == "cut":
        path.write_bytes(path.read_bytes()[:100])
    elif how == "foreign":
        path.write_text('{"model_type": "blip"}')
    else:
        config = json.loads(path.read_text())
        config[how] = 1
        path.write_text(json.dumps(config))


@pytest.mark.parametrize(
    ("name", "how", "complaint"),
    [
        ("config.json", "gone", "config.json does not exist"),
        ("config.json", "cut", "not JSON"),
        ("config.json", "foreign", "not of format"),
        ("config.json", "image_sise", r"settings in \['image_sise'\]"),
        ("config.json", "max_text_tokens", None),
        ("config.json", "image_size", "patch_size"),
        ("model.safetensors", "gone", "model.safetensors does not exist"),
        ("model.safetensors", "cut", "cut short"),
        ("tokenizer.json", "gone", "lacks tokenizer.json"),
    ],
)
def test_a_damaged_folder_is_refused_with_the_reason(
    tmp_path: Path, name: str, how: str, complaint: str | None
) -> None:
    save_reward(tiny_model(), tmp_path / "m")
    damage(tmp_path / "m", name, how)
    if complaint is None:
        assert load_reward(tmp_path / "m").config.max_text_tokens == 1
        return
    with pytest.raises(CheckpointError, match=complaint):
        load_reward(tmp_path / "m")


def test_official_names_name_every_weight_once() -> None:
    model = tiny_model()
    names = official_names(model.config)
    assert sorted(names.values()) == sorted(name for name, _ in model.named_parameters())


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".bin", ".safetensors"])
@pytest.mark.parametrize("prefix", ["", "module."])
def test_official_weights_are_read_from_every_kind_of_file(tmp_path: Path, suffix: str, prefix: str) -> None:
    model, path = tiny_model(), tmp_path / f"spatial{suffix}"
    state = OrderedDict((prefix + key, tensor) for key, tensor in official_state(model).items())
    if suffix == ".safetensors":
        save_file(dict(state), path)
    else:
        torch.save(state, path)
    loaded = load_official(path, model.config, word_tokenizer())
    assert not loaded.training
    assert float(loaded.reward_mean) == pytest.approx(IMAGEREWARD_MEAN)
    assert float(loaded.reward_std) == pytest.approx(IMAGEREWARD_STD)
    mine = dict(model.named_parameters())
    assert all(torch.equal(weight, mine[name]) for name, weight in loaded.named_parameters())


def test_half_precision_official_weights_become_float32(tmp_path: Path) -> None:
    model = tiny_model()
    torch.save({key: tensor.half() for key, tensor in official_state(model).items()}, tmp_path / "m.pt")
    assert {p.dtype for p in load_official(tmp_path / "m.pt", model.config).parameters()} == {torch.float32}


def test_keys_that_do_not_match_are_listed(tmp_path: Path) -> None:
    model = tiny_model()
    state = official_state(model)
    del state["mlp.layers.7.bias"]
    state["blip.itm_head.weight"] = torch.zeros(2)
    state["blip.visual_encoder.norm.bias"] = torch.zeros(17)
    torch.save(state, tmp_path / "m.pt")
    with pytest.raises(CheckpointError) as caught:
        load_official(tmp_path / "m.pt", model.config)
    told = str(caught.value)
    assert "1 missing ['mlp.layers.7.bias']" in told
    assert "1 unknown ['blip.itm_head.weight']" in told
    assert "1 of other shape ['blip.visual_encoder.norm.bias [17] for [16]']" in told


def test_a_prefix_on_some_keys_only_is_not_stripped(tmp_path: Path) -> None:
    model = tiny_model()
    state = official_state(model)
    state["module.mlp.layers.7.bias"] = state.pop("mlp.layers.7.bias")
    torch.save(state, tmp_path / "m.pt")
    with pytest.raises(CheckpointError, match=r"1 unknown \['module\.mlp\.layers\.7\.bias'\]"):
        load_official(tmp_path / "m.pt", model.config)


class RunsOnLoad:
    """What a malicious checkpoint holds: loading it with the plain unpickler makes a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.folder),)


def test_a_checkpoint_that_holds_code_is_refused_and_not_run(tmp_path: Path) -> None:
    torch.save({"mlp.layers.7.bias": RunsOnLoad(tmp_path / "owned")}, tmp_path / "m.pt")
    with pytest.raises(CheckpointError, match="refused"):
        load_official(tmp_path / "m.pt", tiny_config())
    assert not (tmp_path / "owned").exists()


@pytest.mark.parametrize("content", [{}, {"model": {"a": torch.zeros(1)}}, [torch.zeros(1)], torch.zeros(1)])
def test_files_that_are_no_flat_state_dict_are_refused(tmp_path: Path, content: object) -> None:
    torch.save(content, tmp_path / "m.pt")
    with pytest.raises(CheckpointError, match="flat dict of tensors"):
        load_official(tmp_path / "m.pt", tiny_config())


@pytest.mark.parametrize("num_bytes", [0, 10, 2000])
@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_a_file_cut_short_is_refused(tmp_path: Path, suffix: str, num_bytes: int) -> None:
    path = tmp_path / f"m{suffix}"
    state = official_state(tiny_model())
    torch.save(state, path) if suffix == ".pt" else save_file(state, path)
    path.write_bytes(path.read_bytes()[:num_bytes])
    with pytest.raises(CheckpointError, match=f"m{suffix}"):
        load_official(path, tiny_config())


def test_a_missing_file_and_a_foreign_ending_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="owner/name:file"):
        load_official(tmp_path / "nowhere.pt", tiny_config())
    (tmp_path / "m.ckpt").write_bytes(b"")
    with pytest.raises(CheckpointError, match=r"ends in '\.ckpt'"):
        load_official(tmp_path / "m.ckpt", tiny_config())


def test_the_official_tokenizer_appends_dec_and_enc(tmp_path: Path) -> None:
    word_tokenizer().save_pretrained(tmp_path / "bert")
    tokenizer = load_official_tokenizer(tmp_path / "bert")
    assert tokenizer.convert_tokens_to_ids(["[DEC]", "[ENC]"]) == [len(WORDS), len(WORDS) + 1]
    assert tokenizer.bos_token == "[DEC]"
    model = RewardModel(tiny_config(), tokenizer)
    save_reward(model, tmp_path / "m")
    loaded = load_reward(tmp_path / "m").tokenizer
    assert loaded is not None
    assert loaded("a red [ENC]").input_ids == [2, 4, 5, len(WORDS) + 1, 3]


def test_saved_weights_carry_no_code(tmp_path: Path) -> None:
    save_reward(tiny_model(), tmp_path / "m")
    assert {path.suffix for path in (tmp_path / "m").iterdir()} == {".json", ".safetensors"}
    assert load_file(tmp_path / "m" / "model.safetensors").keys() == tiny_model().state_dict().keys()
