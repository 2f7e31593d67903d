from tests.surface.test_wire import send
from tests.factories import *
def test_y(app, web):
    t=add_tenant(app); a=add_account(app, member_of={t.slug:"admin"})
    H=b"Host: x\r\nConnection: close\r\nContent-Type: application/json\r\nAuthorization: Bearer "+a.token.encode()+b"\r\n"
    P=b"POST /admin/api/rules HTTP/1.1\r\n"
    for n,r in {
     "badchunk": P+H+b"Transfer-Encoding: chunked\r\n\r\nzz\r\nabc\r\n0\r\n\r\n",
     "cutchunk": P+H+b"Transfer-Encoding: chunked\r\n\r\n5\r\nabc",
     "nochunkend": P+H+b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}abc\r\n0\r\n\r\n",
     "ext": P+H+b"Transfer-Encoding: chunked\r\n\r\n2;"+b"x"*100000+b"\r\n{}\r\n0\r\n\r\n",
     "trailers": P+H+b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\nX: "+b"y"*100000+b"\r\n\r\n",
     "short": P+H+b"Content-Length: 300\r\n\r\nabc",
     "bigchunk": P+H+b"Transfer-Encoding: chunked\r\n\r\n200000\r\n"+b" "*0x200000+b"\r\n0\r\n\r\n",
     "biglen": P+H+b"Content-Length: 2000000\r\n\r\n"+b" "*2000000,
     "gzip": P+H+b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
     "unk": P+H+b"Transfer-Encoding: foo\r\n\r\n0\r\n\r\n",
     "h2c": b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA\r\n\r\n",
     "pri": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    }.items():
        try: print("=====",n, send(web,r)[:900].decode("latin-1"))
        except Exception as e: print("=====",n,repr(e))
    print(web.log.read_text()[-8000:])
