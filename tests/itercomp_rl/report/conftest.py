import pytest

from tests.parts.report_of_a_run import HandMade, make_run


@pytest.fixture(scope="session")
def hand_made(tmp_path_factory: pytest.TempPathFactory) -> HandMade:
    return make_run(tmp_path_factory.mktemp("by hand"))
