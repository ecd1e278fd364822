"""Where it runs: command line, launching, placement."""
