"""The benchmark: hot workloads of this project and of PyTorch, in turn, beside what the machine can do.

compare.py [-t THREADS] [-r REPEATS] [--rounds N] [--variants LIST] [--json FILE] [--alone] [WORKLOAD...], from the
project's folder. --alone: without PyTorch. How to read the table stands in performance(7).

A process of ours is started for every turn, a peer's lives through its workload and waits for its turns, so that
variants share neither memory nor caches and a busy moment of the machine meets all of them alike. What is compared is
checked first.
"""
import argparse
import glob
import json
import math
import os
import select
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time

BENCH, BIN, PEER = "build/tests/bench/bench", "build/bin", os.path.join(os.path.dirname(__file__), "peer.py")
WHOLE = ["student-convnet3-128-8x100x32", "decode-10000x32-1t", "decode-10000x32-2t"]
VARIANTS = ["eager", "channels-last", "compile", "compile-channels-last"]
LABELS = ["compile-freeze", "compile-freeze-channels-last"]  # constant folding, where no weight changes
DECODERS = ["each", "list", "pool"]
BOUND = {"logits": 1e-4, "gradient": 1e-2}  # a ReLU that flips on a rounding moves a gradient by some 1e-3
BOUND_BF16 = {"logits": 0.1, "gradient": 0.5}  # 8 bits of mantissa: a check of the sums, not of the digits
BOUND_PIXEL = 2  # of two JPEG decoders' roundings
SLOW = 2  # a variant so many times slower than the fastest takes no turns
HOPELESS = 4  # and where bf16 is so many times slower than fp32, the processor only pretends: other variants are spared
LIMIT, PATIENCE = 5, 1800  # seconds of a turn; of a peer's silence
EPOCHS = 2, 12  # of the short and the long run of a student
FLAGS = "avx avx2 fma f16c avx512f avx512vl avx512bw avx512dq avx_vnni avx512_vnni avx512_bf16 avx512_fp16 amx_tile " \
        "amx_bf16 asimd asimdhp bf16 i8mm sve sve2"


class Failed(Exception):
    pass


class Disagrees(Failed):
    pass


def say(text):
    print(text, flush=True)


def run(command, **how):
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **how)
    if done.returncode:
        lines = done.stderr.strip().splitlines()
        raise Failed(lines[-1] if lines else f"{command[0]} ended with {done.returncode}")
    return done.stdout


def chain(commands, stdin, stdout):
    """Runs a shell's a | b | c; seconds, and megabytes of all together."""
    start, running, feed = time.perf_counter(), [], open(stdin, "rb") if stdin else subprocess.DEVNULL
    passive = {**os.environ, "OMP_WAIT_POLICY": "passive"}  # as the pipelines have it
    with tempfile.TemporaryFile() as words:
        for i, command in enumerate(commands):
            out = stdout if i == len(commands) - 1 else subprocess.PIPE
            running.append(subprocess.Popen(command, stdin=feed, stdout=out, stderr=words, env=passive))
            if feed != subprocess.DEVNULL:
                feed.close()
            feed = running[-1].stdout
        kilobytes = 0
        for p in running:
            _, status, usage = os.wait4(p.pid, 0)
            p.returncode = os.waitstatus_to_exitcode(status)
            kilobytes += usage.ru_maxrss
        seconds = time.perf_counter() - start
        if any(p.returncode for p in running):
            words.seek(0)
            lines = words.read().decode(errors="replace").strip().splitlines()
            raise Failed(lines[0] if lines else "a program of the pipe failed")
    return seconds, kilobytes * 1.024e-3


class Steps:
    """A workload of bench.c: a process a turn."""
    def __init__(self, o, name):
        self.o, self.name, self.repeats, self.times = o, name, o.r, []
        self.gflop = self.done = self.gb = self.megabytes = 0

    def bench(self, *options):
        line = run([BENCH, "-t", str(self.o.t), *options, self.name]).split()
        if line[1] == "none":
            return None
        seconds, _, self.gflop, self.done, self.gb, self.megabytes = map(float, line[1:])
        return seconds

    def first(self, path):
        """Results of the first step to path; False where this engine has no such arithmetic."""
        seconds = self.bench("-r", "1", "-d", path)
        if seconds is None:
            return False
        self.repeats = max(1, min(self.o.r, math.ceil(LIMIT / seconds)))
        return True

    def turn(self):
        self.times.append(self.bench("-r", str(self.repeats)))

    def check(self, mine, theirs, bound):
        """Largest difference of logits; relative L2 norm of the gradient's."""
        import numpy as np
        mine, theirs = (np.fromfile(f, dtype="<f4").astype(np.float64) for f in (mine, theirs))
        if mine.shape != theirs.shape:
            raise Failed(f"{len(theirs)} numbers, {len(mine)} expected")
        purpose, size = self.name.removesuffix("-bf16").split("-")[0], self.name.removesuffix("-bf16").split("-")[-1]
        n = 10 * int(size.split("x")[-2])
        off = {"logits": abs(mine[:n] - theirs[:n]).max() / abs(mine[:n]).max()}
        if purpose in ("synth", "train"):
            off["gradient"] = np.linalg.norm(mine[n:] - theirs[n:]) / np.linalg.norm(mine[n:])
        for key, value in off.items():
            if not value < bound[key]:
                raise Disagrees(f"{key} off by {value:.1e}, at most {bound[key]:.0e} expected")
        return off

    def peer_name(self):
        return self.name.removesuffix("-bf16")


class Student(Steps):
    """cutmix | softlabel | evaluate: what an epoch more takes. Its parts are checked in the rows label and train."""
    def __init__(self, o, name):
        super().__init__(o, name)
        _, rest = name.split("-", 1)
        self.arch, size = rest.rsplit("-", 1)
        self.teachers, self.images, self.side = map(int, size.split("x"))
        self.peaks = []

    def first(self, path):
        """Noise as images, and a pool of teachers that have seen it."""
        if self.side != 32 or self.images % 10:
            raise Failed("32x32 images, as many of each of ten classes, are what there is")
        for part in "train", "val":
            with open(f"{self.o.scratch}/{part}.bin", "wb") as f:
                f.write(b"".join(bytes([i % 10]) + os.urandom(3072) for i in range(self.images)))
            run([f"{BIN}/load-images", "-o", f"{self.o.scratch}/{part}.ts", f"{self.o.scratch}/{part}.bin"])
        with open(f"{self.o.scratch}/train.ts", "rb") as images:
            run([f"{BIN}/train-ckpt", "-a", self.arch, "-e", str(self.teachers), "-b", str(self.images), "--threads",
                 str(self.o.t), "-o", f"{self.o.scratch}/pool.tar"], stdin=images)
        work = [run([BENCH, "-t", str(self.o.t), "-r", "1", f"{purpose}-{self.arch}-{self.images}x{self.side}"]).split()
                for purpose in ("eval", "train")]
        self.gflop, self.done, self.gb = (self.teachers * float(a) + float(b) for a, b in zip(*(w[3:6] for w in work)))
        return True

    def whole(self, epochs):
        threads = ["--threads", str(self.o.t)]
        seconds, megabytes = chain([
            [f"{BIN}/cutmix", "-e", str(epochs), "-b", str(self.images)],
            [f"{BIN}/softlabel", "-p", f"{self.o.scratch}/pool.tar", *threads],
            [f"{BIN}/evaluate", "-a", self.arch, "-t", f"{self.o.scratch}/val.ts", *threads]],
            f"{self.o.scratch}/train.ts", subprocess.DEVNULL)
        self.megabytes = max(self.megabytes, megabytes)
        return seconds

    def turn(self):
        short, long = (self.whole(epochs) for epochs in EPOCHS)
        self.times.append((long - short) / (EPOCHS[1] - EPOCHS[0]))

    def check(self, mine, theirs, bound):
        return {}


class Decode(Steps):
    """load-images of a tar, from the command to the stream's end."""
    def __init__(self, o, name):
        super().__init__(o, name)
        _, size, threads = name.split("-")
        self.count, self.side = map(int, size.split("x"))
        self.threads, self.tar = int(threads.removesuffix("t")), f"{o.scratch}/{size}.tar"

    def load(self, *options, stdout=subprocess.DEVNULL):
        return chain([[f"{BIN}/load-images", "--threads", str(self.threads), *options, self.tar]], None, stdout)

    def first(self, path):
        if not os.path.exists(self.tar):
            run([sys.executable, PEER, "jpegs", self.tar, str(self.count), str(self.side)])
        self.load("-o", f"{self.o.scratch}/decoded.ts")
        with open(f"{self.o.scratch}/decoded.ts", "rb") as images:
            run([f"{BIN}/save-images", "-o", f"{self.o.scratch}/decoded.tar"], stdin=images)
        return True

    def turn(self):
        done = [self.load() for _ in range(self.repeats)]
        self.times.append(statistics.median(seconds for seconds, _ in done))
        self.megabytes = max(megabytes for _, megabytes in done)

    def peer_name(self):
        return f"decode-{self.tar}"


class Peer:
    """A process of peer.py. Whatever goes wrong with it is Failed, in one line."""
    def __init__(self, o, work, variant):
        self.variant, self.times, self.megabytes, self.bf16 = variant, [], 0, "bf16" in variant
        threads = work.threads if isinstance(work, Decode) else o.t
        self.log = open(f"{o.logs}/{work.name}.{variant}.log", "w")
        self.process = subprocess.Popen([sys.executable, PEER, "-t", str(threads), work.peer_name(), variant],
                                        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.log)

    def ask(self, *words):
        try:
            self.process.stdin.write((" ".join(map(str, words)) + "\n").encode())
            self.process.stdin.flush()
        except BrokenPipeError:
            pass  # its last words say why
        if not select.select([self.process.stdout], [], [], PATIENCE)[0]:
            raise Failed(f"no answer in {PATIENCE} seconds")
        line = self.process.stdout.readline()
        answer = json.loads(line) if line else {"error": f"ended with {self.process.wait()}"}
        if "error" in answer:
            raise Failed(answer["error"])
        return answer

    def start(self, work, mine, theirs):
        """Checks it; a turn of one step shows how fast it is."""
        self.ask("first", theirs)
        if isinstance(work, Decode):
            off = self.ask("compare", f"{work.o.scratch}/decoded.tar")["off"]
            if off > BOUND_PIXEL:
                raise Disagrees(f"a pixel is off by {off}, at most {BOUND_PIXEL} expected")
            self.off = {"pixels": off}
        else:
            self.off = work.check(mine, theirs, BOUND_BF16 if self.bf16 else BOUND) if mine else {}
        self.once = self.ask("turn", 1, LIMIT)["seconds"][0]

    def turn(self, repeats):
        self.times.append(statistics.median(self.ask("turn", repeats, LIMIT)["seconds"]))

    def seconds(self):
        return statistics.median(self.times) if self.times else self.once

    def end(self):
        self.process.kill()
        self.process.wait()
        self.process.stdin.close()
        self.process.stdout.close()
        self.log.close()


def variants_of(o, name):
    if name.startswith("decode"):
        return [v for v in DECODERS if v != "pool" or not name.endswith("-1t")]
    half = name.endswith("-bf16")
    fp32 = [] if half else VARIANTS + (LABELS if name.startswith(("label", "eval")) else [])
    every = fp32 + [f"bf16-{v}" if v != "eager" else "bf16" for v in VARIANTS]
    return [v for v in every if o.variants is None or v in o.variants]


def hopeless(peers):
    fp32 = min((p.once for p in peers if not p.bf16), default=math.inf)
    return any(p.bf16 and p.once > HOPELESS * fp32 for p in peers)


def start_peers(o, work, mine, notes):
    """Those that work, agree, and are not far slower than others."""
    peers, spared = [], []
    for variant in [] if o.alone else variants_of(o, work.name):
        if "bf16" in variant and hopeless(peers):
            spared.append(variant)
            continue
        peer = Peer(o, work, variant)
        try:
            peer.start(work, mine, f"{o.scratch}/theirs.f32")
            peers.append(peer)
        except Failed as e:
            peer.end()
            if isinstance(e, Disagrees) and not peer.bf16:
                raise Failed(f"{variant}: {e}") from None
            notes.append(f"{variant}: {e}")
    if spared:
        notes.append(f"{', '.join(spared)}: spared, this processor has no fast bf16")
    for p in peers:  # bf16 that is far slower than fp32 is no use either
        p.slow = p.once > SLOW * min(q.once for q in peers if p.bf16 or not q.bf16)
    return peers


def of_row_before(work, rows):
    """bf16 peers of the same workload's fp32 row, where it was in this run; else None."""
    for r in rows:
        if r["workload"] == work.peer_name():
            return {v: p for v, p in r["peers"].items() if "bf16" in v}
    return None


def take_turns(o, work, peers):
    try:
        for _ in range(o.rounds):
            if work:
                work.turn()
            for p in peers:
                if not p.slow:
                    p.turn(o.r)
        for p in peers:
            p.megabytes = p.ask("memory")["megabytes"]
    finally:
        for p in peers:
            p.end()
    return {p.variant: {"seconds": p.seconds(), "turns": p.times, "megabytes": p.megabytes, "off": p.off}
            for p in peers}


def row(o, work, rows):
    notes, mine = [], f"{o.scratch}/mine.f32"
    offered = work.first(mine)
    peers = None
    if not offered:
        notes.append("none of ours: training has no bf16" if work.name.startswith("train") else
                     "none of ours: this processor has no instructions for bf16")
        peers = of_row_before(work, rows)
    if peers is None:
        peers = take_turns(o, work if offered else None, start_peers(o, work, mine if offered else None, notes))
    best = {}
    for variant, p in peers.items():
        own = "bf16" if "bf16" in variant else "fp32"
        if own not in best or p["seconds"] < peers[best[own]]["seconds"]:
            best[own] = variant
    notes += [f"{v}: {ms(p['seconds'], 0)} ms in its one step" for v, p in peers.items()
              if not p["turns"] and v not in best.values()]
    seconds = statistics.median(work.times) if work.times else None
    return {"workload": work.name, "seconds": seconds, "turns": work.times, "gflop": work.gflop,
            "gflop_done": work.done, "gb": work.gb, "megabytes": work.megabytes, "peers": peers, "best": best,
            "notes": notes}


def number(x, width, digits=1):
    return f"{x:{width}.{digits}f}" if x else f"{'-':>{width}}"


def ms(seconds, width):
    return number(seconds and 1e3 * seconds, width, 1 if seconds and seconds >= 0.01 else 3)


def print_head():
    say(f"{'workload':36} {'ms':>8} {'GFLOP/s':>8} {'%FMA':>5} {'done':>5} {'%triad':>6} {'MB':>6} | {'peer ms':>8} "
        f"{'MB':>6} {'variant':28} {'ratio':>6} | bf16 ms")


def print_row(r, fma, triad):
    seconds, peers = r["seconds"], r["peers"]
    own = "bf16" if r["workload"].endswith("-bf16") else "fp32"
    name = r["best"].get(own)
    best, half = peers.get(name, {}), peers.get(r["best"].get("bf16"), {})
    rate, done, flow = (r[what] / seconds if seconds else 0 for what in ("gflop", "gflop_done", "gb"))
    ratio = r["ratio"] = best["seconds"] / seconds if seconds and best else None
    beside = f"{ms(half['seconds'], 0)} {r['best']['bf16']}" if half and own == "fp32" else ""
    say(f"{r['workload']:36} {ms(seconds, 8)} {number(rate, 8)} {number(100 * rate / fma, 5, 0)} "
        f"{number(100 * done / fma, 5, 0)} {number(100 * flow / triad, 6, 0)} {number(r['megabytes'], 6, 0)} | "
        f"{ms(best and best['seconds'], 8)} {number(best and best['megabytes'], 6, 0)} {name or '-':28} "
        f"{number(ratio, 6, 2)} | {beside}".rstrip(" |"))
    for note in r["notes"]:
        say(f"    {note}")


def peak(o):
    _, fma, triad = run([BENCH, "-t", str(o.t), "-r", "5", "peak"]).split()
    return float(fma), float(triad)


def cpuinfo(*keys):
    try:
        with open("/proc/cpuinfo") as f:
            for line in f:
                key, _, value = line.partition(":")
                if key.strip() in keys:
                    return value.strip()
    except OSError:
        pass
    return ""


def read(path):
    with open(path) as f:
        return f.read().strip()


def machine(o):
    """Features only: nothing that names a host."""
    have = cpuinfo("flags", "Features").split()
    caches = {}
    for at in sorted(glob.glob("/sys/devices/system/cpu/cpu0/cache/index*")):
        if read(f"{at}/type") != "Instruction":
            caches[f"L{read(f'{at}/level')}"] = read(f"{at}/size")
    pages = "/sys/kernel/mm/transparent_hugepage/enabled"
    return {"architecture": os.uname().machine, "vendor": cpuinfo("vendor_id", "CPU implementer"),
            "family": cpuinfo("cpu family", "CPU architecture"), "model": cpuinfo("model", "CPU part"),
            "flags": [f for f in FLAGS.split() if f in have], "cores": o.cores, "caches": caches,
            "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1),
            "huge_pages": read(pages).partition("[")[2].partition("]")[0] if os.path.exists(pages) else ""}


def versions(o):
    v = {"teddy": run([f"{BIN}/load-images", "-V"]).split()[-1], "python": sys.version.split()[0]}
    try:
        v["compiler"] = run(["gcc", "-dumpfullversion"]).strip()
    except (OSError, Failed):
        pass
    if not o.alone:
        v["torch"], v["torchvision"] = run([sys.executable, PEER, "versions"]).split()
    return v


def options():
    args = argparse.ArgumentParser(prog="bench")
    args.add_argument("-t", type=int, default=len(os.sched_getaffinity(0)), metavar="THREADS")
    args.add_argument("-r", type=int, default=5, metavar="REPEATS", help="steps of a turn")
    args.add_argument("--rounds", type=int, default=3, metavar="N", help="turns of each")
    args.add_argument("--variants", type=lambda s: s.split(","), metavar="LIST", help="of PyTorch's, names as printed")
    args.add_argument("--json", metavar="FILE")
    args.add_argument("--alone", action="store_true", help="without PyTorch")
    args.add_argument("workload", nargs="*")
    o = args.parse_args()
    cores = sorted(os.sched_getaffinity(0))
    o.cores = len(cores)
    known = set(v for name in ("label", "decode") for v in variants_of(argparse.Namespace(variants=None), name))
    for name, n, most in ("-t", o.t, o.cores), ("-r", o.r, 1000), ("--rounds", o.rounds, 1000):
        if not 1 <= n <= most:
            args.error(f"{name} {n}: 1 to {most} expected")
    for v in o.variants or []:
        if v not in known:
            args.error(f"--variants {v}: of {', '.join(sorted(known))}")
    # Nothing takes more cores than it has threads, also where a pipe's programs have that many each.
    os.sched_setaffinity(0, cores[:o.t])
    return o


def rows(o, report):
    kinds = {"student": Student, "decode": Decode}
    report["peaks"].append(peak(o))
    for name in o.workload or run([BENCH, "-l"]).split() + WHOLE:
        if name.startswith("decode") and (o.alone or int(name.split("-")[-1].removesuffix("t")) > o.t):
            say(f"{name:36} left out: " + ("PyTorch makes its pictures" if o.alone else f"{o.t} threads only"))
            continue
        try:
            r = row(o, kinds.get(name.split("-")[0], Steps)(o, name), report["rows"])
        except Failed as e:
            raise Failed(f"{name}: {e}") from None
        report["peaks"].append(peak(o))
        print_row(r, *(max(p[i] for p in report["peaks"]) for i in (0, 1)))
        report["rows"].append(r)


def main():
    o = options()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # what is in the scratch folder goes with it
    o.logs = "build/bench"
    os.makedirs(o.logs, exist_ok=True)
    o.scratch = tempfile.mkdtemp(prefix="teddy-bench-")
    report = {"threads": o.t, "repeats": o.r, "rounds": o.rounds, "machine": machine(o), "peaks": [], "rows": []}
    try:
        report["versions"] = versions(o)
        m = report["machine"]
        say(f"{o.t} threads of {m['cores']} cores ({' '.join(m['flags'])}; "
            f"{', '.join(f'{k} {v}' for k, v in m['caches'].items())}); "
            f"{', '.join(f'{k} {v}' for k, v in report['versions'].items())}")
        print_head()
        rows(o, report)
        for i, what in enumerate(("GFLOP/s of multiply-adds", "GB/s of triad")):
            low, high = min(p[i] for p in report["peaks"]), max(p[i] for p in report["peaks"])
            say(f"{high:.1f} {what}, {low:.1f} at the worst ({100 * (high - low) / high:.0f} % less)")
        if o.json:
            with open(o.json, "w") as f:
                json.dump(report, f, indent=1)
                f.write("\n")
    except Failed as e:
        sys.exit(f"bench: {e}")
    except KeyboardInterrupt:
        sys.exit(130)
    finally:
        shutil.rmtree(o.scratch)


if __name__ == "__main__":
    main()
