"""Rules across the keys of a config, each checked before any device is used."""
