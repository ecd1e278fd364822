"""The models that feed the metrics, on tiny random checkpoints of their real classes."""

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from itercomp_rl.errors import CheckpointError
from itercomp_rl.evaluation.t2i_compbench.clip import Aesthetic, Clip, load_aesthetic_head
from itercomp_rl.evaluation.t2i_compbench.detection import DepthModel, OpenDetector
from itercomp_rl.evaluation.t2i_compbench.vqa import BlipVqa, phrases_score
from tests.parts.judge_checkpoints import make_aesthetic_head, make_clip, make_depth, make_detector, make_vqa

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def image() -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Clip:
    return Clip(str(make_clip(tmp_path_factory.mktemp("clip"))), CPU)


def test_an_answer_depends_on_its_own_question_and_image_alone(tmp_path: Path, image) -> None:
    vqa = BlipVqa(str(make_vqa(tmp_path)), CPU)
    short, long = "the dog?", "a red circle left of the blue square?"
    together = vqa.p_yes(image, [short, long])
    assert together == [vqa.p_yes(image, [short])[0], vqa.p_yes(image, [long])[0]]
    assert together[0] != together[1]
    assert all(0 < p < 1 for p in together)
    assert vqa.p_yes(255 - image, [short]) != [together[0]]
    assert vqa.p_yes(image, []) == []


def test_phrases_multiply_and_the_official_mode_rounds() -> None:
    assert phrases_score([0.5, 0.5], "fixed") == 0.25
    assert phrases_score([], "official") == 1
    # .33333 -> .3333 and .3333 * .5 = .16665 -> .1666 or .1667; the exact product is .166665
    assert phrases_score([0.33333, 0.5], "official") == pytest.approx(0.1666, abs=1.01e-4)
    assert phrases_score([0.33333, 0.5], "fixed") == pytest.approx(0.166665)


def test_a_cosine_is_bounded_and_long_texts_are_cut(clip: Clip, image) -> None:
    first = clip.cosine(image, "a red circle")
    assert -1 <= first <= 1
    assert first != clip.cosine(image, "a blue square")
    assert -1 <= clip.cosine(image, "a red circle " * 100) <= 1


def test_embeddings_have_length_1(clip: Clip, image) -> None:
    assert float(clip.embed(image).norm()) == pytest.approx(1, abs=1e-5)


def test_an_aesthetic_head_is_the_product_of_its_layers(clip: Clip, image, tmp_path: Path) -> None:
    file = make_aesthetic_head(tmp_path / "head.pth", clip.width)
    state = torch.load(file, weights_only=True)
    by_hand = clip.embed(image)
    for i in (0, 2, 4, 6, 7):
        by_hand = by_hand @ state[f"layers.{i}.weight"].T + state[f"layers.{i}.bias"]
    assert Aesthetic(clip, str(file)).score(image) == pytest.approx(by_hand.item(), rel=1e-5)


def test_an_aesthetic_head_of_another_width_or_form_is_refused(tmp_path: Path) -> None:
    file = make_aesthetic_head(tmp_path / "head.pth", 24)
    with pytest.raises(CheckpointError, match="width 24.*gives 16"):
        load_aesthetic_head(str(file), 16)
    torch.save({"weight": torch.zeros(1)}, tmp_path / "other.pth")
    with pytest.raises(CheckpointError, match="must hold"):
        load_aesthetic_head(str(tmp_path / "other.pth"), 16)
    with pytest.raises(CheckpointError, match="no such file"):
        load_aesthetic_head(str(tmp_path / "none.pth"), 16)


class _Bomb:
    def __reduce__(self) -> tuple[Any, ...]:
        return print, ("code ran",)


def test_a_damaged_aesthetic_head_is_refused_with_its_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    whole = make_aesthetic_head(tmp_path / "head.pth", 16)
    (tmp_path / "empty.pth").touch()
    (tmp_path / "cut.pth").write_bytes(whole.read_bytes()[:-200])
    (tmp_path / "bad.safetensors").write_bytes(b"not safetensors at all")
    with (tmp_path / "bomb.pth").open("wb") as file:
        pickle.dump({"layers.0.weight": _Bomb()}, file, protocol=2)  # the one that torch reads without a warning
    torch.save(torch.zeros(3), tmp_path / "tensor.pth")
    for name, way_out in {
        "empty.pth": "fetch or save it anew",
        "cut.pth": "fetch or save it anew",
        "bad.safetensors": "fetch or save it anew",
        "bomb.pth": "as a .safetensors file",
        "tensor.pth": "save model.state_dict",
    }.items():
        with pytest.raises(CheckpointError, match=f"(?s)aesthetic head .*{name}.*{way_out}"):
            load_aesthetic_head(str(tmp_path / name), 16)
    assert "code ran" not in capsys.readouterr().out


def test_detections_carry_the_asked_name_and_come_surest_first(tmp_path: Path, image) -> None:
    detector = OpenDetector(str(make_detector(tmp_path)), 0.001, CPU)
    found = detector.detect(image, ["cat", "dog", "cat"])
    assert {detection.name for detection in found} <= {"cat", "dog"}
    assert [d.score for d in found] == sorted((d.score for d in found), reverse=True)
    assert found
    assert OpenDetector(str(tmp_path), 0.999999, CPU).detect(image, []) == []


def test_nearness_fills_the_image_in_whole_steps(tmp_path: Path, image) -> None:
    depth = DepthModel(str(make_depth(tmp_path)), CPU).nearness(image)
    assert depth.shape == image.shape[:2]
    assert depth.min() >= 0 and depth.max() <= 255
    assert (depth == depth.round()).all()


def test_a_checkpoint_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="nowhere"):
        Clip(str(tmp_path / "nowhere"), CPU)
