#!/usr/bin/env bats
# Every filter, fed what it must refuse: one line, exit status 1, and nothing left that looks whole.

bats_require_minimum_version 1.5.0
load tools/small.bash

setup_file()
{
	cd "$BATS_FILE_TMPDIR" || return
	ln -s "$root/pipelines/sample" sample
	load-images -n 3 --classes @sample/CLASSES -o train.ts sample/train-images-idx3-ubyte.gz
	load-images -n 2 --classes @sample/CLASSES -o val.ts sample/t10k-images-idx3-ubyte.gz
	train-ckpt -a convnet1-8 -e 2 -b 10 --lr 0.02 --state run.ts -o pool.tar <train.ts
	train-ckpt -a convnet1-8 -e 1 -f 1 -b 10 --lr 0.02 <train.ts | tar xO 0/1.ts >one.ts
	bnstats -p pool.tar --classwise -o stats.ts <train.ts
	synth-init -i 2 --unit 10 -o init.ts <train.ts
	synth-step -p pool.tar -s stats.ts -N 4 -n 2 -o under-way.ts <init.ts
	cutmix -e 2 -b 10 -o recipes.ts <train.ts
	softlabel -p pool.tar -o labelled.ts <recipes.ts
	save-images -o train.tar <train.ts
	for f in train.ts init.ts recipes.ts pool.tar train.tar; do
		"$python" "$root/tests/tools/damage.py" $f $f.bad
	done
	# read by the same code as one of those
	for f in val.ts one.ts run.ts stats.ts under-way.ts labelled.ts; do
		"$python" "$root/tests/tools/damage.py" $f $f.bad 8
	done
	# whole streams that do not fit the others
	"$python" - <<-'END'
	import numpy as np, tstream
	h, frames = tstream.read("train.ts")
	(f,) = frames
	x, y = f["images.u8"], f["labels"]
	def put(name, x, y, **head):
	    w = tstream.Writer(name, "images", {**h, **head})
	    w.put({"images.u8": x, "labels": y})
	    w.finish()
	put("other-channels.ts", np.repeat(x, 3, 1), y, shape=[3, 28, 28], mean=h["mean"] * 3, std=h["std"] * 3)
	put("other-size.ts", np.ascontiguousarray(x[:, :, :20, :20]), y, shape=[1, 20, 20])
	put("other-classes.ts", x[y < 9], y[y < 9], classes=h["classes"][:9])
	put("other-names.ts", x, y, classes=["Hat", *h["classes"][1:]])
	# finite weights, logits that are not
	h, frames = tstream.read("one.ts")
	w = tstream.Writer("huge.ts", "checkpoint", h)
	for f in frames:
	    w.put({k: v * np.float32(1e30) if k.endswith(".weight") else v for k, v in f.items()})
	w.finish()
	END
}

setup()
{
	cd "$BATS_TEST_TMPDIR" || return
	ln -s "$BATS_FILE_TMPDIR"/* .
	mkdir out
}

# once COMMAND FILE OUT: the command with @ as the file and OUT as these words
once()
{
	local command=${1//@/$2}

	eval "${command//OUT/$3}" 2>err
}

# verdict STATUS WHAT NAME: what a refusal looks like; standard output went to out/std, a named file would be out/named
verdict()
{
	local left

	left=$(ls -A out)
	if [ "$1" -ne 1 ] || [ "$(wc -l <err)" -ne 1 ] || ! grep -q "^$3: ." err || [ "${left#std}" ] || whole out/std; then
		echo "$2: exit status $1, left: $left, said:"
		head -3 err
		return 1
	fi
}

# whole FILE: a reader would take it for a finished one
whole()
{
	[ -s "$1" ] || return
	case $(head -c 4 "$1" | od -An -tx1 | tr -d ' ') in
	89504e47) tail -c 8 "$1" | grep -q IEND ;;
	*) tsinfo "$1" >/dev/null 2>&1 || load-images "$1" >/dev/null 2>&1 ;;
	esac
}

# bad NAME FILE COMMAND [PATTERN...]: the filter works on FILE, and refuses each damaged copy of it (that the patterns
# match) in turn, with named output and with standard output. In COMMAND, @ is the file, OUT the way to the output.
bad()
{
	local name=$1 file=$2 command=$3 n=0 failed=0 copy status out

	shift 3
	[ $# -gt 0 ] || set -- cut flip form mean
	for out in '-o out/named' '>out/std'; do
		if ! once "$command" "$file" "$out" || [ -z "$(ls out)" ]; then
			echo "the intact $file fails: $(head -3 err)"
			return 1
		fi
		rm -rf out/*
	done
	for pattern; do
		for copy in "$file.bad/$pattern"*; do
			[ -e "$copy" ] || continue
			out='-o out/named'
			[ $((n++ % 2)) -eq 0 ] || out='>out/std'
			status=0
			once "$command" "$copy" "$out" || status=$?
			verdict $status "$copy" "$name" || failed=$((failed + 1))
			rm -rf out/*
		done
	done
	if [[ $command == *'<@'* ]]; then
		status=0
		once "sh -c 'head -c 900 $file; kill -9 \$\$' | ${command/<@/}" '' '-o out/named' || status=$?
		grep -v Killed err >killed || :
		mv killed err
		verdict $status "a killed stage before it" "$name" || failed=$((failed + 1))
	fi
	[ "$n" -ge 15 ] || return
	[ "$failed" -eq 0 ]
}

# misfit NAME COMMAND WORDS FILE...: each whole file by itself is readable, and refused with the words
misfit()
{
	local name=$1 command=$2 words=$3 failed=0 file status

	shift 3
	for file; do
		tsinfo "$file" >/dev/null || return
		status=0
		once "$command" "$file" '-o out/named' || status=$?
		if ! verdict $status "$file" "$name" || ! grep -qE "$words" err; then
			cat err
			failed=$((failed + 1))
		fi
		rm -rf out/*
	done
	[ "$failed" -eq 0 ]
}

others=(other-channels.ts other-size.ts other-classes.ts other-names.ts)

@test "tscat" {
	bad tscat train.ts 'tscat OUT @' cut flip form
	bad tscat init.ts 'tscat OUT - <@' cut flip form
	misfit tscat 'tscat OUT train.ts @' . "${others[@]}" pool.tar stats.ts
}

@test "tscut" {
	bad tscut train.ts 'tscut -i 0-29 OUT @' cut flip form mean-label mean-unlabelled mean-classless mean-kind
	bad tscut train.ts 'tscut -c Bag OUT <@' cut flip form mean-label mean-unlabelled mean-classless mean-kind
	bad tscut init.ts 'tscut -u 0-1 OUT <@' cut flip form
}

@test "tsinfo" {
	bad tsinfo train.ts 'tsinfo OUT @' cut flip form
	bad tsinfo one.ts 'tsinfo OUT @' cut flip form mean-parameter mean-nan mean-op mean-cycle mean-channels
	bad tsinfo pool.tar 'tsinfo OUT @'
	bad tsinfo labelled.ts 'tsinfo OUT <@' cut flip form
}

@test "save-images" {
	bad save-images train.ts 'save-images OUT <@'
}

@test "montage" {
	bad montage train.ts 'montage OUT <@'
}

@test "cutmix" {
	bad cutmix train.ts 'cutmix -e 2 -b 10 OUT <@'
}

@test "replay" {
	bad replay labelled.ts 'replay OUT <@'
}

@test "synth-init" {
	bad synth-init train.ts 'synth-init -i 2 OUT <@'
	fails 'T-shirt/top' synth-init -i 4 -o out/x <train.ts
	[ ! -e out/x ]
}

@test "train-ckpt" {
	bad train-ckpt train.ts 'train-ckpt -a convnet1-8 -e 1 OUT <@'
	bad train-ckpt val.ts 'train-ckpt -a convnet1-8 -e 1 -t @ OUT <train.ts'
	misfit train-ckpt 'train-ckpt -a convnet1-8 -e 1 -t @ OUT <train.ts' . other-channels.ts other-size.ts other-names.ts \
		stats.ts
	misfit train-ckpt 'train-ckpt -i @ -e 0 OUT <train.ts' 'running_var: not a finite number' huge.ts
	fails 'not finite' train-ckpt -a convnet1-8 -e 9 -b 10 --lr 1e6 -o out/x <train.ts
	[ ! -e out/x ]
}

@test "train-ckpt: its state" {
	cp run.ts state.ts
	bad train-ckpt run.ts 'cp @ state.ts; train-ckpt -a convnet1-8 -e 2 -b 10 --lr 0.02 --state state.ts OUT <train.ts'
}

@test "bnstats" {
	bad bnstats pool.tar 'bnstats -p @ OUT'
	bad bnstats one.ts 'bnstats -p @ OUT'
	bad bnstats train.ts 'bnstats -p pool.tar --classwise OUT <@'
	misfit bnstats 'bnstats -p @ --recompute OUT <train.ts' 'not finite' huge.ts
	misfit bnstats 'bnstats -p pool.tar --recompute OUT <@' . "${others[@]}" stats.ts
}

@test "synth-step: units" {
	bad synth-step init.ts 'synth-step -p pool.tar -N 2 OUT <@'
	bad synth-step under-way.ts 'synth-step -p pool.tar -s stats.ts OUT <@' cut flip mean
}

@test "synth-step: teachers and statistics" {
	bad synth-step pool.tar 'synth-step -p @ -N 2 OUT <init.ts'
	bad synth-step one.ts 'synth-step -p @ -N 2 OUT <init.ts'
	bad synth-step stats.ts 'synth-step -p pool.tar -s @ -N 2 OUT <init.ts'
	for f in "${others[@]}"; do
		synth-init -i 1 -o "unit-$f" <"$f"
	done
	misfit synth-step 'synth-step -p pool.tar -N 2 OUT <@' . unit-other-channels.ts unit-other-size.ts \
		unit-other-classes.ts unit-other-names.ts stats.ts
	misfit synth-step 'synth-step -p @ -N 2 OUT <init.ts' . train.ts stats.ts
	misfit synth-step 'synth-step -p pool.tar -s @ -N 2 OUT <init.ts' . train.ts pool.tar one.ts
	misfit synth-step 'synth-step -p @ -N 2 OUT <init.ts' 'unit 0, iteration 0: the loss is not finite' huge.ts
}

@test "softlabel" {
	bad softlabel recipes.ts 'softlabel -p pool.tar OUT <@'
	bad softlabel pool.tar 'softlabel -p @ OUT <recipes.ts'
	misfit softlabel 'softlabel -p @ OUT <recipes.ts' 'not finite' huge.ts
	for f in "${others[@]}"; do
		cutmix -e 1 -b 10 -o "recipes-$f" <"$f"
	done
	misfit softlabel 'softlabel -p pool.tar OUT <@' . recipes-other-channels.ts recipes-other-size.ts \
		recipes-other-classes.ts recipes-other-names.ts labelled.ts train.ts
}

@test "evaluate" {
	bad evaluate train.ts 'evaluate -a convnet1-8 --steps 2 -t val.ts OUT <@'
	bad evaluate labelled.ts 'evaluate -a convnet1-8 -t val.ts OUT <@'
	bad evaluate val.ts 'evaluate -a convnet1-8 -t @ --steps 2 OUT <train.ts'
	bad evaluate pool.tar 'evaluate -p @ -t val.ts OUT'
	misfit evaluate 'evaluate -p pool.tar -t @ OUT' . other-channels.ts other-size.ts other-names.ts stats.ts
	misfit evaluate 'evaluate -p @ -t val.ts OUT' 'not finite' huge.ts
	fails 'not finite' evaluate -a convnet1-8 --steps 50 --lr 1e6 -t val.ts -o out/x <train.ts
	[ ! -e out/x ]
}

@test "load-images" {
	cp sample/t10k-labels-idx1-ubyte.gz labels-idx1.gz
	cp sample/t10k-images-idx3-ubyte.gz images-idx3.gz
	"$python" "$root/tests/tools/damage.py" images-idx3.gz images-idx3.gz.bad
	bad load-images images-idx3.gz 'mkdir -p d; rm -f d/*; cp labels-idx1.gz d; cp @ d/images-idx3.gz;
	    load-images OUT d/images-idx3.gz'
	bad load-images train.tar 'load-images OUT @'
	tar xf train.tar
	mkdir -p folder/a folder/b
	cp 00000000.png folder/a
	cp 00000001.png folder/b
	load-images -o out/x folder
	rm out/x
	mkdir folder/c
	fails "c" load-images -o out/x folder
	echo 'This is no picture.' >folder/c/x.png
	fails 'x.png' load-images -o out/x folder
	: >folder/c/x.png
	fails 'x.png' load-images -o out/x folder
	fails '' load-images -o out/x folder/none
	fails '' load-images -o out/x train.ts
	[ -z "$(ls out)" ]
}

# FUZZ=20000 bats -f 'anything else' tests/bad.bats: for longer
@test "streams that say anything else are worked on, or refused in a line" {
	mkdir fuzz
	cd fuzz
	cp ../train.ts ../one.ts ../pool.tar ../stats.ts ../init.ts ../under-way.ts ../run.ts ../recipes.ts ../labelled.ts .
	synth-step -p pool.tar -s stats.ts -N 4 -n 2 --state state.ts -o out <init.ts
	softlabel -p pool.tar --u8 -o labelled-u8.ts <recipes.ts
	softlabel -p pool.tar --top 2 -o labelled-top.ts <recipes.ts
	train-ckpt -a shufflenet_v2_x1_0-small -e 0 <train.ts | tar xO 0/0.ts >branches.ts
	"$python" "$root/tests/fuzz" . --runs "${FUZZ:-400}"
}
