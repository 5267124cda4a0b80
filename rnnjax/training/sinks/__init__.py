"""Where the lines of a run go: `metrics.jsonl`, and what follows it, such as TensorBoard."""
