# The examples of the pages that no other file runs, as a reader would type them; only epochs are fewer.
# shellcheck shell=bash

setup_file()
{
	source "$BATS_TEST_DIRNAME/tools/small.bash"
	cd "$BATS_FILE_TMPDIR" || exit
	small_files
	synth-step -p pool.tar -s stats.ts -N 2 -o distilled.ts <init.ts
	cp init.ts units.ts
}

setup()
{
	source "$BATS_TEST_DIRNAME/tools/small.bash"
	source "$BATS_TEST_DIRNAME/tools/page.bash"
	cd "$BATS_FILE_TMPDIR" || exit
}

# lines PAGE: the commands of a page's examples, and what else it displays
lines()
{
	page_commands "$1.1"
	sed -n '/^\.Sh EXAMPLES/,/^\.Sh SEE/p' "$root/man/$1.1" | sed -n '/^\.Bd .*-compact/d; /^\.Bd/,/^\.Ed/{ /^\./d; p; }'
}

@test "cutmix(1) and replay(1)" {
	lines cutmix | sed 's/-e 300/-e 2/; s/--steps 1000/--steps 3/' >run.sh
	[ "$(wc -l <run.sh)" -eq 3 ]
	bash -e -o pipefail run.sh
	tsinfo labelled.ts recipes.ts >/dev/null
	lines replay | grep '^cutmix' | sed 's/-e 10/-e 2/' >run.sh
	[ -s run.sh ]
	bash -e -o pipefail run.sh
	{
		echo 'seen = []'
		echo 'def train(x, soft): seen.append((x.shape, soft.shape))'
		lines replay | grep -v '^cutmix'
		echo 'assert len(seen) == 6 and seen[0] == ((50, 1, 28, 28), (50, 10)), seen'
	} >run.py
	"$python" run.py
}

@test "tscat(1), tscut(1) and tsinfo(1)" {
	lines tscat >run.sh
	[ "$(wc -l <run.sh)" -eq 3 ]
	bash -e -o pipefail run.sh
	lines tscut >run.sh
	bash -e -o pipefail run.sh
	[ "$(tsinfo two.ts | grep -c 'images, 1 frames, 2 images')" -eq 1 ]
	lines tsinfo >run.sh
	bash -e -o pipefail run.sh >said
	grep -q '^whole$' said
	grep -q 'load-images.*synth-init' said
}

@test "likeness(1)" {
	lines likeness | sed 's/-e 3/-e 1/; s/^likeness -p student.*/& >far/' >run.sh
	[ "$(wc -l <run.sh)" -eq 3 ]
	bash -e -o pipefail run.sh >alike
	[ "$(grep -c ^mean alike)" -eq 2 ]
	grep -qE '^mean(	[0-9.]+){3}$' far
}
