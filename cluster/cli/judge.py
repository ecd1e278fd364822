"""`itercomp judge`: what a vision-language model says about images, question by question."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cluster.cli.completion import complete_config

if TYPE_CHECKING:
    from rich.table import Table

    from itercomp_rl.judges.vlm.scorer import Answered


@click.command(short_help="Ask a vision-language model about images, and show its answers.")
@click.argument("images", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--prompt", required=True, help="What the images are to show.")
@click.option(
    "--config", default="base", show_default=True, shell_complete=complete_config, help="Its judge.vlm counts."
)
@click.option("--model", help="judge.vlm.model: a Qwen-VL folder or hub id, or with --url the name the endpoint knows.")
@click.option("--url", help="judge.vlm.url: an endpoint such as http://localhost:8000/v1.")
@click.option("--key-env", help="judge.vlm.key_env: the environment variable with the endpoint's key.")
@click.option(
    "--atoms", type=click.Choice(["rule", "model"]), help="judge.vlm.atoms: what finds the prompt's statements."
)
@click.option("--aspect", "aspects", multiple=True, help="Only this aspect; may be repeated.")
@click.option("--json", "as_json", is_flag=True, help="Print the answers and scores as JSON.")
def judge(
    images: tuple[Path, ...],
    prompt: str,
    config: str,
    model: str | None,
    url: str | None,
    key_env: str | None,
    atoms: str | None,
    aspects: tuple[str, ...],
    as_json: bool,
) -> None:
    """Ask a vision-language model whether IMAGES show a prompt: its answers, and the score of each aspect."""
    from itercomp_rl.config.load import load_config

    given = {"model": model, "url": url, "key_env": key_env, "atoms": atoms}
    overrides = [f"judge.vlm.{key}={value}" for key, value in given.items() if value is not None]
    if aspects:
        overrides.append(f"prompts.aspects=[{','.join(aspects)}]")
    # The judge's rules are those of a run that ranks by it.
    settings = load_config(config, [*overrides, "judge.first_round=vlm"])
    from cluster.judged_images import judge_images

    found = judge_images(settings, prompt, images)
    if as_json:
        click.echo(json.dumps([_tree(path, answers) for path, answers in zip(images, found, strict=True)], indent=2))
        return
    from rich.console import Console

    console = Console()
    wide = console if console.is_terminal else Console(width=120)
    for path, answers in zip(images, found, strict=True):
        wide.print(_table(path, answers))


def _tree(path: Path, answers: "Sequence[Answered]") -> dict[str, Any]:
    from itercomp_rl.judges.vlm.scorer import scores_of

    return {
        "image": str(path),
        "questions": [
            {
                "aspect": one.aspect,
                "kind": one.atom.kind,
                "question": one.question,
                "p_yes": one.verdict.p_yes,
                "how": one.verdict.how,
                "answer": one.verdict.text,
            }
            for one in answers
        ],
        "scores": {aspect: score.value for aspect, score in scores_of(answers).items()},
    }


def _table(path: Path, answers: "Sequence[Answered]") -> "Table":
    from rich.markup import escape
    from rich.table import Table

    from itercomp_rl.judges.vlm.scorer import scores_of

    table = Table("aspect", "question", "P(yes)", "by", "answer", title=escape(str(path)))
    for one in answers:
        p = "" if one.verdict.p_yes is None else f"{one.verdict.p_yes:.3f}"
        table.add_row(one.aspect, escape(one.question), p, one.verdict.how, escape(one.verdict.text))
    scores = scores_of(answers)
    table.add_section()
    for aspect in dict.fromkeys(one.aspect for one in answers):
        said = f"{scores[aspect].value:.3f}" if aspect in scores else "not judged"
        table.add_row(aspect, "score", said, "", "")
    return table
