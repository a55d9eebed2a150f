"""Random damage to small images: each is decoded or refused by name, soon and in little memory."""

import io
import random
import sys
import tempfile
import time
import warnings
from collections import Counter
from pathlib import Path

import numpy as np
from PIL import Image

from imgnet_mini.data.images import ImageError, decode, find_problem

try:
    import resource
except ImportError:  # Windows
    resource = None

SECONDS = 5
BYTES = 10**9


def mutate_images(count: int, seed: int) -> Counter[str]:
    """How many of `count` damaged images were `ok` and how many `refused`; nothing else may be."""
    chance = random.Random(seed)
    originals = _originals()
    outcomes: Counter[str] = Counter()
    before = peak_bytes()
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # as the package does, where pytest has not undone it
        path = Path(folder) / "x.jpg"
        for number in range(count):
            kind = chance.choice(sorted(originals))
            path.write_bytes(_mutated(originals[kind], chance))
            culprit = f"{kind}, number {number} of seed {seed}"
            began = time.monotonic()
            outcomes[_outcome(path, culprit)] += 1
            assert time.monotonic() - began < SECONDS, culprit
            assert peak_bytes() - before < BYTES, culprit
    return outcomes


def _originals() -> dict[str, bytes]:
    noise = np.random.default_rng(0).integers(0, 256, (40, 36, 3), dtype=np.uint8)
    picture = Image.fromarray(noise)
    exif = Image.Exif()
    exif[0x0112] = 6
    moving = {"save_all": True, "append_images": [picture.rotate(90)]}
    return {
        "JPEG": _encoded(picture, "JPEG", exif=exif),
        "progressive JPEG": _encoded(picture.convert("CMYK"), "JPEG", progressive=True),
        "PNG": _encoded(picture, "PNG", exif=exif),
        "palette PNG": _encoded(picture.quantize(16), "PNG", transparency=3),
        "WEBP": _encoded(picture, "WEBP"),
        "moving WEBP": _encoded(picture, "WEBP", **moving),
        "GIF": _encoded(picture, "GIF", **moving),
        "TIFF": _encoded(picture, "TIFF"),
        "packed TIFF": _encoded(picture, "TIFF", compression="tiff_lzw"),
    }


def _encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def _mutated(content: bytes, chance: random.Random) -> bytes:
    """One to four bits flipped, runs cut, inserted or zeroed; headers more often than pixels."""
    data = bytearray(content)
    for _ in range(chance.randint(1, 4)):
        place = chance.randrange(min(len(data), chance.choice([64, 512, len(data)])))
        if chance.random() < 0.2:
            place = len(data) - 1 - place
        length = chance.randint(1, 16)
        match chance.randrange(4):
            case 0:
                data[place] ^= 1 << chance.randrange(8)
            case 1 if len(data) > 2 * length:
                del data[place : place + length]
            case 2:
                data[place:place] = chance.randbytes(length)
            case _:
                data[place : place + length] = bytes(len(data[place : place + length]))
    return bytes(data)


def _outcome(path: Path, culprit: str) -> str:
    problem = find_problem(path)
    refusal = None
    try:
        pixels, _ = decode(path)
    except ImageError as error:
        refusal = error
    if refusal is not None:
        assert str(path) in str(refusal), culprit
        assert refusal.reason, culprit
        return "refused"
    assert problem is None, f"{culprit}: {problem}"
    assert (pixels.ndim, pixels.shape[2], pixels.dtype) == (3, 3, np.uint8), culprit
    return "ok"


def peak_bytes() -> int:
    """The most memory that this process has had; 0 where the system does not tell."""
    if resource is None:
        return 0
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
