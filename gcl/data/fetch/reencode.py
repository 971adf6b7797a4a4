"""The form in which an image is kept: its very bytes, or scaled down and saved anew."""

import io

from PIL import Image

from gcl.data.fetch.error import ImageError, Reason
from gcl.data.image_rgb import rgb_image
from gcl.data.record import IMAGE_FORMATS, MAX_PIXELS, MAX_SCANS, SCAN

HEAD = 512  # bytes by which a file is told to be an image
DRAFT = 2  # a JPEG is decoded at the least of its sizes that is this many times what is wanted


def kept_image(encoded: bytes, short_side: int | None, quality: int) -> bytes:
    """`encoded` where its shorter side is at most `short_side` pixels (or that is None), else a JPEG scaled down to it.

    Decodes once, to the last byte. What is saved anew has the orientation applied, transparency on white, three
    channels and no metadata. The same bytes come from the same bytes, as long as Pillow and its libraries stay.

    Raises:
        ImageError: "not an image", "web page instead of an image" or "bad image".
    """
    if reason := refusal_of_head(encoded[:HEAD]):
        raise ImageError(reason, f"begins with {encoded[:20]!r}")
    try:
        with Image.open(io.BytesIO(encoded), formats=IMAGE_FORMATS) as image:
            if image.width * image.height > MAX_PIXELS:
                raise ImageError("bad image", f"{image.width} x {image.height} pixels are more than {MAX_PIXELS}")
            if image.format == "JPEG" and (scans := encoded.count(SCAN)) > MAX_SCANS:
                raise ImageError("bad image", f"{scans} scans are more than {MAX_SCANS}")
            if short_side is None or min(image.size) <= short_side:
                image.load()
                return encoded
            return _scaled_down(image, short_side, quality)
    except ImageError:
        raise
    except Exception as error:  # a decoder at work on broken bytes raises anything: OSError, SyntaxError, IndexError
        raise ImageError("bad image", str(error)[:200] or type(error).__name__) from error


def _scaled_down(image: Image.Image, short_side: int, quality: int) -> bytes:
    scale = short_side / min(image.size)
    image.draft(None, (round(image.width * scale * DRAFT), round(image.height * scale * DRAFT)))
    picture = rgb_image(image)
    scale = short_side / min(picture.size)
    size = (max(round(picture.width * scale), 1), max(round(picture.height * scale), 1))
    picture = picture.resize(size, Image.Resampling.LANCZOS, reducing_gap=3.0)
    picture.info.clear()  # Pillow would save a comment that came with the file
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


def refusal_of_head(head: bytes) -> Reason | None:
    """Why a file that begins with these bytes is none of IMAGE_FORMATS, or None.

    A check of its own, so that a server's page or endless stream is known after its first bytes.
    """
    if head.startswith((b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF87a", b"GIF89a")):
        return None
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return None
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    return "web page instead of an image" if text.startswith(b"<") and b"<svg" not in text else "not an image"
