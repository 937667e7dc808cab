"""An S3 server on loopback."""

import logging
from collections.abc import Iterator

import pytest
from pyarrow import fs as pafs

BUCKET = "quasar"


@pytest.fixture(scope="module")
def s3_root() -> Iterator[str]:
    """URI of a folder in a bucket of an S3 server on loopback.

    Dummy credentials come from the environment (tests/conftest.py), as they would for a user.
    """
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    _, port = server.get_host_and_port()
    endpoint = f"scheme=http&endpoint_override=127.0.0.1%3A{port}"
    client, _ = pafs.FileSystem.from_uri(f"s3://{BUCKET}?{endpoint}&allow_bucket_creation=true")
    client.create_dir(BUCKET)
    yield f"s3://{BUCKET}/some folder?{endpoint}".replace(" ", "%20")
    server.stop()
