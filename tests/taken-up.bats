#!/usr/bin/env bats
# softlabel and bnstats with --state, alone and in pipelines: what was stopped goes on behind what it has, with the bytes of a
# run that was not.

bats_require_minimum_version 1.5.0
load tools/small.bash

setup_file()
{
	cd "$BATS_FILE_TMPDIR" || return
	small_files
	cutmix -e 4 -b 40 -o recipes.ts <init.ts
	softlabel -p pool.tar -o labelled.ts <recipes.ts
	tscat -o many.ts train.ts train.ts train.ts # of one header, three frames
	bnstats -p pool.tar --classwise --flip 0.5 -o summed.ts <many.ts
}

setup()
{
	cd "$BATS_TEST_TMPDIR" || return
	ln -s "$BATS_FILE_TMPDIR"/* .
}

# ends_of FILE: where the header of a stream ends and every frame, the last line is behind the trailer
ends_of()
{
	"$python" -c '
import msgpack, os, sys
path = sys.argv[1]
*_, trailer = msgpack.Unpacker(open(path, "rb"), strict_map_key=False, max_buffer_size=1 << 30)
print(*trailer["offsets"], trailer["length"], os.path.getsize(path), sep="\n")' "$1"
}

# another FILE KIND: other.ts, of the same header, with another pixel in its first frame
another()
{
	"$python" - "$@" <<-'END'
	import sys, tstream
	h, frames = tstream.read(sys.argv[1])
	key = next(k for k in frames[0] if k.startswith("images."))
	frames[0][key] = frames[0][key].copy()
	frames[0][key].flat[0] += 1
	w = tstream.Writer("other.ts", sys.argv[2], h)
	for f in frames:
	    w.put(f)
	w.finish()
	END
}

label()
{
	softlabel -p pool.tar --state state -o out "$@" <recipes.ts
}

@test "softlabel: a state that ends anywhere" {
	mapfile -t ends < <(ends_of labelled.ts)
	batches=12 images=$((${#ends[@]} - 2 - batches))
	size=${ends[-1]}
	cuts=(0 1 $((ends[0] - 1)) "${ends[0]}" $((ends[0] + 1)) $((ends[1] + 70)) $((size - 1)) "$size")
	for ((i = 0; i < 12; i++)); do cuts+=($((RANDOM * 32768 % size + RANDOM % 100))); done
	for cut in "${cuts[@]}"; do
		head -c "$cut" labelled.ts >state
		label
		cmp out labelled.ts
		[ ! -e state ]
		rm out
	done
	# At the end of a frame, all that is in front of it stays; it is the very file that becomes the output.
	for done in 0 1 7 "$batches"; do
		head -c "${ends[images + done]}" labelled.ts >state
		was=$(stat -c %i state)
		label -v 2>said
		[ "$done" -eq 0 ] || grep -q "^softlabel: $done of $batches batches are there" said
		[ "$(stat -c %i out)" = "$was" ]
		cmp out labelled.ts
	done
	# A bit that flipped: the frame that has it and all behind are made again.
	cp labelled.ts state
	python3 -c '
import sys
with open("state", "r+b") as f:
    f.seek(int(sys.argv[1]))
    byte = f.read(1)[0]
    f.seek(-1, 1)
    f.write(bytes([byte ^ 1]))' $((ends[images + 5] - 100))
	label -v 2>said
	grep -q "^softlabel: 4 of $batches batches" said
	cmp out labelled.ts
}

@test "softlabel: killed at work" {
	mapfile -t ends < <(ends_of recipes.ts)
	mapfile -t wanted_ends < <(ends_of labelled.ts)
	for missing in 6 4; do # batches, and then the trailer
		mkfifo fifo
		(head -c "${ends[-missing - 2]}" recipes.ts && exec sleep 100) >fifo &
		feeder=$!
		softlabel -p pool.tar --state state -o out <fifo &
		worker=$!
		wanted=${wanted_ends[-missing - 2]}
		for ((i = 0; i < 600; i++)); do
			[ ! -e state ] || [ "$(stat -c %s state)" -lt "$wanted" ] || break
			sleep 0.05
		done
		kill -KILL $worker $feeder
		wait $worker $feeder || true
		rm fifo
		[ "$(stat -c %s state)" -eq "$wanted" ]
		[ ! -e out ]
	done
	label -v 2>said
	grep -q '^softlabel: 8 of 12 batches are there' said
	cmp out labelled.ts
	[ ! -e state ]
}

@test "softlabel: a file that may not grow any more" {
	wanted=$(($(wc -c <labelled.ts) / 1024 - 4))
	(ulimit -f $wanted && fails 'state: File too large' label)
	[ -s state ]
	[ ! -e out ]
	label -v 2>said
	grep -q 'batches are there' said
	cmp out labelled.ts
}

@test "softlabel: what is no state of this run is refused, and left as it is" {
	# A whole one: nothing of it is cut before all has been seen to be the same.
	cp labelled.ts state
	cp labelled.ts was
	cp pool.tar base.tar
	fails 'state: of a run with another u8' label --u8
	fails 'state: of a run with another mean' label --mean probs
	tar xf pool.tar
	fails 'state: of a run with another pool' softlabel -p 0/4.ts --state state -o out <recipes.ts
	cutmix -e 4 -b 41 -o other.ts <init.ts
	fails 'state: of another run' softlabel -p pool.tar --state state -o out <other.ts
	# The same header, another pixel.
	another recipes.ts recipes
	fails "state: frame 0 is another run's" softlabel -p pool.tar --state state -o out <other.ts
	fails 'cannot be one file' softlabel -p pool.tar --state state -o state <recipes.ts
	fails 'a regular file is needed' softlabel -p pool.tar --state state -o /dev/null <recipes.ts
	[ "$(stat -c %d /dev/shm)" = "$(stat -c %d .)" ] ||
		fails 'cross-device' softlabel -p pool.tar --state state -o /dev/shm/out.$$ <recipes.ts
	fails 'the input, and what is kept' softlabel -p pool.tar --relabel --state state -o out <state
	cmp state was
	cp summed.ts sums
	cp recipes.ts unlabelled
	for file in base.tar /dev/null . sums unlabelled; do
		fails "$file: " softlabel -p pool.tar --state $file -o out <recipes.ts
	done
	cmp base.tar pool.tar
	cmp sums summed.ts
	cmp unlabelled recipes.ts
	misused '-o FILE' softlabel -p pool.tar --state state <recipes.ts
	misused 'a file is needed' softlabel -p pool.tar --state - -o out <recipes.ts
	fails 'No such file' softlabel -p pool.tar --state new -o no/out <recipes.ts
	[ ! -e out ]
	[ ! -e new ]
}

@test "softlabel: a state that is a link, or of zeros; one for two runs" {
	: >real
	ln -s real state
	label
	cmp out labelled.ts
	[ ! -L out ]
	[ ! -e real ]
	rm state
	head -c 3000 /dev/zero >state
	label
	cmp out labelled.ts
	rm out
	mkfifo fifo
	(head -c "$(ends_of recipes.ts | tail -n 6 | head -n 1)" recipes.ts && exec sleep 100) >fifo &
	feeder=$!
	softlabel -p pool.tar --state state -o out <fifo &
	worker=$!
	for ((i = 0; i < 600; i++)); do
		[ ! -s state ] || break
		sleep 0.05
	done
	fails 'state: another run is at work on it' label
	kill -KILL $worker $feeder
	wait $worker $feeder || true
	label
	cmp out labelled.ts
}

@test "bnstats: killed at work; what was summed is not read again" {
	mapfile -t ends < <(ends_of many.ts)
	mkfifo fifo
	for frames in 1 2; do
		(head -c "${ends[frames]}" many.ts && exec sleep 100) >fifo &
		feeder=$!
		bnstats -p pool.tar --classwise --flip 0.5 --state state --save-every 1 --log log -o out <fifo &
		worker=$!
		for ((i = 0; i < 600; i++)); do
			[ "$(sed -n '/"saved"/p' log 2>/dev/null | wc -l)" -lt "$frames" ] || break
			sleep 0.05
		done
		kill -KILL $worker $feeder
		wait $worker $feeder || true
		[ ! -e out ]
	done
	bnstats -p pool.tar --classwise --flip 0.5 --state state --save-every 1 --log log -v -o out <many.ts 2>said
	grep -q '^bnstats: state: 400 images are there' said
	cmp out summed.ts
	[ "$(grep -c '"batch"' log)" -eq 6 ] # 600 images by the hundred, each once
	bnstats -p pool.tar --classwise --flip 0.5 --state state -o again <many.ts
	cmp again summed.ts
}

@test "bnstats: what is no state of this run is refused" {
	run=(bnstats -p pool.tar --classwise --state state --save-every 2 -o out)
	"${run[@]}" <many.ts
	mv out whole
	fails 'state: of a run with another flip' "${run[@]}" --flip 0.5 <many.ts
	fails 'state: of a run with another classwise' bnstats -p pool.tar --recompute --state state -o out <many.ts
	fails 'state: of a run on other images' "${run[@]}" <train.ts
	# The same header, another pixel.
	another many.ts images
	fails 'state: of a run on other images' "${run[@]}" <other.ts
	"$python" - <<-'END'
	import tstream
	h, frames = tstream.read("state")
	for name, some in (("less", frames[:-1]), ("short", frames[:1])):
	    w = tstream.Writer(name, "state", h)
	    for f in some:
	        w.put(f)
	    w.finish()
	END
	for file in less short; do
		fails "$file: no sums of these networks" bnstats -p pool.tar --classwise --state $file -o out <many.ts
	done
	fails 'a state is a file' bnstats -p pool.tar --classwise --state - -o out <many.ts
	fails 'kind stats' bnstats -p pool.tar --classwise --state summed.ts -o out <many.ts
	misused '--state' bnstats -p pool.tar --classwise --save-every 2 -o out <many.ts
	[ ! -e out ]
	# Of running statistics there is nothing to keep.
	bnstats -p pool.tar --state none -o running <many.ts
	[ ! -e none ]
	"${run[@]}" <many.ts
	cmp out whole
}

# labels_killed FOLDER COMMAND...: ends all of the pipeline by a signal while it makes labels, runs it again, and sees that the
# file that grew became them
labels_killed()
{
	local session state='' i

	setsid "${@:2}" >/dev/null 2>&1 &
	session=$!
	for ((i = 0; i < 6000; i++)); do
		state=$(find "$1" -path '*/partial/*labels*/state' -size +40k 2>/dev/null) || true
		[ -z "$state" ] || break
		sleep 0.02
	done
	pkill -KILL -s $session || true
	wait $session || true
	[ -s "$state" ]
	ln "$state" grown
	"${@:2}" >/dev/null 2>said
	state=$(dirname "$state")
	[ "$1/$(basename "${state%-*}")" -ef grown ]
	rm grown
}

@test "labels of pipelines that are killed" {
	data=(--size 28 --per-class 5 --classes @sample/CLASSES sample/train-images-idx3-ubyte.gz
		sample/t10k-images-idx3-ubyte.gz)
	run=("$root/pipelines/random" --arch convnet3-32 --epochs 4 --first 1 --every 1 --ipc 2 --hard-steps 2
		--soft-steps 3000 --soft-batch 10 --soft-student convnet1-8 --repeats 1 --threads 1)
	labels_killed random "${run[@]}" "${data[@]}" random
	cutmix -b 10 --seed 0 --steps 3000 <random/random.ts | softlabel -p random/02-pool.tar | cmp - random/05-labels-random.ts
	run=("$root/pipelines/crossarch" --students convnet1-8 --pool pool.tar --steps 3000 --batch 10 --repeats 1 --random train.ts)
	labels_killed across "${run[@]}" init.ts val.ts across
	cutmix -b 10 --seed 0 --steps 3000 <init.ts | softlabel -p pool.tar | cmp - across/labels-distilled.ts
}
