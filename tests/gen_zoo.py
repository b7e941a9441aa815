"""Makes tests/fixtures/zoo.ts: what PyTorch and torchvision compute for every architecture in float64, for t_zoo.

Weights and images come from gen_nets' formulas. Networks with ReLU are calm here too, by a gain of their own: all that
has a bias (norms, and convolutions and linears without a norm behind) adds more than it scales, with one sign for a
channel everywhere, so that few activations lie near a kink, nor do sums of many blocks. With more gain kinks come near,
with less what the images say drowns in rounding: each network has its own. As in gen_nets, float32 must agree within a
third of the bounds, plainly and with weights off by 1e-6.

Small sizes keep it short: all that depends on the size of images is torchvision's own code. The two networks that are
nearly all classifier are not trained in their native form, and their first weights are looked at in the small one.
"""
import math
import sys
import time

import numpy as np
import torch
import torch.nn.functional as F
import torchvision

import tstream
from gen_nets import (ALPHA, BOUND, BOUND_LOGITS, CLASSES, FIRST, norms, numpy, synthesis_loss, tensor, uniform)

SAMPLED, IMAGE_VALUES, WHOLE, FLOOR, SIGNS = 3, 250, 3200, 1e-4, 5000
ROLES = {"weight": "w", "bias": "b", "running_mean": "m", "running_var": "v"}
FIRST_CONV = {"densenet121": "features.conv0", "mobilenet_v2": "features.0.0", "shufflenet_v2_x1_0": "conv1.0",
              "efficientnet_b0": "features.0.0", "vgg11_bn": "features.0", "alexnet": "features.0"}
FIRST_POOL = {"densenet121": "features.pool0", "shufflenet_v2_x1_0": "maxpool", "vgg11_bn": "features.3",
              "alexnet": "features.2"}


def make_small(arch, net):
    """ResNets: the field's stem; the others: their first convolution at stride 1 and no max-pool behind it."""
    if arch.startswith("resnet"):
        net.conv1 = torch.nn.Conv2d(3, 64, 3, 1, 1, bias=False)
        net.maxpool = torch.nn.Identity()
        return
    net.get_submodule(FIRST_CONV[arch]).stride = (1, 1)
    if arch in FIRST_POOL:
        net.set_submodule(FIRST_POOL[arch], torch.nn.Identity())
    if arch in ("vgg11_bn", "alexnet"):
        net.avgpool = torch.nn.AdaptiveAvgPool2d(1)
        at = 0 if arch == "vgg11_bn" else 1
        net.classifier[at] = torch.nn.Linear(net.classifier[at].in_features // (49 if at == 0 else 36), 4096)
        if arch == "vgg11_bn":
            torch.nn.init.normal_(net.classifier[0].weight, 0, 0.01)
            torch.nn.init.zeros_(net.classifier[0].bias)


def make(arch, classes):
    native = arch.removesuffix("-small")
    net = getattr(torchvision.models, native)(num_classes=classes)
    if arch != native:
        make_small(native, net)
    for m in net.modules():
        if isinstance(m, (torch.nn.Dropout, torchvision.ops.StochasticDepth)):
            m.p = 0.0
    return net


def heavy(module):
    return isinstance(module, (torch.nn.Conv2d, torch.nn.Linear))


def counts(arch):
    """Parameters, and multiply-adds of convolutions and linears, for 1000 classes at 224x224."""
    with torch.device("meta"):
        net, macs = make(arch, 1000).eval(), []
        for m in filter(heavy, net.modules()):
            m.register_forward_hook(lambda m, _, y: macs.append(m.weight.numel() * y[0].numel() // y.shape[1]))
        net(torch.zeros(1, 3, 224, 224))
    return [sum(p.numel() for p in net.parameters()), sum(macs)]


def drops(arch):
    """Probabilities of dropout, and of stochastic depth where a block has a skip, in order."""
    net = getattr(torchvision.models, arch.removesuffix("-small"))(num_classes=1)
    out = {"dropout": [m.p for m in net.modules() if isinstance(m, torch.nn.Dropout)]}
    out["droppath"] = [m.stochastic_depth.p for m in net.modules() if getattr(m, "use_res_connect", False) and
                       hasattr(m, "stochastic_depth")]
    return out


def first_weights(arch):
    """Of every weight and bias of convolutions and linears in order: deviation, and the largest value in deviations;
    -1 for tensors too small to tell, 0 for the latter of a bias."""
    torch.manual_seed(0)
    out = []
    for m in filter(heavy, make(arch, 1000).modules()):
        w = m.weight.detach()
        out.append([w.std().item(), w.abs().max().item() / w.std().item()] if w.numel() >= 2000 else [-1, -1])
        if m.bias is not None:
            out.append([m.bias.detach().square().mean().sqrt().item(), 0])
    return np.array(out, "<f4").reshape(-1, 2)


def modules(net):
    """The paths of modules with parameters, ":" and their letters; they give the names of the state in order."""
    found, state = {}, [k for k in net.state_dict() if not k.endswith("num_batches_tracked")]
    for name in state:
        path, role = name.rsplit(".", 1)
        found.setdefault(path, []).append(ROLES[role])
    back = {v: k for k, v in ROLES.items()}
    assert [f"{path}.{back[x]}" for path, letters in found.items() for x in letters] == state
    return [f"{path}:{''.join(letters)}" for path, letters in found.items()], state


def fill(net, names, gain, dtype):
    state = net.state_dict()
    for j, name in enumerate(names):
        t, (path, role) = state[name], name.rsplit(".", 1)
        u, module = uniform(t.numel(), j), net.get_submodule(path)
        calm = (0.5 + u / 2) * np.where(uniform(t.numel(), SIGNS) < 0.5, -1, 1)
        if role == "running_var":
            u = 0.5 + u
        elif role == "running_mean":
            u = (u - 0.5) * 0.5
        elif role == "bias":
            u = calm
        elif not heavy(module):
            u = (0.5 + u) * gain
        else:
            u = (2 * u - 1) * math.sqrt(3) * math.sqrt(2 / (t.numel() // t.shape[0]))
            u = u * gain if module.bias is not None else u
        t.copy_(tensor(u, t.shape, dtype))


def put_params(out, key, tensors):
    arrays = [numpy(t).ravel() for t in tensors]
    out[key] = np.concatenate([a[::a.size // SAMPLED + 1] for a in arrays])
    out[key + ".norm"] = np.array([np.linalg.norm(a) for a in arrays])
    out[key + ".sizes"] = [a.size for a in arrays]


def put_image(out, key, t):
    t = numpy(t).ravel()
    out[key] = t[::image_stride(t.size)]
    out[key + ".norm"] = np.array([np.linalg.norm(t)])


def image_stride(size):
    return size // IMAGE_VALUES + 1 if size > WHOLE else 1


def compute(arch, side, labels, seed, gain, train, dtype, off=0.0):
    out, labels = {}, torch.tensor(labels)
    net = make(arch, CLASSES).to(dtype)
    paths, names = modules(net)
    fill(net, names, gain, dtype)
    with torch.no_grad():
        for j, p in enumerate(net.parameters()):
            if off:
                p *= 1 + off * torch.randn(p.shape, dtype=dtype, generator=torch.Generator().manual_seed(j))
    shape = (len(labels), 3, side, side)
    first = tensor((2 * uniform(math.prod(shape), 1000 + seed) - 1) * 1.7, shape, dtype)

    net.eval().requires_grad_(False)
    images = first.clone().requires_grad_()
    logits = net(images)
    F.cross_entropy(logits, labels).backward()
    out["eval.logits"] = numpy(logits)
    put_image(out, "ce.grad", images.grad)
    if norms(net):
        images = first.clone().requires_grad_()
        loss = synthesis_loss(net, images, labels, 0.5)
        loss.backward()
        out["synth.loss"] = np.array([loss.item()])
        put_image(out, "synth.grad", images.grad)
    if train:
        net.train().requires_grad_(True)
        logits = net(first)
        F.cross_entropy(logits, labels).backward()
        out["train.logits"] = numpy(logits)
        trained = dict(net.named_parameters())
        put_params(out, "train.grad", [trained[k].grad for k in names if k in trained])
        if norms(net):
            put_params(out, "train.running", [v for k, v in net.state_dict().items() if "running" in k])
    return out, paths


def error(key, got, want):
    """The distance that t_zoo looks at; of parameters the largest, each held against a floor of the largest."""
    w, g = want[key], got[key]
    if key.endswith("logits") or key.endswith("loss"):
        return np.abs(g - w).max() / np.abs(w).max()
    if not key.startswith("train."):
        return np.linalg.norm(g - w) / np.linalg.norm(w)
    full, other, at, worst = want[key + ".norm"], got[key + ".norm"], 0, 0
    low = FLOOR * full.max() if key == "train.grad" else 0
    for size, a, b in zip(want[key + ".sizes"], full, other):
        n = len(range(0, size, size // SAMPLED + 1))
        scale, share = max(a, low), math.sqrt(n / size)
        off = np.linalg.norm(g[at:at + n] - w[at:at + n]) / max(np.linalg.norm(w[at:at + n]), scale * share)
        worst, at = max(worst, off, abs(b - a) / scale), at + n
    return worst


CASES = [  # architecture, side, side in small form, labels, gain
    ("resnet18", 64, 32, [1, 9, 1], 0.1),
    ("resnet34", 64, 16, [1, 9, 1], 0.15),
    ("resnet50", 64, 16, [1, 9, 1], 0.15),
    ("resnet101", 64, 16, [1, 9, 1], 0.2),
    ("densenet121", 64, 24, [1, 9, 1], 0.1),
    ("mobilenet_v2", 64, 32, [1, 9, 1], 0.15),
    ("shufflenet_v2_x1_0", 64, 32, [1, 9, 1], 0.1),
    ("efficientnet_b0", 64, 32, [1, 9, 1], 0.5),
    ("vgg11_bn", 40, 32, [1, 9], 0.5),
    ("alexnet", 68, 32, [1, 9], 0.5),
]
SEEDS = {"alexnet-small": 1}
LARGE = "vgg11_bn", "alexnet"  # in their native form
FIRST_WEIGHTS = ("resnet18", "densenet121", "mobilenet_v2", "shufflenet_v2_x1_0", "efficientnet_b0", "vgg11_bn-small",
                 "alexnet-small")  # one a family is enough


def case(arch, size, labels, gain):
    """The frame, and the largest share of the bounds that float32 is off."""
    seed, worst = SEEDS.get(arch, 0), 0
    args = arch, size, labels, seed, gain, arch not in LARGE
    want, paths = compute(*args, torch.float64)
    for off in 0, 1e-6:
        got, _ = compute(*args, torch.float32, off)
        for key in want:
            if key.endswith((".norm", ".sizes")):
                continue
            part = error(key, got, want) / (BOUND_LOGITS if key == "eval.logits" else BOUND)
            worst = max(worst, part)
            if part > 1 / 10:
                print(f"{arch}: {key}: float32 is off by {part:.3f} of the bound", file=sys.stderr)
    keep = {k: v.astype("<f8" if v.size == 1 else "<f4") for k, v in want.items() if "sizes" not in k}
    return {**keep, "case": arch, "arch": arch, "shape": [3, size, size], "labels": np.array(labels), "seed": seed,
            "classes": CLASSES, "modules": paths, "alpha": ALPHA, "first": FIRST, "gain": gain, "sampled": SAMPLED,
            "stride": image_stride(len(labels) * 3 * size**2), "counts": counts(arch), **drops(arch),
            **({"init": first_weights(arch)} if arch in FIRST_WEIGHTS else {})}, worst


def main():
    torch.set_num_threads(1)
    path, only, worst = sys.argv[1], sys.argv[2:], 0
    out = tstream.Writer(path, "fixture", {"pytorch": torch.__version__, "torchvision": torchvision.__version__})
    for native, side, small_side, labels, gain in CASES:
        for arch, size in (native, side), (native + "-small", small_side):
            if only and arch not in only:
                continue
            began = time.time()
            frame, off = case(arch, size, labels, gain)
            worst = max(worst, off)
            out.put(frame)
            print(f"{arch}: {time.time() - began:.0f} s, float32 uses {off:.3f}", file=sys.stderr)
    out.finish()
    tstream.read(path)
    print(f"float32 uses at most {worst:.3f} of the bounds", file=sys.stderr)
    return 0 if worst <= 1 / 3 else 1


if __name__ == "__main__":
    sys.exit(main())
