"""Laws of all explorers: mistakes become one line, and a newer request stops an older one."""
import base64
import io
import threading
import time

import pytest
import torch
from PIL import Image

from vqlib.explorers.explorer import Explorer, Session, as_url, number, one_of, whole


class Counter(Explorer):
    """Counts for ever, or fails."""

    def __init__(self):
        self.counted, self.ended, self.begun = 0, False, threading.Event()

    def do_count(self, upto=10**9):
        try:
            while self.counted < upto:
                self.counted += 1
                self.begun.set()
                time.sleep(0.001)
                yield None
            yield {"counted": self.counted}
        finally:
            self.ended = True

    def do_fail(self, error):
        yield {"before": 1}
        raise error


@pytest.fixture
def session():
    replies = []
    made = Session(Counter(), replies.append)
    made.replies = replies
    yield made
    made.receive({"do": "stop"})
    made.wait()


@pytest.mark.parametrize("request_", [
    {}, {"do": "nothing"}, {"do": "__init__"}, {"do": "count", "colour": 3},
    {"do": "fail", "error": ValueError("two\n  lines")},
    {"do": "fail", "error": OSError("no file")},
])
def test_a_mistake_is_told_in_one_line(request_):
    *_, last = Counter().answer(request_)
    assert list(last) == ["error"]
    assert "\n" not in last["error"]
    assert 0 < len(last["error"]) <= 300


def test_an_answer_carries_the_id_of_its_request_and_says_when_it_is_done(session):
    session.receive({"do": "count", "upto": 3, "id": 7})
    session.wait()
    assert session.replies == [{"id": 7, "counted": 3}, {"id": 7, "done": True}]


def test_a_failed_request_ends_with_its_error(session):
    session.receive({"do": "fail", "error": ValueError("no"), "id": 1})
    session.wait()
    assert session.replies == [{"id": 1, "before": 1}, {"id": 1, "error": "no"}]


@pytest.mark.parametrize("after", [{"do": "stop"}, {"do": "count", "upto": 0, "id": 2}])
def test_a_stop_or_a_newer_request_ends_what_runs_within_half_a_second(session, after):
    session.receive({"do": "count", "id": 1})
    assert session.explorer.begun.wait(5)
    start = time.monotonic()
    session.receive(after)
    session.wait()
    assert time.monotonic() - start < 0.5
    assert session.replies[0] == {"id": 1, "stopped": True}
    assert session.explorer.ended
    assert [r["id"] for r in session.replies[1:]] == [2] * len(session.replies[1:])


def test_an_explorer_that_cannot_open_says_why():
    class Broken(Explorer):
        def do_open(self):
            yield {"progress": 1}
            raise ValueError("no weights")

    with pytest.raises(ValueError, match="no weights"):
        Broken().opened()


def test_an_image_becomes_text_that_a_browser_shows():
    image = torch.rand(3, 8, 8, generator=torch.Generator().manual_seed(0))
    for exact, kind in ((True, "PNG"), (False, "JPEG")):
        head, _, data = as_url(image, exact).partition(",")
        assert head == f"data:image/{kind.lower()};base64"
        assert Image.open(io.BytesIO(base64.b64decode(data))).format == kind


@pytest.mark.parametrize("value", [None, True, 1.5, "3", -1, 2**60])
def test_what_is_no_whole_number_in_range_is_named(value):
    with pytest.raises(ValueError, match="seed is empty" if value is None else f"seed {value}"):
        whole("seed", value, 0, 2**53)


@pytest.mark.parametrize("value", [None, False, "1"])
def test_what_is_no_number_is_named(value):
    with pytest.raises(ValueError, match="temperature"):
        number("temperature", value)


def test_an_unknown_choice_is_named_with_the_known_ones():
    with pytest.raises(ValueError, match="no split 'tests'; there are train, test"):
        one_of("split", "tests", ["train", "test"])
