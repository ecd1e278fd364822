"""Step 3 of a prompt's road: rankings of images per aspect, from judges and people, and the pairs that they make."""
