"""Who draws: the systems whose images are compared."""
