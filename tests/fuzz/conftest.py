import os

import pytest
from hypothesis import HealthCheck, settings

# How many cases each test tries: RNNJAX_FUZZ=50 tries fifty times as many, drawn anew each time.
_TIMES = int(os.environ.get("RNNJAX_FUZZ", "0"))
_CASES = 80

settings.register_profile(
    "fuzz",
    max_examples=_CASES * max(_TIMES, 1),
    derandomize=not _TIMES,
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck),
)


@pytest.fixture(autouse=True)
def _in_the_repository(monkeypatch, request):
    monkeypatch.chdir(request.config.rootpath)
