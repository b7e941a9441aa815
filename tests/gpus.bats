#!/usr/bin/env bats
# Pipelines on several GPUs, two emulated ones: who computes where, what is shared, what is refused.
# shellcheck disable=SC2154 # root is tools/small.bash's

bats_require_minimum_version 1.5.0
load tools/small.bash

setup_file()
{
	unset CUDA_VISIBLE_DEVICES TEDDY_DEVICE
	export TEDDY_CUDA=$root/build/emu/teddy-cuda.so EMU_DEVICES=2
	cd "$BATS_FILE_TMPDIR" || return
	ln -s "$root/pipelines/sample" sample
	load-images -s 8 -n 4 --classes @sample/CLASSES sample/t10k-images-idx3-ubyte.gz | save-images -o test.tar
	run_into two --gpus 0,1
}

setup()
{
	cd "$BATS_FILE_TMPDIR" || return
}

# run_into FOLDER [OPTION...]: the smallest run, with four units, telling of the plans of synthesis
run_into()
{
	"$root/pipelines/teddy" --size 8 --arch convnet1-8 --per-class 4 --epochs 2 --first 1 --every 1 --batch 20 --ipc 4 \
		--unit 10 --iterations 2 --teachers 2 --hard-steps 1 --soft-steps 1 --soft-batch 10 --repeats 1 --whole-steps 0 \
		--classes @sample/CLASSES --train-opts -v --synth-opts -v --soft-opts -v "${@:2}" \
		sample/train-images-idx3-ubyte.gz test.tar "$1" >"$1.out" 2>"$1.err"
}

# devices FOLDER PROGRAM: the emulated devices that its runs were on, a line each with their number
devices()
{
	sed -n "s/^$2: device cuda: emulated \\([0-9]*\\),.*/\\1/p" "$1.err" | sort | uniq -c | tr -s ' '
}

@test "units and students are spread over the GPUs, all else is on the first" {
	[ "$(devices two synth-step)" = $' 2 0\n 2 1' ]
	[ "$(devices two train-ckpt)" = " 1 0" ]
	[ "$(devices two evaluate)" = $' 1 0\n 1 1' ]
	[ "$(sed 1d two/log/units.tsv | cut -f 9 | cut -d ' ' -f 1,2 | sort | uniq -c | tr -s ' ')" = \
		$' 2 on_gpu 1\n 2 on_gpu 2' ]
	run -1 grep '"backend":"cpu"' two.err
	grep -q '"backend":"cuda","isa":"emulated 1"' two.err
}

@test "two jobs on one GPU, and one after the other: the same bytes" {
	cp -a two shared
	rm shared/distilled.ts
	run_into shared --gpus 1 --per-gpu 2
	[ "$(devices shared synth-step)" = " 4 1" ]
	[ "$(sed 1d shared/log/units.tsv | cut -f 9 | cut -d ' ' -f 1,2 | sort -u)" = $'on_gpu 1\non_gpu 2' ]
	cmp shared/distilled.ts two/distilled.ts
	rm shared/distilled.ts
	CUDA_VISIBLE_DEVICES=1 run_into shared --device cuda
	[ "$(devices shared synth-step)" = " 4 1" ]
	cmp shared/distilled.ts two/distilled.ts
	[ -z "$(find shared -name '*.lock')" ]
}

@test "what was done on one device is not done again on another; another precision is another result" {
	cp -a two other
	run_into other --device cpu
	[ "$(grep -c ': there$' other.err)" -eq "$(grep -c '^..:..:.. ' other.err)" ]
	run_into other --gpus 0 --precision bf16
	grep -q 'synthesis: 2 iterations$' other.err
	tsinfo --history other/distilled.ts | grep -q bf16
	run -1 cmp -s other/distilled.ts two/distilled.ts
	run -1 grep 'images: there$' <(grep -v 'training\|test\|initial\|random' other.err)
}

@test "auto takes a GPU where there is one" {
	cp -a two auto
	rm auto/distilled.ts
	run_into auto --device auto
	[ "$(devices auto synth-step)" = " 4 0" ]
	rm auto/distilled.ts
	EMU_DEVICES=0 run_into auto --device auto
	[ -z "$(devices auto synth-step)" ]
	grep -q '"purpose":"synth","backend":"cpu"' auto.err
}

@test "a job that fails beside another has the GPU to itself once more" {
	mkdir -p alone
	cat >alone/jobs <<-'END'
	set -euo pipefail
	log=$2 gpus=3 per_gpu=2 slots=2
	. "$1"
	full() # of one that lacks memory while the other runs
	{
		[ "$CUDA_VISIBLE_DEVICES" = 3 ]
		echo "tried $1" >>"$log/tried"
		if [ "$1" = other ]; then
			sleep 0.5
			echo over >"$log/over"
		else
			[ -e "$log/over" ] || { echo "out of memory" >&2; return 1; }
		fi
	}
	export -f full
	side_by_side jobs.tsv 2 full {} ::: other one
	END
	bash alone/jobs "$root/pipelines/steps.sh" "$PWD/alone" 2>alone/err
	[ "$(sort alone/tried)" = $'tried one\ntried one\ntried other' ]
	grep -q 'once more, with the GPU to itself: full one' alone/err
	[ "$(sed 1d alone/jobs.tsv | cut -f 7 | tr -d '\n')" = 00 ]
	rm alone/over alone/tried
	sed -i 's/^echo over.*/:/' alone/jobs
	run -1 bash alone/jobs "$root/pipelines/steps.sh" "$PWD/alone"
	[ "$(grep -c one alone/tried)" -eq 2 ]
}

@test "what is refused, before anything is done" {
	while IFS='|' read -r status words options; do
		# shellcheck disable=SC2086 # words
		run -"$status" --separate-stderr "$root/pipelines/teddy" $options sample sample refused
		echo "$options: $stderr"
		[ "$status" -ne 2 ] || words+="; -h tells the usage"
		[ "$stderr" = "teddy: $words" ]
		# shellcheck disable=SC2086
		run -"$status" --separate-stderr "$root/pipelines/crossarch" --students convnet1-8 $options two/distilled.ts \
			two/01-test.ts refused
		[ "$stderr" = "crossarch: $words" ] || { echo "crossarch: $stderr"; false; }
	done <<-'END'
	2|--device gpu: cpu, cuda or auto expected|--device gpu
	2|--gpus 0: not with --device cpu|--gpus 0 --device cpu
	2|--gpus 0,x: 'x' is no GPU|--gpus 0,x
	2|--gpus 1,0,1: 1 stands there twice|--gpus 1,0,1
	2|--jobs 3: on GPUs, --per-gpu says it|--gpus 0 --jobs 3
	2|--per-gpu 0: a whole number, at least 1, expected|--per-gpu 0
	1|GPU 2: device cuda: no device: no CUDA-capable device is detected|--gpus 0,2
	END
	EMU_DEVICES=0 run -1 --separate-stderr "$root/pipelines/teddy" --device cuda sample sample refused
	[ "$stderr" = "teddy: device cuda: no device: no CUDA-capable device is detected" ]
	[ ! -e refused/01-train.ts ]
}

@test "students of several architectures are spread over the GPUs" {
	"$root/pipelines/crossarch" --students convnet1-8,convnet1-16 --random two/random.ts --steps 1 --repeats 1 \
		--opts '-b 10 -v' --gpus 0,1 two/distilled.ts two/01-test.ts cross >cross.out 2>cross.err
	[ "$(devices cross evaluate)" = $' 2 0\n 2 1' ]
	[ "$(wc -l <cross/table.tsv)" -eq 3 ]
}
