#!/usr/bin/env bats
# What all filters have in common: standard streams that are closed, messages that nobody reads, outputs that cannot be,
# options that do not exist, help.

bats_require_minimum_version 1.5.0
load tools/small.bash

filters="bnstats ckpt-export ckpt-import ckpt-info cutmix evaluate likeness load-images montage prune replay report
save-images softlabel synth-init synth-step train-ckpt tscat tscut tsinfo"

setup_file()
{
	cd "$BATS_FILE_TMPDIR" || return
	load-images -n 3 --classes "@$root/pipelines/sample/CLASSES" -o train.ts \
		"$root/pipelines/sample/train-images-idx3-ubyte.gz"
	train-ckpt -a convnet1-8 -e 2 -b 10 --log whole.log -o pool.tar <train.ts
}

setup()
{
	cd "$BATS_TEST_TMPDIR" || return
	ln -s "$BATS_FILE_TMPDIR"/* .
}

@test "these are all filters" {
	for f in $filters; do
		[ -x "$root/build/bin/$f" ]
	done
	[ "$(find "$root/bin" -name '*.c' | wc -l)" -eq "$(wc -w <<<"$filters")" ]
}

@test "a closed standard stream is nobody's file" {
	train-ckpt -a convnet1-8 -e 2 -b 10 -v -o said.tar <train.ts 2>&-
	cmp said.tar pool.tar
	train-ckpt -a convnet1-8 -e 2 -b 10 --log log -o logged.tar <train.ts >&-
	cmp logged.tar pool.tar
	cmp <(sed 's/"seconds.*//' log) <(sed 's/"seconds.*//' whole.log)
	fails "standard output: Bad file" bash -c 'train-ckpt -a convnet1-8 -e 2 -b 10 --log other <train.ts >&-'
	[ ! -s other ]
	fails "standard output: Bad file" bash -c 'tscat train.ts >&-'
	fails "Bad file" bash -c 'tscat -o out - <&-'
	[ ! -e out ]
}

@test "messages that nobody reads end nothing" {
	synth-init -i 1 -o init.ts <train.ts
	cutmix -e 1 -o recipes.ts <train.ts
	for line in "train-ckpt -a convnet1-8 -e 2 -b 10" "save-images" "save-images --format folder" "softlabel -p pool.tar" \
	    "bnstats -p pool.tar" "synth-step -p pool.tar -N 2 --precision bf16 --isa plain" "cutmix -e 1" \
	    "evaluate -p pool.tar -t train.ts"; do
		case $line in
		synth-step*) input=init.ts ;;
		softlabel*) input=recipes.ts ;;
		*) input=train.ts ;;
		esac
		rm -rf heard unread
		# shellcheck disable=SC2086 # words
		$line -v -o heard <$input 2>said
		[ -s said ]
		# shellcheck disable=SC2086
		{ sleep 0.2 && $line -v -o unread <$input; } 2>&1 | true
		[ "${PIPESTATUS[0]}" -eq 0 ] || { echo "$line"; false; }
		[[ $line == evaluate* ]] || diff -r heard unread
		[ -z "$(find . -name '*.tmp' -o -name 'unread.*')" ]
	done
}

@test "a limit on the size of files is one line, and nothing is left" {
	fails "out.ts: File too large" bash -c 'ulimit -f 4; tscat -o out.ts train.ts'
	status=0
	said=$(ulimit -f 0 && save-images --format folder -o out <train.ts 2>&1) || status=$?
	[ "$status" -eq 1 ]
	[[ $said == "save-images: "*"File too large" ]]
	[ -z "$(find . -name 'out*')" ]
	[ -z "$(find . -name '.*.tmp')" ]
}

@test "an output that cannot be is told before the work" {
	fails "'': No such file" timeout 20 train-ckpt -a convnet1-8 -e 1000000 -o "" <train.ts
	fails "'none/': Is a directory" timeout 20 train-ckpt -a convnet1-8 -e 1000000 -o none/ <train.ts
	fails "none/out: No such file" timeout 20 train-ckpt -a convnet1-8 -e 1000000 -o none/out <train.ts
}

@test "a wrong command line is one line and status 2, and no input is read" {
	for f in $filters; do
		misused 'unrecognized option .*--bogus' "$f" --bogus
		misused 'invalid option\|unrecognized option' "$f" -%
	done
	for line in "train-ckpt -e 1" "evaluate -t train.ts" "ckpt-info -s 3x32x32" "ckpt-import -s 3x32x32"; do
		# shellcheck disable=SC2086 # words
		misused "unknown architecture 'resnet19' (known: convnet" $line -a resnet19 </dev/null
		for name in convnet3-small convnet7x vgg; do
			misused "unknown architecture '$name'" $line -a $name </dev/null
		done
	done
	misused "sizes\|65536" ckpt-info -a resnet18 -s 4294967299x32x32
	misused "CxHxW" ckpt-info -a resnet18 -s 3x32
	misused "CxHxW" ckpt-info -a resnet18 -s 3x32x32x1
}

@test "help and version, and a disk that has no room for them" {
	for f in $filters; do
		"$f" --help | grep -q "^usage: $f "
		"$f" -h | cmp - <("$f" --help)
		"$f" --version | grep -q "^$f .*[0-9]"
		"$f" -V | cmp - <("$f" --version)
		[ -c /dev/full ] || continue
		fails "standard output: No space left" bash -c "$f -h >/dev/full"
		fails "standard output: No space left" bash -c "$f -V >/dev/full"
	done
}
