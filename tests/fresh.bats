#!/usr/bin/env bats
# synth-step --real and networks that were never trained: DM's way, the same bytes however the work is split, refusals.
# shellcheck disable=SC2154 # root is tools/small.bash's

bats_require_minimum_version 1.5.0
load tools/small.bash

setup_file()
{
	cd "$BATS_FILE_TMPDIR" || return
	small_files
	train-ckpt -a convnet2-16-in -e 0 -n 20 --seed 5 -o untrained.tar <train.ts
	synth-init -i 4 --order class --unit 4 -o classes.ts <train.ts
}

# DM: the pages' example, with few real images
dm()
{
	synth-step -p untrained.tar --real train.ts --real-batch 8 --match features --teachers 1 --draw iteration --aug dsa \
		--opt sgd --lr 1 --sched const "$@"
}

setup()
{
	cd "$BATS_TEST_TMPDIR" || return
	ln -s "$BATS_FILE_TMPDIR"/* .
}

@test "a pool of networks as they begin, each of its own seed" {
	[ "$(tar tf untrained.tar | grep -vc MANIFEST)" -eq 20 ]
	[ "$(tar tf untrained.tar | head -n 1)" = 5/0.ts ]
	train-ckpt -a convnet2-16-in -e 0 --seed 7 <train.ts | tar xO 7/0.ts >seven.ts
	tar xOf untrained.tar 7/0.ts >third.ts
	"$python" - <<-'END'
	import tstream
	a, b = (tstream.read(f)[1] for f in ("seven.ts", "third.ts"))
	assert len(a) == len(b) > 5 and all((x[k] == y[k]).all() for x, y in zip(a, b) for k in x if hasattr(x[k], "all"))
	END
	[ "$(for i in 5 6 7; do tar xOf untrained.tar $i/0.ts | md5sum; done | sort -u | wc -l)" -eq 3 ]
	run -2 train-ckpt -a convnet2-16 -e 3 -n 2 <train.ts
	run -2 train-ckpt -a convnet2-16 -e 0 -k 1 <train.ts
}

@test "DM brings the features of each class nearer to the real ones'" {
	dm -N 100 --float --log log.json -o out.ts <classes.ts
	# Networks differ more than iterations do: by tenths of the run, over all units.
	"$python" - <<-'END'
	import json
	loss = [0] * 10
	for line in open("log.json"):
	    step = json.loads(line)
	    loss[(step["step"] - 1) // 10] += step["bn"]
	assert loss[9] < 0.8 * loss[0], loss
	END
}

@test "two goes, units apart and any number of threads: the same bytes" {
	dm -N 6 -o six.ts <classes.ts
	dm -N 6 -n 2 <classes.ts | dm -n 4 | cmp - six.ts
	for u in 0 3 9; do
		tscut -u $u classes.ts | dm -N 6 --threads 2 -o part.ts
		tscut -u $u six.ts | cmp - part.ts
	done
	dm -N 6 --seed 1 <classes.ts | cmp -s - six.ts && return 1
	dm -N 6 --real-batch 9 <classes.ts | cmp -s - six.ts && return 1
	true
}

@test "a real batch of all, however many that may be" {
	(ulimit -v 3000000 && dm -N 2 --real-batch 1000000 -o all.ts <classes.ts)
	dm -N 2 --real-batch 1000 -o many.ts <classes.ts
	[ "$(tscut --frames 0 all.ts | tail -c 3000 | head -c 2000 | cksum)" = "$(tscut --frames 0 many.ts | tail -c 3000 | head -c 2000 | cksum)" ]
}

@test "more teachers than plans that stay alive" {
	tscut -u 2 classes.ts >two.ts
	dm -N 40 -o whole.ts <two.ts
	for i in 10 20 30 40; do
		dm -N 40 -n 10 -o go.ts <two.ts
		cp go.ts two.ts
	done
	cmp two.ts whole.ts
}

@test "statistics of fresh images, for networks with and without batch norm" {
	for match in global class mixed; do
		synth-step -p pool.tar --real train.ts --real-batch 5 --match $match -N 3 -o fresh-$match.ts <init.ts
		tsinfo fresh-$match.ts
	done
	cmp -s fresh-global.ts fresh-class.ts && return 1
	synth-step -p pool.tar --real train.ts -N 3 --aug rrc:0.5,flip --aug-each unit -o unit.ts <init.ts
	synth-step -p pool.tar --real train.ts -N 3 --aug rrc:0.5,flip -o class.ts <init.ts
	cmp -s unit.ts class.ts && return 1
	synth-step -p untrained.tar --real train.ts --ce 0 -N 3 -o untrained.ts <init.ts
	tsinfo --history untrained.ts | grep -q real
}

@test "a prior: other networks predict than are matched" {
	local ce=(--ce 5 --prior-teachers 2)

	dm --prior pool.tar "${ce[@]}" -N 4 --float --log log.json -o prior.ts <init.ts
	jq -e '.ce > 0 and .bn > 0' log.json >/dev/null
	dm --prior pool.tar "${ce[@]}" -N 4 -n 1 --float <init.ts | dm --prior pool.tar "${ce[@]}" -n 3 --float --threads 1 | cmp - prior.ts
	tsinfo --history prior.ts | grep -q 'prior FILE:.* --prior_teachers 2 .*--ce 5'
	for other in "--ce 0" "--ce 6 --prior-teachers 2" "--ce 5 --prior-teachers 1"; do
		# shellcheck disable=SC2086 # words
		dm --prior pool.tar $other -N 4 --float <init.ts | cmp -s - prior.ts && return 1
	done
	# A prior whose cross-entropy does not count is none.
	dm --prior pool.tar --ce 0 -N 4 --float -o without.ts <init.ts
	dm -N 4 --float -o none.ts <init.ts
	"$python" - <<-'END'
	import tstream
	(_, a), (_, b) = (tstream.read(f) for f in ("without.ts", "none.ts"))
	assert all((x["images.f32"] == y["images.f32"]).all() for x, y in zip(a, b, strict=True))
	END
	# Statistics of one pool, the predictions of another.
	synth-step -p pool.tar -s stats.ts --prior pool.tar --teachers 1 --prior-teachers 3 -N 3 -o both.ts <init.ts
	synth-step -p pool.tar -s stats.ts --teachers 1 -N 3 <init.ts | cmp -s - both.ts && return 1
	run -2 synth-step -p pool.tar --prior-teachers 1 -N 1 <init.ts
	run -1 dm --prior none.tar -N 1 <init.ts
	run -1 dm --prior train.ts -N 1 <init.ts
}

@test "features, their deviations, the maps before them" {
	for what in features features:1 maps maps:1; do
		dm --match $what -N 3 --threads 1 -o "$what.ts" <classes.ts
		dm --match $what -N 3 --threads 2 <classes.ts | cmp - "$what.ts"
		tsinfo --history "$what.ts" | grep -q "match ${what%:*}"
	done
	[ "$(for what in features features:1 maps maps:1; do md5sum <"$what.ts"; done | sort -u | wc -l)" -eq 4 ]
}

@test "pixels stay within the range of real ones, unless they may leave it" {
	for clamp in "" --no-clamp; do
		dm -N 4 --lr 50 --float $clamp -o "range$clamp.ts" <classes.ts
	done
	"$python" - <<-'END'
	import tstream
	for name, inside in ("range", True), ("range--no-clamp", False):
	    header, frames = tstream.read(name + ".ts")
	    pixel = [f["images.f32"] * header["std"][0] + header["mean"][0] for f in frames]
	    assert all(x.min() > -1e-6 and x.max() < 1 + 1e-6 for x in pixel) == inside
	END
}

@test "CDA's crops are whole at first" {
	synth-step -p pool.tar -s stats.ts -N 4 -n 1 --aug none -o none.ts <init.ts
	synth-step -p pool.tar -s stats.ts -N 4 -n 1 --aug cda:0.1 -o cda.ts <init.ts
	synth-step -p pool.tar -s stats.ts -N 4 -n 1 --aug rrc:0.1 -o rrc.ts <init.ts
	"$python" - <<-'END'
	import tstream
	none, cda, rrc = (tstream.read(f"{f}.ts")[1][0]["images.f32"] for f in ("none", "cda", "rrc"))
	assert abs(none - cda).max() < 1e-6 < abs(none - rrc).max()
	END
	synth-step -p pool.tar -s stats.ts -N 4 --aug cda:0.1 -o cda4.ts <init.ts
	synth-step -p pool.tar -s stats.ts -N 4 --aug none -o none4.ts <init.ts
	cmp -s cda4.ts none4.ts && return 1
	true
}

@test "what cannot be is refused" {
	run -2 synth-step -p pool.tar --match features -N 2 <init.ts
	run -2 synth-step -p pool.tar --match features --ce 1 --real train.ts -N 2 <init.ts
	run -2 synth-step -p pool.tar -s stats.ts --real train.ts -N 2 <init.ts
	tscut -c 0,1,2 -o few.ts train.ts
	fails "unit 0: no real image of class 3" synth-step -p pool.tar --real few.ts -N 2 -o x.ts <init.ts
	[ ! -e x.ts ]
	dm -N 6 -n 2 -o under-way.ts <classes.ts
	fails "moments are missing" synth-step -p untrained.tar --real train.ts --match features -N 6 -o x.ts <under-way.ts
	fails "not a regular file" dm -N 2 --real <(cat train.ts) -o x.ts <classes.ts
}
