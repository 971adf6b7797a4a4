"""Why an image cannot be had: a small set of reasons, which are counted, each with a detail about the one image."""

from typing import Literal

Reason = Literal[
    # of any image
    "missing image",  # no such file, or an empty one
    "image too large",  # more bytes than images.max_megabytes
    "not an image",  # its first bytes are of none of the formats that are read
    "web page instead of an image",  # the same, and they are HTML, whatever the server called them
    "bad image",  # begins as an image and cannot be decoded to its end, or has too many pixels
    # of a file
    "image outside the source",  # a path that leads out of the source's folder
    # of a web address
    "bad address",  # not http or https, with a name and password, or unreadable
    "private address",  # of this machine or the local network, also behind a name or a redirect
    "image not found",  # 404, 410
    "image refused by the server",  # 401, 403 and the other 4xx
    "image server failed",  # 408, 429, 5xx after all tries, and answers that make no sense
    "image server unreachable",  # no connection, no such host, no valid certificate
    "image server given up",  # too many images in a row had no answer from this host
    "image download broken off",  # the connection ended before the image did
    "image download timed out",
    "too many redirects",
]


class ImageError(Exception):
    """An image that cannot be had."""

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason, self.detail = reason, detail
