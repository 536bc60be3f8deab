"""How long is waited between attempts."""

from __future__ import annotations

import pytest

from amistream.flow.retry import RetryPolicy


@pytest.mark.parametrize("failures", [1, 2, 5, 31, 1100, 10**6])
def test_delays_stay_within_the_cap(failures: int) -> None:
    """However often it failed, the delay is none below 0 and none over the cap or the doubled base."""
    policy = RetryPolicy(attempts=10**7, base_s=0.5, cap_s=20, stall_s=60)
    most = min(20, 0.5 * 2 ** (failures - 1)) if failures < 10 else 20
    assert all(0 <= policy.delay_s(failures) <= most for _ in range(100))
