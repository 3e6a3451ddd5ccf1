"""A Runpod worker that does real work on a file: statistics of a text, a thumbnail of an image.

Input:   {"file_base64": "...", "width": 64}     (width, in pixels, is for images only)
Output:  {"kind": "text", "bytes": ..., "lines": ..., "words": ..., "sha256": ..., "top_words": ...}
     or  {"kind": "image", "bytes": ..., "format": ..., "size": ..., "sha256": ...,
          "thumbnail_png_base64": ...}
What is neither fails the job, with the reason.

It runs on Runpod as it is, and behind podgate-sim in ./quickstart.
"""

import base64
import binascii
import collections
import hashlib
import io
import re

import runpod
from PIL import Image, UnidentifiedImageError

MAXIMUM_PIXELS = 50_000_000


def text_statistics(data):
    """Counts of a UTF-8 text; UnicodeDecodeError when it is none."""
    text = data.decode("utf-8")
    words = re.findall(r"[^\W\d_]+", text.lower())
    common = collections.Counter(word for word in words if len(word) > 3)
    # Equal counts in the order of the alphabet, so that the same text gives the same bytes.
    top = sorted(common.items(), key=lambda item: (-item[1], item[0]))[:5]
    return {
        "kind": "text",
        "lines": len(text.splitlines()),
        "words": len(words),
        "characters": len(text),
        "top_words": dict(top),
    }


def image_thumbnail(data, width):
    """A PNG at most `width` pixels wide and high; UnidentifiedImageError when `data` is no image."""
    with Image.open(io.BytesIO(data)) as image:
        if image.width * image.height > MAXIMUM_PIXELS:
            raise ValueError(f"an image of {image.width} x {image.height} pixels is too large")
        kind, size = image.format, [image.width, image.height]
        thumbnail = image.convert("RGBA" if "A" in image.getbands() else "RGB")
        thumbnail.thumbnail((width, width))
    out = io.BytesIO()
    thumbnail.save(out, "PNG", optimize=True)
    return {
        "kind": "image",
        "format": kind,
        "size": size,
        "thumbnail_size": list(thumbnail.size),
        "thumbnail_png_base64": base64.b64encode(out.getvalue()).decode("ascii"),
    }


def handler(job):
    """What Runpod's loop calls with each job; {"error": ...} fails it."""
    given = job["input"]
    try:
        data = base64.b64decode(given["file_base64"], validate=True)
        width = int(given.get("width", 64))
    except (KeyError, TypeError, ValueError, binascii.Error) as problem:
        return {"error": f"input must be {{\"file_base64\": \"...\", \"width\": 64}}: {problem!r}"}
    if not 1 <= width <= 1024:
        return {"error": "width must be 1 to 1024"}
    try:
        result = image_thumbnail(data, width)
    except UnidentifiedImageError:
        try:
            result = text_statistics(data)
        except UnicodeDecodeError:
            return {"error": "the file is neither an image nor UTF-8 text"}
    except (OSError, ValueError) as problem:
        return {"error": f"the image cannot be read: {problem}"}
    return {**result, "bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}


if __name__ == "__main__":
    runpod.serverless.start({"handler": handler})
