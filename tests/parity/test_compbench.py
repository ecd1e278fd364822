"""T2I-CompBench's scores, number by number against recordings of the benchmark's own code."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from tokenizers import Tokenizer, models
from transformers import BlipConfig, BlipForQuestionAnswering, PreTrainedTokenizerFast

from itercomp_rl.evaluation.t2i_compbench.geometry import (
    RELATIONS_2D,
    RELATIONS_3D,
    Detection,
    Mode,
    position_2d,
    relation_of,
    same_object,
    score_2d,
    score_3d,
    score_counts,
)
from itercomp_rl.evaluation.t2i_compbench.vqa import BlipVqa, phrases_score
from tests.parts.spacy_pipeline import spacy_pipeline

TOLERANCE = 1e-6
MODES: tuple[Mode, ...] = ("official", "fixed")


@pytest.fixture(scope="module")
def folder(parity_dir: Path) -> Path:
    return parity_dir / "compbench"


@pytest.fixture(scope="module")
def language():
    name = spacy_pipeline()
    from itercomp_rl.evaluation.t2i_compbench.language import Language

    return Language(name)


def read(folder: Path, name: str) -> dict[str, Any]:
    return json.loads((folder / f"{name}.json").read_text())


def detections(case: Mapping[str, Any]) -> list[Detection]:
    return [
        Detection(name=found["name"], score=found["score"], box=tuple(found["box_x1y1x2y2"]))
        for found in case["detections"]
    ]


def test_positions_in_the_plane_are_the_recorded_ones(folder: Path) -> None:
    for case in read(folder, "unidet_2d")["determine_position"]:
        for mode in MODES:
            found = position_2d(case["locality"], tuple(case["box1"]), tuple(case["box2"]), mode)
            assert found == pytest.approx(case[mode], abs=TOLERANCE), case


def test_2d_scores_are_the_recorded_ones(folder: Path) -> None:
    for case in read(folder, "unidet_2d")["simple"]:
        for mode in MODES:
            first, second = case["objects"]
            person = ("girl", "boy", "man", "woman")
            objects = ("person" if first in person else first, "person" if second in person else second)
            found = score_2d(relation_of(case["prompt"], RELATIONS_2D), objects, detections(case), mode)
            assert found == pytest.approx(case[mode], abs=TOLERANCE), case["prompt"]


def test_3d_scores_are_the_recorded_ones(folder: Path) -> None:
    depths = load_file(folder / "unidet_3d_depth.safetensors")
    for case in read(folder, "unidet_3d")["cases"]:
        for mode, column in (("official", "official"), ("fixed", "fixed_axes")):
            depth = depths[case["depth"]].astype(np.float32)
            relation = relation_of(case["prompt"], RELATIONS_3D)
            found = score_3d(relation, tuple(case["objects"]), detections(case), depth, mode)
            assert found == pytest.approx(case[column], abs=1e-5), case["prompt"]


def test_repeated_boxes_are_the_recorded_ones(folder: Path) -> None:
    for case in read(folder, "numeracy")["duplicate_test"]:
        assert same_object(tuple(case["box1"]), tuple(case["box2"])) == bool(case["official"])


def test_counts_are_the_recorded_ones(folder: Path, language) -> None:
    for case in read(folder, "numeracy")["cases"]:
        found = score_counts(language.counted(case["prompt"], "official"), detections(case))
        assert found == pytest.approx(case["official"], abs=TOLERANCE), case["prompt"]


def test_questions_are_the_recorded_ones(folder: Path, language) -> None:
    for case in read(folder, "questions")["cases"]:
        asked = [f"{phrase}?" for phrase in language.noun_phrases(case["prompt"])][:8]
        assert asked == [question for question in case["questions"] if question], case["prompt"]


def test_objects_of_simple_and_complex_prompts_give_the_recorded_scores(folder: Path, language) -> None:
    recorded = read(folder, "unidet_2d")
    for mode in MODES:
        for name, objects_of in (("simple", language.objects), ("complex_mode", language.complex_objects)):
            for case in recorded[name]:
                relation = relation_of(case["prompt"], RELATIONS_2D)
                found = score_2d(relation, objects_of(case["prompt"]), detections(case), mode)
                assert found == pytest.approx(case[mode], abs=TOLERANCE), case["prompt"]


def test_adjectives_are_dropped_as_recorded(folder: Path, language) -> None:
    recorded = read(folder, "clip_similarity")
    found = [language.without_adjectives(prompt) for prompt in recorded["prompts"]]
    assert found == recorded["text_complex"]


def test_three_in_one_scores_are_the_recorded_ones(folder: Path) -> None:
    pytest.importorskip("spacy", reason="the metrics' module imports spaCy")
    from itercomp_rl.evaluation.t2i_compbench.metrics import combined
    from itercomp_rl.prompt_sets.compbench import complex_kind

    recorded = read(folder, "three_in_one")
    assert [complex_kind(prompt) for prompt in recorded["prompts"]] == recorded["kind"]
    prompts = [prompt for prompt in recorded["prompts"] for _ in range(recorded["images_per_prompt"])]
    scores = recorded["scores"]
    found = combined(prompts, [scores[name] for name in ("attribute", "spatial", "action")])
    assert found == pytest.approx(recorded["official"], abs=TOLERANCE)


def test_products_of_answers_are_the_recorded_ones(folder: Path) -> None:
    recorded = read(folder, "blip_vqa_product")
    for row, questions, answer in zip(recorded["p_yes"], recorded["questions"], recorded["official"], strict=True):
        asked = [p for p, question in zip(row, questions, strict=True) if question]
        assert phrases_score(asked, "official") == pytest.approx(float(answer), abs=TOLERANCE)


def test_answers_of_blip_are_the_recorded_ones(folder: Path, tmp_path: Path) -> None:
    recorded, inputs = read(folder, "blip_vqa"), load_file(folder / "blip_vqa_io.safetensors")
    vqa = BlipVqa(str(_converted(folder, recorded, tmp_path)), torch.device("cpu"))
    for i, p_yes in enumerate(recorded["p_yes"]):
        length = int(inputs["attention_mask"][i].sum())
        ids = torch.from_numpy(inputs["input_ids_from_tokenizer"][i][:length]).long()
        pixels = torch.from_numpy(inputs["image_preprocessed"][i : i + 1]).float()
        assert vqa.p_yes_of(pixels, [ids]) == pytest.approx([p_yes], abs=1e-5)


def _converted(folder: Path, recorded: Mapping[str, Any], to: Path) -> Path:
    """The recorded weights as a transformers checkpoint."""
    vision, med = recorded["vision"], recorded["med_config"]
    text = {key: med[key] for key in ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")}
    text |= {key: med[key] for key in ("vocab_size", "max_position_embeddings", "hidden_act", "layer_norm_eps")}
    config = BlipConfig(
        text_config=text | {"encoder_hidden_size": med["encoder_width"], "bos_token_id": 30522},
        vision_config={
            "hidden_size": vision["width"],
            "intermediate_size": 4 * vision["width"],
            "num_hidden_layers": vision["depth"],
            "num_attention_heads": vision["heads"],
            "image_size": recorded["image_size"],
            "patch_size": recorded["patch_size"],
        },
    )
    model = BlipForQuestionAnswering(config)
    state = load_file(folder / "blip_vqa_state_dict.safetensors")
    renamed = {
        _renamed(key): torch.from_numpy(value).float() for key, value in state.items() if "position_ids" not in key
    }
    missing, unexpected = model.load_state_dict(renamed, strict=False)
    assert not unexpected and not [key for key in missing if "position_ids" not in key], (missing, unexpected)
    model.save_pretrained(to)
    vocabulary = {"[UNK]": 100, "no": recorded["tokens"]["no_id"], "yes": recorded["tokens"]["yes_id"]}
    words = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    PreTrainedTokenizerFast(tokenizer_object=words, unk_token="[UNK]").save_pretrained(to)
    return to


def _renamed(key: str) -> str:
    """transformers' name of one of BLIP's weights."""
    for theirs, ours in (
        ("visual_encoder.cls_token", "vision_model.embeddings.class_embedding"),
        ("visual_encoder.pos_embed", "vision_model.embeddings.position_embedding"),
        ("visual_encoder.patch_embed.proj", "vision_model.embeddings.patch_embedding"),
        ("visual_encoder.blocks.", "vision_model.encoder.layers."),
        ("visual_encoder.norm", "vision_model.post_layernorm"),
        (".attn.qkv", ".self_attn.qkv"),
        (".attn.proj", ".self_attn.projection"),
        (".norm1", ".layer_norm1"),
        (".norm2", ".layer_norm2"),
    ):
        key = key.replace(theirs, ours)
    return key
