#!/usr/bin/env bats
# report: a page that is well-formed, needs nothing else, and shows what a pipeline left as it is.

bats_require_minimum_version 1.5.0
load tools/small.bash

# An outcome as a pipeline leaves it, made by the filters themselves.
setup_file()
{
	cd "$BATS_FILE_TMPDIR" || return
	ln -s "$root/pipelines/sample" sample
	mkdir -p run/log run/06-hard-distilled
	cd run || return
	load-images -n 10 --classes @../sample/CLASSES -o 01-train.ts ../sample/train-images-idx3-ubyte.gz
	load-images -n 10 --classes @../sample/CLASSES -o 01-test.ts ../sample/t10k-images-idx3-ubyte.gz
	train-ckpt -a convnet2-8 -e 3 -b 50 --lr 0.02 -t 01-test.ts --log log/pool.json -o 02-pool.tar <01-train.ts
	synth-init -i 2 -o 04-init.ts <01-train.ts
	cp 04-init.ts random.ts
	synth-step -p 02-pool.tar -N 5 --log log/distilled.ts-0.json -o distilled.ts <04-init.ts
	montage -o montage.png <distilled.ts
	montage -o random.png <random.ts
	save-images -o distilled.tar <distilled.ts
	for seed in 0 1 2; do
		evaluate -a convnet2-8-in -t 01-test.ts --protocol hard-dsa --steps 6 -b 10 --seed $seed --json \
			--log "log/06-hard-distilled-$seed.json" -o 06-hard-distilled/$seed.json <distilled.ts
		echo "1$seed.25" >"log/06-hard-distilled-$seed.json.seconds"
	done
	evaluate -p 02-pool.tar -t 01-test.ts -o 08-pool.tsv
	printf 'set\timages\thard\thard_sd\tsoft\tsoft_sd\ndistilled\t20\t41.37\t1.23\t52.81\t0.45\nrandom\t20\t33.19\t-\t-\t-\n' \
		>table.tsv
	echo 123.4 >log/02-pool.tar.seconds
	echo 7.6 >log/distilled.ts.seconds
	echo "picture distilled.ts montage.png 10" >log/montage.png.made
	cd ..
	report run >page.html
}

setup()
{
	cd "$BATS_FILE_TMPDIR" || return
}

page()
{
	"$python" "$root/tests/tools/page.py" "$@"
}

# says PAGE WORDS...: each stands in its text
says()
{
	local text word

	text=$(page "$1" text | tr '\n' ' ' | tr -s ' ')
	for word in "${@:2}"; do
		[[ $text == *"$word"* ]] || { echo "not in $1: $word"; return 1; }
	done
}

@test "the page is well-formed, links to itself alone, and has all its parts" {
	page page.html check
	for part in accuracy images curves students time history; do
		grep -q "<section id=\"$part\">" page.html
	done
	run -1 grep -q 'class="gaps"' page.html
}

@test "every figure of the tables is in it" {
	mapfile -t figures < <(tail -n +2 run/table.tsv | tr '\t' '\n' | grep -v '^-$')
	[ ${#figures[@]} -eq 9 ]
	says page.html "${figures[@]}"
	mapfile -t figures < <(tr '\t' '\n' <run/08-pool.tsv)
	[ ${#figures[@]} -eq 18 ]
	says page.html "${figures[@]}"
}

@test "a folder of results is a table, with their mean and deviation" {
	"$python" - <<-'END' >figures
	import json, statistics
	x = [json.load(open(f"run/06-hard-distilled/{i}.json"))["students"][0] for i in range(3)]
	a = [i["accuracy"] for i in x]
	for i in x:
	    print(f'{i["accuracy"]:.2f}\n{i["loss"]:.4f}')
	print(f"mean {statistics.mean(a):.2f} ± {statistics.stdev(a):.2f}")
	END
	[ "$(wc -l <figures)" -eq 7 ]
	mapfile -t figures <figures
	says page.html "${figures[@]}" "Protocol hard-dsa"
	mkdir -p several/students
	for seed in 0 1; do
		cp run/06-hard-distilled/$seed.json several/students/a-$seed.json
		cp run/06-hard-distilled/2.json several/students/b-$seed.json
	done
	report several >several.html
	says several.html "students/a-*.json" "students/b-*.json"
	[ "$(page several.html text | grep -c '^mean$')" -eq 2 ]
	# Of all digits: those of the cells have a mean of 1.00.
	mkdir -p digits/06-hard
	for seed in 0:1.0049 1:1.0049 2:1.0149; do
		sed "0,/\"accuracy\": [0-9.]*/s//\"accuracy\": ${seed#*:}/" "run/06-hard-distilled/${seed%:*}.json" \
			>"digits/06-hard/${seed%:*}.json"
	done
	report digits >digits.html
	says digits.html "1.01 ± 0.01"
}

@test "times: steps that differ in a number are one, the longest first, and their sum" {
	says page.html "02-pool.tar 123.4 74.9 % 06-hard-distilled-*.json 33.8 20.5 % distilled.ts 7.6 4.6 % together 164.8" \
		"The memory of this run was not recorded"
}

@test "memory: every process of a step says what it used" {
	cp -r run usage
	for file in random.ts 01-train.ts; do
		TEDDY_USAGE=usage/log/02-pool.tar.usage tsinfo usage/$file >/dev/null
	done
	[ "$(wc -l <usage/log/02-pool.tar.usage)" -eq 2 ]
	"$python" - <<-'END'
	import json
	for line in open("usage/log/02-pool.tar.usage"):
	    use = json.loads(line)
	    assert use["program"] == "tsinfo" and 1e6 < use["peak"] < 1e9 and 0 <= use["cpu"] < 60, use
	END
	printf '{"program": "a", "cpu": 1.5, "peak": 2345000000}\n{"program": "b", "cpu": 2, "peak": 99}\n{"half' \
		>usage/log/02-pool.tar.usage
	report usage >usage.html
	page usage.html check
	says usage.html "most memory of a process 2.3 GB" "02-pool.tar 123.4 3.5 2.3 GB"
}

@test "pictures are the files, before and after" {
	[ "$(page page.html pictures run | tr '\n' ' ')" = "run/random.png run/montage.png " ]
	says page.html "Before random.png" "After montage.png"
}

@test "curves: one chart a quantity, a point for every epoch" {
	[ "$(page page.html count figure chart)" -ge 5 ]
	mkdir -p curves/log
	printf '{"event": "epoch", "epoch": %d, "loss": %d, "accuracy": 0.5}\n' 1 9 2 8 3 7 >curves/log/pool.json
	report curves >curves.html
	page curves.html check
	[ "$(page curves.html count figure chart)" -eq 2 ]
	[ "$(page curves.html count circle)" -eq 6 ]
	says curves.html "3: 7" "3: 50" epoch
	# A run that was interrupted behind epoch 3 and took up work behind epoch 1: what it did then holds.
	printf '{"event": "epoch", "epoch": %d, "loss": %d, "accuracy": 0.25}\n' 2 6 3 5 >>curves/log/pool.json
	report curves >curves.html
	[ "$(page curves.html count circle)" -eq 6 ]
	says curves.html "1: 50" "2: 6" "3: 25"
	run -1 says curves.html "3: 7"
}

@test "epochs beyond counting are drawn, with an end" {
	mkdir -p far/log
	for x in 100000000000000000 100000000000000016 100000000000000032; do
		printf '{"event": "epoch", "epoch": %s, "loss": 1.5}\n' $x
	done >far/log/pool.json
	cp run/table.tsv far
	timeout 20 report far >far.html
	[ "$(stat -c %s far.html)" -lt 100000 ]
}

@test "a result whose figure is not the last epoch's is a result" {
	mkdir -p best
	(cd run && evaluate -a convnet2-8-in -t 01-test.ts --protocol hard-dsa --steps 6 -b 10 --report best <distilled.ts) >best/table.tsv
	[ "$(head -n 1 best/table.tsv | tr '\t' '\n' | wc -l)" -ge 7 ]
	report best >best.html
	says best.html "accuracy, %" "network"
}

@test "many curves are their mean and range" {
	mkdir -p units/log
	for unit in 0 1 2 3 4 5 6 7; do
		printf "{\"event\": \"step\", \"unit\": $unit, \"step\": %d, \"ce\": $unit, \"bn\": 1}\n" 1 2 3
	done >units/log/all.json
	report units >units.html
	page units.html check
	[ "$(page units.html count path band)" -eq 2 ]
	says units.html "mean and range of 8 units" "1: 3.5"
}

@test "histories: every stage with its arguments, files as links to their own" {
	while read -r stage; do
		says page.html "$stage"
	done < <(tsinfo --history run/distilled.ts run/02-pool.tar | grep -v '^FILE' | tr '|' '\n' | sed 's/FILE:[0-9a-f]*.*//')
	grep -q -- '--pool <a href="#made-02-2dpool-2etar" title="[0-9a-f]*">02-pool.tar</a>' page.html
	says page.html "04-init.ts, random.ts" "picture distilled.ts montage.png 10"
	# Away from its pool, the pipeline of the pool follows.
	mkdir -p alone
	cp run/distilled.ts alone
	report alone >alone.html
	page alone.html check
	says alone.html "where FILE:$(tsinfo --history run/distilled.ts | sed -n 's/.*--pool FILE:\([0-9a-f]*\).*/\1/p') is" train-ckpt
}

@test "hostile names and cells stay text" {
	local name=$'<script>alert(1)<\\script>&"\' \001\377.é'

	mkdir -p "$name/log" "$name/$name"
	cp run/random.png "$name/$name.png"
	cp run/random.ts "$name/$name.ts"
	cp run/06-hard-distilled/0.json "$name/$name/0.json"
	printf 'set\t<i>\t<i>_sd\n</td><script>x\t1.5\t"\n' >"$name/table.tsv"
	printf '<b>&\t0\t1\t1\t1\t1\n' >"$name/$name.tsv"
	printf '{"event": "</svg><b>", "step": %d, "]]>&<x": 1, "onload=": 2}\n' 1 2 >"$name/log/$name.json"
	printf 'Seq\tHost\tStarttime\tJobRuntime\tExitval\tCommand\n1\t:\t1\t1\t0\t<script>y</script>\n' >"$name/log/$name.tsv"
	echo "<script>z</script>" >"$name/log/$name.png.made"
	echo 1 >"$name/log/$name.ts.seconds"
	touch "$name/log/<u>.made"
	head -c 100 run/random.ts >"$name/<ul>.ts"
	report "$name" >hostile.html
	page hostile.html check
	says hostile.html '<script>alert(1)<\script>&"' '</td><script>x' '<script>y</script>' '<script>z</script>' ']]>&<x' \
		'<ul>.ts is damaged' '<u>: not finished' .é.ts
	[ "$(page hostile.html count h1)" -eq 1 ]
}

@test "an unfinished run: what is missing and what is damaged stands at the top" {
	mkdir -p half/log half/partial
	head -c 3000 run/01-train.ts >half/01-train.ts
	head -c 9000 run/02-pool.tar >half/02-pool.tar
	head -c 500 run/montage.png >half/montage.png
	# Cut where its last member ends: what a tar has behind that are zeros.
	sed '$ s/\x00*$//' run/distilled.tar >half/images.tar
	truncate -s %512 half/images.tar
	touch half/log/distilled.ts.made half/empty.tsv
	echo '{"students": [' >half/06.json
	{ head -n 2 run/log/pool.json && echo '{"event": "ep'; } >half/log/pool.json
	mkfifo half/pipe.ts
	timeout 10 report half >half.html
	page half.html check
	says half.html "Missing here" "01-train.ts is damaged" "02-pool.tar is damaged" "montage.png is damaged" \
		"images.tar is damaged" "distilled.ts: not finished" "empty.tsv: empty" "06.json: not JSON" "log/pool.json: 1 of its lines cannot be read" \
		"pipe.ts: not a file" "table.tsv: no table of accuracies yet" "no student has been measured yet"
	[ "$(page half.html count figure chart)" -eq 2 ]
	run -1 grep -q '<img' half.html
	mkdir -p nothing/log
	report nothing >nothing.html
	page nothing.html check
}

@test "the same folder gives the same bytes, wherever it lies" {
	mkdir -p else
	cp -r run else/run
	report else/run | cmp - page.html
	(cd run && report .) | cmp - page.html
	report -o named.html run
	cmp named.html page.html
}

@test "what it refuses: one line, and nothing half-written" {
	fails "nowhere: No such file" report nowhere
	fails "table.tsv: Not a directory" report run/table.tsv
	fails "No such file" report -o missing/page.html run
	mkdir -p images/hat
	fails "images: nothing that a pipeline leaves" report images
	run -2 report
	run -2 report run run
	run -2 report --frames run
	run -1 report -o /dev/full run
	[ ! -e missing ]
}
