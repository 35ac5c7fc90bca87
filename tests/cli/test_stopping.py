"""TERM and HUP end a command as Ctrl-C does."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest

from spear_gym.boundary.files import uninterrupted
from spear_gym.cli.errors import status_of
from spear_gym.cli.stopping import stops_in_order

pytestmark = pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="signals of POSIX")


@pytest.fixture(params=[signal.SIGTERM, signal.SIGHUP])
def number(request: pytest.FixtureRequest) -> Iterator[signal.Signals]:
    before = {n: signal.getsignal(n) for n in (request.param, signal.SIGINT)}
    yield request.param
    for n, handler in before.items():
        signal.signal(n, handler)


def test_as_ctrl_c(number: signal.Signals) -> None:
    with pytest.raises(KeyboardInterrupt), stops_in_order():
        os.kill(os.getpid(), number)
    assert signal.getsignal(number) is signal.SIG_DFL


def test_an_interrupted_import_is_no_bug(capsys: pytest.CaptureFixture[str]) -> None:
    """Compiled modules turn a signal during their import into an ImportError."""

    def command(**_: object) -> None:
        try:
            raise KeyboardInterrupt
        except KeyboardInterrupt as error:
            raise ImportError("initialization failed") from error

    assert status_of(command) == 130
    assert capsys.readouterr().err.strip() == "interrupted"


def test_it_waits_for_a_record(number: signal.Signals) -> None:
    steps = []

    def write() -> None:
        with stops_in_order(), uninterrupted():
            os.kill(os.getpid(), number)
            steps.append("written")

    with pytest.raises(KeyboardInterrupt):
        write()
    assert steps == ["written"]


def test_where_ctrl_c_is_ignored(number: signal.Signals) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with pytest.raises(KeyboardInterrupt), stops_in_order():
        os.kill(os.getpid(), number)


def test_what_nohup_ignores_stays_ignored(number: signal.Signals) -> None:
    signal.signal(number, signal.SIG_IGN)
    with stops_in_order():
        os.kill(os.getpid(), number)
    assert signal.getsignal(number) is signal.SIG_IGN
