"""What callgrind counted of one step, held against what the plan says of itself. usage: callgrind.py OUT <words
Prints the instructions; says which kernels ran unnamed by the plan, or the other way round, and fails then."""
import json
import re
import sys

# By direction and name: the kernel that carries it out. Some prepare or finish what others do, and have no name.
KERNEL = {
    "forward": {"winograd": "wino_conv", "direct": "direct_conv", "image": "image_conv", "depthwise": "dw_conv",
                "linear": "linear", "act": "act", "max_pool": "max_pool", "avg_pool": "avg_pool", "mean": "mean"},
    "dgrad": {"winograd": "wino_conv", "direct": "direct_dgrad", "image": "image_dgrad", "image_back": "image_back",
              "depthwise": "dw_dgrad", "linear": "linear_dgrad", "act": "act_back", "max_pool": "max_pool_back",
              "avg_pool": "avg_pool_back", "mean": "mean_back"},
    "wgrad": {"winograd": "wino_wgrad", "direct": "conv_wgrad", "image_wgrad": "image_wgrad", "depthwise": "dw_wgrad",
              "linear": "linear_wgrad"},
    "epilogue": {"epilogue": "epilogue"},
    "undo": {"epilogue": "gather"},
}
UNNAMED = {"sums", "sums_back", "affine_back"}


def counted(path):
    """Instructions, and of those each function's own."""
    names, own, total, name, calls = {}, {}, 0, None, False
    for line in open(path):
        m = re.match(r"(c?fn)=\((\d+)\)(?: (.*))?$", line.rstrip())
        if m:
            if m[3]:
                names[m[2]] = m[3].split("'")[0]
            if m[1] == "fn":
                name = names[m[2]]
        elif line.startswith("calls="):
            calls = True
        elif re.match(r"[+*\-\d]\S* \d+$", line):
            if not calls:
                own[name] = own.get(name, 0) + int(line.split()[1])
            calls = False
        elif line.startswith("summary:"):
            total = int(line.split()[1])
    return total, {n for n, count in own.items() if count}


def main():
    total, ran = counted(sys.argv[1])
    plans = [json.loads(line)["plan"] for line in sys.stdin if line.startswith('{"plan"')]
    want, isa = set(), plans[0]["isa"]
    for s in plans[0]["stages"]:
        for direction, kernels in KERNEL.items():
            name, _, of = (s[direction] or "").partition(":")
            if of == isa:
                want.add(f"{kernels[name]}_{isa}")
    got = {n for n in ran if re.search(r"_(plain|avx2|avx512)$", n)} - {f"{n}_{isa}" for n in UNNAMED}
    print(total)
    if got != want or not total:
        sys.exit(f"ran unnamed: {sorted(got - want)}; named, but did not run: {sorted(want - got)}")


main()
