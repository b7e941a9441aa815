#!/usr/bin/env bats
# teddy, the whole flow: what it leaves, what it does not do twice, what it refuses; and the examples of the pages.

bats_require_minimum_version 1.5.0
load tools/small.bash
load tools/page.bash

# done_again LOG: the steps that a run did do
done_again()
{
	sed -n 's/^..:..:..  //p' "$1" | grep -v ': there$' || true
}

# spared LOG EXPRESSION: no such step was done
spared()
{
	local did

	did=$(done_again "$1" | grep -E "$2") || return 0
	echo "done again: $did"
	return 1
}

setup_file()
{
	cd "$BATS_FILE_TMPDIR" || return
	ln -s "$root/pipelines/sample" sample
	run_into first
}

# run_into FOLDER [OPTION...]: the smallest run that has every step, with two units
run_into()
{
	local into=$1

	shift
	"$root/pipelines/teddy" --arch convnet2-8 --per-class 15 --epochs 2 --first 1 --every 1 --batch 50 --ipc 4 --unit 20 \
		--iterations 4 --teachers 2 --hard-steps 6 --soft-steps 6 --soft-batch 10 --repeats 2 --classes @sample/CLASSES \
		"$@" sample/train-images-idx3-ubyte.gz sample/t10k-images-idx3-ubyte.gz "$into" >"$into.out" 2>"$into.err"
}

setup()
{
	cd "$BATS_FILE_TMPDIR" || return
}

@test "it leaves images, archive, pictures and a table with three rows" {
	[ "$(tsinfo first/distilled.ts | head -n 1)" = "first/distilled.ts: images, 2 frames, 40 images" ]
	[ "$(tsinfo first/random.ts | head -n 1)" = "first/random.ts: images, 2 frames, 40 images" ]
	[ "$(tar tf first/distilled.tar | grep -c 'png$')" -eq 40 ]
	[ "$(head -c 4 first/montage.png | tail -c 3)" = PNG ]
	[ "$(head -c 4 first/random.png | tail -c 3)" = PNG ]
	[ "$(cut -f 1,2 first/table.tsv | tr '\t\n' '  ')" = "set images distilled 40 random 40 whole 150 " ]
	awk -F '\t' 'NR > 1 { for (i = 3; i <= 6; i++) if ($i !~ /^[0-9.]+$/) exit 1; if ($3 > 100 || $3 < 5) exit 1 }
		NF != 6 { exit 1 }' first/table.tsv
	[ ! -e first/partial ]
	run -1 cmp -s first/distilled.ts first/random.ts
}

@test "the table's figures are those of the students" {
	"$python" - <<-'END'
	import json, math
	rows = [line.rstrip("\n").split("\t") for line in open("first/table.tsv")][1:]
	for name, _, *figures in rows:
	    for kind, mean, deviation in [("06-hard", *figures[:2]), ("07-soft", *figures[2:])]:
	        r = [json.load(open(f"first/{kind}-{name}/{seed}.json")) for seed in (0, 1)]
	        assert [len(x["students"]) for x in r] == [1, 1] and [x["students"][0]["seed"] for x in r] == [0, 1]
	        x, y = (x["students"][0]["accuracy"] for x in r)
	        assert abs((x + y) / 2 - float(mean)) < .0051 and abs(abs(x - y) / math.sqrt(2) - float(deviation)) < .0051
	END
	grep -q '^distilled  *40   [0-9.]* ± [0-9.]*  *[0-9.]* ± [0-9.]*$' first.out
	grep -q '^pool: 2 networks of ' first.out
	grep -q 'first/montage.png$' first.out
}

@test "the result tells its history" {
	tsinfo --history first/distilled.ts >history
	for program in load-images synth-init synth-step train-ckpt bnstats; do
		grep -q "$program" history
	done
}

@test "nothing is done twice, whatever the number of threads and jobs" {
	run_into first --jobs 1 --threads 1
	[ -z "$(done_again first.err)" ]
	[ "$(grep -c ': there$' first.err)" -eq 26 ]
}

@test "units side by side and one after the other are the same bytes" {
	run_into one --jobs 1 --threads 2 --whole-steps 0
	run_into two --jobs 2 --threads 2 --whole-steps 0
	cmp one/distilled.ts two/distilled.ts
	[ "$(tail -n 1 one/table.tsv)" = "$(printf 'whole\t150\t-\t-\t-\t-')" ]
	grep -q '^whole training set  *150   -  *-$' one.out
}

@test "other options do again what they concern; a damaged or missing output is made again" {
	cp -a first again
	run_into again --iterations 5
	done_again again.err | grep -q 'synthesis: 5'
	grep -qx ' *synthesis: -N was 4' again.err
	grep -qx ' *archive: distilled.ts is another' again.err
	spared again.err 'pool:|statistics|images$|random'
	run -1 cmp -s again/distilled.ts first/distilled.ts
	run_into again # back
	cmp again/distilled.ts first/distilled.ts
	cp again/03-stats.ts whole.ts
	truncate -s -7 again/03-stats.ts
	rm again/random.png
	run_into again
	done_again again.err | grep -qx statistics
	grep -qx ' *statistics: it is damaged' again.err
	spared again.err 'synthesis|student'
	done_again again.err | grep -qx 'picture of the random images'
	spared again.err pool:
	cmp again/03-stats.ts first/03-stats.ts
	cmp again/distilled.ts first/distilled.ts
	run_into again --student convnet1-8-in
	[ "$(done_again again.err | grep -c '^student . on hard labels')" -eq 6 ]
	[ "$(done_again again.err | wc -l)" -eq 6 ]
	[ "$(grep -c 'student . on hard labels, .*: -a was convnet2-8-in$' again.err)" -eq 6 ]
	run_into again --student convnet1-8-in --soft-student convnet1-8
	[ "$(done_again again.err | grep -c '^student . on soft labels')" -eq 6 ]
	[ "$(done_again again.err | wc -l)" -eq 6 ]
	run_into again --student convnet1-8-in --soft-student convnet1-8 --mix-opts "--alpha 0.5"
	[ "$(done_again again.err | grep -c '^soft labels')" -eq 3 ]
	[ "$(done_again again.err | grep -c '^student . on soft labels')" -eq 6 ]
	rm again/06-hard-random/1.json
	echo '{"students": [}' >again/07-soft-random/0.json
	run_into again --student convnet1-8-in --soft-student convnet1-8 --mix-opts "--alpha 0.5"
	[ "$(done_again again.err | tr '\n' ';')" = \
		"student 1 on hard labels, random: 6 steps;student 0 on soft labels, random;" ]
	# A result that still is one.
	cp again/07-soft-random/1.json result
	sed -i '0,/"accuracy": [0-9]/s//"accuracy": 9/' again/07-soft-random/1.json
	run -1 cmp -s again/07-soft-random/1.json result
	run_into again --student convnet1-8-in --soft-student convnet1-8 --mix-opts "--alpha 0.5"
	[ "$(done_again again.err)" = "student 1 on soft labels, random" ]
	grep -qx ' *student 1 on soft labels, random: .*' again.err
}

@test "of fewer students, or none of a set, those of before are gone" {
	cp -a first fewer
	run_into fewer --repeats 1 --whole-steps 0
	[ -z "$(done_again fewer.err)" ]
	[ "$(cd fewer && echo 0[67]-*/* log/0[67]-*.seconds)" = "06-hard-distilled/0.json 06-hard-random/0.json\
 07-soft-distilled/0.json 07-soft-random/0.json log/06-hard-distilled-0.json.seconds log/06-hard-random-0.json.seconds\
 log/07-soft-distilled-0.json.seconds log/07-soft-random-0.json.seconds" ]
	[ -z "$(find fewer -name '*whole-*' -path '*0[67]*')" ]
	run_into fewer
	[ "$(done_again fewer.err | wc -l)" -eq 8 ]
	cmp fewer/table.tsv first/table.tsv
}

@test "a count that came to nothing is made again; a folder behind a link is cleared of what killed filters left" {
	cp -a first counted
	ln -s counted linked
	for file in random.ts 01-train.ts; do
		printf '%s;\n' "$(stat -Lc '%s %.9Y %i' counted/$file)" >counted/log/$file.images
	done
	touch counted/.distilled.ts.77.tmp counted/log/.x.78.tmp
	run_into linked
	[ -z "$(done_again linked.err)" ]
	cmp counted/table.tsv first/table.tsv
	[ -z "$(find counted -name '*.tmp')" ]
}

@test "options in one word are split at blanks and ends of lines" {
	here=$root/pipelines
	usage() { :; }
	. "$here/steps.sh"
	one=$'--wd 5e-4\n\t--crop pad:4 \n' two='' three='*'
	split one two three
	[ "${#one[@]} ${one[*]}" = "4 --wd 5e-4 --crop pad:4" ]
	[ "${#two[@]}" -eq 0 ]
	[ "${three[*]}" = "*" ]
}

@test "the time of a step that was stopped counts as far as its work was kept" {
	here=$root/pipelines
	usage() { :; }
	. "$here/steps.sh"
	mkdir -p stopped/units
	partial=$PWD/stopped
	[ "$(spent)" = 0 ]
	spend
	[ "$(spent)" = 0 ] # nothing was kept
	echo "1700000000.5 3.5" >stopped/.spent
	touch -d @1700000008 stopped/state
	touch -d @1700000010.5 stopped/units/0.state
	[ "$(spent)" = 13.5 ]
	spend
	[ "$(cut -d ' ' -f 2 stopped/.spent)" = 13.5 ]
	[ "$(spent)" = 13.5 ]
	awk -v began="$(cut -d ' ' -f 1 stopped/.spent)" -v now="$EPOCHREALTIME" 'BEGIN { exit !(now - began >= 0 && now - began < 9) }'
	awk -v said="$(since 1700000000 2 13.5)" -v now="$EPOCHREALTIME" 'BEGIN {
		d = (now - 1700000000) / 2 + 13.5 - said; exit !(d >= -0.1 && d < 9) }'
}

@test "touched files, a folder that moved, a default that is spelled out: nothing is done again" {
	cp -a first touched
	find touched -type f -exec touch {} +
	mkdir elsewhere
	mv touched elsewhere
	run_into elsewhere/touched --synth-opts '--first 10'
	[ -z "$(done_again elsewhere/touched.err)" ]
}

@test "the user's images: others are loaded, and what they change is done again" {
	cp -aL sample mine
	cp -a first mine-out
	local flow=("$root/pipelines/teddy" --arch convnet2-8 --per-class 15 --epochs 2 --first 1 --every 1 --batch 50 --ipc 4
		--unit 20 --iterations 4 --teachers 2 --hard-steps 6 --soft-steps 6 --soft-batch 10 --repeats 2 --classes
		@sample/CLASSES)
	"${flow[@]}" mine/train-images-idx3-ubyte.gz sample/t10k-images-idx3-ubyte.gz mine-out >/dev/null 2>mine.err
	[ "$(done_again mine.err)" = "training images" ]
	grep -qx ' *training images: train-images-idx3-ubyte.gz is another' mine.err
	"${flow[@]}" mine/t10k-images-idx3-ubyte.gz sample/t10k-images-idx3-ubyte.gz mine-out >/dev/null 2>mine.err
	[ "$(done_again mine.err | grep -c .)" -eq 25 ] # all but the test images
}

@test "a folder with blanks, brackets, braces and a colon in its name, or one like that of a file" {
	local odd

	for odd in "once [more] {#}:{}" 02-first; do
		cp -a first "$odd"
		run_into "$odd"
		[ -z "$(done_again "$odd.err")" ]
		cmp "$odd/table.tsv" first/table.tsv
		rm "$odd"/distilled.* "$odd"/06-hard-distilled/0.json
		run_into "$odd"
		cmp "$odd/distilled.ts" first/distilled.ts
		cmp "$odd/distilled.tar" first/distilled.tar
		[ -e "$odd/06-hard-distilled/0.json" ]
	done
}

@test "the user's own files in the folder stay" {
	cp -a first shared
	mkdir shared/notes
	touch shared/notes/.draft.tmp shared/.notes.tmp shared/.distilled.ts.4711.tmp
	run_into shared
	[ -e shared/notes/.draft.tmp ]
	[ -e shared/.notes.tmp ]
	[ ! -e shared/.distilled.ts.4711.tmp ] # of a filter that was killed
}

@test "labels beside IDX images, packed or not, are watched" {
	local from=$root/pipelines/sample/train

	mkdir idx
	cp "$from-images-idx3-ubyte.gz" idx/train-images.idx3-ubyte.gz
	gzip -dc "$from-labels-idx1-ubyte.gz" >idx/train-labels.idx1-ubyte
	(
		out=. here=$root/pipelines
		# shellcheck source=../pipelines/steps.sh
		. "$root/pipelines/steps.sh"
		source_stamp idx/train-images.idx3-ubyte.gz
		touch -d "+1 day" idx/train-labels.idx1-ubyte
		source_stamp idx/train-images.idx3-ubyte.gz
	) >stamps
	[ "$(uniq stamps | wc -l)" -eq 4 ]
	[ "$(sort stamps | uniq -d)" = "$(realpath idx/train-images.idx3-ubyte.gz)" ]
}

@test "of jobs that fail at the same moment the first alone says why" {
	(
		out=. here=$root/pipelines
		# shellcheck source=../pipelines/steps.sh
		. "$root/pipelines/steps.sh"
		printf '%s\n' 'one: done' 'two: no space' 'parallel: This job failed:' 'job two' 'three: no space' \
			'parallel: This job failed:' 'job three' | quiet
	) >said
	[ "$(cat said)" = $'one: done\ntwo: no space' ]
}

@test "work that is half done is found again in a folder with brackets" {
	(
		out="half [done]" here=$root/pipelines
		# shellcheck source=../pipelines/steps.sh
		. "$root/pipelines/steps.sh"
		# shellcheck disable=SC2034 # of the run's options
		device='' gpus='' jobs='' per_gpu=1
		half()
		{
			echo "$afresh" >>seen
			[ -e "$partial/half" ] || { touch "$partial/half" && exit 1; }
			echo whole >"$to"
		}
		check_device
		begin_steps
		(step "$out/x" "a thing" -- half) || true
		step "$out/x" "a thing" -- half
	) 2>half.err
	[ "$(tr '\n' ' ' <seen)" = "1  " ]
	[ "$(cat "half [done]/x")" = whole ]
}

@test "a step that fails stops all, leaves nothing that looks whole, and what was done is there next time" {
	# the filters of a build elsewhere, of which one is broken
	mkdir -p tree/pipelines tree/build/bin
	cp "$root"/pipelines/{teddy,steps.sh,machine.sh,measure.sh} tree/pipelines
	for prog in "$root"/build/bin/*[a-z]; do
		[ ! -x "$prog" ] || ln -s "$prog" tree/build/bin/
	done
	rm tree/build/bin/synth-step
	printf '#!/bin/sh\ncase " $* " in *" --header "*) exec "%s" "$@" ;; esac\necho "synth-step: out of ideas" >&2\nexit 1\n' \
		"$root/build/bin/synth-step" >tree/build/bin/synth-step
	chmod +x tree/build/bin/synth-step
	cp -a first broken
	root=$PWD/tree run run_into broken --synth-lr 0.2
	[ "$status" -ne 0 ]
	grep -q 'out of ideas' broken.err || { cat broken.err && return 1; }
	[ "$(grep -v '^..:..:..  \|^          ' broken.err | sort -u | wc -l)" -eq 1 ] # of whichever units
	[ ! -e broken/distilled.ts ]
	[ ! -s broken.out ]
	rm tree/build/bin/synth-step
	ln -s "$root/build/bin/synth-step" tree/build/bin/
	root=$PWD/tree run_into broken --synth-lr 0.2
	tsinfo broken/distilled.ts >/dev/null
	spared broken.err pool:
}

@test "post: a base is trained, pruned and tuned, whatever the number of jobs; what was tuned is not lost" {
	run_into post --pool post --members 3 --jobs 1 --whole-steps 0
	[ "$(tar tf post/02-base.tar | tr '\n' ' ')" = "0/2.ts MANIFEST " ]
	[ "$(tar tf post/02-pool.tar | grep -v MANIFEST | tr '\n' ' ')" = "$(tar tf post/02-pruned.tar | grep -v MANIFEST | tr '\n' ' ')" ]
	[ "$(cut -f 2 post/08-pool.tsv | wc -l)" -eq 3 ]
	tsinfo post/02-pool.tar | grep -c 'convnet2-8-pruned, ' | grep -qx 3
	tsinfo --history post/distilled.ts >history
	grep -q ' prune ' history
	[ "$(cut -f 1 post/table.tsv | tr '\n' ' ')" = "set distilled random whole " ]
	grep -q '^pool: 3 networks of ' post.out
	grep -Eq '^  pool: tuning  *[0-9.]+$' post.out
	cp -a post jobs
	# one of the members is there already, another is not whole: that of a run that was broken
	rm jobs/02-pool.tar
	mkdir -p halted/pipelines halted/build/bin
	cp "$root"/pipelines/{teddy,steps.sh,machine.sh,measure.sh} halted/pipelines
	for prog in "$root"/build/bin/*[a-z]; do
		[ ! -x "$prog" ] || ln -s "$prog" halted/build/bin/
	done
	rm halted/build/bin/train-ckpt
	printf '#!/bin/sh\ncase " $* " in *" --header "*) exec "%s" "$@" ;; esac\nexit 1\n' "$root/build/bin/train-ckpt" \
		>halted/build/bin/train-ckpt
	chmod +x halted/build/bin/train-ckpt
	root=$PWD/halted run run_into jobs --pool post --members 3 --jobs 2 --whole-steps 0
	[ "$status" -ne 0 ]
	partial=$(echo jobs/partial/02-pool.tar-*)
	train-ckpt -i post/02-pruned.tar -e 0:2 --lr 0.1:0.001 -b 32 --threads 1 --only 1 -o "$partial/1.tar" <post/01-train.ts
	head -c 9000 "$partial/1.tar" >"$partial/2.tar"
	run_into jobs --pool post --members 3 --jobs 2 --whole-steps 0
	[ "$(done_again jobs.err)" = "fine-tuning: 0:2 epochs" ]
	grep -qx ' *fine-tuning: it was not finished' jobs.err
	[ "$(tail -n +2 jobs/log/tune.tsv | grep -c .)" -eq 2 ]
	cmp jobs/02-pool.tar post/02-pool.tar
	cmp jobs/distilled.ts post/distilled.ts
}

@test "post: its own options and those for its filters reach them" {
	run_into asked --pool post --members 2 --whole-steps 0 --repeats 1 --prune-opts '-r 0.3 --importance l1' \
		--tune-epochs 1:2 --tune-lr 0.01:0.02 --tune-batch 30 --tune-opts '--wd 0.25' --hard-opts '--dsa none'
	tsinfo --history asked/02-pool.tar >history
	grep -q ' prune .*--ratio 0.3 .*--importance l1' history
	grep -q ' train-ckpt .*--epochs 1,2 .*--batch 30 .*--lr 0.01,0.02 .*--wd 0.25' history
	grep -q '"dsa": "none"' asked/06-hard-distilled/0.json
	run_into asked --pool post --members 2 --whole-steps 0 --repeats 1 --prune-opts '-r 0.3 --importance l1' \
		--tune-epochs 1:2 --tune-lr 0.01:0.03 --tune-batch 30 --tune-opts '--wd 0.25' --hard-opts '--dsa none'
	spared asked.err 'base|pruning|training'
	done_again asked.err | grep -q '^fine-tuning'
}

@test "post: another base of the same history is pruned anew" {
	train-ckpt -a convnet2-8 -e 2 -b 50 --lr 0.02 -o two.tar <first/01-train.ts
	mkdir of-two
	tar xf two.tar -C of-two
	for k in 1 2; do
		run_into base --pool post --base of-two/0/$k.ts --members 2 --whole-steps 0
		cp base/02-pruned.tar pruned$k.tar
	done
	run -1 cmp -s pruned1.tar pruned2.tar
	done_again base.err | grep -q '^pruning'
	done_again base.err | grep -q '^synthesis'
}

@test "both: the two pools, the base and the random images in one table" {
	run_into both --pool both --members 2
	cmp both/02-pool-prior.tar first/02-pool.tar
	cmp both/prior.ts first/distilled.ts
	tar xf both/02-pool-prior.tar 0/2.ts
	cmp 0/2.ts both/02-base.ts
	[ "$(cut -f 1 both/table.tsv | tr '\n' ' ')" = "set prior post single random-prior random-post random-single whole " ]
	[ "$(sed -n 2p both/table.tsv | cut -f 2-)" = "$(sed -n 2p first/table.tsv | cut -f 2-)" ]
	[ "$(sed -n 5p both/table.tsv | cut -f 2-)" = "$(sed -n 3p first/table.tsv | cut -f 2-)" ]
	[ "$(sed -n 5,7p both/table.tsv | cut -f 3 | sort -u | wc -l)" -eq 1 ]
	[ "$(grep -h '"loss"' both/07-soft-random-*/?.json | sort -u | grep -vc kl)" -eq 6 ] # other labels, other losses
	for name in prior post single; do
		[ "$(tsinfo both/$name.ts | head -n 1)" = "both/$name.ts: images, 2 frames, 40 images" ]
		[ "$(tar tf both/$name.tar | grep -c 'png$')" -eq 40 ]
		grep -q "^pool, $name: " both.out
		grep -Eq "^  synthesis, $name  *[0-9.]+$" both.out
	done
	cp -a both again2
	run_into again2 --pool both --members 2
	[ -z "$(done_again again2.err)" ]
	run_into again2 --pool both --members 2 --tune-epochs 1 # and what does not hang on it is left alone
	done_again again2.err | grep -qx 'synthesis, post: 4 iterations'
	spared again2.err 'pool:|base|pruning|prior|single|hard labels, random|whole'
	grep -qx ' *fine-tuning: -e was 0:2' again2.err
}

@test "a base from elsewhere: a checkpoint, a pool, safetensors" {
	local norm

	norm=$(tsinfo --json first/01-train.ts | sed 's/.*"mean":\[\([0-9.]*\)\],"std":\[\([0-9.]*\)\].*/--mean \1 --std \2/')
	tar xOf first/02-pool.tar 0/2.ts >base.ts
	ckpt-export -o base.safetensors <base.ts
	sed 's/^Bag$/a "bag", \\ or [\\"pouch\\"]/' sample/CLASSES >names
	mkdir -p from-ts/log
	echo 9999 >from-ts/log/02-base.tar.seconds # of a run that made its base
	for kind in ts tar safetensors; do
		file=base.$kind words=()
		[ $kind != tar ] || file=first/02-pool.tar
		[ $kind != safetensors ] || words=(--base-opts "$norm" --classes @names)
		run_into from-$kind --pool post --members 2 --whole-steps 0 --base $file "${words[@]}"
		spared from-$kind.err 'epochs$.*convnet|pool:'
		[ "$(cut -f 2 from-$kind/08-pool.tsv | wc -l)" -eq 2 ]
	done
	run ! grep -Eq '^  base  *9999' from-ts.out
	cmp from-ts/02-pool.tar from-tar/02-pool.tar
	tsinfo from-safetensors/02-base.ts | grep -q "T-shirt/top Trouser .*'Ankle boot'"
	tsinfo from-safetensors/02-base.ts | grep -qF "$(sed -n 9p names)"
	cut -f 3 from-safetensors/08-pool.tsv >a
	cut -f 3 from-ts/08-pool.tsv | cmp - a
}

@test "bad command lines exit 2, missing data and bad data 1, with words" {
	local teddy=$root/pipelines/teddy

	run -2 "$teddy" sample out
	run -2 "$teddy" --ipc none sample sample out
	run -2 "$teddy" --ipc 0 sample sample out
	run -2 "$teddy" --ipc 08 sample sample out
	run -2 "$teddy" --nothing sample sample out
	run -2 "$teddy" --ipc
	run -2 "$teddy" --arch convnet3-in sample sample out
	run -2 "$teddy" --pool neither sample sample out
	run -2 "$teddy" --base sample sample sample out
	run -2 "$teddy" --members 0 --pool post sample sample out
	run -1 "$teddy" --pool post --base nowhere.ts sample sample out
	[[ $output == *"nowhere.ts: no such file"* ]]
	run -1 "$teddy" nowhere sample out
	[[ $output == *"nowhere: no such file"* ]]
	[ ! -e out ]
	echo no images >text
	run -1 "$teddy" text sample out
	[ ! -e out/01-train.ts ]
	run -0 "$teddy" -h
	[[ $output == usage:* ]]
}

@test "options that a filter refuses: its own line, and nothing but it" {
	run_into refused --epochs 1 --first 2 || status=$?
	[ "${status:-0}" -ne 0 ]
	[ "$(grep -v '^..:..:..  ' refused.err)" = "train-ckpt: -f, -l and -e: FIRST <= LAST <= EPOCHS expected" ]
}

@test "what is wrong with later steps' options is said before any work" {
	local wrong

	# Each one line of the filter's, status 2, and not even the images are read.
	for wrong in "--student convnt3" "--soft-student convnt3" "--hard-opts=--foo" "--soft-opts=-T\ x" "--mix-opts=--crop\ x" \
		"--match foo" "--synth-lr x" "--synth-opts=--draw\ x" "--pool post --tune-opts=--opt\ x" \
		"--pool post --prune-opts=-n\ x" "--match features --ce x"; do
		rm -rf early
		eval "set -- $wrong"
		status=0
		run_into early "$@" || status=$?
		echo "$wrong: $status, $(cat early.err)"
		[ "$status" -eq 2 ]
		[ "$(wc -l <early.err)" -eq 1 ]
		grep -Eq '^(evaluate|cutmix|synth-step|train-ckpt|prune): ' early.err
		[ ! -e early/01-train.ts ]
	done
	# Too few images, before the pool is trained.
	rm -rf early
	! run_into early --ipc 1000 --unit 10000 || return 1
	grep -q "1000 needed" early.err
	[ -e early/01-train.ts ]
	run -1 grep -q pool early.err
}

@test "a student that fails says so in one line" {
	status=0
	run_into diverged --whole-steps=0 --hard-opts '--lr 1e6' || status=$?
	[ "$status" -ne 0 ]
	grep -v '^..:..:..  ' diverged.err >said
	cat said
	[ "$(wc -l <said)" -eq 1 ]
	grep -q '^evaluate: student [01] .*not finite$' said
}

@test "a folder of something else, or within the images, is left as it is" {
	mkdir -p theirs in/hat
	echo precious >theirs/table.tsv
	run -1 "$root/pipelines/teddy" sample sample theirs
	[[ $output == "teddy: theirs: it has something else in it; "* ]]
	[ "$(ls -A theirs)" = table.tsv ]
	[ "$(cat theirs/table.tsv)" = precious ]
	run -2 "$root/pipelines/teddy" in sample in
	run -2 "$root/pipelines/teddy" sample in in/out
	[ "$(ls -A in)" = hat ]
	run -1 "$root/pipelines/random" sample sample first
	[ "$output" = "random: first: it is of a run of teddy; random needs a folder of its own" ]
}

@test "examples of teddy(1)" {
	mkdir -p pages/{train,test,pipelines}
	ln -s "$root/pipelines/sample" pages/pipelines
	cd pages
	PATH=$root/pipelines:$PATH
	page_commands teddy.1 >lines
	[ "$(wc -l <lines)" -eq 2 ]
	sed -n 1p lines >try
	bash -euo pipefail try 2>try.err
	[ "$(cut -f 2 out/table.tsv | tr '\n' ' ')" = "images 100 100 500 " ]
	# two folders of class folders, with fewer images and smaller networks than the page has
	for set in train test; do
		load-images -n 6 --classes @pipelines/sample/CLASSES pipelines/sample/train-images-idx3-ubyte.gz |
			save-images --format folder -o $set.d
		rm -r $set
		mv $set.d $set
	done
	sed -n 2p lines | sed 's/out$/out2/; s/--ipc 50/--ipc 2 --arch convnet2-8 --epochs 1 --first 1 --iterations 2 --teachers 1 \
		--hard-steps 2 --soft-steps 2/' | tr -d '\n' >try
	bash -euo pipefail try 2>try.err
	[ "$(cut -f 2 out2/table.tsv | tr '\n' ' ')" = "images 20 20 60 " ]
	tsinfo out2/distilled.ts | grep -q 'shape *1,32,32'
}

@test "the tour of teddy(7), with smaller numbers" {
	mkdir -p tour/pipelines
	ln -s "$root/pipelines/sample" tour/pipelines
	cd tour
	page_commands teddy.7 | sed 's/convnet3-32/convnet2-8/g; s/-e 8 -b 64/-e 2 -b 64/; s/-N 200/-N 3/; s/--steps 400/--steps 5/
		s/-e 100/-e 2/; s/^load-images /load-images -n 25 /; s/0\/8/0\/2/g' >lines
	[ "$(wc -l <lines)" -eq 14 ]
	bash -euo pipefail lines >said
	[ "$(grep -c mean said)" -eq 2 ]
	[ "$(tar tf post.tar | wc -l)" -eq 4 ]
	[ "$(tsinfo distilled.ts | head -n 1)" = "distilled.ts: images, 2 frames, 200 images" ]
}
