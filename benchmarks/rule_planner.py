"""How many of T2I-CompBench's validation prompts the rule planner plans with every object found, by category.

python benchmarks/rule_planner.py [--spacy en_core_web_sm] [--json shares.json] [--missed]
Found: the head noun of every noun chunk that spaCy sees, places such as "the left" excepted, is in the phrase of some
planned object. Needs spaCy and its pipeline: pip install 'itercomp-rl[compbench]'.
"""

import argparse
from pathlib import Path

from measures import measure, write

from itercomp_rl.evaluation.t2i_compbench.files import read_prompts
from itercomp_rl.evaluation.t2i_compbench.language import Language
from itercomp_rl.gallery.planning.objects import parse_prompt
from itercomp_rl.gallery.planning.rule import MAX_OBJECTS
from itercomp_rl.prompt_sets.compbench import BENCHMARK, CATEGORIES


def main() -> None:
    """Count, print, write the JSON if one is named."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--spacy", default="en_core_web_sm")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--missed", action="store_true", help="Print the prompts with what was not found.")
    options = parser.parse_args()
    language = Language(options.spacy)
    measures = []
    for category in CATEGORIES:
        prompts = read_prompts(BENCHMARK, category)
        missed = {prompt: names for prompt in prompts if (names := not_found(language, prompt))}
        share = 1 - len(missed) / len(prompts)
        name = f"rule planner/{category}: every object found"
        measures.append(measure(name, share, f"of {len(prompts)} prompts", better="higher"))
        for prompt, names in missed.items() if options.missed else ():
            print(f"    {', '.join(names)} in: {prompt}")
    if options.json:
        write(options.json, measures)


def not_found(language: Language, prompt: str) -> list[str]:
    """Things that the prompt names and the plan does not hold."""
    planned = {word for thing in parse_prompt(prompt).objects[:MAX_OBJECTS] for word in thing.phrase.lower().split()}
    return [name for name in language.things(prompt) if name not in planned]


if __name__ == "__main__":
    main()
