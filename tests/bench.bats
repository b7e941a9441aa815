#!/usr/bin/env bats
# The benchmark runs, and says what it should; how fast anything is stands in no test.
# shellcheck disable=SC2154 # root and python are tools/small.bash's

bats_require_minimum_version 1.5.0
load tools/small.bash

setup()
{
	cd "$BATS_TEST_TMPDIR" || return
	bench=$root/build/tests/bench/bench
	export TEDDY_PYTHON="" OMP_WAIT_POLICY=passive
}

# lines of the table: NAME MS GFLOP/s %FMA done %triad MB
row()
{
	awk -v name="$1" '$1 == name { for (i = 2; i <= 7; i++) if ($i + 0 <= 0) exit 1; found = 1 } END { exit !found }' said
}

@test "a line a workload: seconds, work and memory; what is not offered says so" {
	"$bench" -t 1 -r 3 synth-convnet2-16-4x16 label-convnet2-16-3x4x16 eval-convnet2-16-4x16 >said
	awk -F '\t' 'NF != 7 || !($2 >= $3 && $3 > 0 && $4 > 0 && $5 > 0 && $6 > 0 && $7 > 1) { exit 1 }
		{ gflop[NR] = $4 } END { exit !(NR == 3 && gflop[2] > 2.9 * gflop[3] && gflop[1] > 1.9 * gflop[3]) }' said
	[ "$("$bench" train-convnet2-16-4x16-bf16)" = "train-convnet2-16-4x16-bf16	none" ]
	[ "$("$bench" -l | grep -c -- -)" -gt 10 ]
	run -2 --separate-stderr "$bench" label-convnet2-16-4x16
	[[ $stderr == *"TEACHERSxIMAGESxSIDE expected"* ]]
	run -2 "$bench" eval-convnet2-16-4x16x
}

@test "a pool's mean is that of its members, which differ" {
	"$bench" -t 1 -r 1 -d one eval-convnet2-16-4x16 >said
	"$bench" -t 1 -r 1 -d same label-convnet2-16-1x4x16 >said
	"$bench" -t 1 -r 1 -d two label-convnet2-16-2x4x16 >said
	[ "$(wc -c <one)" -eq 160 ]
	cmp one same
	run ! cmp -s one two
}

@test "alone: the table, whole pipes too, and everything in JSON" {
	"$root/tests/bench/run" --alone -t 1 -r 1 --rounds 1 --json all.json train-convnet2-16-in-4x16 \
		student-convnet2-16-2x10x32 train-convnet2-16-4x16-bf16 decode-10x32-1t >said 2>words
	grep -q "our own figures alone" words
	row train-convnet2-16-in-4x16
	grep -Eq "^student-convnet2-16-2x10x32 +-?[0-9]" said # of runs this short the difference may be anything
	grep -q "none of ours: training has no bf16" said
	grep -q "^decode-10x32-1t .*left out" said
	"$python" - <<-'END'
	import json
	r = json.load(open("all.json"))
	assert r["threads"] == 1 and len(r["rows"]) == 3 and len(r["peaks"]) == 4, r
	assert all(fma > 0 and triad > 0 for fma, triad in r["peaks"])
	assert r["machine"]["cores"] > 0 and r["versions"]["teddy"] and "torch" not in r["versions"]
	assert [row["seconds"] is None for row in r["rows"]] == [False, False, True]
	END
	run -2 "$root/tests/bench/run" --alone -t 100000
	run -1 --separate-stderr "$root/tests/bench/run" --python /bin/false
	[[ $stderr == "bench: /bin/false has no torch, torchvision and numpy" ]]
}

@test "without Python the program's own table is there" {
	mkdir bin
	for tool in bash env dirname nproc awk sed mkdir grep tail; do
		ln -s "$(command -v $tool)" bin
	done
	run --separate-stderr env PATH="$PWD/bin" "$root/tests/bench/run" --alone -t 1 -r 1 eval-convnet2-16-4x16 \
		train-convnet2-16-4x16-bf16 student-convnet2-16-2x10x32
	echo "$output" >said
	[ "$status" -eq 0 ]
	row eval-convnet2-16-4x16
	grep -q "bf16 is not offered" said
	grep -q "^student.*left out" said
}
