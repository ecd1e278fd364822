"""The commands of `itercomp`, one file for each group; `cluster.main` joins them."""
