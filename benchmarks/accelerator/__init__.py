"""All that an accelerator must tell, in order of worth, within a time: ``python -m benchmarks.accelerator``."""
