"""Where a request ends, in bytes that arrive in any pieces."""

import pytest

from webapp.server.framing import MAX_FRAMES, MAX_HEAD, Framing

MOST = 1000
GET = b"GET / HTTP/1.1\r\nHost: a\r\n"
POST = b"POST / HTTP/1.1\r\nHost: a\r\n"
CHUNKED = POST + b"Transfer-Encoding: chunked\r\n\r\n"
NEXT = b"GET /next"

WHOLE: dict[str, bytes] = {
    "no body": GET + b"\r\n",
    "an empty body": POST + b"Content-Length: 0\r\n\r\n",
    "a body": POST + b"Content-Length: 5\r\n\r\n\r\n\r\nx",
    "a body of any case": POST + b"CONTENT-length:\t 5 \r\n\r\n12345",
    "a field that only names one": GET + b"X: content-length: 5\r\n\r\n",
    "no chunks": CHUNKED + b"0\r\n\r\n",
    "chunks": POST
    + b"Transfer-Encoding: chunked\r\n\r\n4\r\n\r\n\r\n\r\nA\r\n0123456789\r\n0\r\n\r\n",
    "extensions": CHUNKED + b"2;a=b\r\n{}\r\n0;x\r\n\r\n",
    "a trailer": CHUNKED + b"2\r\n{}\r\n0\r\nX: y\r\n\r\n",
}

NOT_FOLLOWED: dict[str, bytes] = {
    "two lengths": POST + b"Content-Length: 1\r\nContent-Length: 1\r\n\r\n",
    "a length and chunks": POST + b"Content-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
    "a length that is none": POST + b"Content-Length: +1\r\n\r\n",
    "a list of lengths": POST + b"Content-Length: 1, 1\r\n\r\n",
    "a space before the colon": POST + b"Content-Length : 1\r\n\r\n",
    "another coding": POST + b"Transfer-Encoding: gzip, chunked\r\n\r\n",
    "a long body": POST + b"Content-Length: %d\r\n\r\n" % (MOST + 1),
    "a long head": GET + b"X: " + b"x" * (MAX_HEAD + 1),
    "a chunk without size": CHUNKED + b"zz\r\n",
    "a negative chunk": CHUNKED + b"-1\r\n",
    "a long chunk": CHUNKED + b"%x\r\n" % (MOST + MAX_FRAMES),
    "a chunk beyond its size": CHUNKED + b"2\r\n{}abc",
    "a long line": CHUNKED + b"" + b"1" * 20_000,
    "many small chunks": CHUNKED + b"1\r\nx\r\n" * ((MOST + MAX_FRAMES) // 6 + 1),
}


@pytest.mark.parametrize("sent", WHOLE)
def test_end_of_request_is_found_in_its_bytes_at_once(sent: str) -> None:
    request = WHOLE[sent]
    framing = Framing(bytearray(request + NEXT), MOST)
    assert (framing.end(), framing.followed) == (len(request), True)


@pytest.mark.parametrize("sent", WHOLE)
def test_end_of_request_is_found_with_its_last_byte(sent: str) -> None:
    request, arrived = WHOLE[sent], bytearray()
    framing = Framing(arrived, MOST)
    for place, byte in enumerate(request, 1):
        arrived.append(byte)
        assert framing.end() == (place if place == len(request) else None)


@pytest.mark.parametrize("sent", NOT_FOLLOWED)
@pytest.mark.parametrize("step", [7, 10**6], ids=["in pieces", "at once"])
def test_long_or_malformed_request_is_left_to_the_parser(sent: str, step: int) -> None:
    request, arrived = NOT_FOLLOWED[sent], bytearray()
    framing, ends = Framing(arrived, MOST), []
    for start in range(0, len(request), step):
        arrived += request[start : start + step]
        ends.append(framing.end())
        if ends[-1] is not None:
            break
    assert (ends[-1], framing.followed) == (len(arrived), False)
    assert set(ends[:-1]) <= {None}


@pytest.mark.parametrize("value", [b"100-continue", b"100-Continue"])
def test_client_that_waits_for_leave_to_send_its_body_is_known(value: bytes) -> None:
    head = POST + b"Content-Length: 5\r\nExpect: " + value + b"\r\n\r\n"
    framing = Framing(bytearray(head), MOST)
    assert framing.end() is None
    assert (framing.has_head, framing.awaits_continue) == (True, True)
