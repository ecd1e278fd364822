"""Who ranks: the oracle of the embedded world, reward models, vision-language models, files of human ranks."""
