"""What `itercomp rank` does: finds the store, serves its page, or writes its rankings to files."""

from pathlib import Path

from cluster.rank_page import serve
from cluster.run_folder import load_run
from itercomp_rl.errors import ConfigError
from itercomp_rl.items import ASPECTS
from itercomp_rl.ranking.page.export import export, judge_said, people_said
from itercomp_rl.ranking.page.session import Session, load_tasks
from itercomp_rl.store.store import Store, open_store


def open_source(source: str) -> Store:
    """The store of a run folder or name, or at a URL (file:///..., s3://...)."""
    return open_store(source) if "://" in source else load_run(source)[1]


def serve_page(store: Store, aspects: list[str], *, host: str, port: int) -> None:
    """Serve the page until interrupted. Raises: ConfigError for an unknown aspect or a store without images."""
    for aspect in aspects:
        if aspect not in ASPECTS:
            raise ConfigError(f"--aspect is {aspect!r}: must be one of {', '.join(ASPECTS)}")
    serve(store, Session(store, load_tasks(store, aspects or ASPECTS)), host=host, port=port)


def export_ranks(store: Store, folder: Path, origin: str) -> dict[str, tuple[int, int]]:
    """Write rankings of people or of the judge to a new folder; counts per aspect as `export` gives them."""
    return export(store, people_said(store) if origin == "people" else judge_said(store), folder)
