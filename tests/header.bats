#!/usr/bin/env bats
# --header: every filter says beforehand what history its output will have, and a run over units goes on from its state.
# shellcheck disable=SC2154 # root and python are tools/small.bash's

bats_require_minimum_version 1.5.0
load tools/small.bash
load tools/refused.bash

setup_file()
{
	cd "$BATS_FILE_TMPDIR" || return
	small_files
	step -N 40 -o whole.ts <init.ts
	step -N 40 -n 15 -o part.ts <init.ts
}

step()
{
	synth-step -p pool.tar -s stats.ts --aug rrc:0.5,flip "$@"
}

setup()
{
	cd "$BATS_TEST_TMPDIR" || return
	rm -rf work
	ln -s "$BATS_FILE_TMPDIR"/* .
	mkdir work
}

history()
{
	tsinfo --history --json "$1"
}

# same IN COMMAND...: its output's history, and all of its header where it is a stream of one, are those of --header,
# for which the header of IN is enough
same()
{
	local in=$1

	shift
	echo "of: $*"
	"$@" <"$in" >work/real
	"$@" --header <"$in" >work/header
	history work/real | cmp - <(history work/header)
	history work/header | grep -q '"program"'
	if [[ $in == *.ts ]]; then
		tscat --header "$in" >work/bare
		"$@" --header <work/bare | cmp - work/header
	fi
}

# the headers that same() left are equal but for the keys named
equal_but()
{
	"$python" - "$@" <<-'END'
	import sys, tstream
	real, alone = (tstream.read("work/" + name) for name in ("real", "header"))
	cut = lambda header: [(k, v) for k, v in header.items() if k not in sys.argv[1:]]
	assert cut(real[0]) == cut(alone[0]) and real[1] and not alone[1]
	END
}

@test "filters of images: the header of --header is the output's" {
	same /dev/null load-images -n 5 --seed 3 --classes @sample/CLASSES sample/train-images-idx3-ubyte.gz
	equal_but
	same train.ts synth-init -i 3 --seed 2
	equal_but
	same train.ts synth-init -i 3 --from noise --order class
	same train.ts synth-init -i 3 --from herding -p pool.tar
	equal_but
	same train.ts tscut -c Bag,Coat -i 0-100
	equal_but
	tscut -u 0,2 -o work/a.ts whole.ts
	tscut -u 1 -o work/b.ts whole.ts
	same /dev/null tscut --frames 1 whole.ts
	same /dev/null tscat work/b.ts work/a.ts
	equal_but
	[ "$(history work/real)" = "$(history whole.ts)" ]
}

@test "filters of pools: the history of --header is every member's" {
	same train.ts train-ckpt -a convnet1-8 -e 3 -k 2 -b 50 --seed 4 -t val.ts
	same train.ts train-ckpt -a convnet1-8 -e 0 -n 3 --seed 4
	[ "$(tar tf work/real | wc -l)" -eq 4 ]
	same train.ts train-ckpt -i pool.tar -e 0:1 --lr 0.1:0.01
	same train.ts train-ckpt -i pool.tar --only 1 -e 0 --no-recalibrate
	same train.ts bnstats -p pool.tar --classwise --flip 0.5
	equal_but
	same train.ts bnstats -p pool.tar
	equal_but
	train-ckpt -a convnet2-16 -e 1 -b 50 <train.ts >work/one.tar
	same work/one.tar prune -n 3 -r 0.3
	tar xOf work/one.tar 0/1.ts >work/one.ts
	same work/one.ts prune -n 3 -r 0.3
	ckpt-export -o work/one.safetensors work/one.ts
	same /dev/null ckpt-import --classes A,B,C,D,E,F,G,H,I,J work/one.safetensors
	equal_but
}

@test "synthesis and what follows: the same, and through a whole pipe" {
	same init.ts synth-step -p pool.tar -s stats.ts -N 3 --aug flip
	equal_but
	same part.ts step -N 40
	same init.ts synth-step -p pool.tar -N 2 --real train.ts --real-batch 3 --alpha 0.1 --opt sgd
	equal_but
	same init.ts synth-step -p pool.tar -N 2 --real train.ts --real-batch 3 --match features --prior pool.tar --ce 2
	equal_but
	same init.ts cutmix -e 2 -b 1000
	equal_but recipes
	same init.ts cutmix --protocol best --steps 9
	equal_but recipes
	cutmix -e 2 -b 50 -o recipes.ts <init.ts
	same recipes.ts softlabel -p pool.tar --top 2
	equal_but
	mv work/real labelled.ts
	same labelled.ts replay
	equal_but recipes
	same labelled.ts replay -n 1
	history work/real | grep -q '"frames": *1'
	same labelled.ts evaluate -a convnet1-8 -t val.ts -r 2 --seed 3 --json
	jq -e '.protocol | .name == "soft" and has("steps")' work/real
	jq -e '(.protocol | .name == "soft" and (has("steps") | not)) and (has("students") | not)' work/header
	same recipes.ts evaluate -a convnet1-8 -t val.ts --json
	same init.ts evaluate -a convnet1-8-in -t val.ts --epochs 1 --json
	same /dev/null evaluate -p pool.tar -t val.ts --json

	go()
	{
		synth-init -i 2 "$@" <train.ts | step -N 2 "$@" | cutmix -e 1 "$@" | softlabel -p pool.tar "$@" |
			evaluate -a convnet1-8 -t val.ts --json "$@"
	}
	go >work/real
	go --header >work/header
	cmp <(history work/real) <(history work/header)
}

@test "another option is another history; one that changes nothing is none" {
	step -N 40 --header -o ref.ts <init.ts
	history ref.ts | cmp - <(history whole.ts)
	for o in '-N 41' '--seed 1' '--lr 0.2' '--aug none'; do
		# shellcheck disable=SC2086 # options are words
		step -N 40 $o --header <init.ts | cmp -s - ref.ts && { echo "no other header: $o"; return 1; }
	done
	for o in '-n 3' '--threads 2' '-v' '--log work/log' '--state work/state'; do
		# shellcheck disable=SC2086
		step -N 40 $o --header <init.ts 2>work/said | cmp - ref.ts
	done
	[ ! -e work/state ]
	[ ! -s work/log ]
	evaluate -a convnet1-8 -t val.ts --epochs 1 --header <init.ts >work/a
	evaluate -a convnet1-8 -t train.ts --epochs 1 --header <init.ts >work/b
	evaluate -a convnet1-8 -t val.ts --epochs 1 --lr 0.5 --header <init.ts >work/c
	[ "$(for f in a b c; do history work/$f; done | sort -u | wc -l)" -eq 3 ]
}

@test "what --header and tsinfo refuse" {
	refused "empty" step -N 1 --header -o out </dev/null
	run -2 --separate-stderr step --header -o out <init.ts
	head -c 40000 whole.ts >work/cut
	fails "work/cut: truncated" tsinfo --history --json work/cut
	echo '{"students": []}' >work/none
	fails "without a history" tsinfo --history --json work/none
	"$python" -c 'import tstream
h, f = tstream.read("train.ts")
w = tstream.Writer("work/plain.ts", "images", {k: v for k, v in h.items() if k not in ("history", "kind", "tensorstream")})
w.put(f[0])
w.finish()'
	refused "have no history" train-ckpt -i pool.tar -e 1 --header -o out <work/plain.ts
}

@test "a run over units goes on from its state, with the same bytes" {
	for go in 1 2 3 4 5; do
		(exec synth-step -p pool.tar -s stats.ts --aug rrc:0.5,flip -N 40 --state work/state --save-every 5 -v \
			--log "work/log$go" -o work/out.ts <init.ts 2>>work/said) &
		was=$(cksum work/state 2>/dev/null) || true
		while [ "$was" = "$(cksum work/state 2>/dev/null)" ] && kill -0 $!; do
			sleep 0.01
		done
		sleep "0.0$((RANDOM % 10))"
		kill -9 $! || true
		wait $! || true
		[ ! -e work/out.ts ] || break
	done
	step -N 40 --state work/state --save-every 5 -v --log work/log9 -o work/out.ts <init.ts 2>>work/said
	cmp work/out.ts whole.ts
	grep -q 'from iteration' work/said
	# No run did more than an interval of what an earlier one had done.
	"$python" - <<-'END'
	import glob, json
	last = {}
	for path in sorted(glob.glob("work/log*")):
	    seen = set()
	    for event in map(json.loads, open(path)):
	        if event["event"] == "step" and event["unit"] not in seen:
	            seen.add(event["unit"])
	            assert event["step"] > last.get(event["unit"], 0) - 5, (path, event)
	        if event["event"] == "step":
	            last[event["unit"]] = event["step"]
	assert last == {0: 40, 1: 40, 2: 40}
	END
	# All is done now.
	step -N 40 --state work/state --log work/none <init.ts | cmp - whole.ts
	[ ! -s work/none ]
}

@test "states: of units under way, of parts of a schedule, without --save-every, of SGD" {
	step -N 40 --state work/a <part.ts | cmp - whole.ts
	step -N 40 --state work/a <part.ts | cmp - whole.ts
	step -N 40 -n 15 --state work/b --save-every 1 <init.ts | cmp - part.ts
	step -N 40 -n 15 --state work/b --save-every 4 <init.ts | cmp - part.ts
	sgd() { synth-step -p pool.tar -s stats.ts --opt sgd --lr 1 -N 8 "$@" <init.ts; }
	sgd -o sgd.ts
	sgd -n 5 -o five.ts
	synth-step -p pool.tar -s stats.ts --opt sgd --lr 1 --state work/c <five.ts | cmp - sgd.ts
	fails "its moments are missing, or another optimiser's" step -N 8 <five.ts
}

@test "a state of another run is refused" {
	step -N 40 -n 2 --state work/state <init.ts >/dev/null
	refused "another lr" step -N 40 -n 2 --state work/state --lr 0.2 -o out <init.ts
	refused "another N" step -N 41 -n 2 --state work/state -o out <init.ts
	refused "another n" step -N 40 -n 3 --state work/state -o out <init.ts
	"$python" -c 'import tstream
h, f = tstream.read("init.ts")
f[1]["images.f32"] = f[1]["images.f32"] + 1
w = tstream.Writer("work/other.ts", h.pop("kind"), {k: v for k, v in h.items() if k != "tensorstream"})
for x in f: w.put(x)
w.finish()'
	refused "of a run on other units" step -N 40 -n 2 --state work/state -o out <work/other.ts
	for at in 100 5000 100000; do
		head -c $at work/state >work/cut
		refused "work/cut" step -N 40 -n 2 --state work/cut -o out <init.ts
	done
	cp init.ts work/images.ts
	refused "kind images" step -N 40 -n 2 --state work/images.ts -o out <init.ts
	run -2 --separate-stderr step -N 4 --save-every 3 -o out <init.ts
	step -N 40 -n 2 --state work/state <init.ts | cmp - <(step -N 40 -n 2 <init.ts)
}
