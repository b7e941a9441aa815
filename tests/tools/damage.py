"""Makes damaged copies of a file: damage.py FILE FOLDER [BITS]. What is damaged follows from what the file is.

cut-N   ends early (BITS places)       form-*  a stream that breaks the rules of every stream
flip-N  has one bit flipped (BITS)     mean-*  a whole stream, well-formed, that says something wrong
"""
import os
import random
import sys
import tarfile

import numpy as np

import tstream


def tensor(kind, shape, data=b""):
    return {b"nd": True, b"type": kind, b"kind": b"", b"shape": shape, b"data": data}


def places(path, data):
    """Bytes that all count: not the padding and the owners in a tar, nor an archive's labels, nor the time in a
    gzip header."""
    if path.endswith(".gz"):
        return [*range(4), *range(10, len(data))]
    if path.endswith(".tar"):
        with tarfile.open(path) as tar:
            members = [m for m in tar if m.name.endswith(".png")] or tar.getmembers()
            return [i for m in members for i in range(m.offset_data, m.offset_data + m.size)]
    return range(len(data))


def bits(path, folder, count):
    data = open(path, "rb").read()
    where = places(path, data)
    last = where[-1]
    rng = random.Random(os.path.basename(path))
    for i in range(count):
        cut = 0 if i == 0 else last if i == 1 else rng.randrange(last)
        open(f"{folder}/cut-{i:02}", "wb").write(data[:cut])
        at = rng.choice(where)
        flipped = bytearray(data)
        flipped[at] ^= 1 << rng.randrange(8)
        open(f"{folder}/flip-{i:02}", "wb").write(flipped)
    if path.endswith(".tar"):
        with tarfile.open(path) as tar:
            for i, m in enumerate(tar):
                open(f"{folder}/cut-member{i}", "wb").write(data[:m.offset])


def form(path, folder, header, frames):
    data = open(path, "rb").read()
    start = len(tstream.seal(header))
    front = data[:start]
    image = b"\xa9images.u8\x85\xc4\x02nd\xc3\xc4\x04type\xa3|u1\xc4\x04kind\xc4\x00\xc4\x05shape\x94\x01\x01\x1c\x1c"
    for name, blob in {
        "bin": front + b"\x82" + image + b"\xc4\x04data\xc6\xff\xff\xff\xf0" + bytes(100),
        "array": front + b"\x81\xa6labels\xdd\xff\xff\xff\xff" + bytes(100),
        "map": front + b"\xdf\xff\xff\xff\xff\xa1a\x01" + bytes(100),
        "text": b"Not a stream at all.\n" * 5,
        "zeros": bytes(500),
        "deep": front + b"\x81\xa1a" + b"\x91" * 10000,
        "behind": data + data,
        "headerless": data[start:],
        "trailerless": front,
        "doubled": front + data[start:] + b"\x80",
    }.items():
        open(f"{folder}/form-{name}", "wb").write(blob)
    first = dict(frames[0])
    key = next(iter(first))
    for name, head, some in (
        ("version", {"tensorstream": 2}, frames),
        ("unversioned", {"tensorstream": "1"}, frames),
        ("overflow", {}, [{**first, key: tensor("|u1", [1 << 32, 1 << 32, 1, 1])}]),
        ("gigabytes", {}, [{**first, key: tensor("<f4", [1 << 20, 1 << 10, 1, 1], bytes(64))}]),
        ("short", {}, [{**first, key: tensor("|u1", [2, 1, 28, 28], bytes(28))}]),
        ("negative", {}, [{**first, key: tensor("|u1", [-1, 1, 28, 28], bytes(28))}]),
        ("type", {}, [{**first, key: tensor("<c8", [1], bytes(8))}]),
    ):
        write(f"{folder}/form-{name}", {**header, **head}, some)


def write(path, header, frames):
    w = tstream.Writer(path, header["kind"], header)
    for f in frames:
        w.put(f)
    w.finish()


def changed(a, place, value):
    a = np.array(a)
    a.flat[place] = value
    return a


def said_wrong(header, frames):
    """NAME -> (header, frames)"""
    first, rest = frames[0], frames[1:]
    head = lambda **k: ({**header, **k}, frames)
    frame = lambda **k: (header, [{**first, **k}, *rest])
    without = lambda k: (header, [{n: v for n, v in first.items() if n != k}, *rest])
    kind = header["kind"]
    yield "kind", head(kind="images" if kind == "state" else "state")
    if kind in ("images", "recipes"):
        pixels = next(iter(first))
        x, y = first[pixels], first["labels"]
        yield "label", frame(labels=changed(y, 0, len(header["classes"])))
        yield "label-negative", frame(labels=changed(y, -1, -1))
        yield "label-huge", frame(labels=changed(y, 0, 1 << 40))
        yield "labels-short", frame(labels=y[:-1])
        yield "labels-float", frame(labels=y.astype(np.float32))
        yield "unlabelled", without("labels")
        yield "pixelless", without(pixels)
        yield "flat", frame(**{pixels: x.reshape(len(x), -1)})
        yield "size", frame(**{pixels: x[:, :, 1:]})
        yield "classless", head(classes=[])
        yield "norm", head(std=[0.0])
        yield "norm-nan", head(mean=[float("nan")])
        yield "shape", head(shape=[1, 1 << 40, 28])
        floats = x.astype(np.float32) / 64
        for name, bad in ("nan", np.nan), ("infinity", np.inf):
            yield name, (header, [{"images.f32": changed(floats, 5, bad),
                                   **{k: v for k, v in first.items() if k != pixels}}, *rest])
    if kind == "recipes":
        i = next(i for i, f in enumerate(frames) if "index" in f and "box" in f)
        r = frames[i]
        recipe = lambda **k: (header, [*frames[:i], {**r, **k}, *frames[i + 1:]])
        yield "index", recipe(index=changed(r["index"], 0, 1 << 33))
        yield "index-negative", recipe(index=changed(r["index"], 0, -1))
        yield "partner", recipe(partner=changed(r["partner"], 0, len(r["index"])))
        yield "box", recipe(box=changed(r["box"], 2, 1 << 20))
        yield "box-empty", recipe(box=changed(r["box"], 2, 0))
        yield "lambda", recipe(**{"lambda": float("nan")})
        yield "cut", recipe(cut=[0, 1 << 30, 0, 5])
        yield "mix", recipe(mix="stir")
        yield "order", (header, [*frames[:i], *frames[i + 1:]])
        soft = next((k for k in r if k.startswith("soft")), None)
        if soft:
            yield "soft", recipe(**{soft: changed(r[soft], 0, np.nan)})
            yield "soft-short", recipe(**{soft: r[soft][:-1]})
    if kind == "checkpoint":
        name = next(iter(first))
        yield "nan", frame(**{name: changed(first[name], 0, np.nan)})
        yield "parameter-short", frame(**{name: first[name][1:]})
        yield "parameter-missing", (header, rest)
        yield "parameter-twice", (header, [first, *frames])
        yield "parameter-unknown", (header, [*frames, {"x.weight": first[name]}])
        nodes = header["net"]["nodes"]
        at = next(i for i, n in enumerate(nodes) if n["op"] == "conv")
        last = len(nodes) - 1
        for what, change in ("op", {"op": "guess"}), ("cycle", {"in": [last]}), ("channels", {"out": 1 << 30}):
            yield what, head(net={**header["net"], "nodes": [*nodes[:at], {**nodes[at], **change}, *nodes[at + 1:]]})
    if kind == "stats":
        yield "nan", frame(mean=changed(first["mean"], 0, np.nan))
        yield "variance", frame(var=changed(first["var"], 0, -1))
        yield "channels", frame(mean=first["mean"][1:], var=first["var"][1:])
        yield "member", frame(member="0/99.ts")
        yield "layer-missing", (header, rest)
        yield "layer-twice", (header, [first, *frames])


def main():
    path, folder, count = sys.argv[1], sys.argv[2], int(sys.argv[3]) if len(sys.argv) > 3 else 20
    os.mkdir(folder)
    bits(path, folder, count)
    if path.endswith(".ts"):
        header, frames = tstream.read(path)
        form(path, folder, header, frames)
        for name, (head, some) in said_wrong(header, frames):
            write(f"{folder}/mean-{name}", head, some)


main()
