"""Changes of good files: values and keys of parsed content, tokens and lines of text, bytes; drawn from one `rng`."""

import copy
import io
import json
import math
import random
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator
from typing import Any

VALUES: list[Any] = [
    None, True, False, -1, 0, 1, 2, 5, 255, 256, 1.5, -0.5, 2**31, 2**53 + 1, 2**63, 2**64, 10**400, -(2**63) - 1, 1e16,
    1e300, math.nan, math.inf, -math.inf, "", "1", "1.5", "a", "\ud800", "\0", "a\0b/c", "..", "../../x", "x" * 1000,
    "nan", " 7 ", "true", "[/red]", "a$\\frac$", "\x1b[31m", "\u202e", "9" * 5000, [], [[]], [1], [None], [[[[1]]]],
    [1, 2, 3, 4], ["1", "2", "3", "4"], [5, 5, -5, -5], {}, {"a": 1}, {"size": [1, 2]}, {"size": [2**31, 2**31],
    "counts": [2**62]}, {"class_path": "os.system", "init_args": {"command": "true"}},
]  # fmt: skip
NUMBERS = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 2**63, 2**64 - 1)
TOKENS = (
    b"\0", b"\xff\xfe", b"\xef\xbb\xbf", b"NaN", b"Infinity", b"-", b"1e999", b"9" * 400, b"[" * 1000, b"{", b"]", b"}",
    b",", b":", b"\"", b"\\ud800", b"\n", b"\r", b"\t", b"&a [*a]", b"*a", b"!!python/object:os.system {}",
    b"!!set {a, b}", b"2024-05-01", b"? ", b"'", b"#", b"%", b"@", b"\xe2\x80\xa8", b"\x1b[2J", b"<!DOCTYPE a>",
    b"&lt;", b"\x85", b"\x1c",
)  # fmt: skip
ENCODINGS = ("utf-16", "utf-16-le", "utf-32", "utf-8-sig", "cp1252", "utf-7")


def places(node: Any, prefix: tuple = ()) -> Iterator[tuple]:
    """Ways to every value below this one."""
    for key in node if isinstance(node, dict) else range(len(node)) if isinstance(node, list) else ():
        yield (*prefix, key)
        yield from places(node[key], (*prefix, key))


def changed_value(good: Any, rng: random.Random, values: list[Any] | None = None) -> Any:
    """A copy with one to four places gone, replaced, wrapped, doubled or exchanged."""
    content = copy.deepcopy(good)
    everywhere = list(places(good))
    shallow = [place for place in everywhere if len(place) <= 3]
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        if not everywhere:
            break
        *way, last = rng.choice(shallow if rng.random() < 0.6 else everywhere)
        node = content
        try:
            for key in way:
                node = node[key]
            _change(node, last, rng, values or VALUES)
        except (KeyError, IndexError, TypeError, AttributeError):  # an earlier change took this place away
            continue
    return rng.choice(VALUES) if rng.random() < 0.01 else content


def _change(node: Any, last: Any, rng: random.Random, values: list[Any]) -> None:
    kind = rng.random()
    if kind < 0.5:
        node[last] = copy.deepcopy(rng.choice(values))
    elif kind < 0.65:
        del node[last]
    elif kind < 0.75:
        node[last] = [node[last]] if rng.random() < 0.5 else {"a": node[last]}
    elif kind < 0.85 and isinstance(node, dict):
        node[rng.choice(("", "5", "a" * 200, "\x1b[1m", "class_path", "id"))] = node.pop(last)
    elif kind < 0.85:
        node.insert(last, copy.deepcopy(node[rng.randrange(len(node))]))
    elif isinstance(node[last], int | float) and not isinstance(node[last], bool):
        node[last] = node[last] * rng.choice((-1, 0.5, 1e6, 1e-6, 2))
    else:
        other = rng.choice(list(node)) if isinstance(node, dict) else rng.randrange(len(node))
        node[last], node[other] = node[other], node[last]


def changed_bytes(good: bytes, rng: random.Random) -> bytes:
    """A copy with bytes turned, cut off, taken out, put in, doubled or zeroed; seldom nothing but noise."""
    data = bytearray(good)
    for _ in range(rng.choice((1, 1, 2, 3))):
        start = rng.randrange(len(data) + 1)
        end = min(len(data), start + rng.choice((1, 2, 4, 8, 50, 500)))
        match rng.randrange(8):
            case 0:
                for _ in range(rng.choice((1, 5, 50))):
                    if data:
                        data[rng.randrange(len(data))] = rng.randrange(256)
            case 1:
                del data[start:]
            case 2:
                del data[start:end]
            case 3:
                data[start:start] = rng.randbytes(rng.choice((1, 4, 100)))
            case 4:
                data[start:start] = data[start:end]
            case 5:
                data[start:end] = bytes(end - start)
            case 6:
                size = rng.choice((1, 2, 4, 8))
                number = rng.choice(NUMBERS) % 256**size
                data[start : start + size] = number.to_bytes(size, rng.choice(("little", "big")))
            case _:
                data[start:start] = rng.choice(TOKENS)
    if rng.random() < 0.01:
        return rng.randbytes(rng.choice((0, 1, 16, 1000)))
    return bytes(data)


def changed_text(good: str, rng: random.Random) -> bytes:
    """A text file with tokens put in, lines taken out, doubled or exchanged, another encoding, or changed bytes."""
    lines = good.splitlines(keepends=True)
    for _ in range(rng.choice((1, 1, 2, 3))):
        at = rng.randrange(len(lines)) if lines else 0
        match rng.randrange(5) if lines else 4:
            case 0:
                del lines[at]
            case 1:
                lines.insert(at, rng.choice(lines))
            case 2:
                other = rng.randrange(len(lines))
                lines[at], lines[other] = lines[other], lines[at]
            case 3:
                words = lines[at].split(" ")
                words[rng.randrange(len(words))] = str(rng.choice(VALUES))
                lines[at] = " ".join(words)
            case _:
                break
    text = "".join(lines)
    if rng.random() < 0.1:
        return text.encode(rng.choice(ENCODINGS), "replace")
    data = text.encode("utf-8", "surrogatepass")
    if rng.random() < 0.4:
        at = rng.randrange(len(data) + 1)
        data = data[:at] + rng.choice(TOKENS) + data[at + rng.choice((0, 0, 1, 5)) :]
    return changed_bytes(data, rng) if rng.random() < 0.3 else data


def as_json(content: Any, rng: random.Random) -> bytes:
    """JSON of a value, seldom in another encoding or with changed bytes."""
    data = _lenient(lambda: json.dumps(content).encode())
    if rng.random() < 0.1:
        data = data.decode(errors="replace").encode(rng.choice(ENCODINGS[:4]), "replace")
    return changed_bytes(data, rng) if rng.random() < 0.15 else data


def _lenient(write: Callable[[], bytes]) -> bytes:
    try:
        return write()
    except ValueError:  # a number of more digits than Python writes
        return b"[" + b"9" * 5000 + b"]"


def changed_png(good: bytes, rng: random.Random) -> bytes:
    """A PNG with changed chunks whose checksums are right again, so that a decoder goes beyond them."""
    chunks, at = [], 8
    while at + 12 <= len(good):
        size = int.from_bytes(good[at : at + 4])
        chunks.append((good[at + 4 : at + 8], good[at + 8 : at + 8 + size]))
        at += 12 + size
    for _ in range(rng.choice((1, 1, 2))):
        if not chunks:
            break
        at = rng.randrange(len(chunks))
        kind, data = chunks[at]
        match rng.randrange(5):
            case 0 | 1:
                if kind == b"IDAT" and rng.random() < 0.5:
                    data = zlib.compress(changed_bytes(zlib.decompressobj().decompress(data), rng))
                    chunks[at] = kind, data
                else:
                    chunks[at] = kind, changed_bytes(data, rng)
            case 2:
                chunks.insert(at, rng.choice(chunks))
            case 3:
                del chunks[at]
            case _:
                chunks[at] = rng.choice((b"IDAT", b"PLTE", b"tRNS", b"eXIf", b"iCCP", b"acTL", b"fdAT")), data
    return good[:8] + b"".join(
        len(data).to_bytes(4) + kind + data + zlib.crc32(kind + data).to_bytes(4) for kind, data in chunks
    )


def changed_zip(good: bytes, rng: random.Random) -> bytes:
    """An archive with a changed entry whose checksum is right again, seldom compressed or one entry less."""
    with zipfile.ZipFile(io.BytesIO(good)) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    name = rng.choice([name for name in entries if name.endswith("data.pkl")] * 6 + list(entries))
    if rng.random() < 0.1:
        del entries[name]
    else:
        entries[name] = changed_bytes(entries[name], rng)
    out = io.BytesIO()
    kind = zipfile.ZIP_DEFLATED if rng.random() < 0.1 else zipfile.ZIP_STORED
    with zipfile.ZipFile(out, "w", kind) as archive:
        for name, data in entries.items():
            archive.writestr(name, data)
    return out.getvalue()


def changed_safetensors(good: bytes, rng: random.Random) -> bytes:
    """A file whose header, JSON, is changed and of the length that it says."""
    size = struct.unpack("<Q", good[:8])[0]
    head = as_json(changed_value(json.loads(good[8 : 8 + size]), rng), rng)
    return struct.pack("<Q", len(head)) + head + good[8 + size :]
