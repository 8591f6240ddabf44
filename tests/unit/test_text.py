"""Numbers, sizes and times as people read them; parts of sentences."""

import pytest

from thinkswitch.errors import first_line, list_some
from thinkswitch.text import format_accuracy, format_bytes, format_bytes_of, format_seconds

SIZES = {
    0: "0 bytes",
    999: "999 bytes",
    1000: "1 kB",
    1536: "1.54 kB",
    123_456: "123 kB",
    1_700_000: "1.7 MB",
    8.04e9: "8.04 GB",
    2.5e12: "2.5 TB",
    999_600: "1 MB",  # three digits of 999.6 are 1e+03: this once said "1e+03 kB"
    999_999_999: "1 GB",
}
TIMES = {
    -3: "0 s",
    0.9: "0 s",
    99.9: "99 s",
    100: "1 min 40 s",
    605: "10 min 05 s",
    5999: "99 min 59 s",
    6000: "1 h 40 min",
    86_400 * 2 + 61: "48 h 01 min",
}


@pytest.mark.parametrize("size, text", SIZES.items())
def test_sizes_have_three_digits_and_a_unit(size, text):
    assert format_bytes(size) == text


def test_progress_is_said_in_the_unit_of_the_whole():
    assert format_bytes_of(0, 270e6) == "0 of 270 MB"
    assert format_bytes_of(119.6e6, 269.9e6) == "120 of 270 MB"
    assert format_bytes_of(1.52e9, 16.06e9) == "1.5 of 16.1 GB"
    assert format_bytes_of(5e6, 9.994e9) == "0.01 of 9.99 GB"
    assert format_bytes_of(5e6, 9.996e9) == "0.0 of 10.0 GB"
    assert format_bytes_of(9, 999) == "9 of 999 bytes" and format_bytes_of(1e12, 2e15) == "1 of 2000 TB"


@pytest.mark.parametrize("seconds, text", TIMES.items())
def test_times_are_rounded_down_to_two_units(seconds, text):
    assert format_seconds(seconds) == text


def test_an_accuracy_comes_with_its_interval():
    assert format_accuracy(dict(accuracy=0.5, low=0.331, high=0.6694, n=30)) == "50.0 % [33.1, 66.9]"


def test_a_list_in_a_sentence_is_cut_after_a_few_items():
    assert list_some(["a", "b", "c"]) == "a, b, c"
    assert list_some(["a", "b", "c", "d"]) == "a, b, c, ..."


def test_an_error_s_first_line_is_the_first_with_text():
    assert first_line(ValueError("\n  \nbroken\nsecond line")) == "broken"
    assert first_line(ValueError()) == "ValueError"
