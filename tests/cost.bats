#!/usr/bin/env bats
# Instructions of one step of each purpose on the AVX2 path, counted by valgrind: a change that makes a step do more turns
# this red, whatever the machine's mood. fixtures/instructions.tsv has the counts and what they were made with; after a
# change that is meant, the line that a failed test shows goes there. Kernels that ran are those that the plan names.
# shellcheck disable=SC2154 # root and python are tools/small.bash's

bats_require_minimum_version 1.5.0
load tools/small.bash

setup()
{
	cd "$BATS_TEST_TMPDIR" || return
}

# counted WORKLOAD: at most 3 % from the table's instructions with its compiler, at most 15 % more with another
counted()
{
	local table=$root/tests/fixtures/instructions.tsv step=$root/build/tests/bench/step want got compiler percent

	command -v valgrind >/dev/null || skip "there is no valgrind"
	softlabel --isa avx2 -h >/dev/null 2>&1 || skip "this processor has no avx2"
	valgrind --tool=callgrind --callgrind-out-file=out --toggle-collect=plan_forward --toggle-collect=plan_backward \
		"$step" avx2 "$1" 2>words || { cat words; return 1; }
	got=$("$python" "$root/tests/tools/callgrind.py" out <words)
	want=$(awk -F '\t' -v w="$1" '$1 == w { print $2 }' "$table")
	compiler=$("$step" -V)
	echo "# now:"
	printf '%s\t%s\t%s\n' "$1" "$got" "$compiler"
	[ -n "$want" ]
	percent=$((100 * (got - want) / want))
	if grep -q "^$1	.*	$compiler\$" "$table"; then
		[ "$((100 * got))" -le "$((103 * want))" ]
		[ "$((100 * got))" -ge "$((97 * want))" ]
	else
		echo "another compiler: $percent %"
		[ "$percent" -le 15 ]
	fi
}

@test "labelling, ConvNet" { counted eval-convnet3-32:10x32; }
@test "synthesis, ConvNet" { counted synth-convnet3-32:10x32; }
@test "training, ConvNet" { counted train-convnet3-32:10x32; }
@test "synthesis, ShuffleNet: depthwise, 1x1" { counted synth-shufflenet_v2_x1_0-small:1x8; }
