"""The JSON path and coded bodies. Only BodyError comes out, and never more bytes than the limit.

And: what the scan accepts the JSON path accepts too, and its result is one document with our model.
The first byte chooses: a coding, or the JSON path.
"""

import gzip
import zlib

import orjson
from unit.test_scan import DONE, scan

from fastproxy.providers.body import BodyError, decompress, rewrite, wants_usage

MUTATIONS = 60
LIMIT = 100_000
CODINGS = ("gzip", "deflate", "zstd", "x-gzip", "br")
RECORD = {"defaults": {"temperature": 1}, "extra_body": {"x": 2}, "drop_params": ["user"]}
SEEDS = [
    b"\x00" + gzip.compress(b'{"model":"m"}'),
    b"\x01" + zlib.compress(b'{"model":"m"}'),
    b"\x02\x28\xb5\x2f\xfd\x04\x00\x09\x00\x00{}",
    b'\x08{"model":"m","messages":[],"metadata":{},"tags":["a"],"litellm_x":1,"user":"u"}',
    b'\x09{"model":"m","stream":true,"stream_options":{"include_usage":true,"x":1e5}}',
]


def run(data: bytes) -> None:
    """One input."""
    if not data:
        return
    choice, data = data[0], data[1:]
    if choice < 8:
        try:
            out = decompress(data, CODINGS[choice % len(CODINGS)], LIMIT)
        except BodyError:
            return
        assert len(out) <= LIMIT
        return
    if scan(data)[0] != DONE:
        return
    try:
        out = rewrite(data, RECORD, "up", keep_metadata=False, ask_usage=bool(choice & 1))
        document = orjson.loads(out)
        assert document["model"] == "up"
        assert not {"metadata", "tags", "user", "fallbacks"} & set(document)
        options = orjson.loads(data).get("stream_options")
        assert wants_usage(orjson.dumps(options)) in (True, False)
    except BodyError:
        return
