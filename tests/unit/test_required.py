"""enforced_params: what a body has."""

import pytest

from fastproxy.routing import required


@pytest.mark.parametrize(
    ("raw", "path", "there"),
    [
        (b'{"user":"a"}', "user", True),
        (b'{"user":""}', "user", True),
        (b'{"user":false}', "user", True),
        (b'{"user":null}', "user", False),
        (b"{}", "user", False),
        (b'{"metadata":{"a":{"b":1}}}', "metadata.a.b", True),
        (b'{"metadata":{"a":{"b":null}}}', "metadata.a.b", False),
        (b'{"metadata":{"a":"b"}}', "metadata.a.b", False),
        (b'{"metadata":["a"]}', "metadata.a", False),
        (b'{"metadata.a":1}', "metadata.a", False),
        (b"no JSON", "user", False),
    ],
)
def test_a_name_leads_to_something(raw: bytes, path: str, there: bool):
    assert required.has(raw, tuple(path.split("."))) is there


FORM = (
    b'--B\r\nContent-Disposition: form-data; name="user"\r\n\r\nx --B\r\n'
    b'--B\r\nContent-Disposition: form-data; name="file"; filename="user.txt"\r\nContent-Type: a/b\r\n\r\n'
    b'--B\r\n\r\nContent-Disposition: form-data; name="seed"\r\n\r\n1\r\n'
    b'--B\r\ncontent-type: application/json\r\ncontent-disposition: form-data; name="metadata"\r\n\r\n{"a":1}\r\n--B--\r\n'
)


@pytest.mark.parametrize(
    ("path", "there"),
    [("user", True), ("user.txt", False), ("seed", False), ("metadata", True), ("metadata.a", True),
     ("metadata.b", False)],
)  # fmt: skip
def test_a_field_of_a_form(path: str, there: bool):
    assert required.form_has(FORM, b"--B", tuple(path.split("."))) is there


def test_names_are_compiled_once_each():
    known = ("model", "user", "metadata")
    assert required.compiled(["user", "metadata.a", "seed", "user"], known) == (
        ("user", 1, ("user",)),
        ("metadata.a", 2, ("metadata", "a")),
        ("seed", -1, ("seed",)),
    )
    assert required.compiled([], known) is None
