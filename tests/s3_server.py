"""An S3 on loopback with one bucket: moto's server, spoken to as any other through s3fs.

python tests/s3_server.py FOLDER        prints its endpoint; the folder's files are in s3://shop/shards
"""

import logging
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest.mock import patch

ADDRESS = "s3://shop/shards"
ENVIRONMENT = {
    "AWS_ACCESS_KEY_ID": "testing",
    "AWS_SECRET_ACCESS_KEY": "testing",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_EC2_METADATA_DISABLED": "true",
}


@contextmanager
def s3_server(folder: Path) -> Iterator[dict[str, str]]:
    """The environment variables under which the files of `folder` are at ADDRESS."""
    import boto3  # noqa: PLC0415
    from moto.server import ThreadedMotoServer  # noqa: PLC0415

    logging.getLogger("werkzeug").setLevel(logging.ERROR)  # a line for each request otherwise
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        environment = {**ENVIRONMENT, "AWS_ENDPOINT_URL": f"http://{host}:{port}"}
        with patch.dict(os.environ, environment):
            bucket = boto3.Session().client("s3")
            bucket.create_bucket(Bucket="shop")
            for path in sorted(folder.iterdir()):
                bucket.put_object(Bucket="shop", Key=f"shards/{path.name}", Body=path.read_bytes())
        yield environment
    finally:
        server.stop()


if __name__ == "__main__":
    with s3_server(Path(sys.argv[1])) as variables:
        print(variables["AWS_ENDPOINT_URL"], flush=True)
        threading.Event().wait()
