#!/usr/bin/env bats
# What the README says is done: its pipeline, its two PyTorch scripts, its table of filters.

bats_require_minimum_version 1.5.0
load tools/small.bash

# blocks LANGUAGE N: the README's N-th block of that language
block()
{
	awk -v open="\`\`\`$1" -v want="$2" '/^```$/ { on = 0 } on { print } $0 == open { on = ++n == want }' "$root/README.md"
}

setup_file()
{
	cd "$BATS_FILE_TMPDIR" || return
	ln -s "$root/pipelines" pipelines
	# As it stands there, with fewer images, epochs and iterations.
	block sh 1 | sed 's/^load-images /&-n 60 /; s/-e 8 /-e 2 /; s/-N 200 /-N 3 /; s/-e 100 /-e 2 /' >by-hand
	bash -euo pipefail by-hand >by-hand.out
	block python 1 | sed 's/range(30)/range(12)/' >hard.py
	block python 2 >soft.py
}

setup()
{
	cd "$BATS_FILE_TMPDIR" || return
}

torch()
{
	"$python" -c 'import torchvision' 2>/dev/null || skip "torchvision is not installed (python3-torchvision)"
}

# falls FILE: a column of losses that is finite and ends well below its start
falls()
{
	awk '$2 != $2 + 0 { exit bad = 1 } { v[NR] = $2 } END {
		for (i = 1; i <= 4; i++) { first += v[i]; last += v[NR + 1 - i] }
		exit bad || NR < 20 || last > 0.6 * first }' "$1" || { head -4 "$1" && tail -4 "$1" && return 1; }
}

@test "the pipeline by hand was shortened, and still ends with students, an archive and a picture" {
	grep -q -- '-e 2 -b 64' by-hand
	grep -q -- '-N 3 ' by-hand
	grep -q -- '-e 2 -b 50' by-hand
	[ "$(wc -l <by-hand)" -eq 10 ]
	[ "$(cut -f 2 by-hand.out | tr '\n' ' ')" = "0 1 2 mean " ]
	[ "$(tsinfo distilled.ts | head -n 1)" = "distilled.ts: images, 2 frames, 200 images" ]
	[ "$(tar tf distilled.tar | grep -c 'png$')" -eq 200 ]
	[ "$(head -c 4 distilled.png | tail -c 3)" = PNG ]
}

@test "torchvision's ResNet-18 learns the archive" {
	torch
	[ "$(grep -c . hard.py)" -le 15 ]
	"$python" hard.py >hard.out
	[ "$(wc -l <hard.out)" -eq 48 ]
	falls hard.out
}

@test "torchvision's ResNet-18 learns soft labels from replay" {
	torch
	[ "$(grep -c . soft.py)" -le 15 ]
	line=$(grep 'python3 soft.py' "$root/README.md" | sed "s|python3|$python|; s/-e 30/-e 10/")
	bash -euo pipefail -c "$line" >soft.out
	[ "$(wc -l <soft.out)" -eq 40 ]
	falls soft.out
}

@test "the README's table has every filter, and every page it names is there" {
	for source in "$root"/bin/*.c; do
		grep -q "^| .*\`$(basename "$source" .c)\`" "$root/README.md"
	done
	for page in teddy.7 tensorstream.5 checkpoint.5 pool.5; do
		grep -qF "$page" "$root/README.md"
		[ -e "$root/man/$page" ]
	done
}

@test "no picture or link of the README leads nowhere" {
	grep -o ']([^)]*)' "$root/README.md" | tr -d '])(' | while read -r path; do
		[ -e "$root/$path" ] || { echo "$path"; return 1; }
	done
}
