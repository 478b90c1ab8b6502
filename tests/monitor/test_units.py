from __future__ import annotations

import pytest

from moe_bench.monitor import units


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (units.count(1234), "1,234"),
        (units.count(964_123_456), "964.1 M"),
        (units.count(None), "–"),
        (units.counted(1, "batches"), "1 batch"),
        (units.counted(1, "pictures"), "1 picture"),
        (units.counted(1200, "steps"), "1,200 steps"),
        (units.flops(33.44e9), "33.4 GFLOP"),
        (units.flops(153.2e6), "153 MFLOP"),
        (units.flops(999.7e9), "1 TFLOP"),
        (units.points(1.2), "+1.20"),
        (units.points(-0.001), "+0.00"),
        (units.percent(0.2345), "23.4 %"),
        (units.percent(float("nan")), "–"),
        (units.duration(0.25), "250 ms"),
        (units.duration(59.6), "1 min 00 s"),
        (units.duration(185), "3 min 05 s"),
        (units.duration(7_810), "2 h 10 min"),
        (units.duration(300_000), "3 d 11 h"),
        (units.about(0.4), "under 10 s"),
        (units.about(47), "about 50 s"),
        (units.about(185), "about 3 min"),
        (units.about(9_000), "about 2.5 h"),
        (units.about(3e5), "about 3.5 d"),
        (units.rate(1234.5), "1,234 img/s"),
        (units.rate(4.24), "4.2 img/s"),
        (units.gigabytes(1.25), "1.2 GB"),
        (units.size(812), "812 bytes"),
        (units.size(4_500_000), "4.5 MB"),
        (units.size(None), "–"),
        (units.significant(0.002111), "0.00211"),
        (units.significant(421.1), "421"),
        (units.significant(5.812), "5.81"),
        (units.significant(0.0), "0"),
        (units.significant(1.234e-9), "1.23e-09"),
        (units.significant(964.12), "964"),
        (units.significant(0.99996), "1.00"),
        (units.significant(1.2e15), "1.20e+15"),
    ],
)
def test_numbers_read_as_people_write_them(text: str, expected: str) -> None:
    assert text == expected
