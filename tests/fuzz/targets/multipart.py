"""Forms. However the bytes are cut the result is the same; what is accepted is a whole form.

And: in an accepted form a plain reading by delimiter lines finds the same `model`, at the same place.
The first byte says where to cut.
"""

import itertools
import re

from unit.test_multipart import DONE, scan

from fastproxy._multipart import boundary_of

B = b"b0"
FIELD = b'Content-Disposition: form-data; name="'
SEEDS = [
    b'\x07--b0\r\n' + FIELD + b'model"\r\n\r\nwhisper\r\n--b0\r\n' + FIELD
    + b'file"; filename="a"\r\nContent-Type: audio/wav\r\n\r\n\x00\r\n--b\r\n--b0--\r\n',
    b'\x03--b0\r\n' + FIELD + b'stream"\r\n\r\ntrue\r\n--b0--',
    b'\x02multipart/form-data; charset=x; boundary="a b"',
    b"\x01multipart/form-data;boundary=b0",
]  # fmt: skip
DELIMITER = re.compile(rb"\r\n--b0(--)?[ \t]*(?=\r\n|\Z)")


def run(data: bytes) -> None:
    """One input."""
    if not data:
        return
    where, data = data[0], data[1:]
    boundary = boundary_of(data)
    if boundary is not None:
        assert 1 <= len(boundary) <= 70
        assert boundary in data.replace(b"\\", b"") or boundary in data
    whole = scan(data, boundary=B)
    at = where % (len(data) + 1)
    assert scan(data[:at], data[at:], boundary=B) == whole
    assert scan(*(data[i : i + 1] for i in range(len(data))), boundary=B) == whole
    result, state = whole
    if result != DONE:
        return
    marks = list(DELIMITER.finditer(b"\r\n" + data))
    assert marks
    assert marks[0].start() == 0
    closing = next(i for i, mark in enumerate(marks) if mark[1])
    models = []
    for mark, following in itertools.pairwise(marks[: closing + 1]):
        part = (b"\r\n" + data)[mark.end() : following.start()]
        head, _, value = part.partition(b"\r\n\r\n")
        if re.search(rb'(?i)^content-disposition:[^\r\n]*[; ]name="model"', head, re.MULTILINE):
            models.append(value)
    if state["model"] is not None:
        assert models == [state["model"]]
