#!/usr/bin/env python3
"""Makes fixtures/images: files of many kinds in class folders, and what Pillow and torchvision make of them.

usage: gen_images.py FOLDER   (with Pillow, torchvision, msgpack-numpy and xxhash; FOLDER must not exist)
"""
import json
import os
import sys

import numpy as np
from PIL import Image
from torchvision import datasets, transforms

import tstream

HEIGHT, WIDTH = 21, 30


def picture(i):
    """Smooth colours with an edge: what a photograph is to a decoder."""
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH]
    planes = [128 + 100 * np.sin((x * (k + 1) + y * (3 - k) + 9 * i) / 11.0) for k in range(3)]
    a = np.stack(planes, -1)
    a[5:12, 8 + i:16 + i] = [230, 40 + 10 * i, 90]
    return Image.fromarray(a.clip(0, 255).astype(np.uint8))


def floats(root):
    """A stream of normalised floats, some beyond black and white, and the pixels that they stand for."""
    v = np.linspace(-40, 300, 2 * 3 * 4 * 5).reshape(2, 3, 4, 5)
    mean, std = np.array([0.4, 0.5, 0.6]), np.array([0.2, 0.3, 0.1])
    x = (v / 255 - mean.reshape(3, 1, 1)) / std.reshape(3, 1, 1)
    w = tstream.Writer(os.path.join(root, "floats.ts"), "images", {
        "classes": ["a", "b"], "mean": mean.tolist(), "std": std.tolist(), "shape": [3, 4, 5]})
    w.put({"images.f32": x.astype(np.float32), "labels": np.array([1, 0]), "unit": 7, "index": np.array([2, 3])})
    w.finish()
    np.save(os.path.join(root, "floats.npy"), np.rint(v.clip(0, 255)).astype(np.uint8))


def main(root):
    def save(i, name, convert=None, **how):
        path = os.path.join(root, "set", name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        im = picture(i)
        if convert == "RGBA":
            im.putalpha(Image.linear_gradient("L").resize(im.size))
        elif convert == "P":
            im = im.quantize(16)
        elif convert:
            im = im.convert(convert)
        im.save(path, **how)

    save(0, "b/10.jpg", quality=90)
    save(1, "b/2.jpg", quality=75, subsampling=0)
    save(2, "b/Z.JPEG", quality=60, progressive=True)
    save(3, "b/a.png")
    save(4, "b/sub/0.png", "RGBA")
    save(5, "b/a/1.png", "P")
    save(6, "C/grey.jpg", "L", quality=85)
    save(7, "C/grey.png", "L")
    save(8, "C/bit.png", "1")
    save(9, "a b/cmyk.jpg", "CMYK", quality=95)
    with open(os.path.join(root, "set", "b", "notes.txt"), "w") as f:
        f.write("no image\n")

    floats(root)
    expected = {}
    for name, size in ("whole", None), ("smaller", 13), ("larger", 40):
        steps = [transforms.Resize(size), transforms.CenterCrop(size)] if size else []
        ds = datasets.ImageFolder(os.path.join(root, "set"), transforms.Compose(steps + [transforms.PILToTensor()]))
        expected["classes"] = ds.classes
        expected["files"] = [os.path.relpath(p, ds.root) for p, _ in ds.samples]
        expected["labels"] = [c for _, c in ds.samples]
        np.save(os.path.join(root, name + ".npy"), np.stack([x.numpy() for x, _ in ds]))
    with open(os.path.join(root, "expected.json"), "w") as f:
        json.dump(expected, f, indent=1)
        f.write("\n")


main(sys.argv[1])
