#!/usr/bin/env bats
# crossarch: several students of one distilled set in one table.

bats_require_minimum_version 1.5.0
load tools/small.bash
load tools/page.bash

setup_file()
{
	cd "$BATS_FILE_TMPDIR" || return
	small_files
	synth-init -i 4 --unit 20 -o random.ts <train.ts
	synth-init -i 4 --unit 20 --from noise -o noise.ts <train.ts
	run_into hard --random random.ts noise.ts val.ts
	run_into soft --random random.ts --pool pool.tar --opts "--lr 0.02" noise.ts val.ts
}

setup()
{
	cd "$BATS_FILE_TMPDIR" || return
}

# run_into FOLDER ... DISTILLED TEST
run_into()
{
	"$root/pipelines/crossarch" --students convnet2-8,convnet1-16 --steps 12 --batch 10 --repeats 2 "${@:2}" "$1" \
		>"$1.out" 2>"$1.err"
}

# done_again LOG: the steps that a run did do
done_again()
{
	sed -n 's/^..:..:..  //p' "$1" | grep -v ': there$' || true
}

@test "a row an architecture, mean and deviation of its students, random beside it" {
	for kind in hard soft; do
		[ "$(cut -f 1 $kind/table.tsv | tr '\n' ' ')" = "student convnet2-8 convnet1-16 " ]
		for row in 2:convnet2-8 3:convnet1-16; do
			for column in 2:distilled 4:random; do
				file=$kind/${column#*:}-${row#*:}
				[ "$(ls "$file" | tr '\n' ' ')" = "0.json 1.json " ]
				grep -q "\"arch\": \"${row#*:}\"" "$file/1.json"
				accuracy=$(cat "$file"/?.json | sed -n '/"students"/,/^  \]/s/.*"accuracy": \(.*\),/\1/p' | tr '\n' ' ')
				awk -v x="$accuracy" -v a="$(sed -n "${row%:*}p" $kind/table.tsv | cut -f "${column%:*}")" \
					-v b="$(sed -n "${row%:*}p" $kind/table.tsv | cut -f $((${column%:*} + 1)))" 'BEGIN {
						n = split(x, v, " "); d = v[1] - v[2]; d = (d < 0 ? -d : d) / sqrt(2)
						a -= (v[1] + v[2]) / 2; b -= d; exit !(n == 2 && a * a < 3e-5 && b * b < 3e-5) }'
			done
		done
		grep -Eq '^convnet1-16  *[0-9.]+ ± [0-9.]+  *[0-9.]+ ± [0-9.]+$' $kind.out
		grep -q "2 students, $kind labels" $kind.out
	done
	run ! diff <(grep -v seconds hard/distilled-convnet1-16/0.json) <(grep -v seconds hard/random-convnet1-16/0.json)
}

@test "the students are those of evaluate by itself" {
	OMP_NUM_THREADS=1 evaluate -a convnet1-16 -t val.ts --protocol hard-dsa --steps 12 --seed 1 --json <random.ts |
		grep -v '"seconds"' >by-hand
	grep -v '"seconds"' hard/random-convnet1-16/1.json | cmp - by-hand
	cutmix --steps 12 -b 10 <noise.ts | softlabel -p pool.tar >labelled.ts
	cmp labelled.ts soft/labels-distilled.ts
	evaluate -a convnet2-8 -t val.ts --protocol soft --lr 0.02 --json <labelled.ts | grep -v '"seconds"' >by-hand
	grep -v '"seconds"' soft/distilled-convnet2-8/0.json | cmp - by-hand
}

@test "nothing is done twice, one more student is done alone, the number of jobs changes nothing" {
	cp -a soft again
	run_into again --random random.ts --pool pool.tar --opts "--lr 0.02" --jobs 1 noise.ts val.ts
	[ -z "$(done_again again.err)" ]
	run_into again --random random.ts --pool pool.tar --opts "--lr 0.02" --students convnet1-16,convnet1-8 noise.ts val.ts
	[ "$(done_again again.err | sort | tr '\n' ';')" = \
		"distilled, convnet1-8, student 0;distilled, convnet1-8, student 1;random, convnet1-8, student 0;random, convnet1-8, student 1;" ]
	run_into again --random random.ts --pool pool.tar --opts "--lr 0.02" --repeats 3 noise.ts val.ts
	[ "$(done_again again.err | grep -c 'student 2$')" -eq 4 ]
	[ "$(done_again again.err | wc -l)" -eq 4 ]
	run_into one --random random.ts --jobs 1 noise.ts val.ts
	cmp one/table.tsv hard/table.tsv
}

@test "other teachers, other test images: done again, however old these files are; the same elsewhere: not" {
	cp -a soft other
	cp pool.tar older.tar
	cp val.ts older.ts
	touch -d 2001-01-01 older.tar older.ts
	run_into other --random random.ts --pool older.tar --opts "--lr 0.02" noise.ts older.ts
	[ -z "$(done_again other.err)" ]
	train-ckpt -a convnet2-16 -e 1 -b 50 -o older.tar <train.ts
	cp train.ts older.ts
	touch -d 2001-01-01 older.tar older.ts
	run_into other --random random.ts --pool older.tar --opts "--lr 0.02" noise.ts val.ts
	[ "$(done_again other.err | grep -c '^soft labels, ')" -eq 2 ]
	run_into other --random random.ts --pool older.tar --opts "--lr 0.02" noise.ts older.ts
	[ "$(done_again other.err | wc -l)" -eq 8 ]
}

@test "another cut of one set, with the same history, is another set" {
	synth-init -i 2 --unit 10 -o two.ts <train.ts
	tscut -u 0 -o one.ts two.ts
	[ "$(tsinfo --history --json one.ts)" = "$(tsinfo --history --json two.ts)" ]
	run_into cuts one.ts val.ts
	run_into cuts two.ts val.ts
	run_into anew two.ts val.ts
	cmp cuts/table.tsv anew/table.tsv
	[ "$(done_again cuts.err | grep -c student)" -eq 4 ]
}

@test "without random its column is empty; a student that fails ends all without a table" {
	run_into alone noise.ts val.ts
	[ "$(cut -f 4,5 alone/table.tsv | sort -u | tr '\t\n' '  ')" = "- - random random_sd " ]
	cp -a hard alone2
	run_into alone2 noise.ts val.ts
	cmp alone/table.tsv alone2/table.tsv
	run run_into bad --students convnet2-8,lenet noise.ts val.ts
	[ "$status" -ne 0 ]
	grep -q lenet bad.err
	[ ! -e bad/table.tsv ]
	[ ! -s bad.out ]
}

@test "bad command lines exit 2, missing files 1" {
	local crossarch=$root/pipelines/crossarch

	run -2 "$crossarch" noise.ts val.ts out
	run -2 "$crossarch" --students a noise.ts val.ts
	run -2 "$crossarch" --students a/b noise.ts val.ts out
	run -2 "$crossarch" --students a,b,a noise.ts val.ts out
	run -2 "$crossarch" --students a --steps 0 noise.ts val.ts out
	run -2 "$crossarch" --nothing noise.ts val.ts out
	run -1 "$crossarch" --students a nowhere.ts val.ts out
	[[ $output == *"nowhere.ts: no such file"* ]]
	run -1 "$crossarch" --students a --pool nowhere.tar noise.ts val.ts out
	[ ! -e out ]
	run -0 "$crossarch" -h
	[[ $output == usage:* ]]
}

@test "the examples of the page, with fewer steps" {
	mkdir pages
	cp noise.ts pages/distilled.ts
	cp random.ts pages
	cp pool.tar pages/02-pool.tar
	cp val.ts pages/01-test.ts
	cd pages
	PATH=$root/pipelines:$PATH
	page_commands crossarch.1 | sed 's/^crossarch/& --steps 2 --repeats 1/; s/convnet3-in/convnet1-8/; s/convnet3/convnet1-8/
		s/resnet18-small/convnet2-8-in/; s/vgg11_bn-small/convnet2-8/' >lines
	[ "$(wc -l <lines)" -eq 2 ]
	bash -euo pipefail lines >said 2>lines.err
	[ "$(grep -c '1 students' said)" -eq 2 ]
}
