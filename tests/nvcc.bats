#!/usr/bin/env bats
# The backend by nvcc, where it is installed: no warnings, no spills, and no more registers than fixtures/registers.tsv has
# (from `tests/tools/ptxas.py build/cuda/kernels/*.ptxas`): a kernel that needs more runs fewer threads at a time.

bats_require_minimum_version 1.5.0

setup()
{
	cd "$BATS_TEST_DIRNAME/.." || return
	nvcc=${CUDA_HOME:-/usr/local/cuda}/bin/nvcc
	[ -x "$nvcc" ] || nvcc=$(command -v nvcc) || skip "no nvcc"
	echo '#include <cudnn.h>' | "$nvcc" -E -x cu - >/dev/null 2>&1 || skip "no cuDNN beside nvcc"
}

@test "the backend compiles without a warning and links" {
	env -u MAKEFLAGS -u MFLAGS -u MAKELEVEL flock build make --no-print-directory cuda >"$BATS_TEST_TMPDIR/made" 2>&1
	run ! grep -i warning "$BATS_TEST_TMPDIR/made" build/cuda/kernels/*.ptxas
	[ "$(nm -D --defined-only build/lib/teddy-cuda.so | grep -c ' teddy_device$')" -eq 1 ]
	[[ $("$nvcc" --list-gpu-arch) == *compute_90* ]]
	for arch in $("$nvcc" --list-gpu-arch | sed -nE 's/^compute_(80|90|100)$/\1/p'); do # 100: from CUDA 12.8 on
		grep -q "for 'sm_$arch'" build/cuda/kernels/*.ptxas
	done
}

@test "registers and spills" {
	grep -q "^# nvcc $("$nvcc" --version | sed -n 's/.*release \([^,]*\),.*/\1/p')\$" tests/fixtures/registers.tsv ||
		skip "the table is of $(head -n 1 tests/fixtures/registers.tsv)"
	python3 tests/tools/ptxas.py build/cuda/kernels/*.ptxas >"$BATS_TEST_TMPDIR/now.tsv"
	awk -F'\t' '
	/^#/ { next }
	NR == FNR { most[$1] = $2; next }
	$3 > 0 { print $1 ": " $3 " bytes of stack and spills"; bad = 1 }
	!($1 in most) { print $1 ": not in the list: " $2; bad = 1; next }
	$2 > most[$1] + 4 { print $1 ": " $2 " registers, " most[$1] " before"; bad = 1 }
	{ delete most[$1] }
	END { for (k in most) { print k ": gone"; bad = 1 } exit bad }
	' tests/fixtures/registers.tsv "$BATS_TEST_TMPDIR/now.tsv"
}

@test "cuDNN has an engine for every convolution of every network, on a device that it is told of" {
	env -u MAKEFLAGS -u MFLAGS -u MAKELEVEL flock build make --no-print-directory build/cuda/tests/tools/cudnn >"$BATS_TEST_TMPDIR/made" 2>&1
	run -0 build/cuda/tests/tools/cudnn tests/fixtures/h200.json
	[[ ${lines[0]} != *SKIP* ]] || skip "${lines[0]}"
}

# Without a GPU the real object says so, whatever else is there.
@test "without a GPU: one line" {
	[ ! -e /dev/nvidia0 ] || skip "there is one"
	TEDDY_CUDA=build/lib/teddy-cuda.so run -1 --separate-stderr build/bin/bnstats --device cuda -p pool.tar
	[ "${#stderr_lines[@]}" -eq 1 ]
	[[ $stderr == "bnstats: device cuda: "*"driver"* ]]
}
