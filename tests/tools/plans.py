"""Holds the plans that -v wrote against fixtures/dispatch.txt. usage: plans.py TABLE NETWORK ISA PURPOSE... <words
Every stage of every plan, every direction; the purposes are those that must be there. Says what is wrong; 1 then."""
import fnmatch
import json
import re
import sys

DIRECTIONS = ("forward", "dgrad", "wgrad")
HEADS = ("conv", "linear")
# oneDNN names its code by the instruction set that it was compiled for; the same layout serves AVX-512.
ONEDNN = {"plain": r"onednn:jit\w*:sse41", "avx2": r"onednn:(jit|brg)\w*:avx2",
          "avx512": r"onednn:(jit|brg)\w*:avx(2|512)\w*"}


def wanted(word, isa):
    if word == "-":
        return None
    if word == "onednn":
        return ONEDNN[isa]
    return re.escape(word if ":" in word else f"{word}:{isa}")


def fits(got, pattern):
    return got is None if pattern is None else got is not None and re.fullmatch(pattern, got) is not None


def read_table(path, net):
    rows = [line.rstrip("\n").split("\t") for line in open(path) if line.strip() and line[0] != "#"]
    rows = [row[1:] for row in rows if row[0] == net]
    return int(rows[0][1]), rows[1:]


class Check:
    def __init__(self, table, net, isa):
        self.heads, self.rows = read_table(table, net)
        self.net, self.isa, self.bad, self.used = net, isa, [], set()

    def say(self, *words):
        self.bad.append(" ".join(map(str, words)))

    def row(self, node):
        for i, row in enumerate(self.rows):
            if fnmatch.fnmatchcase(node, row[0]) and fnmatch.fnmatchcase(self.isa, row[1]):
                self.used.add(i)
                return row[2:]
        return None

    def stage(self, purpose, s, first):
        node, row = s["nodes"][0], self.row(s["nodes"][0])
        if row is None:
            return self.say(self.net, purpose, node, "is in no line of the table")
        for direction, word in zip(DIRECTIONS, row):
            gone = direction == "wgrad" and purpose != "train" or direction == "dgrad" and (
                purpose == "eval" or purpose == "train" and first)
            pattern = None if gone else wanted(word, self.isa)
            if not fits(s[direction], pattern):
                self.say(self.net, purpose, node, direction, f"is {s[direction]}, not {pattern}")
        epilogue = None if len(s["nodes"]) == 1 else f"epilogue:{self.isa}"
        if s["epilogue"] != epilogue or s["undo"] not in (None, f"epilogue:{self.isa}"):
            self.say(self.net, purpose, node, "epilogue is", s["epilogue"], "undone by", s["undo"])

    def plan(self, p):
        if (p["arch"].removesuffix("-pruned"), p["backend"], p["isa"]) != (self.net, "cpu", self.isa):
            self.say("a plan of", p["arch"], "on", p["backend"], p["isa"])
        stages = p["stages"][1:]
        for i, s in enumerate(stages):
            self.stage(p["purpose"], s, i == 0)
        heads = sum(op in HEADS for s in stages for op in s["ops"])
        if heads != self.heads:
            self.say(self.net, p["purpose"], "has", heads, "heads, not", self.heads)
        for s in stages:  # work is counted exactly where something runs
            for d in DIRECTIONS:
                if (s["multiply_adds"][d] > 0) != (s[d] is not None and s["ops"][0] in HEADS) or \
                        (s["bytes"][d] > 0) != (s[d] is not None):
                    self.say(self.net, p["purpose"], s["nodes"][0], d, "counts", s["multiply_adds"][d], s["bytes"][d])


def main():
    table, net, isa, *purposes = sys.argv[1:]
    check = Check(table, net, isa)
    plans = [json.loads(line)["plan"] for line in sys.stdin if line.startswith('{"plan"')]
    for p in plans:
        check.plan(p)
    if sorted({p["purpose"] for p in plans}) != sorted(purposes):
        check.say("plans for", sorted({p["purpose"] for p in plans}))
    for i, row in enumerate(check.rows):
        if i not in check.used and fnmatch.fnmatchcase(isa, row[1]):
            check.say("nothing is", *row)
    print(*check.bad[:20], sep="\n")
    sys.exit(bool(check.bad))


main()
