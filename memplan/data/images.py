"""Opens a picture, or says why it cannot be used."""

import warnings
from io import BytesIO
from pathlib import Path

from PIL import Image, UnidentifiedImageError

from memplan.data.records import Record


def open_picture(source: Path | bytes, record: Record, field: str) -> Image.Image:
    """The whole picture in RGB, decoded.

    Raises:
        BadRecordError: it is missing, truncated, no picture, or too large.
    """
    file = BytesIO(source) if isinstance(source, bytes) else source
    try:
        with warnings.catch_warnings():
            # A small file can claim to be huge: from a size on, Pillow warns.
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(file) as picture:
                return picture.convert("RGB")
    except FileNotFoundError:
        raise record.error(field, "names a picture that is not there") from None
    except UnidentifiedImageError:
        raise record.error(field, "is no picture that can be read") from None
    except (Image.DecompressionBombWarning, Image.DecompressionBombError):
        raise record.error(field, "is a picture too large to decode") from None
    except (OSError, SyntaxError, ValueError):  # what Pillow's decoders raise
        raise record.error(field, "is a damaged picture") from None
