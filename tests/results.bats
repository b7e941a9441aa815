#!/usr/bin/env bats
# The claims' rows, on the sample that ships and with tiny networks: made, resumed, told apart, shown.

bats_require_minimum_version 1.5.0

setup_file()
{
	root=$(cd "$BATS_TEST_DIRNAME/.." && pwd)
	export root PATH="$root/build/bin:$PATH" LC_ALL=C.UTF-8 OMP_NUM_THREADS=1
	cd "$BATS_FILE_TMPDIR" || return
	cat >settings <<-END
	. "$root/pipelines/results/settings"
	repeats=2 arch=convnet2-8 epochs=3 weak=1,2 early=1 middle=2 late=3 ipc=1 teachers=2 iterations=3
	teacher='-b 512 --lr 0.02' student=convnet2-8-in soft_student=convnet2-8
	hard_protocol='hard-dsa --steps 4' soft_protocol=soft mix='--steps 4 -b 5'
	search_lr=0.1 search_iterations='2 3' search_alpha=2 search_ce='1 3' search_rate='1 3' search_rate_ten='2 3' search_protocol=
	prior_opts='-N 2 --lr RATE' dm_nets=3 many=2
	. "$PWD/extra"
	END
	: >extra
	export RESULTS_SETTINGS=$PWD/settings RESULTS_OUT=$PWD/out RESULTS_ROWS=$PWD/rows
	"$root/pipelines/results/decay" sample 2>said
}

setup()
{
	cd "$BATS_FILE_TMPDIR" || return
	: >extra
}

claim()
{
	"$root/pipelines/results/$1" "${@:2}"
}

@test "a row has its students, its protocol, and how it was made" {
	jq -e '.students | length == 2' rows/sample/decay-1e-4-real.json
	jq -e '([.students[].accuracy] | add / 2) as $m | .accuracy.mean - $m | fabs < 1e-9' rows/sample/base.json
	jq -e '.protocol.name == "hard-dsa" and .protocol.steps == 4' rows/sample/base.json
	jq -r '.made[]' rows/sample/decay-1e-4-real.json >made
	grep -q '^synth-step .*--wd 1e-4 .*<real-1.ts -o decay-1e-4-real.ts$' made
	grep -q '^load-images .*# .*--data [0-9a-f]\{16\} --classes [0-9a-f]\{16\}$' made
	jq -r '.history[][]' rows/sample/decay-1e-4-real.json >history
	grep -q 'synth-init .* | synth-step .*--wd 0.0001' history
	jq -e '.cost["pool-run.tar"].seconds > 0 and .cost["base.ts"].peak > 0' rows/sample/base.json
	run ! grep -rqF "$PWD" rows
}

@test "what was measured is not measured again, by another claim either" {
	cp -r rows before
	claim decay sample 2>again
	grep -q 'decay: there' again
	run ! grep -q student again
	diff -r before rows
	claim prior sample 2>again
	run ! grep -q 'base: student' again
	cmp rows/sample/base.json before/sample/base.json
	[ -e rows/sample/prior-each-real.json ]
}

@test "folders may be named from where one is" {
	cp -r rows elsewhere
	rm elsewhere/sample/base.json
	RESULTS_OUT=out RESULTS_ROWS=elsewhere RESULTS_SETTINGS=settings "$root/pipelines/results/run" decay/sample 2>again
	[ "$(grep -vc ': there$' again)" -eq 1 ] # the row
	RESULTS_ROWS=elsewhere RESULTS_SETTINGS=settings "$root/pipelines/results/table" sample | grep -q '±'
	# Who reads no further than that has not asked for what is missing.
	claim pool --table sample | true
	claim pool --list sample | true
	[ -z "$(find out elsewhere rows -name 'pool-3*' -o -name 'labels-*')" ]
	[ "$(jq -c '[.made, .accuracy]' elsewhere/sample/base.json)" = "$(jq -c '[.made, .accuracy]' rows/sample/base.json)" ]
}

@test "a row of more students than are wanted is done, one of fewer is not" {
	cp -r rows before-few
	echo 'repeats=1' >extra
	claim decay sample 2>again
	grep -q 'decay: there' again
	run ! grep -q student again
	diff -r before-few rows
	[ "$(jq '.students | length' rows/sample/base.json)" -eq 2 ]
	echo 'repeats=3' >extra
	claim decay sample 2>again
	grep -q 'base: student 1 of base.ts: there' again
	grep -q 'base: student 2 of base.ts$' again
	[ "$(jq '.students | length' rows/sample/base.json)" -eq 3 ]
	rm -r rows
	mv before-few rows
}

@test "artefacts that went away are not missed as long as the rows are there" {
	cp -r out kept
	rm out/sample/pool-*.tar out/sample/base.ts
	claim decay sample 2>again
	[ ! -e out/sample/base.ts ]
	rm -r out
	mv kept out
}

@test "a row that cannot be made leaves the one that was there" {
	cp rows/sample/base.json base
	echo 'repeats=3' >extra
	mkdir broken
	printf '#!/bin/sh\ncase "$*" in *row.jq*) exit 5 ;; esac\nexec %s "$@"\n' "$(command -v jq)" >broken/jq
	chmod +x broken/jq
	PATH=$PWD/broken:$PATH run -5 claim decay sample
	cmp rows/sample/base.json base
}

@test "a lost row comes from its students, a lost student is done again alone" {
	cp rows/sample/base.json base
	rm rows/sample/base.json out/sample/students/*-hard-dsa-base.ts-1.json
	claim decay sample 2>again
	[ "$(grep -c 'base: student' again)" -eq 2 ]
	grep -q 'base: student 0 of base.ts: there' again
	[ "$(jq -c '[.students[].accuracy]' rows/sample/base.json)" = "$(jq -c '[.students[].accuracy]' base)" ]
}

@test "a changed setting measures what depends on it, and nothing else" {
	cp -r rows before
	cp -r out kept
	echo "teachers=1" >extra
	claim decay sample 2>again
	grep -q 'synthesis of base: --teachers was 2$' again
	grep -q 'teachers: convnet2-8, 3 epochs: there$' again
	run ! cmp -s rows/sample/base.json before/sample/base.json
	rm -r rows out
	mv before rows
	mv kept out
}

@test "another data set of the same name is loaded, and what was measured on it is measured again" {
	mkdir -p data/fashion-mnist
	for name in train-images-idx3 train-labels-idx1 t10k-images-idx3 t10k-labels-idx1; do
		cp "$root/pipelines/sample/$name-ubyte.gz" data/fashion-mnist
	done
	export DATA=$PWD/data
	echo "repeats=1" >extra
	claim decay fashion 2>said
	claim decay fashion 2>said
	[ "$(grep -v ': there$' said)" = "" ]
	touch data/fashion-mnist/t10k-images-idx3-ubyte.gz
	claim decay fashion 2>said
	[ "$(grep -v ': there$' said | sed 's/^..:..:..  //; s/^ *//' | tr '\n' ';')" = \
		"fashion, test images: t10k-images-idx3-ubyte.gz is another;fashion, test images;" ]
	for name in images-idx3 labels-idx1; do
		mv "data/fashion-mnist/t10k-$name-ubyte.gz" "data/fashion-mnist/train-$name-ubyte.gz"
		cp "$root/pipelines/sample/t10k-$name-ubyte.gz" data/fashion-mnist
	done
	claim decay fashion 2>said
	grep -q '^..:..:..  fashion, training images$' said
	grep -q 'real images a class: train.ts is another' said
	[ "$(grep -c ': student .* of ' said)" -ge 4 ]
}

@test "what stands in the environment is not the claims'" {
	log=elsewhere seed=5 claim decay sample 2>again
	[ "$(grep -v ': there$' again)" = "" ]
}

@test "the table has a place for every row, measured or not" {
	rm -f rows/sample/decay-1e-4-noise.json
	claim decay --table sample >table
	grep -qx '| | from real | from noise | from real, alpha 1 |' table
	grep -qE '^\| 0( \| [0-9.]+ ± [0-9.]+){3} \|$' table
	grep -qE '^\| 1e-4 \| [0-9.]+ ± [0-9.]+ \|  \| [0-9.]+ ± [0-9.]+ \|$' table
	# A row of which nothing is measured is left out, and a table of other claims' rows alone.
	rm -f rows/sample/decay-*
	[ -z "$(claim decay --table sample)" ]
	claim prior sample 2>said
	rm -f rows/sample/prior-each-*
	claim prior --table sample >table
	grep -q '^| mean of probabilities ' table
	run ! grep -q "each one" table
	[ -z "$(claim decay --table cifar10)" ]
}

@test "class means by untrained networks, by weak ones and by many, in one table" {
	echo "dm_opts='-N 2 --lr 1'" >extra
	claim fresh sample 2>said
	claim fresh --table sample >table
	head -n 4 table | grep -q "untrained networks (DM) | weak pool, DM's settings | 2 networks of a quarter of an epoch"
	grep -qE '^\| class means of the last features of a fresh batch( \| [0-9.]+ ± [0-9.]+){4} \|$' table
}

@test "soft labels are made once for all students" {
	claim grid sample 2>said
	[ "$(jq -r '.protocol.loss' rows/sample/grid-base-weak.json)" = kl ]
	[ "$(jq -r '.protocol.loss' rows/sample/grid-base-hard.json)" = ce ]
	[ "$(grep -c 'labels of base.ts by weak$' said)" -eq 1 ]
	claim grid --table sample | grep -qE '^\| random real( \| [0-9.]+ ± [0-9.]+){3} \|$'
}

@test "settings are searched without the test set" {
	cp settings searched
	echo synth_lr=9 >>searched
	RESULTS_SETTINGS=$PWD/searched claim search --write sample >best 2>said
	grep -qE '^synth_lr=0.1 iterations=[23] alpha=[12]$' best
	grep -qx synth_lr=0.1 searched
	grep -qxE 'prior_ce=[13]' best
	grep -qxE 'prior_rates=1:[13],10:2,50:10' best
	ce=$(sed -n 's/^prior_ce=//p' best)
	[ "$(grep -cxE 'prior_rates=1:[123],10:2,50:10' best)" -eq 2 ] # here that of ipc is that of one, too
	one=$(sed -n 's/^prior_rates=1:\([13]\),10:2,50:10$/\1/p' best | tail -n 1)
	grep -qxE "prior_pools=1:weak,10:weak,50:(weak|middle) prior_batches=1:,10:,50:(256)? prior_rates=1:$one,10:2,50:[12]0" best
	grep -q -- '-N 2 --lr 3 ' rows/sample-val/rate-3.json
	grep -q -- "--ce $ce .* -N 2 --lr 20 --real-batch 256 " "rows/sample-val/fifty-middle-$ce-256-20.json"
	jq -r '.made[]' rows/sample-val/search-0.1-2-1.json >made
	grep -q '^tscut -i 0-:10 all.ts -o test.ts' made
	run ! grep -q 'load-images.*$test' made
	[ "$(tsinfo --json <out/sample-val/test.ts | jq .images)" -eq 600 ]
	[ "$(tsinfo --json <out/sample-val/train.ts | jq .images)" -eq 5400 ]
}

@test "an interrupted run ends its claim" {
	local pid

	echo "epochs=1000" >extra
	(RESULTS_OUT=$PWD/stopped RESULTS_ROWS=$PWD/none exec "$root/pipelines/results/run" decay/sample) 2>again 3>&- &
	pid=$!
	until pgrep -f "train-ckpt .*$PWD/stopped" >/dev/null; do kill -0 $pid || break; sleep 0.05; done
	kill -TERM $pid
	status=0
	wait $pid || status=$?
	[ "$status" -eq 130 ]
	run ! pgrep -f "train-ckpt .*$PWD/stopped"
}

@test "search writes nothing where nothing was measured" {
	cp settings mine
	RESULTS_SETTINGS=$PWD/mine DATA=$PWD/none run -1 claim search --write cifar10
	cmp settings mine
}

@test "what is not there is skipped; when the time is over, that is said" {
	DATA=$PWD/none claim decay cifar10 2>again
	grep -q 'cifar10: not in .*none, skipped' again
	status=1 claim run decay/sample # a variable of the user's
	RESULTS_HOURS=0 claim run decay/sample 2>again
	grep -q '0 hours are over' again
	run -2 claim decay
	run -1 claim decay nothing
}

@test "the tables that are shown are those of the rows" {
	unset RESULTS_SETTINGS RESULTS_ROWS
	"$root/pipelines/results/table" | cmp - "$root/pipelines/results/TABLES.md"
}

@test "the rows that are shown are of the lines of now, and each is some claim's" {
	unset RESULTS_SETTINGS RESULTS_ROWS
	cd "$root/pipelines/results"
	claims=$(grep -l '^claim ' -- * | grep -vx search)
	for folder in rows/*; do
		[[ $folder != *-val ]] || continue
		for c in $claims; do "./$c" --list "${folder#*/}"; done >"$BATS_TEST_TMPDIR/listed"
		ls "$folder" | sed 's/\.json$//' | grep -vxFf "$BATS_TEST_TMPDIR/listed" && false
		for c in $claims; do "./$c" --stale "${folder#*/}"; done >"$BATS_TEST_TMPDIR/stale"
		[ ! -s "$BATS_TEST_TMPDIR/stale" ]
	done
}

@test "a row of other lines is stale" {
	[ -z "$(claim decay --stale sample)" ]
	jq '.made[-2] += " --lr 7"' rows/sample/decay-1e-4-noise.json >row
	mv row rows/sample/decay-1e-4-noise.json
	[ "$(claim decay --stale sample)" = decay-1e-4-noise ]
}

@test "two products of one name are refused" {
	echo 'product base.ts "another one" "synth-init -i 1 <train.ts"' >extra
	run -1 claim decay sample
	[[ $output == *'base.ts: two products of this name: synth-init -i 1 '* ]]
}
