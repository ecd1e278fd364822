"""A run as its store shows it: what is done, what it was made from, what another run can reuse."""
