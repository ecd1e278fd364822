"""An official file's tokenizer: what lies beside it, else BERT's of the hub; missing, it is named before a start."""

from pathlib import Path

import pytest
import torch

from cluster.checks import check_models
from itercomp_rl.config.load import load_config
from itercomp_rl.errors import CheckpointError
from itercomp_rl.reward.checkpoint import official_names
from itercomp_rl.reward.model import RewardConfig, RewardModel
from itercomp_rl.reward.published import load_any_reward

NUM_WORDS = 30522  # of BERT


def make_official(folder: Path) -> Path:
    """A file of ImageReward's own sizes that takes some KB: each weight is one stored 0, seen in all places."""
    with torch.device("meta"):
        model = RewardModel(RewardConfig())
    state = model.state_dict()
    weights = {
        theirs: torch.zeros(1).expand(state[ours].shape) for theirs, ours in official_names(model.config).items()
    }
    folder.mkdir()
    torch.save(weights, folder / "spatial.pt")
    return folder / "spatial.pt"


def write_words(folder: Path, num: int = NUM_WORDS) -> None:
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "red", "cat"]
    rest = (f"word{i}" for i in range(num - len(words)))
    (folder / "vocab.txt").write_text("\n".join([*words, *rest]) + "\n", encoding="utf-8")


@pytest.fixture
def no_hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Neither the hub nor anything that was fetched from it."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("transformers.utils.hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))


@pytest.mark.usefixtures("no_hub")
@pytest.mark.parametrize("form", ["vocab.txt", "tokenizer.json"])
def test_an_official_file_is_read_with_the_tokenizer_beside_it(form: str, tmp_path: Path) -> None:
    file = make_official(tmp_path / "rewards")
    write_words(file.parent)
    if form == "tokenizer.json":
        whole = load_any_reward(str(file)).tokenizer
        assert whole is not None
        whole.backend_tokenizer.save(str(file.parent / "tokenizer.json"))
        (file.parent / "vocab.txt").unlink()
    check_models(load_config("quickstart", [f"reward.trunk={file}"]))
    model = load_any_reward(str(file))
    assert model.tokenizer is not None
    assert model.tokenizer.convert_tokens_to_ids(["[DEC]", "[ENC]"]) == [NUM_WORDS, NUM_WORDS + 1]
    tokens = model.tokenize(["A red cat"])
    assert tokens.input_ids[0, :6].tolist() == [2, 5, 6, 7, 3, 0]
    assert int(tokens.attention_mask.sum()) == 5


@pytest.mark.usefixtures("no_hub")
def test_without_one_the_way_out_is_told_before_anything_starts(tmp_path: Path) -> None:
    file = make_official(tmp_path / "rewards")
    way_out = r"google-bert/bert-base-uncased, cannot be had: run `hf download .*beside the reward model's own"
    with pytest.raises(CheckpointError, match=way_out):
        load_any_reward(str(file))
    with pytest.raises(CheckpointError, match=rf"reward\.trunk is .*spatial\.pt.*{way_out}"):
        check_models(load_config("quickstart", [f"reward.trunk={file}"]))
    fixed = ["judge.first_round=reward", f"judge.reward_models.spatial={file}", "evaluation.allow_self_grading=true"]
    with pytest.raises(CheckpointError, match=rf"judge\.reward_models\.spatial is .*{way_out}"):
        check_models(load_config("quickstart", fixed))


@pytest.mark.usefixtures("no_hub")
def test_a_tokenizer_of_another_model_is_refused(tmp_path: Path) -> None:
    file = make_official(tmp_path / "rewards")
    write_words(file.parent, num=100)
    with pytest.raises(CheckpointError, match=r"spatial\.pt has 102 tokens .* have 30524"):
        load_any_reward(str(file))
