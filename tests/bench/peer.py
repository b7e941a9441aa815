"""One workload of the benchmark in one variant of PyTorch, as a process that works when it is told to.

peer.py -t THREADS [-d DEVICE] WORKLOAD VARIANT reads commands, a line each, and answers each with a line of JSON:
    first FILE      one step with bench.c's weights and images, its results to FILE as bench.c writes them
    turn N SECONDS  one step to warm up, then N steps, fewer when SECONDS are over: {"seconds": [...]}
    memory          {"megabytes": the most that this process has taken in its turns}
    compare FILE    decoding alone: {"off": the largest difference from the pixels of an archive of PNGs}
    off A B N       {"off": the largest difference of the first N numbers of two results, the relative one of the rest}
An {"error": "..."} ends it, and so does the end of its input. VARIANT is made of words: channels-last, compile, freeze,
bf16, tf32, graph (a step as one CUDA graph); for decoding it is each, list or pool. peer.py versions prints PyTorch's;
peer.py jpegs FILE COUNT SIDE makes a tar of pictures; peer.py devices says PyTorch's and what GPU it sees, or fails.
"""
import ctypes
import gc
import io
import json
import math
import os
import resource
import sys
import tarfile
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F
import torchvision

CLASSES, KEEP, TEMPERATURE = 10, 0.81, 20
DECODED = 1000  # images that a comparison looks at


def formula(name, count):
    """bench.c's weights and images."""
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


def build(arch, side, teacher=0):
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
        x = one + size * formula(f"{teacher}/{name}" if teacher else name, t.numel()).astype(np.float64)
        t.copy_(torch.from_numpy(x).reshape(t.shape))
    return net


class Variant:
    """How PyTorch is asked to do it."""
    def __init__(self, words, device):
        self.device, self.gpu, self.graph = torch.device(device), device != "cpu", "graph" in words
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = "tf32" in words
        torch.backends.cudnn.benchmark = True  # the best of all that cuDNN has, by trying
        self.format = torch.channels_last if "channels-last" in words else torch.contiguous_format
        self.bf16, self.compiles = "bf16" in words, "compile" in words
        if "freeze" in words:
            from torch._inductor import config
            config.freezing = True

    def net(self, net):
        return net.to(self.device, memory_format=self.format)

    def images(self, x):
        return x.to(self.device).contiguous(memory_format=self.format)

    def recorded(self, step):
        """The step as one launch: what it reads and writes stays where it is."""
        if not self.graph:
            return step
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(3):
                step()
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            step()
        return graph.replay

    def call(self, function):
        if self.compiles:
            function = torch.compile(function)

        def cast(*args):
            with torch.autocast(self.device.type, torch.bfloat16):
                return function(*args)
        return cast if self.bf16 else function


def images(count, side):
    return torch.from_numpy(1.7 * formula("images", count * 3 * side * side).reshape(count, 3, side, side))


class Step:
    """synth, train and eval of bench.c."""
    def __init__(self, purpose, arch, size, variant):
        batch, side = size
        self.purpose, self.variant, self.labels = purpose, variant, (torch.arange(batch) % CLASSES).to(variant.device)
        self.net, self.x = variant.net(build(arch, side)), variant.images(images(batch, side))
        self.seen = []
        if purpose == "train":
            self.opt = torch.optim.SGD(self.net.parameters(), 1e-3, momentum=0.9, fused=True)
        else:
            self.net.eval().requires_grad_(False)
        if purpose == "synth":
            self.x.requires_grad_()
            self.opt = torch.optim.Adam([self.x], 1e-3, betas=(0.5, 0.9), fused=True, capturable=variant.graph)
            for m in self.net.modules():
                if isinstance(m, nn.BatchNorm2d):
                    m.register_forward_pre_hook(self.look)
        self.loss = variant.call(self.forward)

    def look(self, module, args):
        """The distance of a batch norm's input from 0 and 0, as bench.c; statistics are fp32 ones."""
        x = args[0].float()
        self.seen.append(x.mean((0, 2, 3)).norm() + x.var((0, 2, 3), unbiased=False).norm())

    def forward(self, x):
        logits = self.net(x)
        if self.purpose == "eval":
            return logits, None
        loss = F.cross_entropy(logits, self.labels)
        if self.seen:
            loss = loss + 10 * self.seen[0] + sum(self.seen[1:])
        self.seen.clear()  # here, so that every call finds what the first found and nothing is compiled twice
        return logits, loss

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
            return [logits]
        if self.purpose == "synth":
            return [logits, self.x.grad]
        return [logits] + [p.grad for _, p in sorted(self.net.named_parameters())]


class Label:
    """The mean logits of several teachers."""
    def __init__(self, arch, size, variant):
        teachers, batch, side = size
        self.variant = variant
        self.nets = [variant.net(build(arch, side, t)).eval().requires_grad_(False) for t in range(teachers)]
        self.x = variant.images(images(batch, side))
        self.mean = variant.call(self.forward)

    def forward(self, x):
        return torch.stack([net(x).float() for net in self.nets]).mean(0)

    def step(self, x=None):
        with torch.inference_mode():
            return self.mean(self.x if x is None else x)

    def results(self):
        return [self.step()]


class Student:
    """An epoch of cutmix | softlabel | evaluate: a batch of all images."""
    def __init__(self, arch, size, variant):
        self.teachers, self.variant = Label(arch, size, variant), variant
        self.net = variant.net(build(arch, size[2]))
        self.opt = torch.optim.AdamW(self.net.parameters(), 1e-3, weight_decay=0.01, fused=True)
        self.loss = variant.call(self.forward)

    def augmented(self, x):
        """Resized crops of 0.08 to 1 of the area, flips, CutMix with one box a batch."""
        n, _, height, width = x.shape
        area, ratio = torch.empty(n).uniform_(0.08, 1), torch.empty(n).uniform_(math.log(3 / 4), math.log(4 / 3)).exp()
        w, h = (area * ratio).sqrt().clamp(max=1), (area / ratio).sqrt().clamp(max=1)
        flip = torch.where(torch.rand(n) < 0.5, -1.0, 1.0)
        theta = torch.zeros(n, 2, 3)
        theta[:, 0, 0], theta[:, 0, 2] = w * flip, (1 - w) * (2 * torch.rand(n) - 1)
        theta[:, 1, 1], theta[:, 1, 2] = h, (1 - h) * (2 * torch.rand(n) - 1)
        grid = F.affine_grid(theta, x.shape, align_corners=False)
        x = F.grid_sample(x, grid, padding_mode="border", align_corners=False)
        side = math.sqrt(1 - torch.rand(()).item())
        row, column = torch.randint(height, ()).item(), torch.randint(width, ()).item()
        y0, y1 = max(row - int(height * side) // 2, 0), min(row + int(height * side) // 2, height)
        x0, x1 = max(column - int(width * side) // 2, 0), min(column + int(width * side) // 2, width)
        mixed = x.clone()
        mixed[:, :, y0:y1, x0:x1] = x[torch.randperm(n), :, y0:y1, x0:x1]
        return self.variant.images(mixed)

    def forward(self, x, soft):
        logits = self.net(x).float()
        return F.kl_div(F.log_softmax(logits / TEMPERATURE, 1), F.log_softmax(soft / TEMPERATURE, 1),
                        reduction="batchmean", log_target=True)

    def step(self):
        x = self.augmented(self.teachers.x[torch.randperm(len(self.teachers.x))])
        soft = self.teachers.step(x).clone()
        self.opt.zero_grad()
        loss = self.loss(x, soft)
        loss.backward()
        self.opt.step()
        if not math.isfinite(loss.item()):
            raise ValueError("the loss is not finite")

    def results(self):
        self.step()
        return []


class Decode:
    """JPEGs that lie in memory."""
    def __init__(self, path, threads, how):
        with tarfile.open(path) as tar:
            self.jpegs = [torch.frombuffer(bytearray(tar.extractfile(m).read()), dtype=torch.uint8)
                          for m in tar if m.name.endswith(".jpg")]
        self.pool, self.how, self.threads = ThreadPoolExecutor(threads), how, threads

    def step(self):
        one = torchvision.io.decode_jpeg
        if self.how == "list":
            return one(self.jpegs)
        if self.how == "each":
            return [one(j) for j in self.jpegs]
        some = (len(self.jpegs) + self.threads - 1) // self.threads
        parts = [self.jpegs[i:i + some] for i in range(0, len(self.jpegs), some)]
        return [x for part in self.pool.map(lambda part: [one(j) for j in part], parts) for x in part]

    def results(self):
        return [torch.stack(self.step()[:DECODED])]

    def off(self, path):
        with tarfile.open(path) as tar:
            pngs = [tar.extractfile(m).read() for m in tar if m.name.endswith(".png")]
        if len(pngs) != len(self.jpegs):
            raise ValueError(f"{len(pngs)} images of {len(self.jpegs)}")
        theirs = torch.stack([torchvision.io.decode_png(torch.frombuffer(bytearray(p), dtype=torch.uint8))
                              for p in pngs[:DECODED]])
        return (theirs.int() - self.results()[0].int()).abs().max().item()


def make_jpegs(path, count, side):
    """Pictures with edges and shades, a WebDataset tar of them."""
    torch.manual_seed(0)
    coarse = F.interpolate(torch.rand(count, 3, 4, 4), (side, side), mode="bicubic").clamp(0, 1)
    at, radius = torch.rand(count, 2, 1, 1) * side, side * (0.1 + 0.3 * torch.rand(count, 1, 1))
    y, x = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    disc = ((y - at[:, 0]) ** 2 + (x - at[:, 1]) ** 2 < radius ** 2)[:, None]
    pictures = (255 * torch.where(disc, torch.rand(count, 3, 1, 1), coarse)).byte()
    with tarfile.open(path, "w") as tar:
        for i, picture in enumerate(pictures):
            for end, data in (".jpg", torchvision.io.encode_jpeg(picture, quality=90).numpy().tobytes()), \
                    (".cls", str(i % CLASSES).encode()):
                member = tarfile.TarInfo(f"{i:06d}{end}")
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))


def workload(name, variant, threads, device):
    purpose, rest = name.split("-", 1)
    if purpose == "decode":
        return Decode(rest, threads, variant)
    arch, size = rest.rsplit("-", 1)
    size, variant = [int(n) for n in size.split("x")], Variant(variant, device)
    if purpose in ("label", "student"):
        return {"label": Label, "student": Student}[purpose](arch, size, variant)
    return Step(purpose, arch, size, variant)


def megabytes():
    """The most taken since the counter was set back, where the system does so; else since the start."""
    with open("/proc/self/status") as f:
        for line in f:
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1.024e-3
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1.024e-3


def forget_memory():
    """What building and compiling took is no part of a step's."""
    gc.collect()
    try:
        ctypes.CDLL(None).malloc_trim(0)
        with open("/proc/self/clear_refs", "w") as f:
            f.write("5")
    except (AttributeError, OSError):
        pass


def gpu_turn(step, repeats, limit):
    """Between events behind each step, which follow one another without waiting, as a loop would run them."""
    for _ in range(2):
        step()
    torch.cuda.synchronize()
    start = time.perf_counter()
    step()
    torch.cuda.synchronize()
    repeats = max(1, min(repeats, int(limit / (time.perf_counter() - start))))
    events = [torch.cuda.Event(enable_timing=True) for _ in range(repeats + 1)]
    events[0].record()
    for event in events[1:]:
        step()
        event.record()
    torch.cuda.synchronize()
    return [1e-3 * a.elapsed_time(b) for a, b in zip(events, events[1:])]


def turn(work, repeats, limit):
    variant = getattr(work, "variant", None)
    if variant and variant.gpu:
        if not hasattr(work, "launch"):
            work.launch = variant.recorded(work.step)
        return gpu_turn(work.launch, repeats, limit)
    times = []
    work.step()
    while len(times) < repeats and sum(times) < limit:
        start = time.perf_counter()
        work.step()
        times.append(time.perf_counter() - start)
    gc.collect()
    return times


def serve(work, commands, answers):
    for line in commands:
        command, *args = line.split()
        answer = {}
        if command == "first":
            results = [r.detach().float().cpu().contiguous().numpy().tobytes() for r in work.results()]
            with open(args[0], "wb") as f:
                f.write(b"".join(results))
            del results
            forget_memory()
        elif command == "turn":
            answer["seconds"] = turn(work, int(args[0]), float(args[1]))
        elif command == "memory":
            answer["megabytes"] = megabytes()
        elif command == "compare":
            answer["off"] = work.off(args[0])
        elif command == "off":
            answer["off"] = off(args[0], args[1], int(args[2]))
        print(json.dumps(answer), file=answers, flush=True)


def off(mine, theirs, n):
    mine, theirs = (np.fromfile(f, dtype="<f4").astype(np.float64) for f in (mine, theirs))
    if mine.shape != theirs.shape:
        raise ValueError(f"{len(theirs)} numbers, {len(mine)} expected")
    rest = np.linalg.norm(mine[n:] - theirs[n:]) / np.linalg.norm(mine[n:]) if len(mine) > n else 0
    return f"{abs(mine[:n] - theirs[:n]).max() / abs(mine[:n]).max():.2e} {rest:.2e}"


def main():
    if sys.argv[1] == "versions":
        print(torch.__version__, torchvision.__version__)
        return
    if sys.argv[1] == "devices":
        print(torch.__version__, torchvision.__version__, torch.cuda.get_device_name(0))
        return
    if sys.argv[1] == "jpegs":
        make_jpegs(sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
        return
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever libraries have to say is no answer
    threads, device = int(sys.argv[2]), sys.argv[4] if sys.argv[3] == "-d" else "cpu"
    name, variant = sys.argv[-2:]
    try:
        torch.set_num_threads(threads)
        torch.manual_seed(0)
        serve(workload(name, variant, threads, device), sys.stdin, answers)
    except Exception as e:  # whatever it is, the benchmark goes on without this variant
        said = str(e).strip().splitlines()
        print(json.dumps({"error": f"{type(e).__name__}: {said[0] if said else ''}"}), file=answers, flush=True)
        raise


if __name__ == "__main__":
    main()
