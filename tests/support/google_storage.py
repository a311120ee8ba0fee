"""A stand-in for the part of Google Cloud Storage that obstore asks: no emulator that installs here understands it.

GET (with ranges and conditions), HEAD, PUT, DELETE and LIST of objects, and uploads in parts, in the XML form. It
knows one bucket, `test`, keeps everything in memory and lets everybody in. Written from
https://cloud.google.com/storage/docs/xml-api/reference-methods: it shows that calls are made as the page says, not
that Google answers as it does.

    python google_storage.py PORT
"""

from __future__ import annotations

import hashlib
import re
import sys
from dataclasses import dataclass
from datetime import datetime, timezone
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import count
from threading import Lock
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

BUCKET = "test"
_PART = re.compile(rb"<PartNumber>(\d+)</PartNumber>")


@dataclass(frozen=True)
class Object:
    """An object and the number of its generation."""

    data: bytes
    generation: int

    @property
    def tag(self) -> str:
        return f'"{hashlib.md5(self.data).hexdigest()}-{self.generation}"'


class Storage:
    """All objects, and the uploads that are under way."""

    def __init__(self) -> None:
        self.lock = Lock()
        self.objects: dict[str, Object] = {}
        self.uploads: dict[str, dict[int, bytes]] = {}
        self._generations = count(1)

    def put(self, name: str, data: bytes, expected: str | None) -> Object | None:
        """Put an object; None where its generation isn't the expected one."""
        with self.lock:
            there = self.objects.get(name)
            if expected is not None and int(expected) != (there.generation if there else 0):
                return None
            self.objects[name] = new = Object(data, next(self._generations))
            return new


STORAGE = Storage()


class Handler(BaseHTTPRequestHandler):
    """One request."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # head and body are sent one after the other

    def log_message(self, *_: object) -> None:
        """Say nothing."""

    def _answer(self, status: int, data: bytes = b"", **headers: object) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), str(value))
        if "Content_Length" not in headers:
            self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def _refuse(self, status: int, code: str) -> None:
        self._answer(status, f"<Error><Code>{code}</Code><Message>{code}</Message></Error>".encode())

    def _begin(self) -> tuple[str, dict[str, str], bytes] | None:
        """The object's name, the query and the body; None when the request is answered already."""
        url = urlsplit(self.path)
        bucket, _, name = unquote(url.path).lstrip("/").partition("/")
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if bucket != BUCKET:
            self._refuse(404, "NoSuchBucket")
            return None
        query = {key: values[0] for key, values in parse_qs(url.query, keep_blank_values=True).items()}
        return name, query, body

    def do_GET(self) -> None:
        if (request := self._begin()) is None:
            return
        name, query, _ = request
        if not name:
            self._list(query)
            return
        found = STORAGE.objects.get(name)
        if found is None:
            self._refuse(404, "NoSuchKey")
            return
        wanted = self.headers.get("If-Match")
        generation = self.headers.get("x-goog-if-generation-match")
        if (wanted is not None and wanted not in ("*", found.tag)) or generation not in (None, str(found.generation)):
            self._refuse(412, "PreconditionFailed")
            return
        headers = {
            "ETag": found.tag,
            "x_goog_generation": found.generation,
            "Last_Modified": formatdate(usegmt=True),
            "Content_Type": "application/octet-stream",
        }
        size, data, status = len(found.data), found.data, 200
        match = re.fullmatch(r"bytes=(\d*)-(\d*)", self.headers.get("Range") or "")
        if match:
            first = int(match[1]) if match[1] else max(0, size - int(match[2]))
            last = min(int(match[2]), size - 1) if match[1] and match[2] else size - 1
            if first >= size:
                self._refuse(416, "InvalidRange")
                return
            data, status = found.data[first : last + 1], 206
            headers["Content_Range"] = f"bytes {first}-{last}/{size}"
        self._answer(status, data, Content_Length=len(data), **headers)

    do_HEAD = do_GET

    def _list(self, query: dict[str, str]) -> None:
        prefix, delimiter = query.get("prefix", ""), query.get("delimiter", "")
        after = query.get("start-after", "") or query.get("continuation-token", "")
        limit = int(query.get("max-keys", 1000))
        lines, folders, more, last = [], dict[str, None](), False, ""
        with STORAGE.lock:
            names = sorted(name for name in STORAGE.objects if name.startswith(prefix) and name > after)
            for name in names:
                if len(lines) + len(folders) >= limit:
                    more = True
                    break
                last = name
                rest = name[len(prefix) :]
                if delimiter and delimiter in rest:
                    folders[prefix + rest.partition(delimiter)[0] + delimiter] = None
                    continue
                found = STORAGE.objects[name]
                time = datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%S.000Z")
                lines.append(
                    f"<Contents><Key>{escape(name)}</Key><LastModified>{time}</LastModified>"
                    f"<ETag>{escape(found.tag)}</ETag><Size>{len(found.data)}</Size></Contents>"
                )
        lines += [f"<CommonPrefixes><Prefix>{escape(folder)}</Prefix></CommonPrefixes>" for folder in folders]
        token = f"<NextContinuationToken>{escape(last)}</NextContinuationToken>" if more else ""
        lines.append(f"<IsTruncated>{str(more).lower()}</IsTruncated>{token}")
        text = f"<ListBucketResult>{''.join(lines)}</ListBucketResult>"
        self._answer(200, text.encode(), Content_Type="application/xml")

    def do_PUT(self) -> None:
        if (request := self._begin()) is None:
            return
        name, query, body = request
        if "uploadId" in query:
            parts = STORAGE.uploads.get(query["uploadId"])
            if parts is None:
                self._refuse(404, "NoSuchUpload")
                return
            parts[int(query["partNumber"])] = body
            self._answer(200, ETag=f'"{hashlib.md5(body).hexdigest()}"')
            return
        self._put(name, body)

    def _put(self, name: str, data: bytes, answer: bytes = b"") -> None:
        new = STORAGE.put(name, data, self.headers.get("x-goog-if-generation-match"))
        if new is None:
            self._refuse(412, "PreconditionFailed")
            return
        self._answer(
            200, answer.replace(b"TAG", escape(new.tag).encode()), ETag=new.tag, x_goog_generation=new.generation
        )

    def do_POST(self) -> None:
        if (request := self._begin()) is None:
            return
        name, query, body = request
        if "uploads" in query:
            with STORAGE.lock:
                number = str(len(STORAGE.uploads) + 1)
                STORAGE.uploads[number] = {}
            text = (
                f"<InitiateMultipartUploadResult><Bucket>{BUCKET}</Bucket><Key>{escape(name)}</Key>"
                f"<UploadId>{number}</UploadId></InitiateMultipartUploadResult>"
            )
            self._answer(200, text.encode(), Content_Type="application/xml")
            return
        parts = STORAGE.uploads.get(query.get("uploadId", ""))
        if parts is None:
            self._refuse(404, "NoSuchUpload")
            return
        data = b"".join(parts[int(number)] for number in _PART.findall(body))
        text = (
            f"<CompleteMultipartUploadResult><Key>{escape(name)}</Key><ETag>TAG</ETag></CompleteMultipartUploadResult>"
        )
        self._put(name, data, text.encode())

    def do_DELETE(self) -> None:
        if (request := self._begin()) is None:
            return
        name, query, _ = request
        with STORAGE.lock:
            if "uploadId" in query:
                there = STORAGE.uploads.pop(query["uploadId"], None) is not None
            else:
                there = STORAGE.objects.pop(name, None) is not None
        if there:
            self._answer(204)
        else:
            self._refuse(404, "NoSuchKey")


if __name__ == "__main__":
    ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
