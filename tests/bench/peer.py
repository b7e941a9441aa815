"""The same workloads as bench.c in PyTorch eager: the peer. Needs torch and torchvision (a virtual environment will do).

peer.py [-t THREADS] [-r REPEATS] [WORKLOAD…] prints name, median seconds, tab-separated. peer.py --beside BENCH runs
bench and PyTorch in turn, a workload at a time, and prints both and their ratio.
"""
import argparse
import subprocess
import time

import torch
import torch.nn as nn
import torch.nn.functional as F
import torchvision


def convnet(width, norm):
    layers, channels = [], 3
    for _ in range(3):
        n = nn.BatchNorm2d(width) if norm == "bn" else nn.GroupNorm(width, width)
        layers += [nn.Conv2d(channels, width, 3, padding=1), n, nn.ReLU(), nn.AvgPool2d(2)]
        channels = width
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(width * 16, 10))


def resnet_small():
    net = torchvision.models.resnet18(num_classes=10)
    net.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
    net.maxpool = nn.Identity()
    return net


WORKLOADS = {
    "synth-convnet3-128-100x32": (lambda: convnet(128, "bn"), 100, "synth"),
    "synth-resnet18-small-50x32": (resnet_small, 50, "synth"),
    "train-convnet3-128-100x32": (lambda: convnet(128, "bn"), 100, "train"),
    "train-convnet3-128-in-100x32": (lambda: convnet(128, "in"), 100, "train"),
    "train-resnet18-small-128x32": (resnet_small, 128, "train"),
    "eval-convnet3-128-100x32": (lambda: convnet(128, "bn"), 100, "eval"),
    "eval-resnet18-small-100x32": (resnet_small, 100, "eval"),
}


def step_of(name):
    make, batch, purpose = WORKLOADS[name]
    torch.manual_seed(1)
    net, labels = make(), torch.arange(batch) % 10
    x = torch.randn(batch, 3, 32, 32)
    if purpose == "eval":
        net.eval()

        def step():
            with torch.inference_mode():
                net(x)
    elif purpose == "train":
        opt = torch.optim.SGD(net.parameters(), 1e-3, momentum=0.9)

        def step():
            opt.zero_grad()
            F.cross_entropy(net(x), labels).backward()
            opt.step()
    else:
        net.eval()
        for p in net.parameters():
            p.requires_grad_(False)
        x.requires_grad_(True)
        opt = torch.optim.Adam([x], 1e-3, betas=(0.5, 0.9))
        seen = []
        for m in net.modules():
            if isinstance(m, nn.BatchNorm2d):
                m.register_forward_hook(lambda m, i, o: seen.append(
                    (i[0].mean((0, 2, 3)) - m.running_mean).norm()
                    + (i[0].var((0, 2, 3), unbiased=False) - m.running_var).norm()))

        def step():
            seen.clear()
            opt.zero_grad()
            ce = F.cross_entropy(net(x), labels)
            (ce + 10 * seen[0] + sum(seen[1:])).backward()
            opt.step()
    return step


def median_seconds(name, repeats):
    step, times = step_of(name), []
    step()
    for _ in range(repeats):
        start = time.perf_counter()
        step()
        times.append(time.perf_counter() - start)
    return sorted(times)[repeats // 2]


def main():
    args = argparse.ArgumentParser()
    args.add_argument("-t", type=int, default=torch.get_num_threads())
    args.add_argument("-r", type=int, default=5)
    args.add_argument("--beside")
    args.add_argument("workload", nargs="*", default=list(WORKLOADS))
    o = args.parse_args()
    torch.set_num_threads(o.t)
    for name in o.workload:
        if not o.beside:
            print(f"{name}\t{median_seconds(name, o.r):.4f}", flush=True)
            continue
        ours, theirs = [], []
        for _ in range(3):  # in turn, so that a busy moment of the machine meets both
            out = subprocess.run([o.beside, "-t", str(o.t), "-r", str(o.r), name], capture_output=True, text=True, check=True)
            ours.append(float(out.stdout.split("\t")[1]))
            theirs.append(median_seconds(name, o.r))
        a, b = sorted(ours)[1], sorted(theirs)[1]
        print(f"{name}\t{a:.4f}\t{b:.4f}\t{b / a:.2f}", flush=True)


if __name__ == "__main__":
    main()
