"""Slow steps say what they do, fast ones nothing."""

import time

from lib.notebook.waiting import said_if_slow


def test_slow_steps_say_what_they_do_in_a_notebook(capsys, monkeypatch):
    with said_if_slow("a command prints its own lines only", seconds=0.01):
        time.sleep(0.3)
    monkeypatch.setattr("lib.notebook.waiting.in_notebook", lambda: True)
    with said_if_slow("a slow step", seconds=0.01):
        time.sleep(0.3)
    with said_if_slow("a fast step", seconds=60):
        pass
    assert capsys.readouterr().out == "a slow step\n"
