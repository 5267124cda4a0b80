"""Training: state, step, compiled programs, the loop, and what a run leaves behind."""
