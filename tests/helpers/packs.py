"""Packs for several test files, and their contents."""

import io
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import simplejpeg
from PIL import Image

from imgnet_mini.config.data_settings import DEFAULT_DECODING, Decoding
from imgnet_mini.data.pack.format import Pack, PackManifest, open_pack
from imgnet_mini.data.pack.plan import PackPlan, make_plan
from imgnet_mini.data.pack.writer import write_pack
from imgnet_mini.data.tree import find_splits

DATA = Path("data")
PACK = Path("data/pack")


def plan_of(
    root: Path = DATA,
    *,
    pack_size: int | None = None,
    img_size: int = 32,
    decoding: Decoding = DEFAULT_DECODING,
) -> PackPlan:
    splits = find_splits(root)
    return make_plan(*splits, pack_size=pack_size, img_size=img_size, decoding=decoding)


def build(
    pack_dir: Path = PACK,
    *,
    root: Path = DATA,
    pack_size: int | None = None,
    img_size: int = 32,
    decoding: Decoding = DEFAULT_DECODING,
    skip: bool = False,
    on_image: Callable[[str, int], None] = lambda *_: None,
) -> PackManifest:
    plan = plan_of(root, pack_size=pack_size, img_size=img_size, decoding=decoding)
    return write_pack(plan, pack_dir, skip=skip, on_image=on_image)


def opened(pack_dir: Path = PACK, *, root: Path = DATA) -> Pack:
    return open_pack(pack_dir, *find_splits(root))


def arrays(pack_dir: Path = PACK) -> dict[str, bytes]:
    """Return the contents of all `.npy` files, without the change times: a copy has its own."""
    return {
        path.name: np.load(path)["digest"].tobytes()
        if path.name.endswith("_source.npy")
        else path.read_bytes()
        for path in sorted(pack_dir.glob("*.npy"))
    }


def siblings(pack_dir: Path = PACK) -> set[str]:
    """Return the names in the folder of a pack, without those of the splits."""
    return {path.name for path in pack_dir.parent.iterdir()} - {"train", "val"}


@cache
def jpeg(side: int = 64, *, seed: int = 0) -> bytes:
    """Return a JPEG file of noise, large enough to be damaged in many places."""
    pixels = np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG")
    return file.getvalue()


@cache
def damaged_jpeg() -> bytes:
    """Return a JPEG file that Pillow reads although libjpeg warns of damage."""
    content = jpeg()
    for place in range(len(content) // 2, len(content) - 100):
        damaged = content[:place] + b"\xff\xd3" + content[place + 2 :]  # a restart out of turn
        try:
            simplejpeg.decode_jpeg(damaged)
        except ValueError:
            Image.open(io.BytesIO(damaged)).load()
            return damaged
    raise AssertionError("no damage was noticed")
