#!/usr/bin/env python3
"""Writes fixtures/augment.bin: views, DSA and CutMix boxes as PyTorch and torchvision compute them, in float64.

A record is eight i32 (kind, c, h, w, 4 x 0), sixteen f32 parameters, then four f32 tensors (c,h,w): the image, its
augmentation, a cotangent, and the gradient that autograd sends back for it. Kinds: 0 view, 1 to 6 DSA in the order of
enum dsa_kind. Kind 100 (no tensors): a CutMix box, parameters lambda, cy, cx, y0, y1, x0, x1, lambda after clipping.
Kind 101 (no tensors): RandomResizedCrop draws, parameters smin, smax, then mean and standard deviation of
area/(h*w), log(width/height), top/h, left/w. Kind -1 ends the file.
"""
import os
import struct

import numpy as np
import torch
import torch.nn.functional as F
import torchvision.transforms as T
import torchvision.transforms.functional as TF

torch.manual_seed(7)
rnd = np.random.RandomState(7)
out = open(os.path.join(os.path.dirname(os.path.abspath(__file__)), "fixtures", "augment.bin"), "wb")


def record(kind, chw, params, fn=None):
    out.write(struct.pack("<8i", kind, *chw, 0, 0, 0, 0))
    out.write(struct.pack("<16f", *(list(params) + [0] * (16 - len(params)))))
    if fn is None:
        return
    x = torch.randn(1, *chw).double().requires_grad_(True)
    y = fn(x)
    g = torch.randn(1, *chw).double()
    y.backward(g)
    for t in (x.detach(), y.detach(), g, x.grad):
        out.write(t.numpy().astype("<f4").tobytes())


def view(chw, top, left, height, width, flip, dy, dx, zero):
    def fn(x):
        if zero:
            x = TF.crop(F.pad(x, [zero] * 4), top + zero, left + zero, height, width)
        else:
            x = TF.resized_crop(x, top, left, height, width, chw[1:], antialias=False)
        if flip:
            x = TF.hflip(x)
        return torch.roll(x, (dy, dx), (2, 3))
    record(0, chw, (top, left, height, width, flip, dy, dx, zero), fn)


def colour(chw, bright, sat, contrast):
    def fn(x):
        x = x + (bright - 0.5)
        m = x.mean(dim=1, keepdim=True)
        x = (x - m) * (sat * 2) + m
        m = x.mean(dim=[1, 2, 3], keepdim=True)
        return (x - m) * (contrast + 0.5) + m
    record(1, chw, (bright, sat, contrast), fn)


def shift(chw, dy, dx):
    def fn(x):
        _, h, w = chw
        rows = torch.clamp(torch.arange(h) + dy + 1, 0, h + 1)
        cols = torch.clamp(torch.arange(w) + dx + 1, 0, w + 1)
        return F.pad(x, [1, 1, 1, 1])[:, :, rows][:, :, :, cols]
    record(2, chw, (dy, dx), fn)


def cutout(chw, cy, cx):
    def fn(x):
        _, h, w = chw
        sy, sx = int(h * 0.5 + 0.5), int(w * 0.5 + 0.5)
        rows = torch.clamp(torch.arange(sy) + cy - sy // 2, 0, h - 1)
        cols = torch.clamp(torch.arange(sx) + cx - sx // 2, 0, w - 1)
        mask = torch.ones(h, w).double()
        mask[rows.reshape(-1, 1), cols.reshape(1, -1)] = 0
        return x * mask
    record(3, chw, (cy, cx), fn)


def warp(kind, chw, params, theta):
    def fn(x):
        grid = F.affine_grid(torch.tensor([theta]).double(), [1, *chw], align_corners=False)
        return F.grid_sample(x, grid, align_corners=False)
    record(kind, chw, params, fn)


def scale(chw, sx, sy):
    sx, sy = np.float64(np.float32(sx)), np.float64(np.float32(sy))
    warp(5, chw, (sx, sy), [[sx, 0, 0], [0, sy, 0]])


def rotate(chw, degrees):
    a = np.float64(np.float32(np.deg2rad(degrees)))
    warp(6, chw, (a,), [[np.cos(a), np.sin(-a), 0], [np.sin(a), np.cos(a), 0]])


def cutmix(hw, lam, cy, cx):
    h, w = hw
    lam = np.float64(np.float32(lam))
    half_h, half_w = int(h * np.sqrt(1 - lam)) // 2, int(w * np.sqrt(1 - lam)) // 2
    y0, y1 = np.clip(cy - half_h, 0, h), np.clip(cy + half_h, 0, h)
    x0, x1 = np.clip(cx - half_w, 0, w), np.clip(cx + half_w, 0, w)
    record(100, (1, h, w), (lam, cy, cx, y0, y1, x0, x1, 1 - (x1 - x0) * (y1 - y0) / (h * w)))


def rrc(hw, smin, smax, n=4000):
    h, w = hw
    x = torch.empty(1, h, w)
    box = np.array([T.RandomResizedCrop.get_params(x, (smin, smax), (3 / 4, 4 / 3)) for _ in range(n)], float)
    what = (box[:, 2] * box[:, 3] / (h * w), np.log(box[:, 3] / box[:, 2]), box[:, 0] / h, box[:, 1] / w)
    record(101, (1, h, w), [smin, smax] + [f(v) for v in what for f in (np.mean, np.std)])


square, odd, grey, wide = (3, 8, 8), (3, 9, 7), (1, 11, 14), (2, 5, 13)
for chw in (square, odd, grey, wide):
    c, h, w = chw
    view(chw, 0, 0, h, w, 0, 0, 0, 0)
    view(chw, 0, 0, h, w, 1, 3, -2, 0)
    view(chw, 1, 2, h - 2, w - 3, 0, 0, 0, 0)
    view(chw, 2, 0, h - 3, w, 1, -1, 4, 0)
    view(chw, h - 2, w - 3, 2, 3, 1, h + 1, -w - 2, 0)
    view(chw, h // 2, w // 2, 1, 1, 0, 0, 1, 0)
    view(chw, -2, 1, h, w, 0, 0, 0, 4)
    view(chw, 3, -3, h, w, 1, 1, 0, 4)
    view(chw, -9, 12, h, w, 0, 0, 0, 14)
    colour(chw, *rnd.rand(3))
    shift(chw, 1, -2)
    shift(chw, -2, 1)
    cutout(chw, 0, 0)
    cutout(chw, h // 2, w - 1)
    cutout(chw, h - int(h * 0.5 + 0.5) % 2, w - int(w * 0.5 + 0.5) % 2)
    record(4, chw, (1,), TF.hflip)
    record(4, chw, (0,), lambda x: x * 1)
    scale(chw, 1 / 1.2, 1.15)
    scale(chw, 1.2, 0.9)
    rotate(chw, 13.0)
    rotate(chw, -15.0)
for hw in ((32, 32), (28, 28), (7, 12)):
    for lam in (0, 0.03, 0.5, 0.77, 1):
        cutmix(hw, lam, rnd.randint(hw[0]), rnd.randint(hw[1]))
        cutmix(hw, lam, 0, hw[1] - 1)
for hw in ((32, 32), (40, 12), (10, 30)):
    rrc(hw, 0.08, 1)
    rrc(hw, 0.5, 1)
out.write(struct.pack("<8i", -1, 0, 0, 0, 0, 0, 0, 0))
