"""Benchmarks: a file a question, or a folder where it needs several, each run as ``python -m benchmarks.NAME``.

What they share stands beside them: `command`, `report`, `timing`, `processes`; `subjects`, `classifier`, `engine`
and `pytorch`. No question imports another's files.
"""
