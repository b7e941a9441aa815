"""Makes tests/fixtures/prune.ts: what Torch-Pruning leaves of every architecture, for t_prune.

Scores come from a formula of the name of a group's first convolution or linear (in the order they run) and the channel,
so that only widths need to be stored: of every convolution and linear, in the order of their "names". Parameters and
multiply-adds are Torch-Pruning's own counts, layer by layer, of convolutions and linears, less its additions of biases.

Torch-Pruning does not trace ShuffleNetV2: the shuffle is a view of five dimensions, in which it loses count of the
channels. Its frame has no widths; t_depgraph compares it with the whole network, the lost channels zeroed.
"""
import copy
import sys
import warnings

import numpy as np
import torch
import torch_pruning as tp
import torchvision

import tstream

ARCHS = ["convnet3", "resnet18", "resnet34", "resnet50", "resnet101", "densenet121", "mobilenet_v2",
         "efficientnet_b0", "vgg11_bn", "alexnet"]
UNTRACED = ["shufflenet_v2_x1_0"]
SETTINGS = [(ratio, whole, to) for to in (1, 8) for ratio in (0.19, 0.5) for whole in (False, True)]
SCORED = ["convnet3", "grouped", "resnet18", "mobilenet_v2"]
HEAD = 6  # scores stored of every group: the first so many
M = 0xffffffff


def name_hash(name):
    h = 2166136261
    for byte in name.encode():
        h = (h ^ byte) * 16777619 & M
    return h


def formula(name, count):
    """In [0, 1), exact in float32."""
    h = np.arange(count, dtype=np.uint32) * np.uint32(2654435761) + np.uint32(name_hash(name))
    h ^= h >> np.uint32(16)
    h *= np.uint32(0x45d9f3b)
    h ^= h >> np.uint32(16)
    return (h >> np.uint32(8)).astype(np.float64) / 2**24


def convnet(depth, width, size):
    layers, channels = [], 3
    for _ in range(depth):
        layers += [torch.nn.Conv2d(channels, width, 3, padding=1), torch.nn.BatchNorm2d(width), torch.nn.ReLU(),
                   torch.nn.AvgPool2d(2)]
        channels, size = width, size // 2
    net = torch.nn.Sequential()
    net.features = torch.nn.Sequential(*layers)
    net.flatten = torch.nn.Flatten()
    net.classifier = torch.nn.Linear(width * size * size, 10)
    return net


def grouped():
    net = torch.nn.Sequential()
    net.c1 = torch.nn.Conv2d(3, 12, 3, padding=1, bias=False)
    net.b1 = torch.nn.BatchNorm2d(12)
    net.c2 = torch.nn.Conv2d(12, 24, 3, padding=1, groups=3, bias=False)
    net.b2 = torch.nn.BatchNorm2d(24)
    net.gap = torch.nn.AdaptiveAvgPool2d(1)
    net.flatten = torch.nn.Flatten()
    net.fc = torch.nn.Linear(24, 10)
    return net


def build(arch):
    if arch == "convnet3":
        return convnet(3, 128, 32), 32
    if arch == "grouped":
        return grouped(), 8
    return torchvision.models.get_model(arch), 224


def weighing(net):
    return [(k, m) for k, m in net.named_modules() if isinstance(m, (torch.nn.Conv2d, torch.nn.Linear))]


def running_order(net, x):
    """Convolutions and linears as they run."""
    order, hooks = [], [m.register_forward_hook(lambda m, *_, k=k: order.append((k, m))) for k, m in weighing(net)]
    with torch.no_grad():
        net.eval()(x)
    for hook in hooks:
        hook.remove()
    return order


class Formula(tp.importance.Importance):
    def __init__(self, order):
        self.order = order

    def root(self, group):
        """The first that makes channels of this group, and at which of its own the group's stand."""
        makes = {}
        for i, (dep, idxs) in enumerate(group):
            if dep.handler in (tp.prune_conv_out_channels, tp.prune_linear_out_channels):
                makes[dep.target.module] = list(zip(idxs, group[i].root_idxs))
        return next((k, makes[m]) for k, m in self.order if m in makes)

    def __call__(self, group):
        name, places = self.root(group)
        scores, all_scores = torch.zeros(len(places)), formula(name, len(places))
        for place, at in places:
            scores[at] = all_scores[place]
        return scores


def pruner(net, x, importance, ratio=0.5, whole=False, to=1):
    last = [m for _, m in weighing(net)][-1]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return tp.pruner.BasePruner(net, x, importance=importance, pruning_ratio=ratio, global_pruning=whole,
                                    round_to=to if to > 1 else None, ignored_layers=[last], in_channel_groups={},
                                    out_channel_groups={})


def count(net, x):
    sizes, hooks = {}, []
    for _, m in weighing(net):
        hooks.append(m.register_forward_hook(lambda m, _, y: sizes.update({m: y.numel()})))
    with torch.no_grad():
        net.eval()(x)
    for hook in hooks:
        hook.remove()
    _, params, ops, _ = tp.utils.count_ops_and_params(net, x, layer_wise=True)
    return params, int(sum(ops[m] - (sizes[m] if m.bias is not None else 0) for _, m in weighing(net)))


def widths(net):
    return np.array([m.weight.shape[:2] for _, m in weighing(net)], dtype=np.int32)


def roots(net, x):
    """Of every convolution and linear that makes channels: the first of its group, "" where nothing of it may go."""
    p, of = pruner(net, x, None), {}
    places = Formula(running_order(net, x))
    for group in p.DG.get_all_groups(ignored_layers=p.ignored_layers, root_module_types=p.root_module_types):
        for dep, _ in group:
            if dep.handler in (tp.prune_conv_out_channels, tp.prune_linear_out_channels):
                of[dep.target.module] = places.root(group)[0]
    return [of.get(m, "") for _, m in weighing(net)]


def case(out, arch):
    net, size = build(arch)
    x = torch.zeros(1, 3, size, size)
    params, macs = count(net, x)
    out.put({"layers": widths(net), "arch": arch, "size": size, "names": [k for k, _ in weighing(net)],
             "roots": roots(copy.deepcopy(net), x), "params": params, "macs": macs})
    for ratio, whole, to in SETTINGS:
        small = copy.deepcopy(net)
        pruner(small, x, Formula(running_order(small, x)), ratio, whole, to).step()
        params, macs = count(small, x)
        out.put({"widths": widths(small), "ratio": ratio, "global": whole, "round_to": to, "params": params,
                 "macs": macs})


def untraced(out, arch):
    """Says what becomes of it, so that a version that can is noticed."""
    net, size = build(arch)
    x = torch.zeros(1, 3, size, size)
    try:
        pruner(net, x, Formula(running_order(net, x))).step()
        net.eval()(x)
        raise SystemExit(f"{arch}: Torch-Pruning can prune it now; make it an ordinary case")
    except (RuntimeError, ArithmeticError, ValueError, LookupError, AssertionError, StopIteration) as e:
        why = f"{type(e).__name__}: {e}"
        print(f"{arch}: {why}", file=sys.stderr)
    out.put({"layers": widths(build(arch)[0]), "arch": arch, "size": size, "untraced": why,
             "names": [k for k, _ in weighing(net)]})


def scored(out, arch):
    net, size = build(arch)
    x = torch.zeros(1, 3, size, size)
    for name, p in net.named_parameters():
        p.data = torch.tensor(formula(name, p.numel()).astype(np.float32) - 0.25).reshape(p.shape)
    order = running_order(net, x)
    for how, importance in (("l1", tp.importance.GroupMagnitudeImportance(p=1)),
                            ("l2", tp.importance.GroupMagnitudeImportance(p=2)),
                            ("bn", tp.importance.BNScaleImportance())):
        roots, heads, places = [], [], Formula(order)
        p = pruner(net, x, importance)
        for group in p.DG.get_all_groups(ignored_layers=p.ignored_layers, root_module_types=p.root_module_types):
            groups, scores = p._get_channel_groups(group), importance(group)
            name, at = places.root(group)
            assert all(a == b for a, b in at)
            if scores is not None:
                scores = scores.view(groups, -1).mean(0)[:HEAD].numpy().astype(np.float32)
                roots.append(name)
                heads.append(np.pad(scores, (0, HEAD - len(scores)), constant_values=-1))
        out.put({"scores": np.array(heads), "arch": arch, "size": size, "importance": how, "roots": roots})


def main():
    torch.set_num_threads(1)
    torch.manual_seed(0)
    out = tstream.Writer(sys.argv[1] + "/prune.ts", "fixture", {
        "pytorch": torch.__version__, "torchvision": torchvision.__version__, "torch_pruning": tp.__version__})
    for arch in ["grouped"] + ARCHS:
        print(arch, file=sys.stderr)
        case(out, arch)
    for arch in UNTRACED:
        untraced(out, arch)
    for arch in SCORED:
        scored(out, arch)
    out.finish()
    tstream.read(sys.argv[1] + "/prune.ts")


if __name__ == "__main__":
    main()
