#!/usr/bin/env bats
# make install and uninstall, into a folder that stands for the system's.

bats_require_minimum_version 1.5.0
load tools/small.bash

setup()
{
	cd "$BATS_TEST_TMPDIR" || return
}

# made GOAL: by make, as a user with a strict umask has it
made()
{
	(umask 077 && env -u MAKEFLAGS -u MFLAGS -u MAKELEVEL make -s -C "$root" "$1" DESTDIR="$PWD/system" PREFIX=/opt/teddy)
}

@test "what is installed works without this tree, and is gone again" {
	made install
	[ -z "$(find system ! -perm -o=r)" ]
	[ "$(find system -name '*.[157]' | wc -l)" -eq "$(find "$root/man" -type f | wc -l)" ]
	ln -s "$root/pipelines/sample" sample
	for program in "$root"/bin/*.c; do
		name=$(basename "$program" .c)
		env -i PATH=/usr/bin:/bin "system/opt/teddy/bin/$name" -V | grep -q "^$name "
	done
	for pipeline in teddy sre2l dm imbalance crossarch; do
		env -i PATH=/usr/bin:/bin "system/opt/teddy/bin/$pipeline" -h | grep -q "^usage: $pipeline "
	done
	env -i PATH=/usr/bin:/bin HOME="$PWD" OMP_NUM_THREADS=1 system/opt/teddy/bin/random --arch convnet1-8 --ipc 1 --epochs 1 \
		--first 1 --per-class 10 --hard-steps 2 --soft-steps 2 --repeats 1 --classes @sample/CLASSES \
		sample/train-images-idx3-ubyte.gz sample/t10k-images-idx3-ubyte.gz out >said 2>err || { cat err; false; }
	[ -s out/table.tsv ]
	made uninstall
	[ -z "$(find system -type f)" ]
}
