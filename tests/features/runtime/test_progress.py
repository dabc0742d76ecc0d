"""Progress follows the logger's level, and on a terminal messages do not run into a bar."""

import contextlib
import io
import itertools
import logging

import pytest

from features.runtime.log import log
from features.runtime.progress import Progress, Shares, above_bars, between, untold


class Terminal(io.StringIO):
    """A stream that says it is a terminal, and what a reader of it sees of its finished lines."""

    def isatty(self):
        return True

    def lines(self):
        return [line.rsplit("\r", 1)[-1].rstrip() for line in self.getvalue().split("\n")[:-1]]


@pytest.fixture
def level():
    """Give the logger its level back."""
    before = log.level
    yield log.setLevel
    log.setLevel(before)


@pytest.mark.parametrize(
    ("chosen", "shown"),
    [(logging.NOTSET, True), (logging.DEBUG, True), (logging.INFO, True), (logging.WARNING, False)],
)
def test_is_hidden_where_the_logger_is_quiet(level, capsys, chosen, shown):
    level(chosen)
    with Progress(2, "images") as progress:
        progress.update(2)
    assert ("2/2 images" in capsys.readouterr().err) == shown


def test_a_log_has_whole_lines_each_once_and_no_empty_one(capsys):
    with Progress(3, "images") as progress:
        for _ in range(3):
            progress.update()
            progress.refresh()
            progress.refresh()
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(",")[0] for line in lines] == ["1/3 images", "2/3 images", "3/3 images"]


def test_a_log_tells_after_two_seconds_and_then_about_every_ten(capsys):
    with Progress(2500, "images") as progress:
        now = progress.start_t = progress.last_print_t = 0.0
        progress._time = lambda: now
        while now < 25:
            now += 0.1
            progress.update(10)
    told = [int(line.split("/")[0]) / 100 for line in capsys.readouterr().err.splitlines()]  # the second of each line
    assert 2 <= told[0] < 2.5 and told[-1] == 25
    assert all(10 <= later - earlier < 11 for earlier, later in itertools.pairwise(told[:-1])) and len(told) == 4


def test_a_log_names_each_piece_as_it_begins(level, capsys):
    level(logging.INFO)
    with Progress(2, "fits") as progress:
        for name in ("logistic", "knn"):
            progress.begin(name)
            progress.update()
    first, second, *_ = capsys.readouterr().err.splitlines()
    assert (first, second) == ("logistic: 0/2 fits", "knn: 1/2 fits")
    level(logging.WARNING)
    with Progress(2, "fits") as progress:
        progress.begin("logistic")
    assert not capsys.readouterr().err


def test_a_message_stands_on_a_line_of_its_own_above_the_bar():
    stream = Terminal()
    with contextlib.redirect_stderr(stream), Progress(2, "images") as progress:
        progress.update()
        with above_bars(stream):
            print("a message", file=stream)
        progress.update()
    message, bar = stream.lines()
    assert message == "a message" and "2/2" in bar


def test_shares_of_each_piece_add_up_to_it_whatever_it_tells(monkeypatch, capsys):
    """One that tells its shares, one that tells too much by rounding, and one that tells nothing."""
    shown = []
    with Shares(3, "fits") as progress:
        for told, tell in progress.each([(0.25, 0.25), (0.5, 0.5 + 1e-12), ()]):
            for share in told:
                tell(share)
                shown.append(progress.n)
        assert progress.n == 3
    assert shown == [0.25, 0.5, 1.5, 2]
    progress = Shares(3, "fits")
    progress.update(1.5)
    progress.refresh()
    progress.close()
    assert "50 % of 3 fits, " in capsys.readouterr().err


def test_nobody_is_told_where_the_logger_is_quiet(level):
    level(logging.WARNING)
    with Shares(1, "fits") as progress:
        assert [tell for _, tell in progress.each(["piece"])] == [untold]


def test_a_range_of_times_has_its_unit_once():
    assert [between(30, 100), between(60, 240), between(240, 900)] == ["30 to 100 s", "60 s to 4 min", "4 to 15 min"]
