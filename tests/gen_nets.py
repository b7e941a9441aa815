"""Makes tests/fixtures/nets.ts and optim.ts: what PyTorch computes in float64, for t_net and t_loss.

Weights, images and statistics come from a formula, so that only results need to be stored. Each case is computed in
float32 too, plainly and with weights off by 1e-6 as if convolutions rounded coarsely, and must agree within a third of
the test's bounds: so no fixture stands on a kink of ReLU or pooling. A case's seed is chosen for that, and ResNets are
"calm": their norms add more than they scale, so that few of their million activations lie near zero. (One flipped
ReLU changes a gradient by a share of 1e-2, whoever computes it; the small networks cover them, being few enough.)
"""
import math
import sys

import numpy as np
import torch
import torch.nn.functional as F
import torchvision

import tstream

BOUND_LOGITS, BOUND = 1e-4, 1e-3
CLASSES, STEPS, ALPHA, FIRST, ADAM_LR, SGD_LR = 10, 10, 0.1, 10.0, 0.1, 0.01
STRIDE, WHOLE = 7, 3200  # larger image tensors are stored as every 7th element


def uniform(count, j):
    i = np.arange(count, dtype=np.uint32)
    h = i * np.uint32(2654435761) + np.uint32((j * 40503 + 12345) % 2**32)
    h ^= h >> np.uint32(16)
    h *= np.uint32(0x45d9f3b)
    h ^= h >> np.uint32(16)
    return h.astype(np.float64) / 2**32


def tensor(values, shape, dtype):
    return torch.tensor(values.astype(np.float32).reshape(shape)).to(dtype)


def convnet(depth, width, chw, instance):
    layers, channels, (_, h, w) = [], chw[0], chw
    for block in range(depth):
        pad = 3 if block == 0 and (h, w) == (28, 28) else 1
        norm = torch.nn.GroupNorm(width, width) if instance else torch.nn.BatchNorm2d(width)
        layers += [torch.nn.Conv2d(channels, width, 3, padding=pad), norm, torch.nn.ReLU(), torch.nn.AvgPool2d(2)]
        channels, h, w = width, (h + 2 * pad - 2) // 2, (w + 2 * pad - 2) // 2

    class ConvNet(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.features = torch.nn.Sequential(*layers)
            self.classifier = torch.nn.Linear(width * h * w, CLASSES)

        def forward(self, x):
            return self.classifier(self.features(x).flatten(1))
    return ConvNet()


def build(arch, chw, calm, dtype):
    if arch.startswith("convnet"):
        depth, width = arch.removeprefix("convnet").removesuffix("-in").split("-")
        net = convnet(int(depth), int(width), chw, arch.endswith("-in"))
    else:
        net = torchvision.models.resnet18(num_classes=CLASSES)
        if arch == "resnet18-small" or chw[0] != 3:
            small = arch == "resnet18-small"
            net.conv1 = torch.nn.Conv2d(chw[0], 64, 3 if small else 7, 1 if small else 2, 1 if small else 3, bias=False)
            net.maxpool = torch.nn.Identity() if small else net.maxpool
    net = net.to(dtype)
    names = [k for k in net.state_dict() if not k.endswith("num_batches_tracked")]
    state = net.state_dict()
    for j, name in enumerate(names):
        t = state[name]
        u = uniform(t.numel(), j)
        if t.dim() > 1:
            u = (2 * u - 1) * math.sqrt(3) * math.sqrt(2 / (t.numel() // t.shape[0]))
        elif name.endswith("running_var"):
            u = 0.5 + u
        elif name.endswith("running_mean"):
            u = (u - 0.5) * 0.5
        elif name.removesuffix(".bias") + ".weight" in names and state[name.rsplit(".", 1)[0] + ".weight"].dim() > 1:
            u = (u - 0.5) * 0.2  # bias of a convolution or linear
        elif name.endswith("weight"):
            u = (0.5 + u) * (0.15 if calm else 1)
        else:
            u = u - 0.5 + np.where(u < 0.5, -0.5, 0.5) if calm else (u - 0.5) * 0.5
        state[name].copy_(tensor(u, t.shape, dtype))
    return net, names


def distance(stats, mu, var):
    return (stats[0] - mu).norm() + (stats[1] - var).norm()


def moments(x):
    return x.mean((0, 2, 3)), x.var((0, 2, 3), unbiased=False)


def match(x, layer, labels, w):
    c, dtype = x.shape[1], x.dtype
    mu, var = (tensor(f(uniform(c, 2000 + 2 * layer + i)), (c,), dtype) for i, f in enumerate(
        (lambda u: (u - 0.5) * 0.5, lambda u: 0.5 + u)))
    cmu, cvar = (tensor(f(uniform(CLASSES * c, 3000 + 2 * layer + i)), (CLASSES, c), dtype) for i, f in enumerate(
        (lambda u: (u - 0.5) * 0.5, lambda u: 0.5 + u)))
    loss = (1 - w) * distance(moments(x), mu, var) if w < 1 else 0
    if w > 0 and len(set(labels.tolist())) == len(labels):
        mix = cmu[labels].mean(0)
        loss = loss + w * distance(moments(x), mix, (cvar[labels] + cmu[labels] ** 2).mean(0) - mix ** 2)
    elif w > 0:
        of_class = [distance(moments(x[labels == k]), cmu[k], cvar[k]) for k in sorted(set(labels.tolist()))]
        loss = loss + w * sum(of_class) / len(of_class)
    return loss * (FIRST if layer == 0 else 1)


def norms(net):
    return [(k, m) for k, m in net.named_modules() if isinstance(m, torch.nn.BatchNorm2d)]


def synthesis_loss(net, images, labels, w):
    seen = []
    hooks = [m.register_forward_pre_hook(lambda _, x, k=k: seen.append((k, x[0]))) for k, m in norms(net)]
    loss = F.cross_entropy(net(images), labels)
    for hook in hooks:
        hook.remove()
    order = [k for k, _ in norms(net)]
    return loss + ALPHA * sum(match(x, order.index(k), labels, w) for k, x in seen)


def numpy(t):
    return t.detach().double().numpy()


def put_image(out, key, t):
    t = numpy(t).ravel()
    out[key] = t[::STRIDE] if t.size > WHOLE else t
    out[key + ".norm"] = np.array([np.linalg.norm(t)])


def put_params(out, key, tensors):
    """Of every tensor some 40 elements, at a stride of count//41 + 1, one after another; and its norm."""
    arrays = [numpy(t).ravel() for t in tensors]
    out[key] = np.concatenate([a[::a.size // 41 + 1] for a in arrays])
    out[key + ".norm"] = np.array([np.linalg.norm(a) for a in arrays])


def compute(arch, chw, labels, seed, calm, dtype, off=0.0):
    out, labels = {}, torch.tensor(labels)
    net, names = build(arch, chw, calm, dtype)
    with torch.no_grad():
        for j, p in enumerate(net.parameters()):
            p *= 1 + off * torch.randn(p.shape, dtype=dtype, generator=torch.Generator().manual_seed(j))
    shape = (len(labels), *chw)
    first = tensor((2 * uniform(math.prod(shape), 1000 + seed) - 1) * 1.7, shape, dtype)

    net.eval().requires_grad_(False)
    out["eval.logits"] = numpy(net(first))
    for name, w in ("global", 0.0), ("classwise", 1.0), ("mixed", 0.5):
        images = first.clone().requires_grad_()
        loss = synthesis_loss(net, images, labels, w)
        loss.backward()
        out[f"synth.{name}.loss"] = np.array([loss.item()])
        put_image(out, f"synth.{name}.grad", images.grad)

    images, losses = first.clone().requires_grad_(), []
    adam = torch.optim.Adam([images], betas=(0.5, 0.9))
    high = torch.tensor([1.8 + 0.1 * c for c in range(chw[0])], dtype=dtype).view(1, -1, 1, 1)
    for step in range(STEPS):
        adam.param_groups[0]["lr"] = ADAM_LR * 0.5 * (1 + math.cos(math.pi * step / STEPS))
        adam.zero_grad()
        loss = synthesis_loss(net, images, labels, 0.5)
        loss.backward()
        adam.step()
        images.data.clamp_(-high, high)
        losses.append(loss.item())
    out["adam.losses"] = np.array(losses)
    put_image(out, "adam.images", images)

    net.train().requires_grad_(True)
    sgd, losses = torch.optim.SGD(net.parameters(), lr=SGD_LR, momentum=0.9, weight_decay=5e-4), []
    trained = dict(net.named_parameters())
    for step in range(STEPS):
        sgd.zero_grad()
        logits = net(first)
        loss = F.cross_entropy(logits, labels)
        loss.backward()
        losses.append(loss.item())
        if step == 0:
            out["train.logits"] = numpy(logits)
            put_params(out, "train.grad", [trained[k].grad for k in names if k in trained])
            running = [v for k, v in net.state_dict().items() if "running" in k]
            if running:
                put_params(out, "train.running", running)
        sgd.step()
    out["train.losses"] = np.array(losses)
    put_params(out, "train.final", [net.state_dict()[k] for k in names])
    return out, names, [k for k, _ in norms(net)]


def error(key, got, want):
    """The distance that t_net looks at: largest difference for logits and losses, else relative L2."""
    if key.endswith("logits") or "loss" in key:
        return np.abs(got - want).max() / np.abs(want).max()
    return np.linalg.norm(got - want) / np.linalg.norm(want)


CASES = [  # name, architecture, shape, labels, seed, calm
    ("rgb", "convnet3-16", (3, 32, 32), [1, 4, 1, 7, 4], 0, False),
    ("grey28", "convnet3-16", (1, 28, 28), [3, 0, 9, 5], 0, False),
    ("instance", "convnet3-24-in", (3, 32, 32), [2, 8, 2], 0, False),
    ("odd", "convnet2-20", (3, 21, 19), [6, 6, 1, 0], 0, False),
    ("single", "convnet2-20", (3, 21, 19), [7], 0, False),
    ("convnet3", "convnet3-128", (3, 32, 32), [5, 2], 0, False),
    ("resnet", "resnet18", (3, 64, 64), [1, 9, 1, 5], 0, True),
    ("resnet-odd", "resnet18", (3, 75, 67), [0, 4, 8], 0, True),
    ("small", "resnet18-small", (3, 32, 32), [3, 3, 6, 1], 0, True),
    ("small-grey28", "resnet18-small", (1, 28, 28), [2], 0, True),
]


def check(name, want, got):
    """Largest share of the test's bounds that got is off by."""
    worst = 0
    for key in want:
        part = error(key, got[key], want[key]) / (BOUND_LOGITS if key == "eval.logits" else BOUND)
        worst = max(worst, part)
        if part > 1 / 10:
            print(f"{name}: {key}: float32 is off by {part:.3f} of the bound", file=sys.stderr)
    return worst


def nets(path):
    worst = 0
    out = tstream.Writer(path, "fixture", {"pytorch": torch.__version__, "torchvision": torchvision.__version__})
    for name, arch, chw, labels, seed, calm in CASES:
        want, names, bn = compute(arch, chw, labels, seed, calm, torch.float64)
        for off in 0, 1e-6:
            got, _, _ = compute(arch, chw, labels, seed, calm, torch.float32, off)
            worst = max(worst, check(name, want, got))
        result = {k: v if "norm" in k or "loss" in k else v.astype("<f4") for k, v in want.items()}
        out.put({**result, "case": name, "arch": arch, "shape": list(chw), "labels": np.array(labels), "seed": seed,
                 "classes": CLASSES, "names": names, "bn": bn, "alpha": ALPHA, "first": FIRST, "calm": calm,
                 "adam_lr": ADAM_LR, "sgd_lr": SGD_LR})
    out.finish()
    return worst


def optimisers(path):
    out = tstream.Writer(path, "fixture", {"pytorch": torch.__version__})
    n, start = 37, lambda: torch.tensor(2 * uniform(37, 1) - 1).requires_grad_()
    grads = torch.tensor((2 * uniform(STEPS * n, 2) - 1).reshape(STEPS, n) * 0.3)
    for name, make in [
        ("sgd", lambda p: torch.optim.SGD(p, lr=0.1)),
        ("sgd-momentum", lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9)),
        ("sgd-nesterov", lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.05)),
        ("sgd-decay", lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.5, weight_decay=0.05)),
        ("adam", lambda p: torch.optim.Adam(p, lr=0.1, betas=(0.5, 0.9))),
        ("adam-l2", lambda p: torch.optim.Adam(p, lr=0.1, betas=(0.9, 0.999), weight_decay=0.05)),
        ("adamw", lambda p: torch.optim.AdamW(p, lr=0.1, betas=(0.9, 0.999), weight_decay=0.05)),
    ]:
        theta, steps = start(), []
        before = numpy(theta).copy()
        optimiser = make([theta])
        for g in grads:
            theta.grad = g.clone()
            optimiser.step()
            steps.append(numpy(theta).copy())
        out.put({"theta": np.array(steps), "start": before, "grad": numpy(grads), "case": name})
    out.finish()


def main():
    torch.set_num_threads(2)
    folder = sys.argv[1]
    optimisers(folder + "/optim.ts")
    worst = nets(folder + "/nets.ts")
    for name in "optim.ts", "nets.ts":
        tstream.read(f"{folder}/{name}")
    print(f"float32 uses at most {worst:.3f} of the bounds", file=sys.stderr)
    return 0 if worst <= 1 / 3 else 1


if __name__ == "__main__":
    sys.exit(main())
