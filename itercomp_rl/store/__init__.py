"""The shared store: write all, publish last, overwrite never, read only what is published, check what you read."""
