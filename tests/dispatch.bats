#!/usr/bin/env bats
# What ran, as -v of the real filters says it: every node's implementation in every direction, for each instruction set,
# held against fixtures/dispatch.txt. And how far the results of two instruction sets are apart.
# shellcheck disable=SC2154 # root and python are tools/small.bash's

bats_require_minimum_version 1.5.0
load tools/small.bash

# pictures N FILE: N images of ten classes, 3 x 32 x 32: waves of a class's own, and noise
pictures()
{
	"$python" - "$1" <<-'END' >pictures.bin
	import math, random, sys
	r, out = random.Random(1), bytearray()
	for i in range(int(sys.argv[1])):
	    c, p = i % 10, r.random()
	    out.append(c)
	    for ch in range(3):
	        for y in range(32):
	            for x in range(32):
	                v = math.sin((c % 5 + 1) * .15 * x + (c // 5 + 1) * .2 * y + ch + p)
	                out.append(max(0, min(255, round(128 + 70 * v + r.gauss(0, 25)))))
	sys.stdout.buffer.write(out)
	END
	load-images --classes a,b,c,d,e,f,g,h,i,j -o "$2" pictures.bin
}

setup_file()
{
	cd "$BATS_FILE_TMPDIR" || return
	pictures 300 many.ts
	pictures 10 few.ts
	synth-init -i 1 -o units.ts <few.ts
	cutmix -e 1 -b 10 -o recipes.ts <units.ts
	train-ckpt -a resnet18-small -e 1 -b 10 <few.ts | tar xO 0/1.ts | prune -n 1 -o pruned.tar
}

setup()
{
	cd "$BATS_FILE_TMPDIR" || return
}

# can ISA: whether this processor has it
can()
{
	local status=0

	softlabel --isa "$1" -h >/dev/null 2>&1 || status=$?
	[ "$status" -eq 0 ]
}

# shows NETWORK ISA: train-ckpt, synth-step and softlabel run what the table says
shows()
{
	local net=$1 isa=$2 how=(-a "$1")

	can "$isa" || skip "this processor has no $isa"
	if [ "$net" = pruned ]; then
		how=(-i pruned.tar)
		net=resnet18-small
	fi
	train-ckpt "${how[@]}" -e 1 -b 10 -t few.ts --isa "$isa" -v -o "$1.tar" <few.ts 2>words
	"$python" "$root/tests/tools/plans.py" "$root/tests/fixtures/dispatch.txt" "$net" "$isa" train eval <words
	synth-step -p "$1.tar" -N 1 --isa "$isa" -v <units.ts 2>words >out.ts
	"$python" "$root/tests/tools/plans.py" "$root/tests/fixtures/dispatch.txt" "$net" "$isa" synth <words
	softlabel -p "$1.tar" --isa "$isa" -v <recipes.ts 2>words >out.ts
	"$python" "$root/tests/tools/plans.py" "$root/tests/fixtures/dispatch.txt" "$net" "$isa" eval <words
}

@test "convnet3-32: plain" { shows convnet3-32 plain; }
@test "convnet3-32: avx2" { shows convnet3-32 avx2; }
@test "convnet3-32: avx512" { shows convnet3-32 avx512; }
@test "resnet18-small: plain" { shows resnet18-small plain; }
@test "resnet18-small: avx2" { shows resnet18-small avx2; }
@test "resnet18-small: avx512" { shows resnet18-small avx512; }
@test "resnet18-small with odd widths, as pruning leaves them: plain" { shows pruned plain; }
@test "resnet18-small with odd widths: avx2" { shows pruned avx2; }
@test "resnet18-small with odd widths: avx512" { shows pruned avx512; }
@test "mobilenet_v2-small: plain" { shows mobilenet_v2-small plain; }
@test "mobilenet_v2-small: avx2" { shows mobilenet_v2-small avx2; }
@test "mobilenet_v2-small: avx512" { shows mobilenet_v2-small avx512; }

@test "without --isa the best that the processor has is taken" {
	local best=plain

	if grep -qw avx512f /proc/cpuinfo && grep -qw avx512vl /proc/cpuinfo; then
		best=avx512
	elif grep -qw avx2 /proc/cpuinfo && grep -qw fma /proc/cpuinfo; then
		best=avx2
	fi
	train-ckpt -a convnet3-32 -e 1 -b 10 -v <few.ts 2>words >default.tar
	"$python" "$root/tests/tools/plans.py" "$root/tests/fixtures/dispatch.txt" convnet3-32 "$best" train <words
}

@test "a plan is said when it is made, and with times when it is done, by every filter that runs one" {
	train-ckpt -a convnet3-32 -e 1 -b 10 -o one.tar <few.ts
	train-ckpt -a convnet3-32 -e 1 -b 10 -v <few.ts 2>said.train-ckpt >out.tar
	bnstats -p one.tar --recompute -v <few.ts 2>said.bnstats >stats.ts
	synth-step -p one.tar -N 1 -v <units.ts 2>said.synth-step >out.ts
	softlabel -p one.tar -v <recipes.ts 2>said.softlabel >labelled.ts
	evaluate -a convnet3-32 -t few.ts -v <labelled.ts 2>said.evaluate >out.tsv
	"$python" - <<-'END'
	import json
	for name, purposes in dict(train_ckpt="train", bnstats="eval", synth_step="synth", softlabel="eval",
	                           evaluate="train eval").items():
	    plans = [json.loads(l)["plan"] for l in open("said." + name.replace("_", "-")) if l.startswith('{"plan"')]
	    for purpose in purposes.split():
	        mine = [p for p in plans if p["purpose"] == purpose]
	        new = [p for p in mine if not any("ms" in s for s in p["stages"])]
	        done = [p for p in mine if all("ms" in s for s in p["stages"])]
	        assert len(new) == len(done) > 0 and len(new) + len(done) == len(mine), (name, purpose)
	        for p in done:
	            assert sum(s["ms"]["forward"] for s in p["stages"]) > 0, name
	            for s in p["stages"]:
	                s.pop("ms")
	        assert new == done, name
	    assert sorted({p["purpose"] for p in plans}) == sorted(purposes.split()), name
	END
	train-ckpt -a convnet3-32 -e 1 -b 10 <few.ts 2>silence >out.tar
	[ ! -s silence ]
}

# apart A B: "L2 MAX" of two files' float arrays: relative L2 distance of all, largest difference over largest value
apart()
{
	"$python" - "$@" <<-'END'
	import sys
	import numpy as np, tstream
	a, b = ([v.astype(float).ravel() for f in tstream.read(p)[1] for k, v in sorted(f.items())
	         if isinstance(v, np.ndarray) and v.dtype.kind == "f"] for p in sys.argv[1:])
	a, b = np.concatenate(a), np.concatenate(b)
	print(np.linalg.norm(a - b) / np.linalg.norm(b), np.abs(a - b).max() / np.abs(b).max())
	END
}

# within A B L2 MAX
within()
{
	local l2 max

	apart "$1" "$2" >distance
	read -r l2 max <distance
	echo "$1 and $2 are $l2 apart, $max at most (bounds $3, $4)"
	awk -v l2="$l2" -v max="$max" -v a="$3" -v b="$4" 'BEGIN { exit !(l2 + 0 <= a + 0 && max + 0 <= b + 0) }'
}

@test "plain and AVX2 agree within the bounds of performance(7)" {
	can avx2 || skip "this processor has no avx2"
	synth-init -i 5 -o fifty.ts <many.ts
	cutmix -e 2 -b 50 -o mixed.ts <fifty.ts
	for isa in plain avx2; do
		train-ckpt -a convnet3-32 -e 1 -b 50 --lr 0.02 --isa $isa <many.ts >pool.$isa.tar
		tar xOf pool.$isa.tar 0/1.ts >weights.$isa.ts
	done
	for isa in plain avx2; do
		softlabel -p pool.avx2.tar --isa $isa <mixed.ts >labels.$isa.ts
		synth-step -p pool.avx2.tar -N 10 --float --isa $isa <fifty.ts >images.$isa.ts
	done
	run ! cmp -s weights.plain.ts weights.avx2.ts # or nothing was compared
	within weights.plain.ts weights.avx2.ts 1e-5 1e-4
	within labels.plain.ts labels.avx2.ts 1e-4 1e-3
	within images.plain.ts images.avx2.ts 1e-4 1e-2
}
