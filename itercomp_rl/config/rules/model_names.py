"""Names of models: each must give ids that a store takes, and no two models of a run may share theirs."""

from itercomp_rl.config.rules.terms import require
from itercomp_rl.config.schema import BASE, Config, policy_name
from itercomp_rl.store.layout import is_name
from itercomp_rl.store.record_ids import evaluation_id, images_id, plain


def check_model_names(config: Config) -> None:
    """Raises: ConfigError for a member whose name no store takes, or two models whose records would be the same."""
    takers = {plain(BASE): f"this run's own {BASE!r}"}
    for round_ in range(config.run.rounds):
        name = policy_name(round_)
        takers[plain(name)] = f"this run's own {name!r}, the policy after round {round_ + 1}"
    for name in config.gallery.members:
        key = f"gallery.members.{name}"
        require(not name.startswith("policy-"), key, name, "'policy-' names belong to this run's own policies")
        require(bool(name.strip()), key, name, "a member needs a name")
        ids = (images_id(name, 0), evaluation_id(name, "train", config.evaluation.seed, 0))
        require(
            all(map(is_name, ids)),
            key,
            name,
            "the store keeps the member's images under this name: use letters A-Z a-z, digits and . _ -, and at most "
            f"{200 - len(ids[1]) + len(plain(name))} of them",
        )
        taker = takers.setdefault(plain(name), f"member {name!r}")
        require(
            taker == f"member {name!r}",
            key,
            name,
            f"its images would be stored as {plain(name)!r}, as those of {taker} are: give one of the two another name",
        )
