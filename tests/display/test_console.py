"""Bars within bars."""

from inure.display.console import Bars


def test_bars_within_bars_stand_below_them_and_go_when_they_are_done():
    with Bars() as outer:
        outer.show("sets", 1, 3)
        with Bars() as inner:
            inner.attack("pgd20", 10, 20, 7)
            assert inner.console is outer.console
            assert [task.description for task in outer._progress.tasks] == ["sets", "pgd20"]
        assert [task.description for task in outer._progress.tasks] == ["sets"]
        outer.show("sets", 2, 3)
        assert outer._progress.tasks[0].completed == 2
    with Bars() as after:
        assert after.console is not outer.console
        assert after._progress.tasks == []


def test_quiet_bars_leave_others_alone():
    with Bars() as outer, Bars(quiet=True) as quiet:
        quiet.show("epoch", 1, 2)
        assert outer._progress.tasks == []
    with Bars(quiet=True), Bars() as inner:
        inner.show("epoch", 1, 2)
        assert [task.description for task in inner._progress.tasks] == ["epoch"]
