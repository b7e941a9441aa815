#!/usr/bin/env bats
# make bundle: what is in the tar, that it runs where nothing of this tree is, and where NVIDIA's libraries are found.

bats_require_minimum_version 1.5.0
load tools/small.bash

setup_file()
{
	export data=$BATS_FILE_TMPDIR/data top=$BATS_FILE_TMPDIR/there/teddy-0.1-x86_64
	# Quickly rather than small.
	export XZ_OPT='--x86 --lzma2=preset=0' LIMIT=20000000
	mkdir "$data" "$BATS_FILE_TMPDIR/there"
	cd "$data" || return
	command -v dpkg-query >/dev/null || skip "licences are found by dpkg"
	env -u MAKEFLAGS -u MFLAGS -u MAKELEVEL -u OMP_NUM_THREADS make -s -C "$root" bundle NVCC=none BUNDLE_XZ="$XZ_OPT" BUNDLE_INTO="$data" >said 2>warned
	tar xJf teddy-0.1-x86_64.tar.xz -C "$BATS_FILE_TMPDIR/there"
	ln -s "$root/pipelines/sample" sample
}

setup()
{
	cd "$data" || return
}

# pack INTO: once more what is linked, two programs of it
pack()
{
	CUDA_HOME=$data/toolkit CUDA_LIB=$data/toolkit/lib64 NVIDIA=${NVIDIA-} "$root/pipelines/bundle" "$1" tscat tsinfo
}

# there COMMAND...: with the bundle's programs and an otherwise bare environment
there()
{
	env -i PATH="$top/bin:/usr/bin:/bin" OMP_NUM_THREADS=1 "$@"
}

# object NAME LIBRARY...: a shared object, here, that needs these others
object()
{
	local name=$1

	shift
	echo 'int teddy_test;' | gcc -shared -fPIC -x c -o "$name" -Wl,--no-as-needed -Wl,-soname,"${name##*/}" - -x none "$@"
}

@test "it is made without nvcc, and says so in a line" {
	[ "$(cat warned)" = "bundle: without the CUDA backend, as there is no nvcc (CUDA_HOME)" ]
	grep -qE '^.*/teddy-0\.1-x86_64\.tar\.xz: [0-9]+ bytes, for glibc 2\.[0-9]+ or newer$' said
	[ ! -e "$top/lib/teddy-cuda.so" ]
	grep -qx 'It has no CUDA backend.' "$top/README"
}

@test "all programs, pipelines and pages are in it, and a licence of every library" {
	for program in "$root"/bin/*.c; do
		there "$(basename "$program" .c)" -V
	done
	for program in teddy random sre2l dm imbalance crossarch; do
		[ "$(there "$program" -V)" = "$program 0.1" ]
	done
	[ "$(there bash -c 'command -v parallel')" = "$top/bin/parallel" ]
	[ "$(find "$top/man" -type f | wc -l)" -eq "$(find "$root/man" -type f | wc -l)" ]
	for library in "$top"/lib/*.so.* "$top"/lib/gcc/*; do
		library=$(basename "$library")
		[ -s "$top/share/licences/${library%%.so*}" ]
	done
	[ -s "$top/share/licences/libarchive" ]
	[ -s "$top/share/licences/parallel" ]
	[ -s "$top/share/licences/GPL-3" ]
}

@test "a small flow has the bytes of this tree's" {
	flow()
	{
		load-images -n 10 --classes @../sample/CLASSES ../sample/train-images-idx3-ubyte.gz >train.ts
		train-ckpt -a convnet2-8 -e 1 -b 50 <train.ts >pool.tar
		bnstats -p pool.tar <train.ts >stats.ts
		synth-init -i 1 <train.ts | synth-step -p pool.tar -s stats.ts -N 3 >distilled.ts
		save-images <distilled.ts >distilled.tar
		montage <distilled.ts >distilled.png
		cutmix -e 1 -b 10 <distilled.ts | softlabel -p pool.tar >soft.ts
	}
	mkdir here there
	(cd here && flow)
	(cd there && export -f flow && there bash -euo pipefail -c "$(declare -f flow); flow")
	[ "$(tsinfo there/distilled.ts | head -n 1)" = "there/distilled.ts: images, 1 frames, 10 images" ]
	diff -r here there
}

@test "teddy runs from it, with its parallel" {
	there teddy --arch convnet2-8 --per-class 5 --epochs 1 --first 1 --every 1 --batch 25 --ipc 2 --unit 10 --iterations 2 \
		--teachers 1 --hard-steps 2 --soft-steps 2 --soft-batch 10 --repeats 1 --whole-steps 0 --classes @sample/CLASSES \
		--threads 1 sample/train-images-idx3-ubyte.gz sample/t10k-images-idx3-ubyte.gz flow
	[ "$(there tsinfo flow/distilled.ts | head -n 1)" = "flow/distilled.ts: images, 2 frames, 20 images" ]
	[ "$(wc -l <flow/log/units.tsv)" -eq 3 ]
}

@test "nothing in it knows this tree, and its programs take the bundle's libraries" {
	run -1 grep -rlF "$root" "$top"
	for program in "$root"/bin/*.c; do
		ldd "$top/bin/$(basename "$program" .c)"
	done >libraries
	run -1 grep 'not found' libraries
	awk '$2 == "=>" { print $3 }' libraries | grep -vF "$top/" | xargs -n 1 basename | sort -u >outside
	run -1 grep -vE '^(lib(c|m|dl|rt|pthread|stdc\+\+|gcc_s)\.so\..*)$' outside
}

@test "it needs glibc alone of a machine's libraries" {
	cp -r "$top" other && mkdir -p other/lib64 other/lib/x86_64-linux-gnu
	cp "$(ldd /bin/sh | sed -n 's/^[^\/]*\(\/[^ ]*ld-linux[^ ]*\).*/\1/p')" other/lib64
	cp /lib/x86_64-linux-gnu/lib{c,m,dl,rt,pthread}.so.* other/lib/x86_64-linux-gnu/ || skip "libraries lie elsewhere"
	# Without /proc, ld.so must be told where a program lies.
	alone() { LD_ORIGIN_PATH=/bin "$(command -v chroot || echo /usr/sbin/chroot)" other "$@"; }
	env -i "$(command -v chroot || echo /usr/sbin/chroot)" / true || skip "chroot is not allowed"
	for program in "$root"/bin/*.c; do
		alone "/bin/$(basename "$program" .c)" -V
	done
	cat sample/t10k-images-idx3-ubyte.gz >other/t10k-images-idx3-ubyte.gz
	cat sample/t10k-labels-idx1-ubyte.gz >other/t10k-labels-idx1-ubyte.gz
	alone /bin/load-images -n 2 t10k-images-idx3-ubyte.gz | alone /bin/train-ckpt -a convnet2-8 -e 1 -b 20 -o pool.tar
	alone /bin/tsinfo pool.tar
	# The machine's libstdc++ may be missing, but not both.
	rm -r other/lib/gcc
	run ! alone /bin/train-ckpt -V
	alone /bin/load-images -V
}

@test "a machine whose libc is too old is told so" {
	there teddy-check
	mkdir old
	printf '#!/bin/sh\necho glibc 2.31\n' >old/getconf
	chmod +x old/getconf
	least=$(sed -n 's/.*for glibc \(2\.[0-9]*\) or newer$/\1/p' said)
	for program in teddy-check "teddy sample/train-images-idx3-ubyte.gz sample/t10k-images-idx3-ubyte.gz refused"; do
		# shellcheck disable=SC2086 # words
		run -1 --separate-stderr env -i PATH="$data/old:$top/bin:/usr/bin:/bin" $program
		[ "$stderr" = "teddy-check: glibc $least or newer is needed; this machine has 2.31" ]
	done
	[ ! -e refused/01-train.ts ]
	# What is needed is what is asked for, no less.
	[ "$(objdump -T "$top"/bin/train-ckpt "$top"/lib/*.so.* | grep -o 'GLIBC_2[0-9.]*' | sort -Vu | tail -n 1)" = \
		"GLIBC_$least" ]
}

@test "the same bytes at another time, under another umask; NVIDIA's libraries where they are asked for" {
	pack one
	touch "$root/build/bundle/tree/build/bin/tscat"
	(umask 077 && TZ=Asia/Tokyo pack two)
	cmp one/*.tar.xz two/*.tar.xz
	mkdir -p toolkit/lib64
	for library in libcudnn.so.9 libcudnn_ops.so.9 libcublasLt.so.13 libcublas.so.13; do
		object "toolkit/lib64/$library"
	done
	object "$root/build/bundle/teddy-cuda.so" toolkit/lib64/libcudnn.so.9 toolkit/lib64/libcublasLt.so.13
	NVIDIA=1 LIMIT=1 pack three
	[ "$(tar tf three/*.tar.xz | sed -n 's|.*/lib/\(.*cu.*so.*\)|\1|p' | tr '\n' ' ')" = \
		"libcublasLt.so.13 libcudnn.so.9 libcudnn_ops.so.9 teddy-cuda.so " ]
}

@test "without them it must be small, or is not made" {
	LIMIT=1000000 run -1 --separate-stderr pack large
	[[ $stderr == "bundle: teddy-0.1-x86_64.tar.xz would have "*" bytes, more than the 1000000 that it may have" ]]
	[ "$(cd "$root/build/bundle/teddy-0.1-x86_64/lib" && ls -d *cu*)" = teddy-cuda.so ]
	grep -q 'libcudnn.so.9, libcublasLt.so.13: found$' "$root/build/bundle/teddy-0.1-x86_64/README"
	[ -d large ]
	[ -z "$(ls -A large)" ]
}

@test "NVIDIA's libraries are found among Python's packages, in toolkits, or missed by name" {
	packages=lib/python3.11/site-packages/nvidia
	mkdir -p "venv/bin" "venv/$packages/cudnn/lib" "venv/$packages/cu13/lib" cuda/lib64
	object "venv/$packages/cu13/lib/libteddy_two.so.13"
	object "venv/$packages/cudnn/lib/libteddy_one.so.9" "venv/$packages/cu13/lib/libteddy_two.so.13"
	object cuda-object.so "venv/$packages/cudnn/lib/libteddy_one.so.9"
	try() { TEDDY_CUDA=$data/cuda-object.so run -1 --separate-stderr "$@" synth-step --device cuda; }
	# A python that is there; once it is loaded, the object is seen to be none of Teddy's.
	loaded="synth-step: device cuda: $data/cuda-object.so is of another version"
	try env PATH="$data/venv/bin:$PATH"
	[[ $stderr == "synth-step: device cuda: there is no libteddy_one.so.9: "* ]]
	[ "$(wc -l <<<"$stderr")" -eq 1 ]
	printf '#!/bin/sh\n' >venv/bin/python3
	chmod +x venv/bin/python3
	try env PATH="$data/venv/bin:$PATH"
	[ "$stderr" = "$loaded" ]
	# A link to it, an environment's name, a toolkit's folder.
	mkdir links && ln -s "$data/venv/bin/python3" links/python3
	try env PATH="$data/links:$PATH"
	[ "$stderr" = "$loaded" ]
	try env VIRTUAL_ENV="$data/venv"
	[ "$stderr" = "$loaded" ]
	cp "venv/$packages"/*/lib/* cuda/lib64
	try env CUDA_HOME="$data/cuda"
	[ "$stderr" = "$loaded" ]
	rm cuda/lib64/libteddy_two.so.13
	try env CUDA_HOME="$data/cuda"
	[[ $stderr == "synth-step: device cuda: there is no libteddy_two.so.13: "* ]]
}

# Last: what the others have looked at is made anew.
@test "with nvcc the backend is in it, and what tests/gpu runs; it finds nothing of this tree" {
	nvcc=${CUDA_HOME:-/usr/local/cuda}/bin/nvcc
	[ -x "$nvcc" ] || nvcc=$(command -v nvcc) || skip "no nvcc"
	echo '#include <cudnn.h>' | "$nvcc" -E -x cu - >/dev/null 2>&1 || skip "no cuDNN beside nvcc"
	mkdir whole
	env -u MAKEFLAGS -u MFLAGS -u MAKELEVEL -u OMP_NUM_THREADS flock "$root/build" make -s -C "$root" bundle BUNDLE_INTO="$data/whole"
	[ "$(stat -c %s whole/*.tar.xz)" -le $((15 * 1024 * 1024)) ]
	tar xJf whole/*.tar.xz -C whole
	whole=$data/whole/teddy-0.1-x86_64
	run -1 grep -rlF "$root" "$whole"
	objdump -p "$whole/lib/teddy-cuda.so" >said
	[ "$(sed -n 's/^ *R\(UN\)*PATH *//p' said)" = "\$ORIGIN" ]
	[ "$(grep -c 'NEEDED *\(libcudnn.so.9\|libcublasLt.so\)' said)" -eq 2 ]
	# What asks for no device runs here.
	env -i PATH="$whole/bin:/usr/bin:/bin" ./whole/*/tests/gpu --help >help
	grep -q 'minutes' help
	[ ! -e /dev/nvidia0 ] || skip "there is a GPU: tests/gpu runs it"
	run -1 --separate-stderr env -i PATH="$whole/bin:/usr/bin:/bin" bnstats --device cuda -p pool.tar
	[[ $stderr == "bnstats: device cuda: "* ]]
	[ "$(wc -l <<<"$stderr")" -eq 1 ]
}
