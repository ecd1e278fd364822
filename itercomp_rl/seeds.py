"""One seed for every draw, derived from what the draw is for, so that who draws it and when does not matter."""

import hashlib


def seed_of(*parts: str | int) -> int:
    """A 63-bit seed from the names of a draw: seed_of(0, "rollout", 2, 17) for run seed 0, round 2, rollout 17."""
    text = "\x1f".join(str(part) for part in parts)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1
