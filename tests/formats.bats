#!/usr/bin/env bats
# Streams and pools seen from outside: Python, tar, full disks, closed pipes, signals, terminals.

bats_require_minimum_version 1.5.0
load tools/small.bash

# every filter with work to do; OUT is where its output option goes
commands=(
	'load-images OUT sample/t10k-images-idx3-ubyte.gz'
	'train-ckpt -a convnet2-16 -e 2 -b 50 OUT <train.ts'
	'bnstats -p pool.tar OUT'
	'bnstats -p pool.tar --classwise OUT <train.ts'
	'synth-init -i 12 --unit 50 OUT <train.ts'
	'synth-step -p pool.tar -N 2 OUT <init.ts'
	'cutmix -e 3 -b 50 OUT <train.ts'
	'softlabel -p pool.tar OUT <recipes.ts'
	'replay OUT <labelled.ts'
	'evaluate -a convnet2-16 --steps 3 -t val.ts OUT <train.ts'
	'evaluate -p pool.tar -t val.ts OUT'
	'save-images OUT <train.ts'
	'montage OUT <train.ts'
	'tscat OUT train.ts'
	'tscut -i 0-150 OUT train.ts'
	'tsinfo OUT train.ts'
)

setup_file()
{
	cd "$BATS_FILE_TMPDIR" || return
	small_files
	cutmix -e 2 -b 50 -o recipes.ts <train.ts
	softlabel -p pool.tar -o labelled.ts <recipes.ts
}

setup()
{
	cd "$BATS_TEST_TMPDIR" || return
	ln -s "$BATS_FILE_TMPDIR"/* .
	mkdir out
}

# page FIRST LAST: the lines of tensorstream(5) from one that starts so, up to the end of its block
page()
{
	sed -n "/^$1/,/^\.Ed/{/^\./!p}" "$root/man/tensorstream.5"
}

# refused WORDS COMMAND: exit status 1 and one line that starts with the filter's name and has the words
refused()
{
	local status=0

	eval "$2" 2>err || status=$?
	if [ $status -ne 1 ] || [ "$(wc -l <err)" -ne 1 ] || ! grep -q "^${2%% *}: .*$1" err; then
		echo "exit status $status of: $2"
		head -3 err
		return 1
	fi
}

@test "the page's three lines of Python read every kind of stream" {
	page 'import msgpack' >read.py
	[ "$(wc -l <read.py)" -eq 3 ]
	tar xOf pool.tar 0/4.ts >one.ts
	for f in train.ts init.ts recipes.ts labelled.ts stats.ts one.ts; do
		sed "s/a\.ts/$f/" read.py >this.py
		"$python" this.py >said
		head -1 said | grep -q "^{'tensorstream': 1, 'kind': '"
		tail -1 said | grep -q "^{'trailer': True"
		[ "$(grep -c '^{' said)" -eq "$("$python" -c "
import tstream
print(2 + len(tstream.read('$f')[1]))")" ]
	done
	sed -e "s/a\.ts/train.ts/" -e 's/print(obj)/print(type(obj.get("images.u8")).__name__)/' read.py >this.py
	[ "$("$python" this.py | tr '\n' ' ')" = 'NoneType ndarray NoneType ' ]
}

@test "the page's example is a stream and reads as the page says" {
	page '83ac 7465' | "$python" -c 'import sys; sys.stdout.buffer.write(bytes.fromhex(sys.stdin.read()))' >a.ts
	tsinfo a.ts
	tscat a.ts | cmp - a.ts
	page 'import msgpack' >read.py
	[ "$("$python" read.py | tr -d ' \n')" = "$(page "{'tensorstream': 1, 'kind': 'images'," | tr -d ' \n')" ]
}

@test "a stream that Python wrote is accepted, and comes back byte for byte" {
	"$python" - <<-'END'
	import numpy as np, tstream
	rng = np.random.default_rng(0)
	w = tstream.Writer("p.ts", "images", {
	    "classes": ["a", "b"], "mean": [0.5] * 3, "std": [0.25] * 3, "shape": [3, 9, 7], "history": [],
	    "other": {"list": [1, -1, 2**63, 2**64 - 1, 0.1, None, True, "\u00e9", b"\0x", [], {}]}})
	for n in 4, 1:
	    w.put({"images.u8": rng.integers(0, 256, (n, 3, 9, 7)).astype(np.uint8), "labels": np.arange(n) % 2,
	           "note": ["kept", n, n / 3], "more": rng.normal(size=(n, 2))})
	w.finish()
	END
	tscat p.ts | cmp - p.ts
	tsinfo p.ts | grep -q 'images, 2 frames, 5 images'
	montage -o p.png <p.ts
	tscut -i 1-2,4 -o cut.ts p.ts
	cutmix -e 1 -b 2 -o recipes2.ts <cut.ts
	"$python" - <<-'END'
	import tstream
	h, a = tstream.read("p.ts")
	for path in "cut.ts", "recipes2.ts":
	    g, b = tstream.read(path)
	    assert g["other"] == h["other"] and g["mean"] == h["mean"]
	    assert (b[0]["images.u8"] == a[0]["images.u8"][1:3]).all() and (b[1]["images.u8"] == a[1]["images.u8"]).all()
	    assert (b[0]["more"] == a[0]["more"][1:3]).all() and b[0]["note"] == ["kept", 4, 4 / 3]
	END
}

@test "Python's own reader verifies what every filter writes" {
	n=0
	for c in "${commands[@]}"; do
		case $c in save-images* | montage* | evaluate* | tsinfo*) continue ;; esac
		eval "${c/OUT/-o out/x}"
		if [[ $c == train-ckpt* ]]; then
			tar xOf out/x 0/2.ts >out/y
			mv out/y out/x
		fi
		"$python" -c 'import tstream; h, f = tstream.read("out/x"); assert f and h["history"]'
		n=$((n + 1))
	done
	[ $n -eq 11 ]
}

@test "split and rejoined is the same" {
	synth-init -i 2 --unit 5 -o units.ts <train.ts
	n=$("$python" -c 'import tstream; print(len(tstream.read("units.ts")[1]))')
	[ "$n" -ge 4 ]
	for u in $(seq 0 $((n - 1))); do
		tscut -u "$u" -o "u$u.ts" units.ts
		tscut -u "$u" <units.ts | cmp - "u$u.ts"
	done
	# shellcheck disable=SC2012
	ls u?.ts | sort -r | xargs tscat | cmp - units.ts
	tscut -u 0-1 -o left.ts units.ts
	tscut -u 2- units.ts | tscat left.ts - | cmp - units.ts
	tscut -i 0-119 -o left.ts train.ts
	tscut -i 120- -o right.ts train.ts
	n=$(tsinfo --json <train.ts | jq .images)
	[ "$(tscut -i 0-:7,40-50:4 train.ts | tsinfo --json | jq .images)" -eq $(((n + 6) / 7 + 3)) ]
	"$python" - <<-'END'
	import numpy as np, tstream
	(a,), (b,), (c,) = (tstream.read(p)[1] for p in ("train.ts", "left.ts", "right.ts"))
	for k in "images.u8", "labels":
	    assert (a[k] == np.concatenate([b[k], c[k]])).all()
	END
}

@test "a pool is a tar" {
	[ "$(tar tf pool.tar | tr '\n' ' ')" = '0/1.ts 0/2.ts 0/3.ts 0/4.ts MANIFEST ' ]
	train-ckpt -a convnet2-16 -e 1 -b 50 --seed 7 -o seven.tar <train.ts
	cp pool.tar joined.tar
	tar -A -f joined.tar seven.tar
	cat pool.tar seven.tar >behind.tar
	for p in joined.tar behind.tar; do
		evaluate -p $p -t val.ts >lines
		[ "$(grep -c '\.ts' lines)" -eq 5 ]
		[ "$(bnstats -p $p | tsinfo | grep -o '[0-9]* frames')" = '10 frames' ]
	done
	mkdir x
	tar xf pool.tar -C x
	synth-step -p x/0/3.ts -N 2 -o three.ts <init.ts
	tar cf no-manifest.tar -C x 0/3.ts
	refused MANIFEST 'synth-step -p no-manifest.tar -N 2 <init.ts'
	tar --delete -f joined.tar 0/2.ts
	refused MANIFEST 'bnstats -p joined.tar -o out/x'
	printf x | dd of=x/0/3.ts bs=1 seek=900 conv=notrunc status=none
	refused '' 'synth-step -p x/0/3.ts -N 2 -o out/x <init.ts'
	[ -z "$(ls out)" ]
}

@test "a pool through a pipe that has a name, and names that are not ASCII, with pax headers too" {
	"${PYTHON:-/usr/bin/python3}" - <<-'END'
	import io, tarfile
	src = tarfile.open("pool.tar")
	data = src.extractfile("0/1.ts").read()
	line = src.extractfile("MANIFEST").read().splitlines()[0].decode()
	for out, form, name in (("pax.tar", tarfile.PAX_FORMAT, "a/\u00e9.ts"), ("accent.tar", tarfile.GNU_FORMAT, "\u00e9/1.ts")):
	    tar = tarfile.open(out, "w", format=form, encoding="utf-8")
	    for n, b in (name, data), ("MANIFEST", line.replace("0/1.ts", name).encode() + b"\n"):
	        info = tarfile.TarInfo(n)
	        info.size = len(b)
	        tar.addfile(info, io.BytesIO(b))
	    tar.close()
	END
	tsinfo <(cat pool.tar) | grep -q '0/4.ts'
	for p in pax.tar accent.tar; do
		tsinfo $p | grep -q 'é'
		bnstats -p $p | tsinfo --history | grep -q bnstats
		bnstats -p $p -o of.ts
		synth-step -p $p -s of.ts -N 1 <init.ts | tsinfo --history | grep -q 'train-ckpt'
	done
}

@test "-o and standard output get the same bytes" {
	for c in "${commands[@]}"; do
		[[ $c != evaluate* ]] || continue # its lines have the seconds that it took
		eval "${c/OUT/-o out/x}"
		eval "${c/OUT/}" | cmp - out/x
	done
}

@test "a full disk is an error" {
	[ -c /dev/full ] || skip "this system has no /dev/full"
	for c in "${commands[@]}"; do
		refused 'No space left' "${c/OUT/>/dev/full}"
		refused 'No space left' "${c/OUT/-o /dev/full}"
	done
	refused 'No space left' 'tsinfo -h >/dev/full'
	refused 'No space left' 'synth-step -V >/dev/full'
}

@test "a closed pipe is an error" {
	for c in "${commands[@]}"; do
		exec 9> >(:)
		wait $! # its reader is gone
		refused 'Broken pipe' "${c%%OUT*}>&9${c#*OUT}"
		exec 9>&-
	done
}

@test "a folder that is not there" {
	for c in "${commands[@]}"; do
		refused 'none/.*No such file' "${c/OUT/-o none/x}"
	done
}

@test "a failed run leaves what was there before" {
	head -c 3000 train.ts >cut.ts
	echo before >out/x
	for c in "${commands[@]}"; do
		[[ $c == *'<train.ts' ]] || continue
		refused truncated "$(sed -e 's/<train.ts/<cut.ts/' -e 's|OUT|-o out/x|' <<<"$c")"
		[ "$(ls -A out)" = x ]
		[ "$(cat out/x)" = before ]
	done
}

@test "a file that a killed process of the same number left is no obstacle, a link stays one" {
	bash -c 'touch "out/.x.ts.$$.tmp" && exec tscut -i 0 -o out/x.ts train.ts'
	tsinfo out/x.ts >/dev/null
	mkdir out/far
	ln -s far/y.ts out/link.ts
	ln -s link.ts out/second.ts
	tscut -i 0 -o out/second.ts train.ts
	[ -L out/second.ts ]
	[ -L out/link.ts ]
	cmp out/far/y.ts out/x.ts
	ln -s loop.ts out/loop.ts
	refused "out/loop.ts" "tscut -i 0 -o out/loop.ts train.ts"
	rm -r out
	mkdir out
}

@test "a signal leaves no file" {
	mkfifo slow
	for signal in TERM INT HUP; do
		for c in "${commands[@]}"; do
			[[ $c == *'<'* ]] || continue
			# most of its input, then nothing for a while
			input=$(realpath "${c##*<}")
			c=${c%%<*}
			(head -c $(($(stat -c %s "$input") - 40)) "$input"; exec sleep 3) >slow &
			status=0
			# shellcheck disable=SC2086 # words
			timeout -s $signal 0.3 ${c/OUT/-o out/x} <slow || status=$?
			kill $! 2>/dev/null || :
			[ $status -eq 124 ] || { echo "status $status: $c"; return 1; }
			[ -z "$(ls -A out)" ] || { echo "$c: $(ls -A out)"; return 1; }
		done
	done
	# one that certainly has begun its file
	train-ckpt -a convnet2-16 -e 10000 -b 50 -o out/x <train.ts &
	for _ in $(seq 600); do
		[ -z "$(ls -A out)" ] || break
		sleep 0.05
	done
	[ -n "$(ls -A out)" ]
	[ ! -e out/x ]
	kill -TERM $!
	wait $! || :
	[ -z "$(ls -A out)" ]
}

@test "a terminal gets no binary output" {
	if ! script -qec true /dev/null </dev/null >/dev/null; then
		skip "script(1) cannot make a terminal here"
	fi
	for c in "${commands[@]}"; do
		case $c in tsinfo* | evaluate*) continue ;; esac
		status=0
		script -qec "${c/OUT/} 2>line" /dev/null </dev/null >said || status=$?
		[ $status -eq 1 ] || { echo "status $status: $c"; return 1; }
		[ "$(wc -l <line)" -eq 1 ]
		grep -q "^${c%% *}: .*terminal" line
		[ ! -s said ]
	done
	script -qec 'tsinfo train.ts' /dev/null </dev/null | grep -q 'images, 1 frame'
}

@test "help and version are output; a wrong command line is 2" {
	for name in load-images train-ckpt bnstats synth-init synth-step cutmix softlabel replay evaluate save-images \
	    montage tscat tscut tsinfo; do
		[[ $($name -h) == usage:* ]]
		[[ $($name -V) == "$name "* ]]
		for wrong in --nonsense -Q; do
			run -2 --separate-stderr $name $wrong </dev/null
			[ -z "$output" ]
			[[ $stderr == *"$name"* ]]
		done
	done
}
