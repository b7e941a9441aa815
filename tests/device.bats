#!/usr/bin/env bats
# What is said where there is no GPU, or not the right one, or not enough of it; on the emulated device.
# shellcheck disable=SC2154 # root is tools/small.bash's

bats_require_minimum_version 1.5.0
load tools/small.bash

setup_file()
{
	unset CUDA_VISIBLE_DEVICES TEDDY_DEVICE
	export TEDDY_CUDA=$root/build/emu/teddy-cuda.so
	cd "$BATS_FILE_TMPDIR" || return
	small_files
	step -o cpu.ts <init.ts
}

step()
{
	synth-step -p pool.tar -s stats.ts -N 3 "$@"
}
export -f step

setup()
{
	cd "$BATS_TEST_TMPDIR" || return
	ln -s "$BATS_FILE_TMPDIR"/* .
}

# without WORDS SETTING...: every filter that computes fails in this environment and says so, and auto is content
without()
{
	local words=$1

	shift
	fails "$words" env "$@" synth-step --device cuda -p pool.tar -N 3 -o out.ts <init.ts
	fails "$words" env "$@" train-ckpt --device cuda -a convnet1-8 -e 1 -o out.tar <train.ts
	fails "$words" env "$@" bnstats --device cuda -p pool.tar --classwise -o out.ts <train.ts
	fails "$words" env "$@" evaluate --device cuda -p pool.tar -t val.ts
	fails "$words" env "$@" TEDDY_DEVICE=cuda bnstats -p pool.tar --classwise -o out.ts <train.ts
	[ ! -e out.ts ]
	[ ! -e out.tar ]
	env "$@" synth-step --device auto -p pool.tar -s stats.ts -N 3 -o auto.ts <init.ts 2>said
	[ ! -s said ]
	cmp auto.ts cpu.ts
	rm auto.ts
}

@test "no shared object, one that is none, one of another version" {
	without "there is no .*/none.so (make cuda builds it)" TEDDY_CUDA="$PWD/none.so"
	echo "no object" >text.so
	without "text.so: " TEDDY_CUDA="$PWD/text.so"
	echo 'int teddy_other;' >other.c
	gcc -shared -fPIC -o other.so other.c
	without "other.so is of another version" TEDDY_CUDA="$PWD/other.so"
}

@test "a library that the object needs is missing" {
	echo 'int of_another(void) { return 1; }' >needed.c
	echo 'int of_another(void); int teddy_other(void) { return of_another(); }' >object.c
	gcc -shared -fPIC -o libneeded-by-nvidia.so needed.c
	gcc -shared -fPIC -Wl,--no-as-needed -o object.so object.c -L. -lneeded-by-nvidia
	rm libneeded-by-nvidia.so
	without "libneeded-by-nvidia.so" TEDDY_CUDA="$PWD/object.so"
}

@test "no driver, one too old, no device, one too old" {
	without "there is no NVIDIA driver" EMU_DRIVER=0
	without "the driver is for CUDA 12.4, this build is for 13.0" EMU_DRIVER=12040
	without "no device: no CUDA-capable device is detected" EMU_DEVICES=0
	without "no device: no CUDA-capable device is detected" CUDA_VISIBLE_DEVICES=
	without "no device: no CUDA-capable device is detected" EMU_DEVICES=2 CUDA_VISIBLE_DEVICES=2
	without "emulated 0 has compute capability 7.0, the kernels need 8.0" EMU_CAPABILITY=70
}

@test "-v says which device it is, and why auto took the processor" {
	step --device cuda -v -o out.ts <init.ts 2>said
	[ "$(grep -c '^synth-step: device cuda: emulated 0, 4.29 GB, capability 9.0; driver for CUDA 13' said)" -eq 1 ]
	EMU_DEVICES=3 CUDA_VISIBLE_DEVICES=2,0 step --device auto -v -o out.ts <init.ts 2>said
	grep -q '^synth-step: device cuda: emulated 2, ' said
	grep -q '"backend":"cuda","isa":"emulated 2"' said
	EMU_DEVICES=0 step --device auto -v -o out.ts <init.ts 2>said
	[ "$(grep -c '^synth-step: the processor computes: device cuda: no device: ' said)" -eq 1 ]
	grep -q '"backend":"cpu"' said
	step --device cpu -v -o out.ts <init.ts 2>said
	run -1 grep device said
}

@test "TEDDY_DEVICE counts where --device says nothing" {
	TEDDY_DEVICE=cuda step -v -o out.ts <init.ts 2>said
	grep -q '"backend":"cuda"' said
	TEDDY_DEVICE=cuda step --device cpu -v -o out.ts <init.ts 2>said
	grep -q '"backend":"cpu"' said
	fails "device 'gpu': cpu, cuda or auto" env TEDDY_DEVICE=gpu bnstats -p pool.tar --classwise -o out.ts <train.ts
	run -2 --separate-stderr synth-step --device gpu -p pool.tar -N 3
	[[ $stderr == *"--device gpu: cpu, cuda or auto"* ]]
}

# fit: the batch that out of memory says would do
fit()
{
	sed -n 's/.* out of memory: .* needed, .* are free; a batch of \([0-9]*\) would fit$/\1/p' fails.err
}

@test "out of memory: how much was needed, which batch would fit, and it does" {
	local fit

	fails "out of memory: .* of 1.0 MB are free" env EMU_MEMORY=1000000 train-ckpt --device cuda -a convnet2-16 -e 1 -b 200 \
		-o out.tar <train.ts
	fails "device cuda (emulated 0): out of memory: .* of 16.0 MB are free; a batch of " env EMU_MEMORY=16000000 \
		train-ckpt --device cuda -a convnet2-16 -e 1 -b 200 -o out.tar <train.ts
	fit=$(fit)
	echo "$fit fit"
	[ "$fit" -gt 1 ]
	[ "$fit" -lt 200 ]
	EMU_MEMORY=16000000 train-ckpt --device cuda -a convnet2-16 -e 1 -b "$fit" -o out.tar <train.ts
	[ -s out.tar ]
}

@test "a unit too large for three teachers' features, and one of the size that is proposed" {
	local fit

	synth-init -i 20 --unit 100 -o large.ts <train.ts
	fails "out of memory: .* a batch of " env EMU_MEMORY=20000000 synth-step --device cuda -p pool.tar -s stats.ts -N 1 \
		-o out.ts <large.ts
	fit=$(fit)
	echo "$fit fit"
	[ "$fit" -gt 10 ]
	[ "$fit" -lt 100 ]
	[ ! -e out.ts ]
	synth-init -i 20 --unit "$((fit / 10 * 10))" <train.ts | tscut -u 0 -o fits.ts
	EMU_MEMORY=20000000 step --device cuda -n 1 -o out.ts <fits.ts
	[ -s out.ts ]
}

# No call but one tells of a launch that failed; without it what the kernel should have written stays zero.
@test "a kernel that cannot be started is an error" {
	for kernel in bn_frozen ce optim_step; do
		fails "device cuda (emulated 0): .*invalid configuration" env EMU_REFUSE=$kernel train-ckpt --device cuda \
			-a convnet1-8 -e 1 -o out.tar <train.ts
	done
}

@test "a lost device leaves the last good state, which goes on to the same bytes" {
	tscut -u 0 -o unit.ts init.ts
	step --device cuda -o whole.ts <unit.ts
	fails "device cuda (emulated 0): .*; its last good state is in out.ts.good" env EMU_LOSE=150 synth-step --device cuda \
		-p pool.tar -s stats.ts -N 3 -o out.ts <unit.ts
	[ ! -e out.ts ]
	step --device cuda -o out.ts <out.ts.good
	cmp out.ts whole.ts
	fails "device cuda (emulated 0): " env EMU_LOSE=20 train-ckpt --device cuda -a convnet1-8 -e 1 -o out.tar <train.ts
	[ ! -e out.tar ]
}

@test "training on a device that is lost goes on from its last epoch to the same bytes" {
	local at

	net()
	{
		train-ckpt --device cuda -a convnet1-8 -b 100 -e 6 "$@" <train.ts
	}
	export -f net
	net -o whole.tar
	# Later and later, until it is lost behind an epoch.
	for ((at = 100; at < 20000; at += at / 2)); do
		rm -f state
		EMU_LOSE=$at run -1 net --state state -o out.tar
		[ ! -e out.tar ]
		[ ! -e state ] || break
	done
	[ -e state ]
	net --state state --log log -o out.tar
	[ "$(grep -c '"event": "epoch"' log)" -lt 6 ]
	cmp out.tar whole.tar
}

@test "every other filter on a lost or too small device: one line, nothing written" {
	cutmix -e 1 -b 10 -o mixed.ts <init.ts
	for how in EMU_LOSE=6 EMU_MEMORY=100000; do
		for words in "bnstats -p pool.tar --classwise <train.ts" "softlabel -p pool.tar <mixed.ts" \
			"evaluate -a convnet1-8 -t train.ts --steps 2 <init.ts" "evaluate -p pool.tar -t train.ts" \
			"evaluate -a convnet1-8 -t train.ts <mixed.ts" "evaluate -a convnet1-8 -t train.ts -r 3 <mixed.ts" \
			"likeness -p pool.tar <train.ts" "synth-init -i 1 --from herding -p pool.tar <train.ts"; do
			fails "device cuda (emulated 0): " env "$how" bash -c "exec ${words/ / --device cuda -o out }"
		done
		[ ! -e out ]
	done
	# Later, when one thread replays recipes and others train: whoever meets it, one of them says it.
	for ((at = 20; at < 400; at += 7)); do
		fails "device cuda (emulated 0): " env EMU_LOSE=$at evaluate -a convnet1-8 -t train.ts -r 3 --device cuda -o out <mixed.ts
	done
}

@test "what is not finite on the device is said there too" {
	mixed_pool
	cutmix -e 1 -b 10 -o mixed.ts <init.ts
	for words in "bnstats -p huge.ts --recompute <train.ts" "softlabel -p huge.ts <mixed.ts" \
		"evaluate -p huge.ts -t val.ts" "evaluate -a convnet1-8 --steps 50 --lr 1e6 -t val.ts <init.ts" \
		"train-ckpt -a convnet1-8 -e 9 -b 10 --lr 1e6 <train.ts"; do
		fails "not finite" bash -c "exec ${words/ / --device cuda -o out }"
	done
	[ ! -e out ]
}
