"""What a run says while it works: metrics, trackers, progress bars, logs, and how busy its processes are."""
