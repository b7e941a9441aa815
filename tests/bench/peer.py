"""The workloads of bench.c in PyTorch, the peer: beside ours, checked against ours.

peer.py [-t THREADS] [-r REPEATS] [--variants LIST] [--json FILE] BENCH [WORKLOAD…] runs the program BENCH and PyTorch in
turn, three times, a workload at a time, so that a busy moment of the machine meets both; prints medians of both, the
fastest of PyTorch's variants by name, our GFLOP/s, their share of what the machine was measured to do, and the ratio.
Before a workload is timed, results of one step with the same weights and images are compared.
"""
import argparse
import json
import math
import statistics
import subprocess
import sys
import tempfile
import time

import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F
import torchvision

CLASSES, ROUNDS, KEEP = 10, 3, 0.81
USUAL = ["synth-convnet3-128-100x32", "synth-resnet18-small-50x32", "synth-resnet18-small-pruned-50x32",
         "train-convnet3-128-100x32", "train-convnet3-128-in-100x32", "train-resnet18-small-128x32",
         "eval-convnet3-128-100x32", "eval-resnet18-small-100x32"]
VARIANTS = ["eager", "channels-last", "compile", "compile-channels-last"]
BOUND = {"logits": 1e-4, "gradient": 1e-2}  # a ReLU that flips on a rounding moves a gradient by some 1e-3


def formula(name, count):
    h = 2166136261
    for byte in name.encode():
        h = (h ^ byte) * 16777619 % 2**32
    h = np.arange(count, dtype=np.uint32) * np.uint32(2654435761) + np.uint32(h)
    h ^= h >> np.uint32(16)
    h *= np.uint32(0x45d9f3b)
    h ^= h >> np.uint32(16)
    return (h / 2147483648.0 - 1).astype(np.float32)


class ConvNet(nn.Module):
    def __init__(self, depth, width, instance, side):
        super().__init__()
        layers, channels = [], 3
        for _ in range(depth):
            norm = nn.GroupNorm(width, width) if instance else nn.BatchNorm2d(width)
            layers += [nn.Conv2d(channels, width, 3, padding=1), norm, nn.ReLU(), nn.AvgPool2d(2)]
            channels = width
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Linear(width * (side >> depth) ** 2, CLASSES)

    def forward(self, x):
        return self.classifier(self.features(x).flatten(1))


def narrow(net):
    """Every layer at the width that pruning each group by the same ratio leaves."""
    for module in list(net.modules()):
        for name, m in list(module.named_children()):
            if isinstance(m, nn.Conv2d):
                setattr(module, name, nn.Conv2d(m.in_channels if m.in_channels == 3 else int(m.in_channels * KEEP),
                                                int(m.out_channels * KEEP), m.kernel_size, m.stride, m.padding,
                                                bias=m.bias is not None))
            elif isinstance(m, nn.BatchNorm2d):
                setattr(module, name, nn.BatchNorm2d(int(m.num_features * KEEP)))
            elif isinstance(m, nn.Linear):
                setattr(module, name, nn.Linear(int(m.in_features * KEEP), m.out_features))
    return net


def build(arch, side):
    pruned = arch.endswith("-pruned")
    arch = arch.removesuffix("-pruned")
    if arch.startswith("convnet"):
        depth, width = arch.removeprefix("convnet").removesuffix("-in").split("-")
        net = ConvNet(int(depth), int(width), arch.endswith("-in"), side)
    else:
        small = arch.endswith("-small")
        net = getattr(torchvision.models, arch.removesuffix("-small"))(num_classes=CLASSES)
        if small:
            assert arch.startswith("resnet"), "of the small forms, ResNets' only"
            net.conv1, net.maxpool = nn.Conv2d(3, 64, 3, padding=1, bias=False), nn.Identity()
    net = narrow(net) if pruned else net
    state = net.state_dict()
    for name, t in state.items():
        if name.endswith("num_batches_tracked"):
            continue
        heavy = t.dim() > 1
        one = not heavy and (name.endswith("running_var") or name.endswith("weight"))
        size = math.sqrt(6 / (t.numel() / t.shape[0])) if heavy else 0.1
        t.copy_(torch.from_numpy(one + size * formula(name, t.numel()).astype(np.float64)).reshape(t.shape))
    return net


class Workload:
    def __init__(self, name, variant="eager"):
        self.purpose, rest = name.split("-", 1)
        arch, size = rest.rsplit("-", 1)
        self.batch, side = map(int, size.split("x"))
        self.net, self.labels = build(arch, side), torch.arange(self.batch) % CLASSES
        x = 1.7 * formula("images", self.batch * 3 * side * side)
        self.x = torch.from_numpy(x.reshape(self.batch, 3, side, side)).contiguous()
        if "channels-last" in variant:
            self.net = self.net.to(memory_format=torch.channels_last)
            self.x = self.x.contiguous(memory_format=torch.channels_last)
        self.seen = []
        if self.purpose == "train":
            self.opt = torch.optim.SGD(self.net.parameters(), 1e-3, momentum=0.9)
        else:
            self.net.eval().requires_grad_(False)
        if self.purpose == "synth":
            self.x.requires_grad_()
            self.opt = torch.optim.Adam([self.x], 1e-3, betas=(0.5, 0.9))
        self.loss = torch.compile(self.forward) if "compile" in variant else self.forward

    def forward(self, x):
        """Logits and the loss; in synthesis with the distance of every batch norm's input from 0 and 0, as bench.c."""
        if self.purpose != "synth":
            logits = self.net(x)
            return logits, F.cross_entropy(logits, self.labels)
        self.seen.clear()
        hooks = [m.register_forward_pre_hook(lambda m, i: self.seen.append(
            i[0].mean((0, 2, 3)).norm() + i[0].var((0, 2, 3), unbiased=False).norm()))
            for m in self.net.modules() if isinstance(m, nn.BatchNorm2d)]
        logits = self.net(x)
        for hook in hooks:
            hook.remove()
        return logits, F.cross_entropy(logits, self.labels) + 10 * self.seen[0] + sum(self.seen[1:])

    def step(self):
        if self.purpose == "eval":
            with torch.inference_mode():
                return self.loss(self.x)[0]
        self.opt.zero_grad()
        logits, loss = self.loss(self.x)
        loss.backward()
        self.opt.step()
        return logits

    def results(self):
        logits = self.step().detach()
        if self.purpose == "eval":
            return logits, None
        if self.purpose == "synth":
            return logits, self.x.grad
        return logits, torch.cat([p.grad.flatten() for _, p in sorted(self.net.named_parameters())])

    def seconds(self, repeats):
        times = []
        for _ in range(repeats + 1):
            start = time.perf_counter()
            self.step()
            times.append(time.perf_counter() - start)
        return statistics.median(times[1:])


def ours(o, name, *options):
    out = subprocess.run([o.bench, "-t", str(o.t), "-r", str(o.r), *options, name], capture_output=True, text=True, check=True)
    return [[float(x) for x in line.split("\t")[1:]] for line in out.stdout.splitlines()]


def check(o, name):
    """How far ours is from PyTorch's: largest difference of logits, relative L2 of the gradient."""
    with tempfile.NamedTemporaryFile() as f:
        ours(o, name, "-d", f.name)
        got = torch.from_numpy(np.fromfile(f.name, dtype="<f4"))
    logits, grad = Workload(name).results()
    mine, rest = got[:logits.numel()].view_as(logits), got[logits.numel():]
    off = {"logits": ((mine - logits).abs().max() / logits.abs().max()).item()}
    if grad is not None:
        off["gradient"] = ((rest.view_as(grad) - grad).norm() / grad.norm()).item()
    for key, value in off.items():
        if not value < BOUND[key]:
            sys.exit(f"{name}: {key} off by {value:.1e}, at most {BOUND[key]:.0e} expected")
    return off


def row(o, name, peak):
    off = check(o, name)
    variants = {v: Workload(name, v) for v in o.variants.split(",")}
    mine, theirs = [], {v: [] for v in variants}
    for _ in range(ROUNDS):
        mine += ours(o, name)
        for v, w in variants.items():
            theirs[v].append(w.seconds(o.r))
    seconds, gflops, megabytes = (statistics.median(m[i] for m in mine) for i in range(3))
    theirs = {v: statistics.median(t) for v, t in theirs.items()}
    best = min(theirs, key=theirs.get)
    print(f"{name:36} {1e3 * seconds:8.1f} {gflops:8.1f} {100 * gflops / peak:6.0f} {megabytes:8.1f} {1e3 * theirs[best]:8.1f} "
          f"{best:22} {theirs[best] / seconds:6.2f}", flush=True)
    return {"workload": name, "seconds": seconds, "gflops": gflops, "megabytes": megabytes, "peer": theirs, "best": best,
            "ratio": theirs[best] / seconds, "off": off}


def main():
    args = argparse.ArgumentParser()
    args.add_argument("-t", type=int, default=torch.get_num_threads())
    args.add_argument("-r", type=int, default=5)
    args.add_argument("--variants", default=",".join(VARIANTS))
    args.add_argument("--json")
    args.add_argument("bench")
    args.add_argument("workload", nargs="*", default=USUAL)
    o = args.parse_args()
    torch.set_num_threads(o.t)
    (_, peak, _), (_, triad, _) = ours(o, "peak")
    print(f"{o.t} threads: {peak:.0f} GFLOP/s of multiply-adds, {triad:.1f} GB/s; PyTorch {torch.__version__}")
    print(f"{'workload':36} {'ms':>8} {'GFLOP/s':>8} {'% peak':>6} {'MB':>8} {'peer ms':>8} {'':22} {'ratio':>6}", flush=True)
    rows = [row(o, name, peak) for name in o.workload]
    if o.json:
        with open(o.json, "w") as f:
            json.dump({"threads": o.t, "peak_gflops": peak, "triad_gbs": triad, "torch": torch.__version__, "rows": rows}, f,
                      indent=1)


if __name__ == "__main__":
    main()
