"""Files that would run a program or fill the memory if they were read without care."""

import io
import os
import pickle
import struct
import tarfile
import warnings
import zipfile
from collections import Counter, OrderedDict
from collections.abc import Callable
from pathlib import Path
from random import Random

import torch

from imgnet_mini.checkpoint.load import read_run
from imgnet_mini.errors import CheckpointError

Write = Callable[[Path, Path], None]
"""Writes a file that tries to make another one, the sentinel."""


class Runs:
    """Calls a function when it is unpickled by anything that believes it."""

    def __init__(self, function, *args):
        self._call = function, args

    def __reduce__(self):
        return self._call


def shell(sentinel: Path) -> Runs:
    return Runs(os.system, f"echo run > {sentinel}")


def evaluated(sentinel: Path) -> Runs:
    return Runs(eval, f"open({str(sentinel)!r}, 'w').close()")


def in_archive(path: Path, data: bytes, *, records: dict[str, bytes] | None = None) -> None:
    """A pickle in the archive that torch.save would make."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for name, content in {"data.pkl": data, "version": b"3\n", **(records or {})}.items():
            entry = zipfile.ZipInfo(f"archive/{name}")
            entry.external_attr = 0
            archive.writestr(entry, content)
            archive.infolist()[-1].external_attr = 0


def opcodes(body: bytes) -> bytes:
    return b"\x80\x02" + body + b"."


def text(value: str) -> bytes:
    raw = value.encode()
    return b"X" + struct.pack("<I", len(raw)) + raw


def system_call(sentinel: Path) -> bytes:
    return text(f"echo run > {sentinel}")


def _by_torch(make: Callable[[Path], object]) -> Write:
    return lambda path, sentinel: torch.save(make(sentinel), path)


def _legacy_tar(path: Path, sentinel: Path) -> None:
    with tarfile.open(path, "w") as archive:
        for name in ("sys_info", "pickle", "storages", "tensors"):
            data = pickle.dumps(shell(sentinel), protocol=2)
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))


def _torchscript(path: Path, sentinel: Path) -> None:
    del sentinel  # it would run when it is called
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # it is deprecated, not gone
        torch.jit.script(torch.nn.Linear(2, 2)).save(str(path))


def _raw(body: Callable[[Path], bytes]) -> Write:
    return lambda path, sentinel: in_archive(path, opcodes(body(sentinel)))


PAYLOADS: dict[str, Write] = {
    "os.system": _by_torch(shell),
    "eval": _by_torch(evaluated),
    "nested": _by_torch(lambda s: {"format": 1, "model": {"w": torch.ones(2), "x": [shell(s)]}}),
    "in-a-state-dict": _by_torch(lambda s: OrderedDict(weight=torch.ones(2), bias=evaluated(s))),
    "plain-pickle": lambda path, s: path.write_bytes(pickle.dumps(shell(s))) and None,
    "legacy-torch": lambda path, s: torch.save(
        {"model": shell(s)}, path, _use_new_zipfile_serialization=False
    ),
    "legacy-tar": _legacy_tar,
    "torchscript": _torchscript,
    "inst-opcode": _raw(lambda s: b"(" + system_call(s) + b"ios\nsystem\n"),
    "obj-opcode": _raw(lambda s: b"(cos\nsystem\n" + system_call(s) + b"o"),
    "stack-global": _raw(
        lambda s: text("os") + text("system") + b"\x93" + system_call(s) + b"\x85R"
    ),
    "build": _raw(lambda s: b"cbuiltins\neval\n)\x81}" + text("x") + system_call(s) + b"sb"),
    "setitem-on-a-tensor-class": _raw(
        lambda s: b"ctorch\nTensor\n)\x81(K\x00" + b"cos\nsystem\n" + system_call(s) + b"\x85Ru"
    ),
    "getattr-chain": _raw(
        lambda s: b"cbuiltins\ngetattr\n(cos\npath\n" + text("os") + b"tR" + system_call(s) + b"0"
    ),
    "extension-code": _raw(lambda s: b"\x82\x01" + system_call(s) + b"\x85R"),
    "torch.hub": _raw(lambda s: b"ctorch.hub\nload\n(" + text("x/y") + text(str(s)) + b"tR"),
}


def tensor_opcodes(kind: str, key: str, numel: int, shape: bytes, strides: bytes) -> bytes:
    storage = b"(" + text("storage") + b"ctorch\n" + kind.encode() + b"\n" + text(key)
    storage += text("cpu") + b"\x8a\x08" + struct.pack("<q", numel) + b"tQ"
    rebuilt = b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + b"K\x00" + shape + strides
    return rebuilt + b"\x89ccollections\nOrderedDict\n)RtR"


def number(value: int) -> bytes:
    return b"\x8a\x08" + struct.pack("<q", value)


def _deflated(path: Path, _sentinel: Path) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        archive.writestr("archive/data.pkl", pickle.dumps({"x": 1}, protocol=2))
        with archive.open("archive/data/0", "w", force_zip64=True) as entry:
            for _ in range(2000):
                entry.write(bytes(10**6))


def _lying_sizes(path: Path, _sentinel: Path) -> None:
    in_archive(path, opcodes(b"}"), records={"data/0": bytes(64)})
    data = bytearray(path.read_bytes())
    entry = data.rindex(b"PK\x01\x02")
    data[entry + 20 : entry + 28] = struct.pack("<II", 2**31, 2**31)
    path.write_bytes(data)


def _tensor(kind: str, numel: int, shape: bytes, strides: bytes, stored: int) -> Write:
    def write(path: Path, _sentinel: Path) -> None:
        body = tensor_opcodes(kind, "0", numel, shape, strides)
        in_archive(path, opcodes(body), records={"data/0": bytes(stored)})

    return write


BOMBS: dict[str, Write] = {
    "deflated": _deflated,
    "lying-sizes": _lying_sizes,
    "bytearray": _raw(lambda _: b"cbuiltins\nbytearray\n" + number(10**11) + b"\x85R"),
    "tensor-of-one-number": _tensor(
        "FloatStorage", 1, number(10**12) + b"\x85", number(0) + b"\x85", 4
    ),
    "storage-beyond-its-record": _tensor(
        "FloatStorage", 10**10, number(10**10) + b"\x85", number(1) + b"\x85", 4
    ),
    "tensor-beyond-its-storage": _tensor(
        "FloatStorage", 16, number(17) + b"\x85", number(1) + b"\x85", 64
    ),
    "deep": _raw(lambda _: b"]" * 10**6 + b"a" * (10**6 - 1)),
    "text-beyond-its-end": _raw(lambda _: b"X" + struct.pack("<I", 2**32 - 1) + b"x"),
    "memo-far-away": _raw(lambda _: b"}r" + struct.pack("<I", 2**32 - 1) + b"h\x00"),
    "no-storage": _raw(lambda _: tensor_opcodes("FloatStorage", "7", 1, number(1) + b"\x85", b")")),
}


def mutate_checkpoint(count: int, seed: int, whole: Path) -> Counter[str]:
    """Read so many random mutations of a checkpoint: each is refused, or is what it was.

    Only a `CheckpointError` that names the file counts as refused; anything else is raised.
    """
    generator = Random(seed)
    original = whole.read_bytes()
    expected = repr(read_run(whole))
    path = whole.with_name("mutated.pth")
    outcomes: Counter[str] = Counter()
    for _ in range(count):
        path.write_bytes(_mutated(bytearray(original), generator))
        refusal = ""
        try:
            content = read_run(path)
        except CheckpointError as error:
            refusal = str(error)
        if refusal:
            assert str(path) in refusal
            assert "weights_only" not in refusal
        else:
            assert repr(content) == expected
        outcomes["refused" if refusal else "equal"] += 1
    path.unlink()
    return outcomes


def _mutated(data: bytearray, generator: Random) -> bytes:
    place = generator.randrange(len(data))
    length = generator.choice((1, 4, 64, 1024))
    kind = generator.choice(("flip", "byte", "zero", "cut", "insert", "drop", "swap"))
    if kind == "flip":
        data[place] ^= 1 << generator.randrange(8)
    elif kind == "byte":
        data[place] = generator.randrange(256)
    elif kind == "zero":
        data[place : place + length] = bytes(len(data[place : place + length]))
    elif kind == "cut":
        del data[place:]
    elif kind == "insert":
        data[place:place] = generator.randbytes(length)
    elif kind == "drop":
        del data[place : place + length]
    else:
        other = generator.randrange(len(data))
        data[place], data[other] = data[other], data[place]
    return bytes(data)
