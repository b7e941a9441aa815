#!/usr/bin/env bats
# Protocols by name through cutmix, softlabel and evaluate: what recipes they make, which one is taken, averaged weights, and
# figures that are the best of several.

bats_require_minimum_version 1.5.0
load tools/refused.bash

setup_file()
{
	root=$(cd "$BATS_TEST_DIRNAME/.." && pwd)
	export root PATH="$root/build/bin:$PATH" LC_ALL=C OMP_NUM_THREADS=1 OMP_WAIT_POLICY=passive
	cd "$BATS_FILE_TMPDIR" || return
	local sample=$root/pipelines/sample
	load-images -n 20 --classes "@$sample/CLASSES" "$sample/train-images-idx3-ubyte.gz" >train.ts
	load-images -n 20 --classes "@$sample/CLASSES" "$sample/t10k-images-idx3-ubyte.gz" >val.ts
	train-ckpt -a convnet2-16 -e 4 -b 20 --crop none <train.ts >pool.tar
	synth-init -i 10 <train.ts >distilled.ts
	synth-init -i 1 <train.ts >one.ts
	cutmix --protocol rded --steps 40 <distilled.ts | softlabel -p pool.tar >rded.ts
	cutmix -e 4 -b 25 <distilled.ts | softlabel -p pool.tar >plain.ts
}

setup()
{
	cd "$BATS_FILE_TMPDIR" || return
	rm -rf work
	mkdir work
}

# the Python on standard input, which has recipes(PATH) -> header's recipes, cutmix's arguments, and result(PATH)
python()
{
	"${PYTHON:-/usr/bin/python3}" - <<END
import json, math, msgpack, msgpack_numpy

def header(path):
    return next(iter(msgpack.Unpacker(open(path, "rb"), object_hook=msgpack_numpy.decode, max_buffer_size=1 << 30)))

def recipes(path):
    h = header(path)
    return h["recipes"], [e["args"] for e in h["history"] if e["program"] == "cutmix"][0]

def result(path):
    return json.load(open(path))

$(cat)
END
}

students() # everything that repeats of a student's line
{
	cut -f 1-5 "$@" | grep -v "	mean	"
}

@test "recipes by name: length, batch, crop and mix" {
	for p in soft-small best rded rd3 teddy-tiny teddy-imagenet sre2l-tiny; do
		cutmix --protocol $p <distilled.ts >work/$p.ts
		cutmix --protocol $p <one.ts >work/$p.1.ts
	done
	python <<-'END'
	want = {
	    # of 100 images, of 10: epochs, batches, batch
	    "soft-small": ((1500, 2, 50), (3000, 1, 10), "rrc:0.08:1", "cutmix"),
	    "best": ((1500, 2, 50), (3000, 1, 10), "rrc:0.5:1", "cutmix"),
	    "rded": ((300, 2, 50), (300, 1, 10), "rrc:0.5:1", "cutmix"),
	    "rd3": ((400, 2, 50), (400, 1, 10), "rrc:0.5:1", "cutmix"),
	    "teddy-tiny": ((100, 1, 100), (100, 1, 10), "rrc:0.08:1", "cutmix"),
	    "teddy-imagenet": ((300, 1, 100), (300, 1, 10), "rrc:0.08:1", "cutmix"),
	    "sre2l-tiny": ((100, 1, 100), (100, 1, 10), "rrc:0.08:1", "none"),
	}
	for name, (ten, one, crop, mix) in want.items():
	    for path, size in ("work/%s.ts", ten), ("work/%s.1.ts", one):
	        r, args = recipes(path % name)
	        assert (r["epochs"], r["batches"], r["batch"]) == size, (name, r)
	        assert (args["crop"], args["mix"], args["flip"]) == (crop, mix, 0.5), (name, args)
	        assert args.get("swap") == (0.5 if name in ("rded", "rd3") else None), (name, args)
	        assert r["protocol"] == args["protocol"] == name
	END
}

@test "options over a protocol's recipes, wherever they stand; without a name none is written" {
	cutmix --steps 7 --flip 0 --protocol best -b 20 --mix none --crop pad:2 <distilled.ts >work/a.ts
	cutmix -e 3 --steps 7 -b 20 <distilled.ts >work/longer-steps.ts
	cutmix -e 3 --steps 7 -b 50 <distilled.ts >work/steps.ts
	cutmix -e 9 --steps 7 -b 50 <distilled.ts >work/epochs.ts
	cutmix --protocol soft -e 3 <distilled.ts >work/soft.ts
	cutmix -e 3 <distilled.ts >work/none.ts
	python <<-'END'
	r, args = recipes("work/a.ts")
	assert (r["epochs"], r["batches"], r["batch"], r["protocol"]) == (2, 5, 20, "best"), r
	assert (args["flip"], args["mix"], args["crop"]) == (0, "none", "pad:2"), args
	assert [recipes("work/%s.ts" % n)[0]["epochs"] for n in ("longer-steps", "steps", "epochs")] == [3, 4, 9]
	a, b = recipes("work/soft.ts"), recipes("work/none.ts")
	assert "protocol" not in b[0] and "protocol" not in b[1]
	for x, y in zip(a, b):
	    assert {**y, "protocol": "soft"} == x
	END
}

@test "halves change places as often as is asked, across and down by themselves; without, nothing is drawn for it" {
	cutmix -e 20 -b 50 --swap 0.25 <distilled.ts >work/swap.ts
	cutmix -e 20 -b 50 --swap 0 <distilled.ts >work/none.ts
	cutmix -e 20 -b 50 <distilled.ts | cmp - work/none.ts
	python <<-'END'
	import numpy as np
	def swaps(path):
	    all = msgpack.Unpacker(open(path, "rb"), object_hook=msgpack_numpy.decode, max_buffer_size=1 << 30)
	    return [f["swap"] for f in all if "swap" in f and "index" in f]
	assert not swaps("work/none.ts")
	s = np.concatenate(swaps("work/swap.ts"))
	assert len(s) == 2000, len(s)
	share = np.bincount(s, minlength=4) / len(s)
	assert abs(share - [0.5625, 0.1875, 0.1875, 0.0625]).max() < 0.035, share # four deviations
	END
}

@test "evaluate takes the recipes' protocol; another one that is asked for wins, and that is said" {
	evaluate -a convnet1-8 -t val.ts --json <rded.ts >work/theirs 2>work/said
	[ ! -s work/said ]
	evaluate -a convnet1-8 -t val.ts --json --protocol rded <rded.ts >work/same 2>work/said
	[ ! -s work/said ]
	evaluate -a convnet1-8 -t val.ts --json --protocol best --sched const <rded.ts >work/asked 2>work/said
	[ "$(wc -l <work/said)" -eq 1 ]
	grep -q "protocol best.*rded" work/said
	evaluate -a convnet1-8 -t val.ts --json <plain.ts >work/plain
	python <<-'END'
	for path in "work/theirs", "work/same":
	    p = result(path)["protocol"]
	    assert (p["name"], p["sched"], p["report"], p["ema"], p["temperature"]) == \
	        ("rded", "smooth:2", "best-of:0.2:10", 0, 20), p
	p = result("work/asked")["protocol"]
	assert (p["name"], p["sched"], p["report"], p["ema"]) == ("best", "const", "last", 0.99), p
	assert result("work/plain")["protocol"]["name"] == "soft"
	END
	python <<-'END'
	import os, sys
	sys.path.insert(0, os.environ["root"] + "/tests")
	import tstream
	data = open("rded.ts", "rb").read()
	h = header("rded.ts")
	del h["xxh3"]
	size = len(tstream.seal(h))
	h["recipes"]["protocol"] = "redd"
	open("work/unknown.ts", "wb").write(tstream.seal(h) + data[size:])
	END
	refused "unknown here, redd" evaluate -a convnet1-8 -t val.ts -o work/out <work/unknown.ts
}

@test "students are trained as the page's tables have it" {
	evaluate -a convnet1-8 -t val.ts --protocol hard-dsa --epochs 1 --json <one.ts >work/hard-dsa.json
	cutmix -e 1 <one.ts | evaluate -a convnet1-8 -t val.ts --protocol hard --json >work/hard.json
	for p in soft soft-small best teddy-tiny teddy-imagenet sre2l-tiny rded rd3; do
		cutmix -e 10 <one.ts | softlabel -p pool.tar | evaluate -a convnet1-8 -t val.ts --protocol $p --json >work/$p.json
	done
	python <<-'END'
	import os, re
	page = open(os.path.join(os.environ["root"], "man/protocol.7")).read()
	text = lambda c: re.sub(r"(^| )(Cm|Fl -?|Sy) ?", r"\1", c.replace("\\-", "-")).strip()
	rows = [[text(c) for c in re.split(r"\s+Ta\s+", l[4:])] for l in
	    page[page.index(".It Sy Option"):].split(".El")[0].splitlines()]
	column = {n.strip(): i for i, names in enumerate(rows[0]) for n in names.split(",")}
	table = {r[0]: r for r in rows}
	own = [[text(c) for c in re.split(r"\s+Ta\s+", l[4:])] for l in
	    page[page.index('.Bl -column "rded, rd3, best"'):].split(".El")[0].splitlines()[1:]]
	own = {(name.strip(), o.split()[0]): o.split()[1] for names, o in own for name in names.split(",")}

	def said(protocol, option):
	    if (protocol, option) in own:
	        return own[protocol, option]
	    row = next(r for r in rows if option in r[0].split(" , "))
	    cell = row[column.get(protocol, column["soft"])].split("; hard:")
	    cell = cell[-1 if protocol == "hard" else 0].split(",")
	    return cell[min(row[0].split(" , ").index(option), len(cell) - 1)].strip()

	yes = {"yes": True, "no": False}
	every = "hard-dsa hard soft soft-small best teddy-tiny teddy-imagenet sre2l-tiny rded rd3".split()
	for p in every:
	    r = result("work/%s.json" % p)["protocol"]
	    assert r["name"] == p
	    for option, key in ("loss", "loss"), ("opt", "opt"), ("sched", "sched"), ("report", "report"):
	        assert r[key] == said(p, option), (p, option, r[key], said(p, option))
	    for option, key in ("lr", "lr"), ("wd", "wd"), ("ema", "ema"):
	        assert r[key] == float(said(p, option)), (p, option, r[key], said(p, option))
	    assert r["decay_1d"] == yes[said(p, "decay-1d")] and r["fresh_optimiser"] == yes[said(p, "fresh-optimiser")], p
	    assert r["dsa"] == {"all six": "color_crop_cutout_flip_scale_rotate"}.get(said(p, "dsa"), "none"), p
	    for option, key in ("momentum", "momentum"), ("T", "temperature"):
	        assert r.get(key) == (None if said(p, option) == "-" else float(said(p, option))), (p, option, r)
	    assert r.get("t2") == (None if said(p, "T") == "-" else yes[said(p, "t2")]), (p, r)
	END
}

@test "the rates of sre2l-tiny and of rded" {
	cutmix --protocol sre2l-tiny -e 10 <distilled.ts | softlabel -p pool.tar >work/s.ts
	evaluate -a convnet1-8 -t val.ts --log work/sre2l <work/s.ts
	evaluate -a convnet1-8 -t val.ts --log work/rded <rded.ts
	python <<-'END'
	def rates(path):
	    return [e["rate"] for e in map(json.loads, open(path)) if e["event"] == "epoch"]
	def near(got, want):
	    assert len(got) == len(want) and all(abs(a - b) < 1e-9 for a, b in zip(got, want)), (got, want)
	# one step an epoch: five of warm-up from a hundredth, then a cosine over the other five
	near(rates("work/sre2l"), [0.2 * (0.01 + 0.99 * t / 5) for t in range(5)] +
	    [0.1 * (1 + math.cos(math.pi * t / 5)) for t in range(5)])
	# two steps an epoch, of which the second is logged
	near(rates("work/rded"), [0.5e-3 * (1 + math.cos(math.pi * (2 * e + 1) / 40 / 2)) for e in range(20)])
	END
}

@test "--fresh-optimiser: half-way the rate falls to a tenth, and hard-dsa has it so" {
	for fresh in yes no; do
		evaluate -a convnet1-8-in -t val.ts --steps 6 --fresh-optimiser $fresh --log work/$fresh <one.ts >work/$fresh.tsv
	done
	evaluate -a convnet1-8-in -t val.ts --steps 6 <one.ts | students | cmp - <(students work/yes.tsv)
	python <<-'END'
	def epochs(path):
	    return [(e["rate"], e["loss"]) for e in map(json.loads, open(path)) if e["event"] == "epoch"]
	yes, no = epochs("work/yes"), epochs("work/no")
	assert [r for r, _ in no] == [0.01] * 6 and all(abs(r - w) < 1e-12 for (r, _), w in zip(yes, [0.01] * 3 + [0.001] * 3)), yes
	# The first step of the second half starts where the others had come.
	assert [x for _, x in yes[:4]] == [x for _, x in no[:4]] and yes[4][1] > no[4][1], (yes, no)
	END
}

@test "--decay-1d: of biases and norms, where there is any" {
	one() { evaluate -a convnet1-8-in -t val.ts --steps 6 --lr 0.1 "$@" <one.ts | students | cut -f 3-; }
	cmp <(one --wd 0 --decay-1d yes) <(one --wd 0 --decay-1d no)
	run -1 cmp -s <(one --wd 0.5 --decay-1d yes) <(one --wd 0.5 --decay-1d no)
	cmp <(one --wd 0.5) <(one --wd 0.5 --decay-1d yes)
}

@test "cutmix --drop-last: no batch that is not full" {
	cutmix -e 2 -b 40 <distilled.ts | replay >work/all.ts
	cutmix -e 2 -b 40 --drop-last <distilled.ts | replay >work/full.ts
	[ "$(tsinfo work/all.ts | head -n 1)" = "work/all.ts: images, 6 frames, 200 images" ]
	[ "$(tsinfo work/full.ts | head -n 1)" = "work/full.ts: images, 4 frames, 160 images" ]
}

@test "--report: the best of what was measured, and labelled so" {
	one() { evaluate -a convnet1-8 -t val.ts --seed 3 -r 2 --log "work/$1.log" "${@:2}" <plain.ts; }
	one last --report last >work/last
	one plain >work/plain
	one best --report best >work/best
	one json --report best --json >work/json
	one half --report best-of:0.5 >work/half
	one last-json --json >work/last-json
	cmp <(students work/last) <(students work/plain)
	[ "$(awk -F '\t' '{ print NF }' work/last | sort -u)" -eq 6 ]
	cut -f 7 work/best | grep -c '^best of epochs 1 to 4: [1-4]$' | grep -qx 2
	[ "$(tail -n 1 work/best | cut -f 2,7)" = "mean	best of epochs 1 to 4" ]
	[ "$(tail -n 1 work/half | cut -f 2,7)" = "mean	best of epochs 3 to 4" ]
	python <<-'END'
	def measured(name, seed):
	    return [(e["epoch"], e["accuracy"], e["loss"]) for e in map(json.loads, open("work/%s.log" % name))
	            if e["event"] == "measured" and e["seed"] == seed]
	def line(name, i):
	    return open("work/" + name).read().split("\n")[i].split("\t")
	j = result("work/json")
	assert j["report"] == "best of epochs 1 to 4" and "report" not in result("work/last-json")
	for i, seed in enumerate((3, 4)):
	    every = measured("best", seed)
	    assert [e for e, _, _ in every] == [1, 2, 3, 4]
	    assert measured("last", seed) == every[3:] and measured("half", seed) == every[2:]
	    for name, of in ("best", every), ("half", every[2:]), ("last", every[3:]):
	        epoch, accuracy, loss = max(of, key=lambda e: (e[1], -e[0]))
	        got = line(name, i)
	        assert (got[2], got[3]) == ("%.2f" % accuracy, "%.4f" % loss), (name, got, of)
	        assert name == "last" or got[6].endswith(": %d" % epoch)
	    assert j["students"][i]["epoch"] == max(every, key=lambda e: (e[1], -e[0]))[0]
	END
}

@test "--ema: from the first weights, which nearly all of it keeps, to the last, which nearly none does" {
	# With instance norm a network's first weights are all that it answers with.
	one() { evaluate -a convnet2-8-in -t val.ts "$@" <plain.ts; }
	one --lr 0 --wd 0 >work/first
	one --ema 0.999999999 >work/kept
	one >work/raw
	one --ema 1e-9 >work/none
	one --ema 0.9 >work/some
	[ "$(students work/first | cut -f 3,4)" = "$(students work/kept | cut -f 3,4)" ]
	cmp <(students work/raw) <(students work/none)
	# Training is the same whatever is measured.
	[ "$(students work/raw | cut -f 5)" = "$(students work/some | cut -f 5)" ]
	[ "$(students work/raw | cut -f 4)" != "$(students work/some | cut -f 4)" ]
}

@test "--ema: running statistics are averaged with the weights" {
	# At rate 0 batch norm's statistics alone move.
	one() { evaluate -a convnet1-8 -t val.ts --lr 0 --wd 0 "$@" <plain.ts; }
	one >work/moved
	one --ema 0.5 >work/half
	one --ema 0.999999999 >work/first
	[ "$(cut -f 4 work/moved work/half work/first | sort -u | wc -l)" -eq 3 ]
}

@test "what does not go together is refused" {
	refused "soft labels" evaluate -a convnet1-8 -t val.ts -o work/out < <(cutmix --protocol best --steps 2 <distilled.ts)
	cutmix --protocol best --steps 2 <distilled.ts | evaluate -a convnet1-8 -t val.ts --loss ce | grep -q mean
	refused "best is for labelled recipes" evaluate -a convnet1-8 -t val.ts --protocol best -o work/out <distilled.ts
	for line in "cutmix --protocol hard-dsa" "cutmix --protocol soft" "cutmix" "cutmix --protocol none -e 2" \
		"evaluate -a convnet1-8 -t val.ts --protocol none" "evaluate -a convnet1-8 -t val.ts --ema 1" \
		"evaluate -a convnet1-8 -t val.ts --report some" "evaluate -p pool.tar -t val.ts --ema 0.5"; do
		echo "$line"
		# shellcheck disable=SC2086 # words
		run -2 $line <distilled.ts
	done
	run -2 --separate-stderr cutmix --protocol none
	[[ $stderr == *"hard-dsa, soft, "*"rd3"* ]]
}
