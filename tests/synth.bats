#!/usr/bin/env bats
# synth-step as a process: the same bytes however the work is split, and what it refuses.
# shellcheck disable=SC2154 # root and python are tools/small.bash's

bats_require_minimum_version 1.5.0
load tools/small.bash

setup_file()
{
	cd "$BATS_FILE_TMPDIR" || return
	small_files
	step -N 10 -o ten.ts <init.ts
	step -N 10 -n 5 -o five.ts <init.ts
}

# with draws of both kinds: of teachers and of augmentation
step()
{
	synth-step -p pool.tar -s stats.ts --aug rrc:0.5,flip "$@"
}
export -f step

setup()
{
	cd "$BATS_TEST_TMPDIR" || return
	ln -s "$BATS_FILE_TMPDIR"/* .
}

# pixels FILE: a hash of the pixels and labels of each frame, without history or anything else
pixels()
{
	"$python" - "$1" <<-'END'
	import hashlib, sys
	import tstream
	for f in tstream.read(sys.argv[1])[1]:
	    x = f.get("images.u8", f.get("images.f32"))
	    print(hashlib.md5(x.tobytes() + f["labels"].tobytes()).hexdigest())
	END
}

# examples PAGE: the shell lines of a page's examples
examples()
{
	sed -n '/^\.Sh EXAMPLES/,/^\.Sh SEE\|^\.Sh DIAG/p' "$root/man/$1" |
		sed -n -e '/^\.Bd/,/^\.Ed/{/^\./!p}' -e 's/^\.Dl //p' | sed 's/\\e/\\/g'
}

@test "two goes are one, through a pipe and through a file" {
	step -N 10 -n 5 <init.ts | step -n 5 | cmp - ten.ts
	step -n 5 <five.ts | cmp - ten.ts
	step <five.ts | cmp - ten.ts
	step -N 10 <five.ts | cmp - ten.ts
	step -N 10 -n 1 <init.ts | step -n 3 | step -n 2 | step | cmp - ten.ts
}

@test "units together, apart and by parallel jobs are the same" {
	for u in 0 1 2; do
		tscut -u $u init.ts | step -N 10 -o part-$u.ts
		tscut -u $u ten.ts | cmp - part-$u.ts
	done
	tscat part-2.ts part-0.ts part-1.ts | cmp - ten.ts
	rm part-*.ts
	seq 0 2 | SHELL=$BASH parallel --will-cite -j 2 \
		'tscut -u {} init.ts | step -N 10 --threads 1 -o part-{}.ts'
	tscat part-*.ts | cmp - ten.ts
	tscut -u 2,0 five.ts | step -o two.ts
	tscut -u 0,2 ten.ts | cmp - two.ts
}

@test "1, 2 and 3 threads are the same" {
	for t in 1 2 3; do
		step -N 10 --threads $t <init.ts | cmp - ten.ts
	done
	OMP_NUM_THREADS=3 step -N 10 --aug dsa --match mixed -o dsa.ts <init.ts
	step -N 10 --threads 1 --aug dsa --match mixed <init.ts | cmp - dsa.ts
}

@test "another seed and another unit's number are another result" {
	step -N 10 --seed 1 -o seed.ts <init.ts
	[ "$(pixels ten.ts | cat - <(pixels seed.ts) | sort -u | wc -l)" -eq 6 ]
	"$python" - <<-'END'
	import tstream
	h, frames = tstream.read("init.ts")
	h.pop("tensorstream")
	w = tstream.Writer("same.ts", h.pop("kind"), h)
	for n in range(3):
	    w.put({**frames[0], "unit": n})
	w.finish()
	END
	step -N 10 -o units.ts <same.ts
	[ "$(pixels same.ts | sort -u | wc -l)" -eq 1 ]
	[ "$(pixels units.ts | sort -u | wc -l)" -eq 3 ]
	[ "$(pixels units.ts | head -1)" = "$(pixels ten.ts | head -1)" ]
	# without augmentation only the subset of teachers is drawn: one for each index, or one for each unit
	step -N 5 --aug none --teachers 1 -o index.ts <same.ts
	[ "$(pixels index.ts | sort -u | wc -l)" -eq 1 ]
	step -N 5 --aug none --teachers 1 --draw iteration -o each.ts <same.ts
	[ "$(pixels each.ts | sort -u | wc -l)" -gt 1 ]
}

@test "every option that changes the result does" {
	tscut -u 2 -o one.ts init.ts
	step -N 4 -o ref.ts <one.ts
	pixels ref.ts >seen
	n=1
	for o in '--teachers 1' '--teachers 4' '--draw iteration' '--match global' '--match mixed:0.3' '--alpha 0.5' \
	    '--alpha 0' '--first 1' '--bn-mean' '--ensemble probs' '--ensemble each' '--lr 0.05' '--betas 0.9,0.99' \
	    '--wd 0.1' '--sched const' '--precision bf16' '--aug flip:1' '--aug dsa' '--aug rrc:0.9' '--aug roll:3' \
	    '--aug roll:0:3' '--seed 2' '-N 5'; do
		# shellcheck disable=SC2086 # options are words
		step -N 4 $o -o out.ts <one.ts
		pixels out.ts >>seen
		n=$((n + 1))
		[ "$(sort -u seen | wc -l)" -eq $n ] || { echo "no effect: $o"; return 1; }
	done
	for o in '--teachers 3' '--draw index' '--match class' '--alpha 1' '--first 10' '--ensemble logits' '--lr 0.1' \
	    '--betas 0.5,0.9' '--wd 0' '--sched cosine' '--precision fp32' '--seed 0'; do
		# shellcheck disable=SC2086
		step -N 4 $o <one.ts | cmp - ref.ts
	done
	synth-step -p pool.tar -N 4 --aug none -o out.ts <one.ts
	synth-step -p pool.tar -N 4 <one.ts | cmp - out.ts
}

@test "--float rounds to the product" {
	step -N 10 --float -o float.ts <init.ts
	"$python" - <<-'END'
	import numpy as np, tstream
	h, a = tstream.read("float.ts")
	_, b = tstream.read("ten.ts")
	for f, u in zip(a, b):
	    x = f["images.f32"] * np.float32(h["std"][0]) + np.float32(h["mean"][0])
	    assert x.min() >= -1e-6 and x.max() <= 1 + 1e-6
	    assert abs(x * 255 - u["images.u8"]).max() < 0.5 + 1e-3
	    assert "adam.m" not in f and "adam.v" not in u and u["step"] == u["steps"] == 10
	END
}

@test "a unit under way has its moments; labels, index and unknown keys stay" {
	"$python" - <<-'END'
	import tstream
	h, frames = tstream.read("init.ts")
	w = tstream.Writer("more.ts", "images", {k: v for k, v in h.items() if k not in ("tensorstream", "kind")}
	                   | {"note": "kept"})
	for f in frames:
	    w.put({**f, "owner": f"unit {f['unit']}"})
	w.finish()
	END
	step -N 10 -n 5 -o a.ts <more.ts
	step -o b.ts <a.ts
	"$python" - <<-'END'
	import tstream
	_, init = tstream.read("init.ts")
	for path, step in ("a.ts", 5), ("b.ts", 10):
	    h, frames = tstream.read(path)
	    assert h["note"] == "kept" and len(frames) == len(init)
	    for f, g in zip(frames, init):
	        assert (f["labels"] == g["labels"]).all() and (f["index"] == g["index"]).all()
	        assert f["owner"] == f"unit {f['unit']}" and f["step"] == step and f["steps"] == 10
	        assert (step == 10) == ("adam.m" not in f) == ("images.u8" in f)
	        if step < 10:
	            assert f["adam.m"].shape == f["adam.v"].shape == f["images.f32"].shape and (f["adam.v"] >= 0).all()
	END
}

@test "history: one entry however often it ran, another one for other options" {
	entries()
	{
		tsinfo --history "$1" | head -1 | grep -o 'synth-step' | wc -l
	}
	step -n 2 -o seven.ts <five.ts
	step -o done.ts <seven.ts
	[ "$(entries ten.ts)" -eq 1 ]
	[ "$(entries seven.ts)" -eq 1 ]
	[ "$(entries done.ts)" -eq 1 ]
	step --lr 0.05 -o other.ts <five.ts
	[ "$(entries other.ts)" -eq 2 ]
}

@test "schedules that do not fit" {
	fails 'unit 0 is finished: it has had its 10 iterations' step -N 10 <ten.ts
	fails 'unit 0 is finished' step <ten.ts
	fails 'unit 0: iteration 5 of 10, but -N is 20' step -N 20 <five.ts
	fails 'unit 0: 6 more iterations would pass its 10' step -n 6 <five.ts
	tscut -u 0 ten.ts >mixed0.ts
	tscut -u 1,2 five.ts >mixed1.ts
	tscat -o mixed.ts mixed0.ts mixed1.ts
	fails 'unit 0 is finished' step -o out.ts <mixed.ts
	[ ! -e out.ts ]
	fails 'not a unit' step -N 10 <train.ts
	run -2 step <init.ts
	[[ $output == *'-N TOTAL is needed'* ]]
	run -2 synth-step -N 10 <init.ts
	run -2 step -N 0 <init.ts
	run -2 step -N 10 --aug jump <init.ts
	run -2 step -N 10 --teachers 0 <init.ts
	run -2 step -N 10 --betas 0.5 <init.ts
}

@test "tscat sorts units and refuses doubles and gaps" {
	for u in 0 1 2; do
		tscut -u $u -o part-$u.ts ten.ts
	done
	tscat part-1.ts part-2.ts part-0.ts | cmp - ten.ts
	fails 'unit 1' tscat -o out.ts part-0.ts part-1.ts part-1.ts
	fails 'unit 1' tscat -o out.ts part-0.ts part-2.ts
	fails 'unit 0' tscat -o out.ts part-1.ts part-2.ts
	[ ! -e out.ts ]
	tscat --partial -o out.ts part-2.ts part-0.ts
	tscut -u 0,2 ten.ts | cmp - out.ts
	tscut -u 1 -o half.ts five.ts
	step -N 10 --seed 3 <init.ts | tscut -u 1 -o seed.ts
	fails '' tscat -o none.ts part-0.ts seed.ts part-2.ts
	[ ! -e none.ts ]
}

@test "a pool, a pool of one and a checkpoint; running statistics are the default" {
	tar xf pool.tar 0/4.ts
	synth-step -p 0/4.ts -N 3 -o one.ts <init.ts
	bnstats -p 0/4.ts -o running.ts
	synth-step -p 0/4.ts -s running.ts -N 3 -o two.ts <init.ts
	[ "$(pixels one.ts)" = "$(pixels two.ts)" ]
	fails '' step -p 0/4.ts -N 3 <init.ts
	fails 'class-wise' synth-step -p 0/4.ts -s running.ts --match class -N 3 <init.ts
}

@test "-v and --log say how it went" {
	step -N 20 -v --aug none --log log.json -o out.ts <init.ts 2>words
	grep -q '^synth-step: unit 0: [0-9.]* MB of workspace$' words
	[ "$(grep -c 'iteration 20 of 20, cross-entropy' words)" -eq 3 ]
	"$python" - <<-'END'
	import json
	lines = [json.loads(l) for l in open("log.json")]
	assert [(l["unit"], l["step"]) for l in lines] == [(u, s) for u in range(3) for s in range(1, 21)]
	assert all(l["ce"] > 0 and l["bn"] > 0 for l in lines)
	for u in range(3):
	    assert lines[20 * u + 19]["bn"] < 0.5 * lines[20 * u]["bn"]
	END
	step -N 20 --aug none -o again.ts <init.ts 2>silence
	[ ! -s silence ]
	cmp out.ts again.ts
}

@test "noise without an iteration stays at chance" {
	for s in 0 1 2 3 4 5 6 7; do
		synth-init -i 5 --seed $s --from noise <train.ts | evaluate -a convnet2-16 -t val.ts --seed $s --steps 20 | head -1
	done >noise.txt
	synth-init -i 5 <train.ts | evaluate -a convnet2-16 -t val.ts --steps 20 | head -1 >real.txt
	"$python" - <<-'END'
	import math, statistics as st
	# each set of noise by itself: students of one set agree on what its accidents look like
	a, (real,) = ([float(l.split("\t")[2]) for l in open(f)] for f in ("noise.txt", "real.txt"))
	sigma = st.stdev(a) / math.sqrt(len(a))
	assert len(a) == 8 and abs(st.mean(a) - 10) < 3 * sigma, (a, sigma)
	assert real > 10 + 3 * sigma, (real, sigma)
	END
}

@test "the page's examples run and agree" {
	tar xOf pool.tar 0/4.ts >teacher.ts
	rm -f stats.ts init.ts
	examples synth-step.1 | sed -e 's/^synth-step -p teacher/cp distilled.ts first.ts; &/' -e 's/-N 4000/-N 4/' \
		-e 's/parallel -j/parallel --will-cite -j/' >lines
	[ "$(grep -c synth-step lines)" -eq 7 ]
	bash -eu -o pipefail lines
	cmp first.ts again.ts
	cmp first.ts joined.ts
	tsinfo distilled.ts | grep -q 'aug rrc:0.08,flip,roll:4'
	tsinfo dm.ts | grep -q "match features"
	tsinfo prior.ts | grep -q "prior_teachers 1"
}

@test "a loss that runs away leaves the last good state" {
	mixed_pool
	# One teacher an iteration, drawn anew: sooner or later it is the one whose logits overflow.
	local seed status
	for seed in {1..12}; do
		status=0
		synth-step -p mixed.tar -N 20 --teachers 1 --draw iteration --seed $seed -o runaway.ts <init.ts 2>err || status=$?
		[ $status -eq 1 ]
		[ ! -e runaway.ts ]
		if [ -e runaway.ts.good ]; then break; fi
	done
	grep -q 'iteration [1-9][0-9]*: .* is not finite.*; its last good state is in runaway.ts.good$' err
	tsinfo runaway.ts.good >/dev/null
	# It goes on from there, with teachers that are sane.
	synth-step -p sane.ts -o saved.ts <runaway.ts.good
	tsinfo saved.ts >/dev/null
}

@test "a teacher without batch norm: refused by itself, matched to statistics that are given, or for its labels alone" {
	train-ckpt -a convnet1-8-in -e 1 -b 10 --lr 0.02 -o in.tar <train.ts
	run -1 --separate-stderr synth-step -p in.tar -N 4 -o out <init.ts
	[[ $stderr == *"no batch norm, so no statistics of its own"* ]]
	[ ! -e out ]
	run -1 --separate-stderr bnstats -p in.tar -o out
	[[ $stderr == *"no running statistics"* ]]
	[ ! -e out ]
	bnstats -p in.tar --recompute <train.ts >in-stats.ts
	synth-init -i 5 --from noise <train.ts >noise.ts
	synth-step -p in.tar -s in-stats.ts -N 20 --log given.json -o given.ts <noise.ts
	synth-step -p in.tar --alpha 0 -N 20 -o labels.ts <noise.ts
	[ "$(pixels given.ts)" != "$(pixels labels.ts)" ]
	# what is matched is the input of its instance norm, and comes nearer
	"$python" - <<-'END'
	import json, tstream
	frames = tstream.read("in-stats.ts")[1]
	assert [f["node"] for f in frames] == ["features.1"] and frames[0]["mean"].shape == (8,)
	bn = [d["bn"] for d in map(json.loads, open("given.json")) if "bn" in d]
	assert len(bn) == 20 and bn[-1] < 0.5 * bn[0], bn
	END
}
