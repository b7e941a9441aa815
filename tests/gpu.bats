#!/usr/bin/env bats
# tests/gpu on the emulated device: its steps run, it says what came out, and it fails when something ran elsewhere.
# shellcheck disable=SC2154 # root and python are tools/small.bash's

bats_require_minimum_version 1.5.0
load tools/small.bash

setup()
{
	cd "$BATS_TEST_TMPDIR" || return
	export TEDDY_CUDA=$root/build/emu/teddy-cuda.so
}

@test "filters, determinism and the benchmark, and what is said of them" {
	"$root/tests/gpu" --small --python /bin/false --only machine,build,images,filters,determinism,ours-bf16,pytorch
	grep -q '^filters  *ok .*agree' gpu-out/gpu.txt
	grep -Eq '^train-convnet2-8-2x8-bf16  *[0-9.]+' gpu-out/gpu.txt
	"$python" - <<-'END'
	import json
	r = json.load(open("gpu-out/gpu.json"))
	said = {s["step"]: s["status"] for s in r["steps"]}
	assert r["passed"] and r["machine"]["gpu_name"] == "emulated", r
	assert said == {"machine": "ok", "build": "skipped", "images": "ok", "filters": "ok", "determinism": "ok",
	                "ours-bf16": "ok", "pytorch": "skipped", "backends": "ok"}, said
	assert {f["workload"].split("-")[0] for f in r["figures"]} == {"synth", "train", "label"}
	assert all(f["seconds"] > 0 for f in r["figures"])
	END
}

@test "a device that is not there is a failure, not silence" {
	run -1 env TEDDY_CUDA="$PWD/none.so" "$root/tests/gpu" --small --only images,filters,ours-bf16
	grep -q 'there is no .*none.so' gpu-out/log/filters.txt
	"$python" - <<-'END'
	import json
	r = json.load(open("gpu-out/gpu.json"))
	assert not r["passed"]
	assert [s["status"] for s in r["steps"]] == ["ok", "failed", "failed", "skipped"], r["steps"]
	END
}

@test "operations, rates, another arithmetic, the sanitizer and a distillation" {
	mkdir -p bin
	cat >bin/compute-sanitizer <<-'END'
	#!/bin/bash
	# Runs programs of Teddy's as they are; those of the kernels it only says it has run. One has errors when it is told so.
	until [ -x "$1" ] && [ -f "$1" ]; do shift; done
	[[ $1 != */$ERRONEOUS ]] || { echo "invalid read" && exit 9; }
	[[ $1 == */t_gpu_* ]] || exec "$@"
	END
	chmod +x bin/compute-sanitizer
	tried()
	{
		PATH=$PWD/bin:$PATH "$root/tests/gpu" --small --python /bin/false --images "$root/pipelines/sample/t10k-images-idx3-ubyte.gz" "$@"
	}
	ERRONEOUS=none tried --only engine,images,filters,kernel-rates,ours-fp32,memcheck,distillation
	[ "$(grep -c $'\tok\t' gpu-out/log/steps.tsv)" -eq 8 ]
	[[ $(grep ^memcheck gpu-out/log/steps.tsv) == *"0 of "*" programs have errors"* ]]
	[[ $(grep ^distillation gpu-out/log/steps.tsv) =~ distilled\ [0-9.]+\ and\ [0-9.]+\ %,\ random\ [0-9.]+ ]]
	"$python" - <<-'END'
	import json
	figures = json.load(open("gpu-out/gpu.json"))["figures"]
	assert sum("kernel" in f for f in figures) > 80 and {"distilled", "random"} <= {f.get("set") for f in figures}, figures
	END
	ERRONEOUS=synth-step run -1 tried --only images,filters,racecheck
	[[ $output == *"1 of "*" programs have errors"* ]]
}

@test "where it cannot be built that is said, and no failure" {
	run -0 env -u TEDDY_CUDA CC=/bin/false "$root/tests/gpu" --small --only build
	grep -Eq '^build\s+skipped\s.*(no <archive.h>|no nvcc)' gpu-out/log/steps.tsv
}

@test "a part that ran elsewhere is found" {
	synth-init -i 1 --unit 10 -o init.ts < <(load-images -n 1 "$root/pipelines/sample/t10k-images-idx3-ubyte.gz")
	verdict()
	{
		bash -c 'plans=$1; . "$2"; backends' - plans "$root/tests/tools/gpu.bash"
	}
	evaluate --device cuda -v -a convnet2-8 -t init.ts --steps 1 -o out <init.ts 2>words
	grep '^{"plan"' words >plans
	echo '{"plan":{"purpose":"synth","backend":"cuda","stages":[{"forward":"cudnn:x","undo":null}]}}' >>plans
	verdict
	sed -i 's/"epilogue":"cuda:epilogue"/"epilogue":"epilogue:avx2"/' plans
	run -1 verdict
	[[ $output == *"not on cuda"*"epilogue:avx2"* ]]
	sed -i 's/"backend":"cuda"/"backend":"cpu"/' plans
	run -1 verdict
	: >plans
	run -1 verdict
}

@test "kernels: a line each with bytes, time and rate" {
	kernels=$root/build/emu/tests/bench/kernels
	for kernel in $(grep -oE '^void gpu_[a-z_0-9]+\(cudaStream_t' "$root/kernels/gpu.h" | sed 's/^void //; s/(.*//'); do
		grep -q "$kernel(" "$root/tests/bench/kernels.c"
	done
	"$kernels" -r 1 -m 1 -s 1,6,5,9 epilogue maxpool "optim adam" >said
	[ "$(grep -c '1x6x5x9 .* us .* %$' said)" -eq 12 ]
	[ "$(grep -c '^optim' said)" -eq 2 ]
	# y, x: 30 pixels of 16 channels; scale and shift, a bit a value
	"$kernels" -r 1 -m 1 -s 1,6,5,9 --json "epilogue relu" >said
	grep -q '"kernel":"epilogue relu","shape":"1x6x5x9","type":"f32","bytes":4028,' said
	run -2 "$kernels" -s 1,6,5
}

@test "the benchmark does the same work on a device as on the processor" {
	bench=$root/build/tests/bench/bench
	for work in synth-convnet2-8-3x8 train-convnet2-8-3x8 label-convnet2-8-2x3x8; do
		"$bench" -t 1 -r 1 -d cpu $work >said
		"$bench" --device cuda -v -r 1 -d cuda $work >said 2>plan
		awk -F '\t' -v w=$work '!(NF == 7 && $1 == w && $2 > 0) { exit 1 }' said
		grep -q '"backend":"cuda"' plan
		"$python" - <<-'END'
		import numpy as np
		a, b = (np.fromfile(f, dtype="<f4") for f in ("cpu", "cuda"))
		assert a.shape == b.shape and abs(a).max() > 0 and np.linalg.norm(a - b) < 1e-4 * np.linalg.norm(a)
		END
	done
	[ "$("$bench" --device cuda -l | grep -c -- '-tf32$')" -eq 4 ]
}

@test "how far two streams are apart" {
	tsdiff=$root/build/tests/tools/tsdiff
	load-images -n 2 "$root/pipelines/sample/t10k-images-idx3-ubyte.gz" | synth-init -i 1 -o a.ts
	load-images -n 2 "$root/pipelines/sample/train-images-idx3-ubyte.gz" | synth-init -i 1 -o b.ts
	load-images -n 2 "$root/pipelines/sample/train-images-idx3-ubyte.gz" | synth-init -i 2 -o c.ts
	"$tsdiff" 0 a.ts a.ts
	run -1 "$tsdiff" 0.1 a.ts b.ts
	run -1 --separate-stderr "$tsdiff" 0.1 b.ts c.ts
	[[ $stderr == *"another type or shape"* ]]
}

@test "command lines" {
	for words in --minutes '--minutes x' --what '--out'; do
		# shellcheck disable=SC2086 # options are words
		run -2 "$root/tests/gpu" $words
	done
	[ ! -e gpu-out ]
	"$root/tests/gpu" -h | grep -q -- --minutes
}
