"""What a socket can send and a client library does not: past gunicorn, or refused by it."""

import socket
from urllib.parse import urlsplit

import pytest

from tests.processes import Web
import json

def send(web, request: bytes) -> bytes:
    place = urlsplit(web.url)
    with socket.create_connection((place.hostname, place.port), timeout=30) as connection:
        connection.sendall(request)
        connection.shutdown(socket.SHUT_WR)
        parts=[]
        while part := connection.recv(65536): parts.append(part)
        return b"".join(parts)

H=b"Host: x\r\nConnection: close\r\n"
CASES = {
 "huge": b"GET /healthz HTTP/1.1\r\n"+H+b"X: "+b"x"*100000+b"\r\n\r\n",
 "many": b"GET /healthz HTTP/1.1\r\n"+H+b"X: 1\r\n"*200+b"\r\n",
 "longline": b"GET /"+b"x"*100000+b" HTTP/1.1\r\n"+H+b"\r\n",
 "nul": b"GET /\0 HTTP/1.1\r\n"+H+b"\r\n",
 "nulheader": b"GET / HTTP/1.1\r\n"+H+b"X: a\0b\r\n\r\n",
 "badmethod": b"get /healthz HTTP/1.1\r\n"+H+b"\r\n",
 "badmethod2": b"G(T /healthz HTTP/1.1\r\n"+H+b"\r\n",
 "badversion": b"GET /healthz HTTP/9.9\r\n"+H+b"\r\n",
 "garbage": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\r\n\r\n",
 "badheader": b"GET / HTTP/1.1\r\n"+H+b"X Y: 1\r\n\r\n",
 "twolen": b"POST /admin/api/rules HTTP/1.1\r\n"+H+b"Content-Length: 1\r\nContent-Length: 2\r\n\r\nab",
 "lenchunk": b"POST /admin/api/rules HTTP/1.1\r\n"+H+b"Content-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
 "badchunk": b"POST /admin/api/rules HTTP/1.1\r\n"+H+b"Transfer-Encoding: chunked\r\n\r\nzz\r\nabc\r\n0\r\n\r\n",
 "badlen": b"POST /admin/api/rules HTTP/1.1\r\n"+H+b"Content-Length: x\r\n\r\n",
 "abs": b"GET http://evil.example/healthz HTTP/1.1\r\n"+H+b"\r\n",
 "dslash": b"GET //evil.example/healthz HTTP/1.1\r\n"+H+b"\r\n",
 "badutf": b"GET /\xff\xfe HTTP/1.1\r\n"+H+b"\r\n",
 "underscore": b"GET /healthz HTTP/1.1\r\n"+H+b"Sightline_Scope: global\r\n\r\n",
 "star": b"OPTIONS * HTTP/1.1\r\n"+H+b"\r\n",
 "expect": b"POST /admin/api/rules HTTP/1.1\r\n"+H+b"Expect: 100-continue\r\nContent-Length: 3\r\n\r\nabc",
 "expect2": b"GET /healthz HTTP/1.1\r\n"+H+b"Expect: rubbish\r\n\r\n",
 "fold": b"GET /healthz HTTP/1.1\r\n"+H+b"X: a\r\n b\r\n\r\n",
 "short": b"POST /admin/api/rules HTTP/1.1\r\n"+H+b"Content-Length: 300\r\n\r\nabc",
 "proxy": b"PROXY TCP4 1.2.3.4 5.6.7.8 1 2\r\nGET / HTTP/1.1\r\n"+H+b"\r\n",
 "scheme": b"GET /healthz HTTP/1.1\r\n"+H+b"X-Forwarded-Proto: https\r\nX-Forwarded-Ssl: off\r\n\r\n",
}
def test_x(web):
    for n,r in CASES.items():
        print("=====",n, send(web,r)[:700].decode("latin-1"))
    print(web.log.read_text()[-8000:])
