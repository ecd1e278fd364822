import pytest

from tests.itercomp_rl.page.hand_made import HandMade, make_run


@pytest.fixture(scope="session")
def hand_made(tmp_path_factory: pytest.TempPathFactory) -> HandMade:
    return make_run(tmp_path_factory.mktemp("by hand"))
