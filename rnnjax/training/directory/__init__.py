"""What a run leaves: its directory, with config, metrics, checkpoints and summary, and how it is found and opened."""
