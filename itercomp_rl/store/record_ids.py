"""Ids of the records that belong to one model: its name as one step of a key, and a number for each segment."""


def plain(name: str) -> str:
    """The part of an id that stands for a model: each character but letters, digits, - and _ becomes a hyphen.

    Two names may have the same plain form, so a config with two such models is refused (config/rules/model_names.py).
    """
    return "".join(c if c.isalnum() or c in "-_" else "-" for c in name)


def images_id(model: str, segment: int) -> str:
    """The id of a model's gallery images of one segment of prompts."""
    return f"{plain(model)}-{segment:05d}"


def evaluation_id(model: str, split: str, seed: int, segment: int) -> str:
    """The id of a model's held-out images of one segment, drawn with the evaluation's seed."""
    return f"{losses_id(model, split, seed)}-{segment:05d}"


def probe_id(round_: int, update: int, segment: int) -> str:
    """The id of one segment of the images that a round's moving average draws after so many updates."""
    return f"r{round_:03d}-u{update:06d}-{segment:05d}"


def losses_id(model: str, split: str, seed: int) -> str:
    """The id of a policy's denoising losses on pictures of a split."""
    return f"{split}-s{seed}-{plain(model)}"
